"""How a worker failed, as exceptions that say what was asked, what happened, and what it printed last."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.environments.config import Environment
from harness.errors import (
    BuildFailedError,
    CandidateError,
    UnsupportedByReleaseError,
    WorkerCrashedError,
    WorkerProtocolError,
    WorkerTimeoutError,
)
from harness.worker import protocol

_SIGNAL_HINTS: dict[int, str] = {
    signal.SIGKILL: "most likely the machine ran out of memory; the kernel's log says so",
    signal.SIGBUS: "most likely the scratch folder is full; `harness doctor` says how large it is",
}
_FAULT_CLASSES: dict[str, type[CandidateError]] = {
    "unsupported": UnsupportedByReleaseError,
    "build_failed": BuildFailedError,
    "marks_failed": BuildFailedError,
}
_FAULT_HINTS = {
    "environment": "`harness env check` and `harness doctor` say more",
    "no_context": "free memory of the GPU; the log says more",
    "out_of_memory": "observe fewer tensors at once, or free memory of the GPU",
}


def describe(message: protocol.Answered[Any]) -> str:
    """One line that says what is asked."""
    if isinstance(message, protocol.Compile):
        return f"a compilation of {Path(message.build.model_path).stem} at {message.build.precision}"
    if isinstance(message, protocol.BuildRequest):
        parts = [f"a build of {Path(message.model_path).stem} at {message.precision}"]
        if message.islands:
            parts.append(f"{len(message.islands)} nodes in fp32 ({_some(message.islands)})")
        if message.marks:
            parts.append(
                f"{len(message.marks)} tensors observed ({message.observation}: {_some(message.marks)})"
            )
        return ", ".join(parts)
    return {
        "Ping": "a ping",
        "Shutdown": "the shutdown",
        "Probe": "the probe",
        "InferRequest": "an inference",
        "Release": "the release of an engine",
        "SaveCache": "saving a cache",
        "LoadCache": "loading a cache",
    }[type(message).__name__]


_STACK = re.compile(
    r"Fatal Python error: |(Current t|T)hread 0x[0-9a-f]+|  File \".+\", line \d+ in |Extension modules: |  \.\.\.$"
    r"|<no Python frame>|Current thread's C stack trace|  Binary file \"|  <cannot get C stack"
)
"""Lines of the stack that Python's faulthandler prints of a worker that crashes or hangs."""
_STACK_LINES, _WORDS = 15, 30


def _words_last(log: Sequence[str]) -> tuple[str, ...]:
    """The end of a log with the worker's own stack in front: where few lines are shown, they are the builder's."""
    stack = [line for line in log if _STACK.match(line)]
    words = [line for line in log if not _STACK.match(line)]
    return (*stack[:_STACK_LINES], *words[-_WORDS:])


def crashed(environment: Environment, what: str, code: int | None, log: Sequence[str]) -> WorkerCrashedError:
    """The process ended during `what` with `code` (negative: a signal); None if it only hung up."""
    number = None if code is None else _signal_number(code)
    hint = None
    if number is not None:
        message = f"the worker was killed by {signal_name(number)} during {what}"
        hint = _SIGNAL_HINTS.get(number)
    elif code is not None:
        message = f"the worker exited with status {code} during {what}"
    else:
        message = f"the worker hung up during {what}"
    lines = [] if number is None else [f"signal: {signal_name(number)}"]
    return WorkerCrashedError(
        message,
        signal=number,
        environment=environment.name,
        hint=hint,
        request=what,
        evidence=(*lines, *_words_last(log)),
    )


def timed_out(environment: Environment, what: str, seconds: float, log: Sequence[str]) -> WorkerTimeoutError:
    """Nothing came within `seconds`."""
    return WorkerTimeoutError(
        f"the worker did not answer within {seconds:g} s during {what}, and was ended",
        environment=environment.name,
        hint=f"if it just needs more time, raise `limits` of {environment.name} in harness.toml",
        request=what,
        evidence=_words_last(log),
    )


def broke_protocol(environment: Environment, what: str, how: str, log: Sequence[str]) -> WorkerProtocolError:
    """Something came that was no reply."""
    return WorkerProtocolError(
        f"the worker broke the protocol during {what}: {how}",
        environment=environment.name,
        request=what,
        evidence=log,
    )


def not_started(environment: Environment, error: OSError) -> CandidateError:
    """The operating system does not run the command."""
    return CandidateError(
        f"the worker cannot be started: {error.strerror}: {environment.command[0]}",
        environment=environment.name,
        hint=f"correct `python` or `command` of {environment.name} in {environment.source or 'harness.toml'}",
    )


def refused(environment: Environment, what: str, error: protocol.Error, log: Sequence[str]) -> CandidateError:
    """The worker replied that it could not do it."""
    kind = _FAULT_CLASSES.get(error.kind, CandidateError)
    return kind(
        error.message,
        environment=environment.name,
        hint=_FAULT_HINTS.get(error.kind),
        # Of what fails every request alike, reports show one: it names none of them.
        request=None if error.kind == "environment" else what,
        fault=error.kind,
        evidence=(*error.evidence, *log),
    )


def signal_name(number: int) -> str:
    """`SIGSEGV` for 11."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _signal_number(code: int) -> int | None:
    """The signal behind an exit status; a shell or a container between reports it as 128 + number."""
    number = -code if code < 0 else code - 128
    return number if 0 < number < signal.NSIG else None


def _some(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")

"""A process that users' functions run in, so that one that ends its process, or never returns, ends no other run.

Such a process is started when the first function is called, and kept for the next: what it has imported stays
imported. One that died, or that had to be ended, is replaced.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import json
import logging
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from harness import errors
from harness.case.functions import frames
from harness.case.functions.calls import short
from harness.case.functions.config_file import CONFIG_NAME
from harness.case.functions.messages import Call, Filter, Raised, Reply, Restore, Returned, Warned, Watched
from harness.case.functions.serving import UNHEARD, last_line
from harness.case.functions.settings import function_settings
from harness.case.schema import Case
from harness.errors import BuilderError, HarnessError, Place
from harness.text import duration

P = ParamSpec("P")
T = TypeVar("T")

_LOOK = 0.1
"""Seconds between looks at whether the process lives and the function is within its time."""
_PATIENCE = 2.0
"""Seconds that a process may take to write down where it is, or to be gone."""
_CODE = """import sys
sys.path[:] = sys.argv[4:]
from harness.case.functions.serving import serve
serve(*map(int, sys.argv[1:4]))"""
_PARTS = {"name", "path", "model", "seed", "ops"}
"""What functions read of a case."""

_idle: list[FunctionProcess] = []
_lock = threading.RLock()  # what gives one back may be collected while one is taken


def call_apart(
    work: Callable[Concatenate[Case, str, P], T],
    case: Case,
    name: str,
    kind: str,
    *arguments: P.args,
    **named: P.kwargs,
) -> T:
    """What `work(case, name, *arguments)` returns in a process of its own.

    Args:
        work: a function of a module of harness, which calls a user's function in a `UserFunction`.
        case: the case that names it; of it, name, path, model, seed and operators go along.
        name: `module:function`.
        kind: what it is to the case: `builder`, `metric`, `ops`.
        *arguments: what a frame can carry: JSON, arrays, bytes, paths, places in files.
        **named: none; a frame carries arguments by their order.

    Raises:
        BuilderError: as `work` does, or the function ended its process, or it did not return within the limit.
        HarnessError: as `work` does.
    """
    assert not named
    process = take_process()
    try:
        return process.call(work, case, name, kind, *arguments)
    finally:
        give_process(process)


def take_process() -> FunctionProcess:
    """A process that nobody else uses; it goes to `give_process` in the end."""
    with _lock:
        while _idle:
            process = _idle.pop()
            if process.is_usable:
                return process
    return FunctionProcess()


def give_process(process: FunctionProcess) -> None:
    """Keep a process for the next function, if it is as it was at first and no other is kept."""
    keep = process.is_usable and not _idle and process.is_restored()
    with _lock:
        keep = keep and not _idle
        if keep:
            _idle.append(process)
    if not keep:
        process.close()


def start_function_process(cases: Iterable[Case]) -> None:
    """Start a process if one of the cases names a function: it imports what it needs while harness does."""
    with _lock:
        if not _idle and any(case.names_functions for case in cases):
            _idle.append(FunctionProcess())


@atexit.register
def _close() -> None:
    while _idle:
        _idle.pop().close()


class FunctionProcess:
    """A process that calls users' functions, one at a time."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._busy = threading.Lock()
        self._trace = tempfile.TemporaryFile("a+")  # noqa: SIM115  # closed by close()
        self._line, theirs = socket.socketpair()
        self._lifeline, held = socket.socketpair()
        with theirs, held:
            passed = [theirs.fileno(), held.fileno(), self._trace.fileno()]
            options = [f"-W{each}" for each in sys.warnoptions]
            self._process = subprocess.Popen(
                [sys.executable, "-P", *options, "-c", _CODE, *map(str, passed), *sys.path],
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
                stdout=2,
                start_new_session=True,
            )

    @property
    def is_usable(self) -> bool:
        """Whether it lives, and is a child of this process."""
        return self._owner == os.getpid() and self._process.poll() is None

    def call(self, work: Callable[..., T], case: Case, name: str, kind: str, *arguments: Any) -> T:
        """See `call_apart`; after an error of the process itself it is no longer usable."""
        with self._busy:
            self._trace.truncate(0)
            call = _Doing(self, case, f"{kind} {name}", function_settings().seconds)
            request = Call(
                module=work.__module__,
                work=work.__qualname__,
                case=json.dumps(case.model_dump(include=_PARTS, exclude_unset=True), default=str),
                name=name,
                arguments=arguments,
                folder=os.getcwd(),
                path=tuple(sys.path),
                environment=dict(os.environ),
                quiet=isinstance(logging.lastResort, logging.NullHandler),
                filters=_filters(),
            )
            frame = frames.frame_of(request)
            try:
                reply = self._ask(frame, call.wait, call.hear)
            except (EOFError, ConnectionError):
                raise call.died() from None
            except (frames.FrameError, MemoryError, OverflowError, struct.error) as error:
                self.close()
                raise call.garbled() from error
            except BaseException:
                self.close()
                raise
        if isinstance(reply, Raised):
            raise _error(reply) from _Raised(reply.trace)
        found: T = reply.value
        return found

    def is_restored(self) -> bool:
        """Whether it is as it was before the first call, after what can be restored has been."""
        until = time.monotonic() + _PATIENCE

        def wait() -> None:
            while not self.has_input():
                if self.is_gone or time.monotonic() > until:
                    raise EOFError

        with self._busy, contextlib.suppress(OSError, EOFError, frames.FrameError):
            reply = self._ask(frames.frame_of(Restore()), wait, lambda told: None)
            return isinstance(reply, Returned) and reply.value is True
        return False

    def _ask(
        self, frame: frames.Frame, wait: Callable[[], None], hear: Callable[[Reply], None]
    ) -> Raised | Returned:
        with contextlib.suppress(ConnectionError):  # it died before: reading says how
            frames.send_stderr(self._line)
            frames.send(self._line, frame)
        while not isinstance(reply := frames.receive(self._line, Reply, wait), Raised | Returned):
            hear(reply)
        return reply

    def has_input(self) -> bool:
        """Whether there is something to read, by now or in a moment."""
        return bool(select.select([self._line], [], [], _LOOK)[0])

    @property
    def is_gone(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def ended(self) -> int:
        """The exit status, or minus the signal that ended it; of a process that closed its socket and lives on, it is
        ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(_PATIENCE)
        self._kill()
        return self._process.wait()

    def trace(self) -> str:
        """What the process has written down of where it was."""
        return os.pread(self._trace.fileno(), 1 << 20, 0).decode(errors="replace")

    def ask_trace(self) -> str:
        """Where the process is now."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGUSR1)
        until = time.monotonic() + _PATIENCE
        # It is written frame by frame; the outermost one is that of _CODE.
        while '"<string>", line' not in (found := self.trace()) and time.monotonic() < until:
            time.sleep(0.01)
        return found

    def close(self) -> None:
        """End it, and what it has started."""
        if self._owner == os.getpid():
            self._kill()
            self._process.wait()
        for each in (self._line, self._lifeline, self._trace):
            each.close()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


class _Raised(Exception):
    """What was raised in the other process: its traceback, as text."""

    def __str__(self) -> str:
        return f"in the process of functions\n\n{self.args[0]}"


class _Doing:
    """One call: how long the function has been at work, and what is said if it never comes back."""

    def __init__(self, process: FunctionProcess, case: Case, function: str, seconds: float) -> None:
        self._process, self._case, self._function, self._seconds = process, case, function, seconds
        self._last: Watched | None = None
        self._until: float | None = None

    def hear(self, told: Reply) -> None:
        """The function has begun, or Python warns of something."""
        if isinstance(told, Watched):
            self._last, self._until = told, time.monotonic() + self._seconds
        if isinstance(told, Warned):
            self._warn(told)

    def _warn(self, told: Warned) -> None:
        named = getattr(builtins, told.category, None)
        category = named if isinstance(named, type) and issubclass(named, Warning) else UserWarning
        try:
            warnings.warn_explicit(told.message, category, told.file, told.line)
        except Warning as error:  # a filter that the other process does not know makes it an error
            raise BuilderError(
                f"{self._function} raised {told.category}: {told.message}",
                where=Place(short(told.file), told.line),
            ) from error

    def wait(self) -> None:
        """Until there is something to read, within the limit."""
        while not self._process.has_input():
            if self._process.is_gone and not self._process.has_input():
                raise EOFError
            if self._until is not None and time.monotonic() > self._until:
                raise BuilderError(
                    f"{self._function} did not return within {duration(self._seconds)}",
                    where=self._where(self._process.ask_trace()),
                    hint=f"it was here; `seconds` in [functions] of {CONFIG_NAME} allows more",
                )

    def garbled(self) -> BuilderError:
        """The error for something on the socket that harness did not send."""
        return BuilderError(
            f"{self._function} wrote to a descriptor that harness had opened, or closed it",
            where=self._where(""),
            hint="use only those that it has opened itself",
        )

    def died(self) -> BuilderError:
        """The error for a process that ended instead of returning something."""
        status = self._process.ended()
        trace = self._process.trace()
        self._process.close()
        if status == UNHEARD and not last_line(trace, self._is_own):
            return self.garbled()
        where, hint = self._where(trace), "it was here" if last_line(trace, self._is_own) else None
        if status >= 0:
            return BuilderError(
                f"{self._function} ended its process with exit status {status}", where=where, hint=hint
            )
        name, text = signal.Signals(-status).name, signal.strsignal(-status)
        if -status == signal.SIGKILL and hint is None:
            hint = "the system ends a process like that when memory runs out"
        return BuilderError(
            f"{self._function} ended its process with {name} ({(text or '').lower()})", where=where, hint=hint
        )

    def _where(self, trace: str) -> Place | Path | str:
        defined = None if self._last is None else self._last.where
        return last_line(trace, self._is_own) or defined or self._case.path or self._case.name

    def _is_own(self, path: Path) -> bool:
        """Whether a file is the function's module, or lies beside it."""
        if self._last is not None and str(path) in self._last.files:
            return True
        folder = self._case.folder.resolve()
        return path.is_relative_to(folder) and "site-packages" not in path.relative_to(folder).parts


def _filters() -> tuple[Filter, ...]:
    return tuple(
        Filter(action, _pattern(message), category.__module__, category.__name__, _pattern(module), number)
        for action, message, category, module, number in warnings.filters
        if isinstance(category, type)
    )


def _pattern(text: str | re.Pattern[str] | None) -> str:
    if text is None:
        return ""
    return rf"{re.escape(text)}\Z" if isinstance(text, str) else text.pattern


def _error(told: Raised) -> HarnessError:
    """An error of harness, as the other process raised it."""
    kind: type[HarnessError] = getattr(errors, told.kind)
    error = kind.__new__(kind, told.message)
    HarnessError.__init__(error, told.message, where=told.where, hint=told.hint)
    if told.evidence:
        vars(error)["evidence"] = told.evidence
    return error

"""The one exception tree. Every message says where, what is wrong, and what to try.

The class decides the exit status of the command line: mistakes of the caller are 2, a build or a worker
that failed is 3, a search that ran out of budget is 4, an empty selection is 5.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True, order=True)
class Place:
    """A place in a file. `line` and `column` count from 1; None: the whole file, or the whole line."""

    path: Path
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.path, self.line, self.column) if part is not None)


class HarnessError(Exception):
    """Base of every error that harness raises on purpose.

    Args:
        message: what is wrong, one sentence without a final full stop.
        where: the file, place in a file, case, model or tensor that it is about.
        hint: what to try.
    """

    exit_code: ClassVar[int] = 2

    def __init__(
        self, message: str, *, where: str | Path | Place | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = None if where is None else str(where)
        self.place = Place(where) if isinstance(where, Path) else where if isinstance(where, Place) else None
        """The file that it is about, and where in it; None if it is about something else."""
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """How it is pickled on its way from another process: as it is, whatever its class wants to be made of."""
        return _restore, (type(self), self.args, dict(vars(self)))

    def __str__(self) -> str:
        text = self.message if self.where is None else f"{self.where}: {self.message}"
        return text if self.hint is None else f"{text} ({self.hint})"


def _restore(kind: type[HarnessError], args: tuple[object, ...], state: dict[str, object]) -> HarnessError:
    error = kind.__new__(kind, *args)
    vars(error).update(state)
    return error


class UsageError(HarnessError, ValueError):
    """The command line or an API call asks for something that makes no sense."""


@dataclass(frozen=True, order=True)
class Mistake:
    """One mistake in a declarative file. `line` and `column` count from 1; `line` is 0 for the file as a whole."""

    path: Path
    line: int
    column: int
    key: str
    message: str

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        place = f"{self.path}:{self.line}:{self.column}" if self.line else f"{self.path}"
        return f"{place}: {key}{self.message}"


class CaseFileError(HarnessError, ValueError):
    """One or more case files hold mistakes; all of them are in `mistakes`."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(sorted(mistakes))
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))


class ModelError(HarnessError, ValueError):
    """A model is missing, corrupt, not ONNX, or holds something that cannot be run."""


class ChecksumError(ModelError):
    """A downloaded or referenced file does not have the SHA-256 that the case gives."""

    def __init__(self, path: Path | str, *, expected: str, actual: str) -> None:
        super().__init__(
            f"SHA-256 is {actual}, not {expected}, which the case gives",
            where=path,
            hint="if the new file is right, update `sha256` in the case",
        )
        self.expected = expected
        self.actual = actual


class BuilderError(ModelError):
    """A function that a case names could not be found or called, raised, did not return, or returned something else."""


class InputDataError(HarnessError, ValueError):
    """Input data does not fit the model: a wrong name, dtype, rank or shape, or an unreadable file."""


class NodeFailedError(ModelError):
    """A node failed while a graph was run that ONNX Runtime accepts: an index out of range, shapes that do not fit.

    Args:
        node: name of the node of the main graph.
        op: its operator type.
        reason: what ONNX Runtime says of it.
        where: the model.
    """

    def __init__(self, *, node: str, op: str, reason: str, where: str) -> None:
        self.failure = f"ONNX Runtime fails at {node} ({op}): {reason}"
        """What happened, without the model's name and what to try."""
        super().__init__(self.failure, where=where, hint="check the input shapes of the case")
        self.node = node
        self.op = op
        self.reason = reason


class UnsoundReferenceError(ModelError):
    """There is no FP32 reference to compare with."""


class ReferenceNotFiniteError(UnsoundReferenceError):
    """The FP32 reference itself produces infinities or NaN, so nothing can be judged against it.

    `own` says so where this is because a float16 or bfloat16 tensor of the model itself overflows.
    """

    def __init__(
        self, case: str, *, tensor: str, first_tensor: str, count: int, own: str | None = None
    ) -> None:
        first = f"; the first tensor that is not finite is {first_tensor!r}"
        parts = (f"{count} elements of output {tensor!r}", "" if first_tensor == tensor else first)
        message = f"the FP32 reference is not finite: {''.join(parts)}{'' if own is None else f'; {own}'}"
        hint = "`harness diagnose` says how that comes about, in the model or from its inputs"
        if own is not None:
            hint = (
                "the type is written in the file, which has to be changed: let it compute that node in FP32"
            )
        super().__init__(message, where=case, hint=hint)
        self.tensor = tensor
        self.first_tensor = first_tensor
        self.count = count
        self.own = own


class ReferenceNotReproducibleError(UnsoundReferenceError):
    """The FP32 reference differs from run to run: `nodes` draw random numbers, and `tensor` depends on them."""

    def __init__(self, case: str, *, tensor: str, nodes: Sequence[tuple[str, str]]) -> None:
        drawing = ", ".join(f"{name} ({op})" for name, op in nodes[:3]) + (", …" if len(nodes) > 3 else "")
        super().__init__(
            f"the FP32 reference is not reproducible: output {tensor!r} differs when the same inputs are run again, "
            f"as random numbers are drawn at {drawing}",
            where=case,
            hint="make what is drawn an input of the model, or feed 0 to what scales it",
        )
        self.tensor = tensor
        self.nodes = tuple(name for name, _ in nodes)


class MissingDependencyError(HarnessError, ImportError):
    """An optional package that is needed here is not installed."""


class GoldenError(HarnessError):
    """A golden reference is missing, unreadable, or must not be rewritten here."""


class HistoryError(HarnessError, ValueError):
    """A file of the history is damaged, or a run cannot be found or resumed."""


class EnvironmentConfigError(HarnessError, ValueError):
    """harness.toml is wrong, or names an environment that cannot be used."""


class CandidateError(HarnessError, RuntimeError):
    """A build, an inference or a worker failed.

    Args:
        message: as of `HarnessError`.
        environment: name of the environment that it is about, unless `where` says more.
        where: as of `HarnessError`.
        hint: as of `HarnessError`.
        request: what the worker was asked for, in words; None if that has nothing to do with it.
        fault: the worker's code of what went wrong, such as `build_failed`; None if it could not give one.
        evidence: the last log lines, and what led to it.
    """

    exit_code = 3

    def __init__(
        self,
        message: str,
        *,
        environment: str | None = None,
        where: str | Path | Place | None = None,
        hint: str | None = None,
        request: str | None = None,
        fault: str | None = None,
        evidence: Sequence[str] = (),
    ) -> None:
        if where is None and environment is not None:
            where = f"environment {environment}"
        super().__init__(message, where=where, hint=hint)
        self.environment = environment
        self.request = request
        self.fault = fault
        self.evidence = tuple(evidence)

    @property
    def lines(self) -> tuple[str, ...]:
        """What a terminal shows below the message: what was asked for, and the evidence."""
        return (*([] if self.request is None else [f"request: {self.request}"]), *self.evidence)


class UnsupportedByReleaseError(CandidateError):
    """The plan asks for something that this TensorRT release cannot do."""


class BuildFailedError(CandidateError):
    """The TensorRT builder returned no engine."""


class PinsNotTakenError(CandidateError):
    """An engine was built without the tactics that are pinned for it; `evidence` names each."""


class WorkerCrashedError(CandidateError):
    """The worker process died; `signal` is the number that killed it, or None."""

    def __init__(
        self,
        message: str,
        *,
        signal: int | None = None,
        environment: str | None = None,
        hint: str | None = None,
        request: str | None = None,
        evidence: Sequence[str] = (),
    ) -> None:
        super().__init__(message, environment=environment, hint=hint, request=request, evidence=evidence)
        self.signal = signal


class WorkerTimeoutError(CandidateError):
    """A build or an inference took longer than its limit, and the worker was ended."""


class WorkerProtocolError(CandidateError):
    """The worker sent something that is not a message of this protocol version."""


class SchedulerError(HarnessError, RuntimeError):
    """The scheduler of a cluster cannot be reached, or its workers cannot do what is asked of them."""


class UnitLostError(CandidateError):
    """A unit of work was given to workers that died."""


class BudgetExhaustedError(HarnessError, RuntimeError):
    """A search stopped at its budget with its question unanswered."""

    exit_code = 4


class InternalError(HarnessError, RuntimeError):
    """A fault of harness itself; `evidence` is the traceback of what was raised, a line each."""

    exit_code = 70  # EX_SOFTWARE of sysexits.h

    def __init__(self, message: str, *, evidence: Sequence[str] = ()) -> None:
        hint = "this is a bug in harness: report it with what --traceback and `harness doctor` print"
        super().__init__(message, hint=hint)
        self.evidence = tuple(evidence)

    @classmethod
    def of(cls, error: Exception) -> InternalError:
        """What is said of an exception that nobody expected."""
        lines = "".join(traceback.format_exception(error)).splitlines()
        return cls(f"internal error: {type(error).__name__}: {error}", evidence=lines)


class StageError(HarnessError, RuntimeError):
    """A stage of a diagnosis ran without what it requires, or broke what it ensures: a fault of harness itself.

    Args:
        stage: name of the stage.
        which: `requires` or `ensures`.
        broken: the conditions that do not hold, in words.
    """

    exit_code = 70

    def __init__(self, stage: str, which: str, broken: Sequence[str]) -> None:
        super().__init__(
            f"stage {stage!r} of the diagnosis {which} {' and '.join(broken)}, which does not hold",
            hint="please report it with the command and the case",
        )
        self.stage = stage
        self.which = which
        self.broken = tuple(broken)


class JournalError(HarnessError, ValueError):
    """The journal of a search belongs to another problem, is damaged, or is being written by someone else."""


class NothingSelectedError(HarnessError, LookupError):
    """A selection of cases, runs or nodes matched nothing."""

    exit_code = 5


def explained(error: Exception, where: str | None = None) -> HarnessError:
    """What is said of an exception, whatever it is, where what else was asked for must not be lost.

    Args:
        error: one of harness stays as it is; memory and the system's errors are told as such; others are faults of
            harness.
        where: what it is about.
    """
    if isinstance(error, HarnessError):
        return error
    if isinstance(error, MemoryError):
        return ModelError(f"not enough memory: {error}", where=where, hint="try smaller shapes")
    known = of_system(error) if isinstance(error, OSError) else None
    return known or InternalError.of(error)


_HINTS = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space, or write to another disk",
    errno.EROFS: "write to another folder",
    errno.EACCES: "check the permissions of the path",
    errno.EPERM: "check the permissions of the path",
    errno.ENAMETOOLONG: "use shorter names",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "check the path",
    errno.EIO: "check the disk",
}


def of_system(error: OSError) -> HarnessError | None:
    """What is said of an error of the system that no code can help, such as a full disk; None for others."""
    if error.errno not in _HINTS:
        return None
    name = "" if error.filename is None else str(error.filename)
    where = name if len(name) <= 200 else f"{name[:60]}…{name[-60:]}"
    return HarnessError(error.strerror or str(error), where=where or None, hint=_HINTS[error.errno])

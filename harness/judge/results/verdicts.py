"""The words of verdicts: what a run came to, what decided it, what was judged, which error ended it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from harness.errors import CandidateError, HarnessError


class Verdict(StrEnum):
    """The verdict of one run."""

    PASS = "pass"
    FAIL = "fail"
    ERROR = "error"
    SKIP = "skip"
    XFAIL = "xfail"
    XPASS = "xpass"


class Cause(StrEnum):
    """What decided the verdict of a run; `RunReason` says it in a sentence."""

    GATES_HOLD = "gates hold"
    GATE_FAILED = "gate failed"
    EXPECTED = "fails as expected"
    OTHER_ORIGIN = "starts elsewhere than expected"
    UNEXPECTED_PASS = "passes unexpectedly"
    WAIVED = "waived"
    WAIVER_EXPIRED = "waiver expired"
    FILE = "file itself"
    """Roundings that the model brings itself make its outputs wrong."""
    GOLDEN_CHANGED = "golden reference changed"
    SCORE = "metric dropped"
    SHAPE = "another shape fails"
    EXPORT = "export differs from the PyTorch module"
    PACKAGE = "package missing"
    RELEASE = "release not allowed"
    PRECISION = "precision not offered"
    NOTHING_TO_ROUND = "nothing to round"
    NOT_BUILT = "not built"
    """A compiler refuses it or fails; nothing was to be run."""
    CASE = "case cannot be judged"
    """The model, the inputs or the reference of the case cannot be had, whatever the precision and the candidate."""
    RUN = "run cannot be judged"
    CANDIDATE = "candidate failed"
    INTERNAL = "internal error"
    """A fault of harness itself."""


class Judged(StrEnum):
    """What was judged of an output, or at least of every output."""

    VALUES = "values"
    FINITENESS = "finiteness"
    """Only whether every element is finite."""
    NOTHING = "nothing"


@dataclass(frozen=True)
class RunError:
    """The error that a run ended with.

    Args:
        kind: name of its class in harness.errors.
        message: what is wrong, without where and what to try.
        where: file, case, tensor or environment that it is about.
        hint: what to try.
        environment: the environment whose build, inference or worker failed.
        request: what the worker was asked for, in words.
        fault: the worker's code of what went wrong, such as `build_failed`.
    """

    kind: str
    message: str
    where: str | None = None
    hint: str | None = None
    environment: str | None = None
    request: str | None = None
    fault: str | None = None

    @classmethod
    def of(cls, error: HarnessError) -> RunError:
        """What is kept of an error."""
        told = cls(type(error).__name__, error.message, error.where, error.hint)
        if not isinstance(error, CandidateError):
            return told
        return replace(told, environment=error.environment, request=error.request, fault=error.fault)

    def __str__(self) -> str:
        text = self.message if self.where is None else f"{self.where}: {self.message}"
        return text if self.hint is None else f"{text} ({self.hint})"

"""What a comparison finds of a build that failed, and of what a run is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import ClassVar

from harness.history.types import BuildCount, DriftStatus
from harness.judge import Cause, RunReason


class Explained:
    """What has a reason, `why`; in JSON its code and its line stand beside it."""

    why: RunReason

    ALSO_IN_JSON: ClassVar = ("cause", "reason")

    @property
    def cause(self) -> Cause | None:
        """The reason as a code."""
        return self.why.code

    @property
    def reason(self) -> str:
        """The reason in one line; empty where there is none."""
        return self.why.headline


@dataclass(frozen=True)
class UnjudgedBuild(Explained):
    """A build that could not be judged.

    Args:
        release: the release; of earlier nights, what they are called.
        why: why it could not. In JSON `cause` and `reason` beside it.
        status: what it comes to.
        log: the last lines of its log, or what else supports the reason.
    """

    release: str
    why: RunReason
    status: DriftStatus
    log: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """The release, and why in one line."""
        return f"{self.release}: {self.reason}"

    @property
    def evidence(self) -> tuple[str, ...]:
        """What else the message says, and the log."""
        return (*str(self.why).splitlines()[1:], *self.log)

    def __str__(self) -> str:
        return "\n".join((self.headline, *self.evidence))


def failed_releases(errors: Sequence[UnjudgedBuild]) -> frozenset[str]:
    """The releases of which builds could not be judged."""
    return frozenset(error.release for error in errors)


@dataclass(frozen=True)
class FewerBuilds:
    """An engine that was built less often than requested.

    Args:
        release: the release.
        builds: how many builds there are, of how many.
        out_of_time: whether the time limit was why.
    """

    release: str
    builds: BuildCount
    out_of_time: bool


class Incomparable(Enum):
    """Why a run without errors is compared with nothing."""

    NOTHING_BEFORE = auto()
    NOT_IN_RUN_BEFORE = auto()
    MODEL_CHANGED = auto()
    CASE_CHANGED = auto()


class BaselineState(Enum):
    """What there is of the baseline of a run: the one that it is compared with, none, or one of something else."""

    VALID = auto()
    MISSING = auto()
    MODEL_CHANGED = auto()
    CASE_CHANGED = auto()

    @property
    def stale(self) -> bool:
        """Whether the baseline is of another model or case."""
        return self in (BaselineState.MODEL_CHANGED, BaselineState.CASE_CHANGED)


class BaselineUpdate(Enum):
    """What becomes of the baseline of a run. Builds that failed make none."""

    NOT_REQUESTED = auto()
    REQUESTED = auto()
    REFUSED = auto()


@dataclass(frozen=True)
class BaselineNote:
    """What is known of the baseline of a run, and what becomes of it."""

    state: BaselineState
    update: BaselineUpdate = BaselineUpdate.NOT_REQUESTED


class Fact(StrEnum):
    """Something that a night ran on, in the order in which changes are listed."""

    GPU = "GPU"
    COMPUTE_CAPABILITY = "compute capability"
    DRIVER = "driver"
    CUDA = "CUDA"
    PRODUCT = "product"
    TENSORRT = "TensorRT"
    ONNXRUNTIME = "ONNX Runtime"
    HARNESS = "harness"
    PROCESSOR = "processor"


@dataclass(frozen=True)
class FactChange:
    """Something that a night ran on and that the night before did not.

    Args:
        what: what it is.
        before: its version or name in the night before.
        now: that of the night.
    """

    what: Fact
    before: str
    now: str

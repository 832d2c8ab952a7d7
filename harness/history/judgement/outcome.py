"""What a comparison finds of a tensor, of a build that failed, and of what a run is compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from harness.history.types import SEVERITY, BuildCount, DriftStatus, DriftVerdict
from harness.judge import RunReason


@dataclass(frozen=True)
class TensorDrift:
    """The drift of one tensor: the numbers behind its verdict.

    Args:
        tensor: ONNX name.
        node: the node that writes it; None for an input that is an output.
        op: its operator type.
        sample: number of the sample; -1 for all together.
        verdict: what it comes to.
        old: mean error (nrmse) in the older release.
        new: mean error in the newer one.
        noise: half the width of the noise band; NaN where it is unknown.
        floor: the largest change that is too small to matter.
        old_passed: builds of the older release in which every gate holds.
        new_passed: likewise of the newer release.
        gate: metric of its gate: one that fails, or else the first; None if unknown.
        limit: its limit; NaN if unknown.
        error_limit: the limit as an error like `old` and `new`; NaN for a gate on another metric.
        zero_reference: whether the reference is all zero, so that an error relative to it is 0 or infinite.
    """

    tensor: str
    node: str | None
    op: str | None
    sample: int
    verdict: DriftVerdict
    old: float
    new: float
    noise: float
    floor: float
    old_passed: BuildCount
    new_passed: BuildCount
    gate: str | None = None
    limit: float = math.nan
    error_limit: float = math.nan
    zero_reference: bool = False

    @property
    def ratio(self) -> float:
        """How many times the older release's error the newer one's is."""
        if math.isinf(self.old) and math.isinf(self.new):
            return 1.0
        return self.new / self.old if self.old else (1.0 if self.new == 0 else math.inf)

    @property
    def size(self) -> float:
        """How far it moved, as |log ratio|: what the worst is chosen by."""
        ratio = self.ratio
        return abs(math.log(ratio)) if 0 < ratio < math.inf else math.inf

    @property
    def error(self) -> float:
        """The larger of both errors: what the worst sample of the outputs is chosen by."""
        return max(self.old, self.new)


@dataclass(frozen=True)
class UnjudgedBuild:
    """A build that could not be judged.

    Args:
        release: the release; of earlier nights, what they are called.
        why: why it could not.
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
        return f"{self.release}: {self.why.headline}"

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


def worst_of(outputs: Sequence[TensorDrift]) -> TensorDrift | None:
    """The output with the worst verdict; of several outputs and samples, the one with the largest error.

    `harness run` names the largest error of all outputs and samples: where they have one verdict, both name the same.
    """
    return max(
        outputs, key=lambda output: (SEVERITY[output.verdict], output.error, output.size), default=None
    )


def furthest_of(tensors: Sequence[TensorDrift]) -> TensorDrift | None:
    """The tensor with the worst verdict; of several, the one that moved furthest."""
    return max(tensors, key=lambda tensor: (SEVERITY[tensor.verdict], tensor.size), default=None)

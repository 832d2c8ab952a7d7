"""What came of one case at one precision between two releases, in words and with where it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from harness.case import Waived
from harness.history.judgement.builds import Builds, FailsOn
from harness.history.judgement.structure import StructureChange
from harness.history.judgement.tensors import SEVERITY, WORSENED, DriftVerdict
from harness.tensors import Precision


class Status(StrEnum):
    """What a run's drift means for the exit status, the gravest last."""

    PASS = "pass"
    SKIP = "skip"
    XFAIL = "xfail"
    FAIL = "fail"
    ERROR = "error"
    MISTAKE = "mistake"


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
        floor: the change that is no effect.
        old_passed: builds of the older release whose gates hold, of how many: `3 of 3`.
        new_passed: likewise of the newer release.
        gate: metric of the gate that it was held against: one that fails, or else the first; None if unknown.
        limit: its limit; NaN if unknown.
        error_limit: the limit as an error like `old` and `new`; NaN for a gate on a metric that is none.
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
    old_passed: str
    new_passed: str
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
class RunDrift:
    """One case at one precision, between the older release and a newer one.

    Args:
        case: name of the case.
        case_path: the case file; None for a bare model.
        precision: the precision asked for.
        old: the older release.
        new: the newer release.
        status: what it means for the exit status.
        verdict: the gravest verdict of the outputs, or of the layers where no output moved; None if nothing could
            be compared.
        reason: one line for a person: why.
        counts: how many outputs and layers have each verdict, by kind.
        worst: of the outputs with the verdict the one with the largest error, sample by sample; or else the layer
            that moved furthest in its direction.
        origins: where a drift to the worse starts: the layers that are worse while all that they were computed
            from is not; in topological order.
        faithful: whether observing left the engines alone: of the older and of the newer release.
        waived: the waiver that speaks of it.
        structure: what changed in the engine.
        structured: whether the layers of any engine are known, of the older and of the newer side.
        command: what goes on from here; empty where nothing does.
        errors: what kept builds from being judged.
        builds: what came of each build that could be judged.
    """

    case: str
    case_path: str | None
    precision: Precision
    old: str
    new: str
    status: Status
    verdict: DriftVerdict | None
    reason: str
    counts: Mapping[str, Mapping[DriftVerdict, int]] = field(default_factory=dict)
    worst: TensorDrift | None = None
    origins: tuple[TensorDrift, ...] = ()
    faithful: tuple[bool | None, bool | None] = (None, None)
    waived: Waived | None = None
    structure: tuple[StructureChange, ...] = ()
    structured: tuple[bool, bool] = (False, False)
    command: str = ""
    errors: tuple[str, ...] = ()
    builds: Builds = field(default_factory=Builds)

    @property
    def fails_unexpectedly(self) -> bool:
        """Whether a build of the newer release fails, and neither the case nor a waiver expects that."""
        return self.builds.fails_on in (FailsOn.NEWER, FailsOn.BOTH) and not self.builds.expected

    @property
    def id(self) -> str:
        """`case::precision::release`."""
        return f"{self.case}::{self.precision}::{self.new}"

    @property
    def severity(self) -> tuple[int, bool, int, float]:
        """What reports are sorted by: the larger, the graver.

        What failed before, too, comes below what drifted and above what passes; what was skipped comes last.
        """
        statuses = [Status.SKIP, *(status for status in Status if status is not Status.SKIP)]
        rank = statuses.index(self.status)
        if in_both(self.errors, self.old, self.new):
            rank = min(rank, statuses.index(Status.XFAIL))
        verdict = -1 if self.verdict is None else SEVERITY[self.verdict]
        standing = self.status is Status.PASS and self.fails_unexpectedly
        return rank, standing, verdict, 0.0 if self.worst is None else self.worst.size


def in_both(errors: Sequence[str], old: str, new: str) -> bool:
    """Whether neither release could be judged: then it is not the upgrade that broke it."""
    return all(any(error.startswith(f"{name}: ") for error in errors) for name in (old, new))


def status_of(verdict: DriftVerdict | None, waived: Waived | None) -> Status:
    """The status of a run that could be compared."""
    if verdict not in WORSENED:
        return Status.PASS
    return Status.XFAIL if waived is not None and not waived.expired else Status.FAIL


def worst_of(outputs: Sequence[TensorDrift]) -> TensorDrift | None:
    """The one with the gravest verdict; of several outputs and samples, the one with the largest error.

    It is the rule of `harness run`, which tells the largest error of all outputs and samples: where they have one
    verdict, both tell the same.
    """
    return max(
        outputs, key=lambda output: (SEVERITY[output.verdict], output.error, output.size), default=None
    )


def furthest_of(tensors: Sequence[TensorDrift]) -> TensorDrift | None:
    """The one with the gravest verdict; of several, the one that moved furthest."""
    return max(tensors, key=lambda tensor: (SEVERITY[tensor.verdict], tensor.size), default=None)

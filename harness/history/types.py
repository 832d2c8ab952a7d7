"""The small types that all packages of the history share. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from harness.errors import UsageError
from harness.tensors import Precision

CaseRun = tuple[str, str]
"""Name of a case, and a precision: what the rows of one run have in common."""


class LayerBuilds(StrEnum):
    """In which builds of an engine the layers are observed, which takes a further build each, and a slow one.

    AUTO is the first build of an engine, and all builds of an emulated release, where it costs milliseconds.
    """

    AUTO = "auto"
    ALL = "all"
    FIRST = "first"
    NONE = "none"


class CacheUse(StrEnum):
    """Which builds use the timing cache: with it a rebuild mostly repeats the tactics of the one before."""

    BOTH = "both"
    WITH = "with"
    WITHOUT = "without"


class OlderSide(StrEnum):
    """What a single release is compared with."""

    GOLDEN = "golden"
    HISTORY = "history"


class RowKind(StrEnum):
    """What a row of the history is about."""

    OUTPUT = "output"
    LAYER = "layer"
    ENGINE = "engine"


class DriftVerdict(StrEnum):
    """The verdict of one tensor between two releases; the worst last."""

    SAME = "same"
    WITHIN_NOISE = "within noise"
    IMPROVED = "improved"
    FIXED = "fixed"
    REGRESSED = "regressed"
    NEW_FAILURE = "new failure"


SEVERITY = {verdict: place for place, verdict in enumerate(DriftVerdict)}
REGRESSIONS = (DriftVerdict.REGRESSED, DriftVerdict.NEW_FAILURE)
UNMOVED = (DriftVerdict.SAME, DriftVerdict.WITHIN_NOISE)


class DriftStatus(StrEnum):
    """What the drift of a run means for the exit status, the worst last."""

    PASS = "pass"
    SKIP = "skip"
    XFAIL = "xfail"
    FAIL = "fail"
    ERROR = "error"
    MISTAKE = "mistake"


def worst_status(*statuses: DriftStatus) -> DriftStatus:
    """The worst of `statuses`."""
    return max(statuses, key=list(DriftStatus).index)


class FailsOn(StrEnum):
    """On which of two releases a build of a run fails its gates."""

    NONE = "none"
    OLDER = "older"
    NEWER = "newer"
    BOTH = "both"


class Trend(StrEnum):
    """How a quantity of an engine changed."""

    SAME = "same"
    WITHIN_NOISE = "within noise"
    LESS = "less"
    MORE = "more"


@dataclass(frozen=True)
class BuildCount:
    """In how many builds of a release something holds."""

    count: int
    total: int

    def __str__(self) -> str:
        return f"{self.count} of {self.total}"


#: Half the distance from 1 to the next number: what one rounding may do to a value.
UNIT_ROUNDOFF = {
    Precision.FP32: 2.0**-24,
    Precision.TF32: 2.0**-11,
    Precision.FP16: 2.0**-11,
    Precision.BF16: 2.0**-8,
    Precision.FP8: 2.0**-4,
    Precision.INT8: 2.0**-8,
}
FLOORS: Mapping[Precision, float] = {
    precision: 16 * roundoff if precision is Precision.FP32 else roundoff / 10
    for precision, roundoff in UNIT_ROUNDOFF.items()
}
"""By precision, the largest change of nrmse that is too small to matter, however certain it is."""


@dataclass(frozen=True)
class Floors:
    """What counts as a difference.

    Args:
        relative: share of the older release's error that a change must exceed.
        absolute: change of nrmse that it must exceed, by precision.
        latency: share of the older release's latency.
        size: share of the older release's engine size.
        build: share of the older release's build time.
        confidence: of the noise band, two-sided.

    Raises:
        UsageError: a share is negative, or the confidence is not between 0 and 1.
    """

    relative: float = 0.25
    absolute: Mapping[Precision, float] = field(default_factory=lambda: FLOORS)
    latency: float = 0.05
    size: float = 0.05
    build: float = 0.5
    confidence: float = 0.99

    def __post_init__(self) -> None:
        if not all(floor >= 0 for floor in (self.relative, self.latency, self.size, self.build)):
            raise UsageError("an effect-size floor must be 0 or more")
        if not 0 < self.confidence < 1:
            raise UsageError(f"a confidence lies between 0 and 1, not at {self.confidence}")

"""Gates: one named threshold on one named metric."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from harness.comparison.metrics import Metrics
from harness.errors import UsageError

LOWER_BOUNDED = frozenset({"cosine", "sqnr_db", "topk_agreement"})
"""The metrics that are better when larger: a gate on them is a lower limit."""

UPPER_BOUNDED = frozenset(
    {
        "max_abs",
        "mean_abs",
        "max_rel",
        "rmse",
        "nrmse",
        "max_ulp",
        "p99_ulp",
        "mismatch_fraction",
        "nan_count",
        "inf_count",
        "overflow_count",
        "subnormal_count",
        "nonfinite",
        "headroom",
    }
)
"""The metrics that are better when smaller."""

SHAPE = "shape"
"""The gate that a tensor fails whose shape is not the reference's."""

UNMASKED = "unmasked_"
"""Before the metric of a gate that leaves a fill value out: see harness.comparison.fill."""

COMPUTED = "computed"
"""The gate that a tensor fails which the candidate could not compute."""


@dataclass(frozen=True)
class Gate:
    """A threshold: an upper limit, or a lower one for the metrics in LOWER_BOUNDED. The limit itself passes.

    Args:
        metric: name of the metric.
        limit: the threshold.

    Raises:
        UsageError: there is no such metric to put a gate on, or the limit is NaN.
    """

    metric: str
    limit: float

    def __post_init__(self) -> None:
        known = UPPER_BOUNDED | LOWER_BOUNDED
        if self.metric not in known:
            near = difflib.get_close_matches(self.metric, known, n=1)
            raise UsageError(
                f"there is no gate on {self.metric!r}",
                hint=f"did you mean {near[0]!r}?" if near else f"one of {', '.join(sorted(known))}",
            )
        if math.isnan(self.limit):
            raise UsageError(f"the limit of the gate on {self.metric!r} is NaN: nothing would ever pass")

    def check(self, metrics: Metrics) -> GateResult:
        """Hold `metrics` against this gate. A value that is NaN or does not apply never passes."""
        found = getattr(metrics, self.metric)
        value = math.nan if found is None else float(found)
        passed = value >= self.limit if self.metric in LOWER_BOUNDED else value <= self.limit
        return GateResult(self.metric, self.limit, value, passed)

    def to_dict(self) -> dict[str, Any]:
        """`metric` and `limit`."""
        return asdict(self)


@dataclass(frozen=True)
class GateResult:
    """A gate, the value that met it, and whether it passed. The value is NaN where the metric does not apply."""

    metric: str
    limit: float
    value: float
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """`metric`, `limit`, `value` and `passed`."""
        return asdict(self)


def check(metrics: Metrics, gates: Iterable[Gate]) -> tuple[GateResult, ...]:
    """Hold `metrics` against every gate, in their order; before them fails what no case need ask for.

    A tensor of another shape fails `SHAPE`, one that could not be computed `COMPUTED`, whatever the gates say.
    """
    return (*_incomparable(metrics), *(gate.check(metrics) for gate in gates))


def _incomparable(metrics: Metrics) -> tuple[GateResult, ...]:
    if metrics.incomparable is None:
        return ()
    return (GateResult(SHAPE if metrics.failure is None else COMPUTED, 0.0, math.inf, False),)

"""Gates: one named threshold on one named metric."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from harness.compare.metrics import Metrics

LOWER_BOUNDED = frozenset({"cosine", "sqnr_db", "topk_agreement"})


@dataclass(frozen=True)
class Gate:
    """A threshold: an upper bound, or a lower bound for metrics that are better when larger."""

    metric: str
    limit: float

    def to_dict(self) -> dict[str, Any]:
        """`metric` and `limit`."""
        return asdict(self)


@dataclass(frozen=True)
class GateResult:
    """A gate and the value that met it."""

    metric: str
    limit: float
    value: float
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """`metric`, `limit`, `value` and `passed`."""
        return asdict(self)


def check(metrics: Metrics, gates: Iterable[Gate]) -> tuple[GateResult, ...]:
    """Hold `metrics` against `gates`; a value that is NaN or not applicable never passes."""
    results = []
    for gate in gates:
        value = getattr(metrics, gate.metric)
        value = float("nan") if value is None else float(value)
        passed = value >= gate.limit if gate.metric in LOWER_BOUNDED else value <= gate.limit
        results.append(GateResult(gate.metric, gate.limit, value, passed))
    return tuple(results)

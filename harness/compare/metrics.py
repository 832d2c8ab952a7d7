"""What is measured of a candidate tensor over its reference."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """How to compare.

    Args:
        atol: absolute part of the tolerance behind `mismatch_fraction`.
        rtol: relative part of it: an element mismatches when |candidate - reference| > atol + rtol·|reference|.
        topk: how many of the largest elements along the last axis `topk_agreement` looks at; 0 turns it off.
        threads: how many threads compare large tensors.
    """

    atol: float = 1e-5
    rtol: float = 1e-5
    topk: int = 1
    threads: int = 2


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Every number measured in one pass over a candidate tensor and its FP32 reference."""

    count: int
    max_abs: float
    mean_abs: float
    max_rel: float
    rmse: float
    nrmse: float
    cosine: float
    sqnr_db: float
    max_ulp: float
    p99_ulp: float
    mismatch_fraction: float
    topk_agreement: float | None
    nan_count: int
    inf_count: int
    overflow_count: int
    subnormal_count: int
    nonfinite: int
    nan_both: int
    reference_nonfinite: int
    reference_rms: float
    reference_max: float
    headroom: float
    worst_index: tuple[int, ...] | None

    def to_dict(self) -> dict[str, Any]:
        """The metrics by name; numbers as they are, infinities included."""
        return asdict(self)

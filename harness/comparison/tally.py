"""The running totals behind the metrics, and the formulas that turn them into metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

from harness.comparison.metrics import CompareOptions, Metrics
from harness.comparison.slices import Slice, SliceSums
from harness.comparison.topk import RowPiece
from harness.comparison.ulp import Storage, UlpHistogram


@dataclass(slots=True)
class Tally:
    """Totals over some of the elements; c is the candidate, r the reference, d = c - r.

    `equal_nonfinite` counts the elements that are the same infinity or NaN on both sides: they enter no sum.
    `worst` is the flat index of the largest |d|, `first_nonfinite` of the first element that is not finite as it
    should be.
    """

    count: int = 0
    abs_d: float = 0.0
    dd: float = 0.0
    cc: float = 0.0
    rr: float = 0.0
    cr: float = 0.0
    max_abs: float = 0.0
    max_rel: float = 0.0
    reference_max: float = 0.0
    worst: int | None = None
    first_nonfinite: int | None = None
    mismatches: int = 0
    nan_count: int = 0
    inf_count: int = 0
    overflow_count: int = 0
    subnormal_count: int = 0
    overflow_low: float = math.inf
    overflow_high: float = -math.inf
    nonfinite: int = 0
    nan_both: int = 0
    equal_nonfinite: int = 0
    reference_nonfinite: int = 0
    topk_hits: int = 0
    topk_places: int = 0
    pieces: list[RowPiece] = field(default_factory=list)
    slices: SliceSums | None = None

    def see_worst(self, error: float, index: int) -> None:
        """Take an element's |d| into account; of equal ones the first seen stays."""
        if error > self.max_abs:
            self.max_abs = error
            self.worst = index


_SUMS = ("abs_d", "dd", "cc", "rr", "cr")
_COUNTS = tuple(item.name for item in fields(Tally) if item.type == "int")
_LARGEST = ("max_rel", "reference_max")


def combined(tallies: Sequence[Tally]) -> Tally:
    """The totals over all tallies, which follow each other in the tensor.

    Sums are rounded once (math.fsum), so the result does not depend on who summed which part.
    """
    total = Tally()
    for name in _SUMS:
        setattr(total, name, _sum(getattr(tally, name) for tally in tallies))
    for name in _COUNTS:
        setattr(total, name, sum(getattr(tally, name) for tally in tallies))
    for name in _LARGEST:
        setattr(total, name, max((getattr(tally, name) for tally in tallies), default=0.0))
    total.overflow_low = min((tally.overflow_low for tally in tallies), default=math.inf)
    total.overflow_high = max((tally.overflow_high for tally in tallies), default=-math.inf)
    for tally in tallies:
        if tally.worst is not None:
            total.see_worst(tally.max_abs, tally.worst)
    total.slices = _merged([tally.slices for tally in tallies])
    return total


def _merged(sums: Sequence[SliceSums | None]) -> SliceSums | None:
    """The sums over the slices of all samples; None where their shapes differ."""
    known = [each for each in sums if each is not None]
    if not known or len(known) < len(sums) or any(each.layout != known[0].layout for each in known):
        return None
    total = SliceSums.of(known[0].layout)
    for each in known:
        total.merge(each)
    return total


def metrics_of(
    total: Tally,
    ulps: UlpHistogram,
    storage: Storage,
    worst_index: tuple[int, ...] | None,
    options: CompareOptions | None = None,
) -> Metrics:
    """The metrics of a tensor from its totals. The formulas stand in the docstring of Metrics."""
    broken = total.nonfinite > 0
    compared = total.count - total.equal_nonfinite
    finite_references = total.count - total.reference_nonfinite
    rmse = math.inf if broken else _root_mean(total.dd, compared)
    reference_rms = _root_mean(total.rr, finite_references)
    worst_slice = _worst_slice(total, options or CompareOptions(), reference_rms)
    return Metrics(
        count=total.count,
        max_abs=math.inf if broken else total.max_abs,
        mean_abs=math.inf if broken else total.abs_d / max(compared, 1),
        max_rel=math.inf if broken else total.max_rel,
        rmse=rmse,
        nrmse=_ratio(rmse, reference_rms),
        cosine=math.nan if broken else _cosine(total),
        sqnr_db=-math.inf if broken else _decibels(total.rr, total.dd),
        psnr_db=-math.inf if broken else _decibels(total.reference_max**2, rmse**2),
        max_ulp=math.inf if broken else float(ulps.largest),
        p99_ulp=ulps.p99(infinite=total.nonfinite),
        mismatch_fraction=total.mismatches / max(total.count, 1),
        topk_agreement=total.topk_hits / total.topk_places if total.topk_places else None,
        nan_count=total.nan_count,
        inf_count=total.inf_count,
        overflow_count=total.overflow_count,
        subnormal_count=total.subnormal_count,
        nonfinite=total.nonfinite,
        nan_both=total.nan_both,
        reference_nonfinite=total.reference_nonfinite,
        reference_rms=reference_rms,
        reference_max=total.reference_max,
        headroom=total.reference_max / storage.largest,
        worst_index=worst_index,
        overflow_low=total.overflow_low if total.overflow_count else 0.0,
        overflow_high=total.overflow_high if total.overflow_count else 0.0,
        slice_nrmse=0.0 if worst_slice is None else worst_slice.nrmse,
        worst_slice=worst_slice,
    )


def _worst_slice(total: Tally, options: CompareOptions, reference_rms: float) -> Slice | None:
    if total.slices is None or options.slice_floor is None:
        return None
    samples = total.count // max(math.prod(total.slices.layout.shape), 1)
    return total.slices.worst(samples, options.slice_floor, reference_rms, options.gains)


def _sum(values: Iterable[float]) -> float:
    try:
        return math.fsum(values)
    except OverflowError:  # squares of float64 beyond 1e154
        return math.inf


def _root_mean(sum_of_squares: float, count: int) -> float:
    return math.sqrt(sum_of_squares / max(count, 1))


def _ratio(error: float, scale: float) -> float:
    if error == 0:
        return 0.0
    return error / scale if scale > 0 else math.inf


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _cosine(total: Tally) -> float:
    if total.cc == 0 or total.rr == 0:
        return 1.0 if total.cc == total.rr else 0.0
    # Two roots: the product of two sums of squares can leave the range of float64 where the sums do not.
    cosine = total.cr / (math.sqrt(total.cc) * math.sqrt(total.rr))
    return max(-1.0, min(1.0, cosine))

"""What is measured of a candidate tensor over its reference."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from harness.comparison.slices import Slice
from harness.errors import UsageError
from harness.tensors import UNLESS_DEFAULT

if TYPE_CHECKING:
    from harness.model import Gains

ALIKE = 1e-3
"""The elements of a fill differ by no more than this share: a mask that is added leaves the sums so."""


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """How to compare.

    Args:
        atol: absolute part of the tolerance behind `mismatch_fraction`.
        rtol: relative part: an element mismatches when |candidate - reference| > atol + rtol * |reference|.
        topk: how many of the largest elements along the last axis `topk_agreement` looks at; 0 turns it off.
        slice_floor: a slice counts as at least this share of the root mean square of the whole tensor, so that what a
            rounding leaves of a channel of nothing is no error; None measures no slices.
        slice_elements: a slice of fewer elements is not judged: it says more of chance than of the tensor.
        gains: how large the slices along an axis are beside each other by construction: each counts as its own share
            of the whole, and no slice as more than it does without.
        quantile: which quantile of the absolute error `abs_quantile` is, 0.99 say; None measures none.
        brief: measure of floats what default gates ask for, at half the cost: ULP, subnormals, mismatches and top-k are
            left out as if there were none, and `max_rel` as infinite.

    Raises:
        UsageError: a value is out of range.
    """

    atol: float = 1e-5
    rtol: float = 1e-5
    topk: int = 1
    slice_floor: float | None = None
    slice_elements: int = 32
    gains: Gains | None = None
    quantile: float | None = None
    brief: bool = False

    def __post_init__(self) -> None:
        if not (self.atol >= 0 and self.rtol >= 0):
            raise UsageError(f"atol and rtol must be 0 or more, not {self.atol} and {self.rtol}")
        if self.topk < 0:
            raise UsageError(f"topk must be 0 or more, not {self.topk}")


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Every number measured in one pass over a candidate tensor c and its reference r.

    Sums are taken in float64 over the elements where both are finite. An element that is not finite on one side
    and not the same on the other has an infinite error: it makes the errors below infinite and `cosine` NaN, and
    it is counted in `nonfinite`. The same infinity on both sides, or NaN on both, is equal and enters no sum.
    An empty tensor is equal to its reference.

    Where there is nothing to pair elements with, the candidate being of another shape or not computed at all, every
    error is infinite, `mismatch_fraction` is 1 and `cosine` NaN; counts of the candidate are of what there is of it.

    Attributes:
        count: number of elements.
        max_abs: largest |c - r|.
        mean_abs: mean of |c - r|.
        max_rel: largest |c - r| / |r|; where r = 0 it is infinite unless c = 0 too.
        rmse: square root of the mean of (c - r)².
        nrmse: rmse / reference_rms. For an all-zero reference: 0 if rmse = 0, else infinite.
        cosine: c·r / (|c| |r|). 1 if both are all zero, 0 if only one is. Blind to scale: never a sole gate.
        sqnr_db: signal to quantisation noise ratio, 10 log10(sum r² / sum (c - r)²); infinite if c = r.
        max_ulp: largest distance in units in the last place: c and r are rounded to the storage dtype, and the
            representable numbers between them are counted. For integers the difference.
        p99_ulp: the smallest distance that at least 99 % of the elements do not exceed; exact for storage dtypes
            up to 16 bits wide and below 128, else never too low and at most 1.6 % too high.
        mismatch_fraction: share of elements with |c - r| > atol + rtol·|r|; of unequal ones for integers, bools.
        topk_agreement: over the rows of the last axis, the mean share of the reference's k largest elements that
            are among the candidate's k largest; of equal elements the first count as larger. None where it does not
            apply: integers, rank 0, a last axis no longer than k.
        nan_count: NaN in the candidate.
        inf_count: infinities in the candidate.
        overflow_count: finite in the reference, infinite in the candidate; in a dtype without infinities, NaN
            where the reference is beyond the dtype's largest number.
        subnormal_count: elements of the candidate that are subnormal in the storage dtype.
        nonfinite: elements where c or r is not finite and the two are not the same.
        nan_both: elements that are NaN on both sides.
        reference_nonfinite: NaN and infinities in the reference.
        reference_rms: square root of the mean of r² over its finite elements.
        reference_max: largest finite |r|.
        headroom: reference_max over the storage dtype's largest number; beyond 1 the dtype overflows.
        worst_index: index of the first element that is not finite as it should be, else of the first with the
            largest |c - r|; None if nothing differs. With several samples, the index within the worst one.
        shape: the candidate's shape where it is not that of the reference; None where they agree.
        reference_shape: the reference's shape there. With several samples, of the first one that differs.
        failure: why the candidate could not compute the tensor; None where it did.
        overflow_low: smallest value of the reference where the candidate overflows; 0 where it does not.
        overflow_high: largest one.
        slice_nrmse: nrmse of the worst slice; 0 where none errs, or none was measured.
        worst_slice: the slice (one index of one axis) that errs most beside its own size; None where no slice was
            measured, or none errs. Elements that are not finite on one side are left out of it.
        abs_quantile: the smallest error that at least the share `quantile` of the elements do not exceed; never too
            low, and at most 0.8 % too high. None where no `quantile` was asked for.
        psnr_db: peak signal to noise ratio, 20 log10(reference_max / rmse), for images; infinite if c = r.
    """

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
    shape: tuple[int, ...] | None = field(default=None, metadata=UNLESS_DEFAULT)
    reference_shape: tuple[int, ...] | None = field(default=None, metadata=UNLESS_DEFAULT)
    failure: str | None = field(default=None, metadata=UNLESS_DEFAULT)
    overflow_low: float = field(default=0.0, metadata=UNLESS_DEFAULT)
    overflow_high: float = field(default=0.0, metadata=UNLESS_DEFAULT)
    slice_nrmse: float = field(default=0.0, metadata=UNLESS_DEFAULT)
    worst_slice: Slice | None = field(default=None, metadata=UNLESS_DEFAULT)
    abs_quantile: float | None = field(default=None, metadata=UNLESS_DEFAULT)
    psnr_db: float = field(default=math.inf, metadata=UNLESS_DEFAULT)

    @property
    def overflows_as_mask(self) -> bool:
        """Whether nothing is wrong but that the fill of a mask, −1e9 say, became −∞: several elements, all alike."""
        alike = self.overflow_low < 0 and self.overflow_high <= (1 - ALIKE) * self.overflow_low
        return alike and 1 < self.overflow_count == self.nonfinite

    @property
    def error(self) -> float:
        """nrmse, and infinite as soon as one element is not finite where the reference is."""
        return math.inf if self.nonfinite or math.isnan(self.nrmse) else self.nrmse

    @property
    def incomparable(self) -> str | None:
        """Why no element was compared: `shape (421,) instead of (966,)`, `not computed: …`; None if they were."""
        if self.failure is not None:
            return f"not computed: {self.failure}"
        return None if self.shape is None else f"shape {self.shape} instead of {self.reference_shape}"


def as_incomparable(
    reference: Metrics,
    *,
    shape: tuple[int, ...] | None = None,
    reference_shape: tuple[int, ...] | None = None,
    failure: str | None = None,
) -> Metrics:
    """The metrics of a candidate none of whose elements can be paired with the reference's.

    Args:
        reference: the metrics of the reference over itself, with the counts of the candidate if there is one.
        shape: see Metrics.
        reference_shape: see Metrics.
        failure: see Metrics.
    """
    return replace(
        reference,
        max_abs=math.inf,
        mean_abs=math.inf,
        max_rel=math.inf,
        rmse=math.inf,
        nrmse=math.inf,
        cosine=math.nan,
        sqnr_db=-math.inf,
        psnr_db=-math.inf,
        max_ulp=math.inf,
        p99_ulp=math.inf,
        mismatch_fraction=1.0,
        topk_agreement=None,
        abs_quantile=None if reference.abs_quantile is None else math.inf,
        overflow_count=0,
        worst_index=None,
        shape=shape,
        reference_shape=reference_shape,
        failure=failure,
        slice_nrmse=math.inf,
        worst_slice=None,
    )

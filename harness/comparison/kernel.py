"""The inner loop: every metric of a tile of elements that fits into the cache.

A tensor is cut into tiles of about `TILE` elements. All passes over a tile read and write arrays that stay in the
L2 cache, so the data come from memory once. Differences are taken in float32, or in float64 where an input is
float64 or a square would leave the range of float32: one rounding each, of 2⁻²⁴. Sums are taken by BLAS in runs of
128 elements, and the runs are added in float64, which gives a sum over n elements a relative error of about
10⁻⁷ / √(n / 128). There is one thread: between NumPy's short loops, handing the interpreter lock to and fro costs
more than a second thread gains.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from harness.comparison import topk, ulp
from harness.comparison.metrics import CompareOptions
from harness.comparison.slices import SliceSums
from harness.comparison.tally import Tally
from harness.tensors import to_float32

Array = np.ndarray[Any, np.dtype[Any]]

TILE = 3 << 14
_RUN = 128
_ONES: dict[int, Array] = {4: np.ones(_RUN, np.float32), 8: np.ones(_RUN, np.float64)}
# Between these, squares and runs of them neither overflow float32 nor lose what matters to underflow.
_SMALLEST_SQUARED = 1e-12
_LARGEST_SQUARED = 1e16


class _Scratch(NamedTuple):
    """Arrays as long as the tile: |c - r|, |r|, and one for anything."""

    d: Array
    r: Array
    spare: Array


class _Extent(NamedTuple):
    """What a first look at a tile found: r·d, where |d| is largest, and the largest |d| and |r|."""

    rd: float
    place: int
    largest: float
    reference_max: float

    def squares_fit(self, dtype: np.dtype[Any]) -> bool:
        """Whether everything is finite and can be squared in `dtype`."""
        if dtype == np.float64:
            return math.isfinite(self.largest)
        return all(
            value == 0 or _SMALLEST_SQUARED <= value <= _LARGEST_SQUARED
            for value in (self.largest, self.reference_max)
        )


class TileKernel:
    """Measures tiles into a tally. It owns the scratch memory and the ULP histogram.

    Args:
        storage: the dtype in which the candidate stores the tensor.
        options: tolerances and top-k.
        work: float32 or float64: the dtype to take differences in.
        size: the most elements that a tile has; each costs 21 bytes of scratch memory, 33 with float64.
        columns: length of the tensor's last axis; 0 for a tensor without axes.
        total: the number of elements to come, if nothing will be merged with them.
        slices: sums over slices to add to; tiles are then of whole rows of their layout.
    """

    def __init__(
        self,
        storage: ulp.Storage,
        options: CompareOptions,
        *,
        work: np.dtype[Any],
        size: int,
        columns: int,
        total: int | None,
        slices: SliceSums | None = None,
    ) -> None:
        self.storage = storage
        self.options = options
        self.columns = columns
        self.slices = slices
        ranks = storage.is_float and columns > options.topk and not options.brief
        self.topk = options.topk if ranks else 0
        self.ulps = ulp.UlpHistogram(exact=storage.is_float and storage.dtype.itemsize <= 2, total=total)
        self._work = work
        self._buffers = _Scratch(*(np.empty(size, work) for _ in range(3)))
        self._indices = np.empty(size, np.int64)
        self._flags = np.empty(size, np.bool_)

    def measure(self, tally: Tally, candidate: Array, reference: Array, start: int) -> None:
        """Add a tile to the tally.

        Args:
            tally: what to add to.
            candidate: 1-D, contiguous; both of floats, or both of integers or bools.
            reference: the same elements of the reference.
            start: flat index of the first of them in the tensor.
        """
        tally.count += candidate.size
        if self.storage.is_float:
            self._measure_floats(tally, candidate, reference, start)
        else:
            self._measure_integers(tally, candidate, reference, start)

    def _scratch(self, count: int) -> _Scratch:
        if count == self._flags.size:
            return self._buffers
        return _Scratch(*(buffer[:count] for buffer in self._buffers))

    def _widened(self, values: Array) -> Array:
        if values.dtype == np.float16 and self._work == np.float32:
            return to_float32(values)
        return values.astype(self._work, copy=False)

    def _measure_floats(self, tally: Tally, candidate: Array, reference: Array, start: int) -> None:
        c, r = self._widened(candidate), self._widened(reference)
        scratch = self._scratch(c.size)
        extent = _first_look(c, r, scratch)
        finite = math.isfinite(extent.largest)
        if self.topk:
            self._measure_topk(tally, c, r, start, finite=finite, equal=extent.largest == 0)
        aside = 0
        if not extent.squares_fit(self._work):
            if not finite:
                broken = _count_nonfinite(tally, c, r, start, self.storage)
                aside = int(np.count_nonzero(broken))
                candidate, reference = _zeroed(candidate, broken), _zeroed(reference, broken)
            c, r = candidate.astype(np.float64), reference.astype(np.float64)
            scratch = _Scratch(*(np.empty_like(c) for _ in range(3)))
            extent = _first_look(c, r, scratch)
        _add_errors(tally, c, r, scratch, extent, start, self.slices)
        if self.options.brief:
            return
        if extent.largest > self.options.atol:
            tally.mismatches += self._count_beyond_tolerance(scratch)
        self._measure_ulps(tally, candidate, reference, equal=extent.largest == 0)
        if aside:
            self.ulps.remove_zeros(aside)

    def _measure_integers(self, tally: Tally, candidate: Array, reference: Array, start: int) -> None:
        c, r = candidate.astype(np.float64), reference.astype(np.float64)
        scratch = self._scratch(c.size)
        extent = _first_look(c, r, scratch)
        left, right = ulp.as_integers(candidate), ulp.as_integers(reference)
        common = np.result_type(left, right)
        distance = ulp.integer_distances(left.astype(common, copy=False), right.astype(common, copy=False))
        # Beyond 2**53, where float64 has no odd numbers, only the integers know that two of them differ.
        np.copyto(scratch.d, distance, casting="unsafe")
        place = int(distance.argmax())
        extent = extent._replace(place=place, largest=float(distance[place]))
        _add_errors(tally, c, r, scratch, extent, start)
        tally.mismatches += int(np.count_nonzero(distance))
        self.ulps.add(distance, c.size, self._buffers.spare.view(np.float32), self._indices)

    def _count_beyond_tolerance(self, scratch: _Scratch) -> int:
        np.multiply(scratch.r, self.options.rtol, out=scratch.spare)
        np.add(scratch.spare, self.options.atol, out=scratch.spare)
        flags = self._flags[: scratch.d.size]
        return int(np.count_nonzero(np.greater(scratch.d, scratch.spare, out=flags)))

    def _measure_ulps(self, tally: Tally, candidate: Array, reference: Array, *, equal: bool) -> None:
        count = candidate.size
        c = self.storage.rounded(candidate)
        flags = self._flags[:count]
        codes = self._buffers.d.view(self.storage.signed)[:count]
        tally.subnormal_count += self.storage.count_subnormals(c, codes, flags)
        if equal:
            self.ulps.add_zeros(count)
            return
        r = self.storage.rounded(reference)
        steps = self.storage.distances(c, r, codes, flags, floor=self.ulps.floor)
        self.ulps.add(steps, count, self._buffers.spare.view(np.float32), self._indices)

    def _measure_topk(
        self, tally: Tally, candidate: Array, reference: Array, start: int, *, finite: bool, equal: bool
    ) -> None:
        if not finite:
            candidate, reference = topk.without_nan(candidate), topk.without_nan(reference)
        if candidate.size % self.columns:  # a piece of a row that is longer than a tile
            row = start // self.columns
            tally.pieces.append(topk.row_piece(row, candidate, reference, self.topk, start))
            return
        rows = (-1, self.columns)
        places = candidate.size // self.columns * self.topk
        tally.topk_places += places
        tally.topk_hits += (
            places if equal else topk.count_hits(candidate.reshape(rows), reference.reshape(rows), self.topk)
        )


def _first_look(c: Array, r: Array, scratch: _Scratch) -> _Extent:
    """Fill `scratch` with |c - r| and |r|."""
    np.subtract(c, r, out=scratch.d)
    rd = dot(r, scratch.d)
    np.abs(scratch.d, out=scratch.d)
    np.abs(r, out=scratch.r)
    place = int(scratch.d.argmax())
    return _Extent(rd, place, float(scratch.d[place]), float(np.maximum.reduce(scratch.r)))


def _add_errors(
    tally: Tally,
    c: Array,
    r: Array,
    scratch: _Scratch,
    extent: _Extent,
    start: int,
    slices: SliceSums | None = None,
) -> None:
    """Add the sums over c, r and d = c - r, and the largest errors.

    c² and c·r follow from the others: c·r = r² + r·d and c² = r² + 2 r·d + d². Unless d is large beside r the
    cosine then is more accurate than from c itself: the rounding of r² and r·d cancels out of it.
    """
    rr = dot(scratch.r, scratch.r) if slices is None else slices.add(scratch.r, 1, start)
    tally.rr += rr
    tally.reference_max = max(tally.reference_max, extent.reference_max)
    if extent.largest == 0:
        tally.cr += rr
        tally.cc += rr
        return
    dd = dot(scratch.d, scratch.d) if slices is None else slices.add(scratch.d, 0, start)
    tally.dd += dd
    tally.abs_d += _sum(scratch.d)
    if dd <= rr / 4:
        tally.cr += rr + extent.rd
        tally.cc += rr + 2 * extent.rd + dd
    else:  # c may be far smaller than r and d are: its squares need float64
        c = c.astype(np.float64)
        tally.cr += dot(c, r.astype(np.float64))
        tally.cc += dot(c, c)
    tally.see_worst(extent.largest, start + extent.place)
    if tally.max_rel < math.inf:
        tally.max_rel = max(tally.max_rel, _largest_ratio(scratch))


def _largest_ratio(scratch: _Scratch) -> float:
    """The largest |d| / |r|; 0 / 0 is NaN, which fmax passes over."""
    np.divide(scratch.d, scratch.r, out=scratch.spare)
    largest = float(np.fmax.reduce(scratch.spare))
    if math.isinf(largest):  # for a zero in r, or for a quotient beyond float32
        largest = float(np.fmax.reduce(np.divide(scratch.d, scratch.r, dtype=np.float64)))
    return largest


def dot(left: Array, right: Array) -> float:
    """The dot product of two vectors of one float dtype: runs in their dtype, their sum in float64.

    Of a whole tile, BLAS would take it in threads of its own, which wait for each other at work.
    """
    rest = left.size % _RUN
    if rest:
        whole = left.size - rest
        return dot(left[:whole], right[:whole]) + float(np.dot(left[whole:], right[whole:]))
    runs = np.vecdot(left.reshape(-1, _RUN), right.reshape(-1, _RUN))
    return float(np.add.reduce(runs, dtype=np.float64))


def _sum(values: Array) -> float:
    """The sum of a vector. BLAS sums runs faster than numpy.add.reduce does."""
    rest = values.size % _RUN
    if rest:
        return _sum(values[:-rest]) + float(np.add.reduce(values[-rest:], dtype=np.float64))
    runs = np.vecdot(values.reshape(-1, _RUN), _ONES[values.dtype.itemsize])
    return float(np.add.reduce(runs, dtype=np.float64))


def _count_nonfinite(
    tally: Tally, candidate: Array, reference: Array, start: int, storage: ulp.Storage
) -> Array:
    """Count what is not finite; returns where at least one of the two is not."""
    c, r = candidate.astype(np.float64), reference.astype(np.float64)
    c_finite, r_finite = np.isfinite(c), np.isfinite(r)
    c_nan, r_nan, c_infinite = np.isnan(c), np.isnan(r), np.isinf(c)
    broken = ~(c_finite & r_finite)
    both_nan = c_nan & r_nan
    equal = both_nan | (c_infinite & (c == r))
    wrong = broken & ~equal
    overflow = c_infinite & r_finite
    if not storage.has_infinity:
        overflow |= c_nan & r_finite & (np.abs(r) > storage.largest)
    tally.nan_count += int(np.count_nonzero(c_nan))
    tally.inf_count += int(np.count_nonzero(c_infinite))
    tally.overflow_count += int(np.count_nonzero(overflow))
    if overflow.any():
        tally.overflow_low = min(tally.overflow_low, float(r[overflow].min()))
        tally.overflow_high = max(tally.overflow_high, float(r[overflow].max()))
    tally.nan_both += int(np.count_nonzero(both_nan))
    tally.equal_nonfinite += int(np.count_nonzero(equal))
    tally.reference_nonfinite += int(np.count_nonzero(~r_finite))
    wrong_count = int(np.count_nonzero(wrong))
    tally.nonfinite += wrong_count
    tally.mismatches += wrong_count
    if wrong_count and tally.first_nonfinite is None:
        tally.first_nonfinite = start + int(wrong.argmax())
    # The reference's own numbers count even where the candidate has none to compare.
    alone = r[r_finite & ~c_finite]
    tally.rr += dot(alone, alone)
    tally.reference_max = max(tally.reference_max, float(np.abs(alone).max(initial=0.0)))
    return broken


def _zeroed(values: Array, where: Array) -> Array:
    copy = values.copy()
    copy[where] = 0
    return copy

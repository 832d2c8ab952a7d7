"""Distances in units in the last place, and their 99th percentile from a histogram of bounded size."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from harness.errors import InputDataError
from harness.tensors import is_float, is_integer, to_float16

Array = np.ndarray[Any, np.dtype[Any]]

COMPARABLE_FLOATS = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")

_BUCKET_BITS = 6  # 2**6 buckets an octave: the edges of a bucket differ by at most 1/64
_BUCKET_SHIFT = 23 - _BUCKET_BITS


class Storage:
    """A storage dtype as distances see it.

    The codes of a float, read as sign and magnitude, are in the order of its values, and neighbours differ by one;
    infinity (in float8_e4m3fn the NaN in its place) follows the largest number, and both zeros are 0.

    Args:
        dtype: the dtype to count in.

    Attributes:
        largest: its largest number.
        signed: of a float dtype, the signed integers as wide as it is.
        unsigned: the unsigned ones.

    Raises:
        InputDataError: tensors of this dtype cannot be compared.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        import ml_dtypes

        self.dtype = dtype
        self.is_float = is_float(dtype)
        self.has_infinity = False
        if self.is_float:
            if dtype.name not in COMPARABLE_FLOATS:
                raise InputDataError(f"tensors of dtype {dtype.name!r} cannot be compared")
            info = ml_dtypes.finfo(dtype)
            self.largest = float(info.max)
            self.has_infinity = dtype.name != "float8_e4m3fn"
            self._smallest_normal_code = 1 << int(info.nmant)
            self.signed, self.unsigned = (np.dtype(f"{kind}{info.bits}") for kind in ("int", "uint"))
        elif dtype.kind == "b":
            self.largest = 1.0
        elif is_integer(dtype):
            self.largest = float(ml_dtypes.iinfo(dtype).max)
        else:
            raise InputDataError(f"tensors of dtype {dtype.name!r} cannot be compared")

    def rounded(self, values: Array) -> Array:
        """Floats rounded to this dtype; beyond its range they become infinity or what stands for it."""
        if values.dtype == self.dtype:
            return values
        return to_float16(values) if self.dtype == np.float16 else values.astype(self.dtype)

    def count_subnormals(self, values: Array, scratch: Array, flags: Array) -> int:
        """How many floats of this dtype are subnormal: the magnitude of their code is small and not 0.

        Args:
            values: floats of this dtype.
            scratch: integers as wide, as many.
            flags: bools, as many.
        """
        doubled = scratch.view(self.unsigned)
        np.left_shift(values.view(self.unsigned), 1, out=doubled)  # the sign falls off
        small = int(np.count_nonzero(np.less(doubled, 2 * self._smallest_normal_code, out=flags)))
        return small - int(np.count_nonzero(doubled == 0)) if small else 0

    def distances(self, left: Array, right: Array, out: Array, flags: Array, *, floor: int = 0) -> Array:
        """How many steps apart floats of this dtype are, where they are at least `floor` steps apart.

        Args:
            left: floats of this dtype, without NaN other than the one that stands for infinity.
            right: the same.
            out: scratch memory; signed integers as wide as the floats, as many.
            flags: scratch memory; bools, as many.
            floor: shorter distances are left out of the result.

        Returns:
            Unsigned integers, in the order of the elements; `out`'s memory may be theirs.
        """
        left_codes, right_codes = left.view(self.signed), right.view(self.signed)
        distance = out.view(self.unsigned)
        np.subtract(left_codes, right_codes, out=out)
        np.abs(out, out=out)
        # That is right for equal signs. For opposite ones, of which there are few, the magnitudes add up; what
        # stands there until then is never small: at least the sign bit less the largest magnitude.
        suspicious = self._smallest_normal_code if self.has_infinity else 1
        far = np.greater_equal(distance, min(floor or suspicious, suspicious), out=flags).nonzero()[0]
        odd = far
        if floor:
            distance = distance[far]
            odd = (distance >= suspicious).nonzero()[0]
            far = far[odd]
        opposite = (left_codes[far] ^ right_codes[far]) < 0
        if opposite.any():
            odd, far = odd[opposite], far[opposite]
            magnitude = np.iinfo(self.signed).max
            distance[odd] = (left_codes[far] & magnitude).view(distance.dtype)
            distance[odd] += (right_codes[far] & magnitude).view(distance.dtype)
        return distance[distance >= floor] if floor else distance


@functools.cache
def storage_of(dtype: np.dtype[Any]) -> Storage:
    """The `Storage` of a dtype.

    Raises:
        InputDataError: tensors of this dtype cannot be compared.
    """
    return Storage(dtype)


def as_integers(values: Array) -> Array:
    """Integers or bools in a dtype that NumPy computes with: bool as uint8, int4 as int8."""
    if values.dtype.kind == "b":
        return values.view(np.uint8)
    if values.dtype.kind in "iu":
        return values
    return values.astype(np.uint8 if values.dtype.name.startswith("u") else np.int8)


def integer_distances(left: Array, right: Array) -> Array:
    """|left - right| of integers of one dtype, exact, as unsigned integers of its width."""
    high, low = np.maximum(left, right), np.minimum(left, right)
    np.subtract(high, low, out=high)  # wraps around, which the unsigned view undoes
    return high.view(f"uint{8 * high.dtype.itemsize}")


class UlpHistogram:
    """Counts of distances: one by one, or in buckets of 1/64 octave (exact below 128).

    A bucket is the upper half of the distance as a float32: its exponent and `_BUCKET_BITS` bits of its mantissa.

    Most elements need not be sorted into buckets at all when it is known beforehand how many there will be. As
    soon as more than 1 % of that number are at or above some distance, the 99th percentile cannot be below it any
    more; later elements that are below are counted in bucket 0. So the percentile stays exact in one pass.

    Args:
        exact: whether each distance has a bucket of its own.
        total: the number of elements to come, at most; None if it is not known. Only histograms without it can
            be merged.

    Attributes:
        floor: the 99th percentile is at least this, so `add` needs no distance below it.
        largest: the largest distance.
    """

    def __init__(self, *, exact: bool, total: int | None = None) -> None:
        self.exact = exact
        self.counts = np.zeros(1, np.int64)
        self.largest = 0
        self._total = total
        self.floor = 0
        self._seen = 0
        self._look_again = 0
        self._packed: tuple[Array, Array, int] | None = None

    def pack(self) -> None:
        """Hold only the buckets that count something: one tensor has up to half a megabyte of them, a model thousands.

        Merging and reading unpack for as long as they need.
        """
        used = np.flatnonzero(self.counts)
        if 4 * used.size < self.counts.size:
            self._packed = used.astype(np.int32), self.counts[used], self.counts.size
            self.counts = np.zeros(0, np.int64)

    def _all_counts(self) -> Array:
        """The counts of all buckets."""
        if self._packed is None:
            return self.counts
        used, counts, size = self._packed
        found = np.zeros(size, np.int64)
        found[used] = counts
        return found

    def add(self, distance: Array, count: int, floats: Array, indices: Array) -> None:
        """Count the distances of some elements.

        Args:
            distance: unsigned integers: all distances from `floor` up; shorter ones may be left out.
            count: number of elements.
            floats: scratch memory, float32, as many.
            indices: scratch memory, int64, as many.
        """
        largest = int(np.maximum.reduce(distance, initial=0))
        if largest == 0:
            self.add_zeros(count)
            return
        self._seen += count
        self.counts[0] += count - distance.size
        self.largest = max(self.largest, largest)
        self._add_counts(np.bincount(self._buckets(distance, floats, indices)))
        if self._total is not None and self._seen >= self._look_again:
            self._raise_floor(self._total)

    def add_zeros(self, count: int) -> None:
        """Count `count` distances of 0."""
        self._seen += count
        self.counts[0] += count

    def remove_zeros(self, count: int) -> None:
        """Take back `count` distances of 0 that stood for elements which have none."""
        self.counts[0] -= count

    def merge(self, other: UlpHistogram) -> None:
        """Add everything that `other` has counted."""
        self.largest = max(self.largest, other.largest)
        self.counts, self._packed = self._all_counts(), None
        self._add_counts(other._all_counts())

    def p99(self, *, infinite: int = 0) -> float:
        """The smallest distance that at least 99 % of the elements do not exceed: the upper edge of its bucket.

        Args:
            infinite: how many elements with an infinite distance there are beside those counted.
        """
        used, counts = (None, self.counts) if self._packed is None else self._packed[:2]
        above = np.cumsum(counts)
        population = int(above[-1]) + infinite if above.size else infinite
        if population == 0:
            return 0.0
        rank = -(-99 * population // 100)
        index = int(np.searchsorted(above, rank))
        if index == counts.size:
            return math.inf
        bucket = index if used is None else int(used[index])
        return float(min(self.largest, self._first_of(bucket + 1) - 1))

    def _buckets(self, distance: Array, floats: Array, indices: Array) -> Array:
        indices = indices[: distance.size]
        if not self.exact:
            floats = floats[: distance.size]
            np.copyto(floats, distance, casting="unsafe")
            distance = floats.view(np.int32)
            np.right_shift(distance, _BUCKET_SHIFT, out=distance)
        np.copyto(indices, distance, casting="unsafe")
        return indices

    def _first_of(self, bucket: int) -> int:
        """The smallest distance in a bucket."""
        if self.exact:
            return bucket
        return math.ceil(float(np.array(bucket << _BUCKET_SHIFT, np.int32).view(np.float32)))

    def _raise_floor(self, total: int) -> None:
        """Find the highest bucket that has more than 1 % of the elements to come at or above it."""
        self._look_again = self._seen * 5 // 4  # a look costs as much as some thousand elements
        above = np.cumsum(self.counts[::-1])
        enough = int(np.searchsorted(above, total // 100, side="right"))
        if enough < self.counts.size:
            self.floor = self._first_of(self.counts.size - 1 - enough)

    def _add_counts(self, counts: Array) -> None:
        if counts.size > self.counts.size:
            counts, self.counts = self.counts, counts.astype(np.int64)
        self.counts[: counts.size] += counts

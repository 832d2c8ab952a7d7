"""Sums over the slices of a tensor, taken in the pass that takes those over all of it.

A slice is one index of one axis: a channel, a class, a coordinate of a box, a head, a row of a batch. An error over a
whole tensor says nothing of a slice whose numbers are small beside the others. The tensor is seen as a matrix: its
trailing axes, together at least `LEAST_ROW` elements long, are the columns, all others the rows. Two sums over a
tile, one along each direction, then serve every axis.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from harness.model import Gains

Array = np.ndarray[Any, np.dtype[Any]]

LEAST_ROW = 64
MOST_SLICES = 4096
"""A longer axis has no slices: positions of a sound, words of a vocabulary."""
MOST_ROWS = 1 << 15
"""Sums over rows that are kept before they are added up: half a megabyte."""
SMALLEST = 2.0**-12
"""Beside the largest: the gain of a slice counts as at least so much. What is smaller still is as good as dead: weights
of 1e-5 beside those of 1 are below FP16's normal numbers, and are rounded by some percent."""
LEAST_KNOWN = 8
"""Where constants say how large each slice should be, so many elements do (see `CompareOptions.slice_elements`)."""


@dataclass(frozen=True)
class Slice:
    """A slice of a tensor: the one that errs most, beside its own size.

    Args:
        axis: the axis.
        index: the place on it.
        rank: how many axes the tensor has.
        size: how many elements the slice has.
        rmse: root of the mean squared error over them.
        reference_rms: root mean square of the reference over them.
        nrmse: rmse over what counts as the size of the slice: `reference_rms`, or a share of that of the whole tensor
            where the slice is smaller (see `CompareOptions.slice_floor`).
    """

    axis: int
    index: int
    rank: int
    size: int
    rmse: float
    reference_rms: float
    nrmse: float

    def __str__(self) -> str:
        """`[:, 4, :]`."""
        return f"[{', '.join(str(self.index) if axis == self.axis else ':' for axis in range(self.rank))}]"


@dataclass(frozen=True)
class Layout:
    """How a tensor is seen as a matrix.

    Args:
        shape: its shape.
        outer: how many axes make up the rows.
        columns: elements of a row.
        known: the axis along which constants say how large each slice should be.
        least: a slice of fewer elements is none.
    """

    shape: tuple[int, ...]
    outer: int
    columns: int
    known: int | None = None
    least: int = LEAST_KNOWN

    @classmethod
    def of(
        cls, shape: Sequence[int], most: int, known: int | None = None, least: int = LEAST_KNOWN
    ) -> Layout:
        """The layout of a tensor of which `most` elements fit into a tile."""
        outer, columns = len(shape), 1
        while outer and columns < LEAST_ROW and (columns == 1 or columns * shape[outer - 1] <= most):
            outer -= 1
            columns *= shape[outer]
        return cls(tuple(shape), outer, columns, known, least)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes that have slices."""
        size = math.prod(self.shape)
        return tuple(
            axis
            for axis, length in enumerate(self.shape)
            if 1 < length <= MOST_SLICES
            and size >= length * (min(LEAST_KNOWN, self.least) if axis == self.known else self.least)
        )


@dataclass(slots=True)
class SliceSums:
    """Sums of d² and r² over the slices of each axis; d is the error, r the reference.

    Sums over rows are kept as they come, and added to those of the slices when so many have come that they are worth
    it: at once for most tensors.

    Args:
        layout: of the tensor, the same for all that are added up.
        rows: by axis among the rows, sums [length, 2].
        columns: sums over each column, [columns, 2].
    """

    layout: Layout
    rows: dict[int, Array] = field(default_factory=dict)
    columns: Array | None = None
    _kept: Array = field(default_factory=lambda: np.zeros((0, 2)))
    _first: int = 0
    """Which row the first of those that are kept is."""
    _used: int = 0

    @classmethod
    def of(cls, layout: Layout) -> SliceSums:
        """No sums yet."""
        axes = layout.axes
        rows = {axis: np.zeros((layout.shape[axis], 2)) for axis in axes if axis < layout.outer}
        inner = any(axis >= layout.outer for axis in axes)
        count = math.prod(layout.shape[: layout.outer])
        kept = np.zeros((min(count, MOST_ROWS) if rows else 0, 2))
        return cls(layout, rows, np.zeros((layout.columns, 2)) if inner else None, kept)

    def add(self, values: Array, which: int, start: int) -> float:
        """Add the squares of a tile of d (`which` 0) or r (1), and return their sum.

        Args:
            values: 1-D, of whole rows, or of a piece of one row; tiles come in order.
            which: what they are.
            start: flat index of the first in the tensor.
        """
        width = min(values.size, self.layout.columns)
        matrix = values.reshape(-1, width)
        sums = np.vecdot(matrix, matrix)
        if self.columns is not None:
            place = start % self.layout.columns
            self.columns[place : place + width, which] += np.einsum("ij,ij->j", matrix, matrix)
        if self.rows:
            first = start // self.layout.columns
            if first + len(sums) > self._first + len(self._kept):
                self._settle()
                self._first = first
            place, self._used = first - self._first, first - self._first + len(sums)
            self._kept[place : self._used, which] += sums
        return float(np.add.reduce(sums, dtype=np.float64))

    def _settle(self) -> None:
        """Add the rows that are kept to the slices that they belong to."""
        kept, self._used = self._kept[: self._used], 0
        if not len(kept):
            return
        outer = self.layout.shape[: self.layout.outer]
        if len(kept) == math.prod(outer):
            sums = kept.reshape(*outer, 2)
            for axis in self.rows:
                self.rows[axis] += sums.sum(axis=tuple(place for place in range(len(outer)) if place != axis))
        else:
            places = np.unravel_index(np.arange(self._first, self._first + len(kept)), outer)
            for axis, totals in self.rows.items():
                for which in (0, 1):
                    totals[:, which] += np.bincount(places[axis], kept[:, which], len(totals))
        kept[:] = 0

    def merge(self, other: SliceSums) -> None:
        """Add all sums of `other`, which has the same layout."""
        self._settle()
        other._settle()
        for axis, totals in other.rows.items():
            self.rows[axis] = self.rows[axis] + totals
        if self.columns is not None and other.columns is not None:
            self.columns = self.columns + other.columns

    def by_axis(self, axis: int) -> Array:
        """Sums [length, 2] over the slices of one axis."""
        if axis < self.layout.outer:
            self._settle()
            return self.rows[axis]
        assert self.columns is not None
        inner = self.layout.shape[self.layout.outer :]
        others = tuple(place for place in range(len(inner)) if place != axis - self.layout.outer)
        sums: Array = self.columns.reshape(*inner, 2).sum(axis=others) if others else self.columns
        return sums

    def worst(
        self, samples: int, floor: float, reference_rms: float, gains: Gains | None = None
    ) -> Slice | None:
        """The slice with the largest nrmse; None where no slice errs.

        Args:
            samples: how many tensors were added up.
            floor: see `CompareOptions.slice_floor`.
            reference_rms: root mean square of the whole reference.
            gains: see `CompareOptions.gains`.
        """
        shape, axes, size = self.layout.shape, self.layout.axes, math.prod(self.layout.shape) * samples
        if not axes:
            return None
        roots = [np.sqrt(self.by_axis(axis) * (shape[axis] / size)) for axis in axes]
        rmse, rms = np.concatenate(roots).T
        ends = list(itertools.accumulate(len(each) for each in roots))
        least = np.full(len(rms), reference_rms)
        if gains is not None and gains.axis in axes and len(gains.factors) == shape[gains.axis]:
            end = ends[axes.index(gains.axis)]
            known = slice(end - len(gains.factors), end)
            least[known] = np.minimum(least[known], _shares(rms[known], gains))
        with np.errstate(all="ignore"):
            nrmse = np.where(rmse > 0, rmse / np.maximum(rms, floor * least), 0.0)
        place = int(np.argmax(nrmse))
        if not nrmse[place] > 0:
            return None
        number = bisect.bisect_right(ends, place)
        index = place - (ends[number - 1] if number else 0)
        numbers = (float(rmse[place]), float(rms[place]), float(nrmse[place]))
        return Slice(axes[number], index, len(shape), size // shape[axes[number]], *numbers)


def _shares(rms: Array, gains: Gains) -> Array:
    """What each slice would be as large as if all were equal but for their gains, and what is added to it."""
    factors = np.maximum(gains.factors, SMALLEST * max(gains.factors))
    even = np.sqrt(np.mean(np.square(rms / factors)))
    shares: Array = np.hypot(factors * even, gains.offsets)
    return shares

"""Comparing a candidate tensor with its reference in one pass."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from harness.comparison.kernel import TILE, TileKernel
from harness.comparison.metrics import CompareOptions, Metrics, as_incomparable
from harness.comparison.quantile import ErrorHistogram
from harness.comparison.slices import Layout, SliceSums
from harness.comparison.tally import Tally, combined, metrics_of
from harness.comparison.topk import count_piece_hits
from harness.comparison.ulp import Storage, UlpHistogram, as_integers, storage_of
from harness.errors import InputDataError, UsageError
from harness.tensors import dtype_of, is_float, is_integer

Array = np.ndarray[Any, np.dtype[Any]]

_TILES_PER_DROP = 16
_DROP_FROM_BYTES = 1 << 24  # smaller mapped arrays may stay in memory


def compare_tensors(
    candidate: Array,
    reference: Array,
    *,
    dtype: str | None = None,
    options: CompareOptions | None = None,
) -> Metrics:
    """The metrics of one candidate tensor over its reference.

    Args:
        candidate: floats, integers or bools of any shape; mapped files are read block by block.
        reference: the same kind; the dtypes may differ. Shapes are never broadcast or paired by size: where they
            differ, every error is infinite, and the metrics name both.
        dtype: see Accumulator.
        options: tolerances and top-k.

    Raises:
        InputDataError: the kinds of dtype differ, or the dtype cannot be compared.
    """
    accumulator = Accumulator(dtype=dtype, options=options, alone=True)
    accumulator.update(candidate, reference)
    return accumulator.result()


def not_computed(
    reference: Array, why: str, *, dtype: str | None = None, options: CompareOptions | None = None
) -> Metrics:
    """The metrics of a tensor that the candidate could not compute.

    Args:
        reference: what it should have been.
        why: what went wrong, one clause without a full stop.
        dtype: see Accumulator.
        options: tolerances and top-k.

    Raises:
        InputDataError: the dtype cannot be compared.
    """
    accumulator = Accumulator(dtype=dtype, options=options)
    accumulator.fail(reference, why)
    return accumulator.result()


class Accumulator:
    """Collects the metrics of one tensor over any number of samples.

    Beside the arrays it needs about a megabyte, whatever their size. An accumulator belongs to one thread.

    Args:
        dtype: name of the float dtype in which the candidate stores the tensor, whatever dtype its array has: ULP,
            subnormals and headroom are counted in it. Integers and bools ignore it. None means the dtype of the
            first candidate array.
        options: tolerances and top-k.
        alone: whether the first sample will be the only one: ULP are counted faster then.

    Raises:
        UsageError: `dtype` is not a float dtype.
    """

    def __init__(
        self, *, dtype: str | None = None, options: CompareOptions | None = None, alone: bool = False
    ) -> None:
        self.options = options or CompareOptions()
        self._alone = alone
        self._dtype = dtype
        self._storage: Storage | None = None
        self._ulps: UlpHistogram | None = None
        self._tallies: list[Tally] = []
        self._worst: tuple[float, tuple[int, ...]] | None = None
        self._shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        self._failure: str | None = None
        self._errors = None if self.options.quantile is None else ErrorHistogram()

    def update(self, candidate: Array, reference: Array) -> None:
        """Add one sample; one of another shape than its reference makes the whole incomparable.

        Raises:
            InputDataError: see `compare_tensors`; nothing has been added then.
            UsageError: the accumulator was to have one sample `alone`, and has it.
        """
        candidate, reference = np.asarray(candidate), np.asarray(reference)
        _check_kinds(candidate, reference)
        storage = self._storage or _chosen_storage(candidate, self._dtype)
        if storage.is_float != is_float(candidate.dtype):
            raise InputDataError(
                f"samples of {storage.dtype.name} and of {candidate.dtype.name} do not add up"
            )
        if candidate.shape != reference.shape:
            total, ulps = _measure_apart(candidate, reference, storage, self.options)
            self._shapes = self._shapes or (candidate.shape, reference.shape)
        else:
            total, ulps = _measure(candidate, reference, storage, self.options, alone=self._alone)
            if self._errors is not None:
                self._errors.add(candidate, reference)
        self._adopt(storage, ulps)
        self._tallies.append(total)
        worst = _worst_of(total, reference.shape)
        if worst is not None and (self._worst is None or worst[0] > self._worst[0]):
            self._worst = worst

    def fail(self, reference: Array, why: str) -> None:
        """Add one sample that the candidate could not compute, which makes the whole incomparable.

        Args:
            reference: what it should have been.
            why: what went wrong, one clause without a full stop.

        Raises:
            InputDataError: the dtype cannot be compared; nothing has been added then.
        """
        reference = np.asarray(reference)
        storage = self._storage or _chosen_storage(reference, self._dtype)
        total, ulps = _measure(reference, reference, storage, self.options, alone=False)
        total.nan_count = total.inf_count = total.subnormal_count = 0
        self._adopt(storage, ulps)
        self._tallies.append(total)
        self._failure = self._failure or why

    def result(self) -> Metrics:
        """The metrics of everything seen so far.

        Raises:
            UsageError: nothing has been seen.
        """
        if self._storage is None or self._ulps is None:
            raise UsageError("no sample was compared")
        worst = None if self._worst is None else self._worst[1]
        metrics = metrics_of(combined(self._tallies), self._ulps, self._storage, worst, self.options)
        if self._errors is not None and self.options.quantile is not None:
            metrics = replace(metrics, abs_quantile=self._errors.at(self.options.quantile))
        if self._failure is not None:
            return as_incomparable(metrics, failure=self._failure)
        if self._shapes is not None:
            return as_incomparable(metrics, shape=self._shapes[0], reference_shape=self._shapes[1])
        return metrics

    def _adopt(self, storage: Storage, ulps: UlpHistogram) -> None:
        if self._alone and self._ulps is not None:
            raise UsageError("an accumulator of one sample got another one")
        self._storage = storage
        if self._alone:
            self._ulps = ulps
        else:
            self._ulps = self._ulps or UlpHistogram(exact=ulps.exact)
            self._ulps.merge(ulps)
        self._ulps.pack()


def _check_kinds(candidate: Array, reference: Array) -> None:
    kinds = _kind(candidate.dtype), _kind(reference.dtype)
    if kinds[0] != kinds[1]:
        raise InputDataError(
            f"the candidate has dtype {candidate.dtype.name}, the reference {reference.dtype.name}",
            hint=f"{kinds[0]} tensors are not compared with {kinds[1]} tensors",
        )
    if kinds[0] == "integer":
        empty = (np.empty(0, array.dtype) for array in (candidate, reference))
        common = np.result_type(*map(as_integers, empty))
        if common.kind not in "iu":
            raise InputDataError(
                f"the candidate has dtype {candidate.dtype.name}, the reference {reference.dtype.name}",
                hint="no integer dtype holds both",
            )


def _kind(dtype: np.dtype[Any]) -> str:
    if is_float(dtype):
        return "float"
    if is_integer(dtype):
        return "integer"
    return dtype.name


def _chosen_storage(candidate: Array, dtype: str | None) -> Storage:
    if dtype is None:
        return storage_of(candidate.dtype)
    storage = dtype_of(dtype)
    if not is_float(storage):
        raise UsageError(f"the storage dtype must be a float dtype, not {dtype!r}")
    return storage_of(storage if is_float(candidate.dtype) else candidate.dtype)


def _measure(
    candidate: Array, reference: Array, storage: Storage, options: CompareOptions, *, alone: bool
) -> tuple[Tally, UlpHistogram]:
    columns = candidate.shape[-1] if candidate.ndim else 0
    layout = None
    if storage.is_float and options.slice_floor is not None and not (alone and candidate is reference):
        known = None if options.gains is None else options.gains.axis
        layout = Layout.of(candidate.shape, TILE, known, options.slice_elements)
    slices = SliceSums.of(layout) if layout is not None and layout.axes and candidate.size else None
    wide = not storage.is_float or np.float64 in (candidate.dtype, reference.dtype, storage.dtype)
    kernel = TileKernel(
        storage,
        options,
        work=np.dtype(np.float64 if wide else np.float32),
        size=min(candidate.size, TILE),
        columns=columns,
        total=candidate.size if alone else None,
        slices=slices,
    )
    pair = TiledArray(candidate), TiledArray(reference)
    tally = Tally(slices=slices, max_rel=math.inf if options.brief and storage.is_float else 0.0)
    row = slices.layout.columns if slices is not None else columns if kernel.topk else 0
    dropped = 0
    with np.errstate(all="ignore"):  # overflow, 0 / 0 and NaN are what is measured
        for number, (start, stop) in enumerate(tiles(candidate.size, row, TILE), 1):
            kernel.measure(tally, pair[0][start:stop], pair[1][start:stop], start)
            if number % _TILES_PER_DROP == 0:
                for array in pair:
                    array.drop(dropped, stop)
                dropped = stop
    for array in pair:
        array.drop(dropped, candidate.size)
    return _settled(tally, options.topk), kernel.ulps


def _measure_apart(
    candidate: Array, reference: Array, storage: Storage, options: CompareOptions
) -> tuple[Tally, UlpHistogram]:
    """What can be said of two tensors of different shapes: the reference over itself, and counts of the candidate."""
    total, ulps = _measure(reference, reference, storage, options, alone=False)
    own, _ = _measure(candidate, candidate, storage, options, alone=False)
    total.nan_count, total.inf_count = own.nan_count, own.inf_count
    total.subnormal_count = own.subnormal_count
    return total, ulps


def _settled(total: Tally, k: int) -> Tally:
    """The tally with the pieces of long rows counted."""
    total.topk_hits += count_piece_hits(total.pieces, k)
    total.topk_places += len({piece.row for piece in total.pieces}) * k
    total.pieces = []
    return total


def _worst_of(total: Tally, shape: tuple[int, ...]) -> tuple[float, tuple[int, ...]] | None:
    """How bad the worst element is, and its index."""
    flat, error = total.worst, total.max_abs
    if total.first_nonfinite is not None:
        flat, error = total.first_nonfinite, math.inf
    if flat is None:
        return None
    return error, tuple(int(i) for i in np.unravel_index(flat, shape))


def tiles(size: int, columns: int, tile: int) -> Iterator[tuple[int, int]]:
    """Cut `size` elements into ranges of at most `tile`: of whole rows, or of pieces of one row if it is longer.

    Args:
        size: number of elements.
        columns: length of a row; 0 or 1 if rows do not matter.
        tile: the most elements of a range.
    """
    columns = max(columns, 1)
    if columns <= tile:
        step = tile // columns * columns
        for start in range(0, size, step):
            yield start, min(start + step, size)
        return
    pieces = -(-columns // tile)
    for row in range(0, size, columns):
        for piece in range(pieces):
            yield row + piece * columns // pieces, row + (piece + 1) * columns // pieces


class TiledArray:
    """A tensor as 1-D contiguous pieces, without a copy of the whole.

    Mapped files: a page that was read stays in the process's memory until the kernel needs it elsewhere, so two
    mapped gigabytes would become two gigabytes of resident memory. `drop` tells the kernel that a range is not
    needed any more (MADV_DONTNEED); it is read from the file again if somebody looks. Only shared mappings of
    numpy.memmap are dropped: in a private one (mode "c") the kernel would throw changes away.
    """

    def __init__(self, array: Array) -> None:
        self._flat = array.reshape(-1) if array.flags.c_contiguous else None
        self._array = array
        self._mapping = None
        if self._flat is not None and array.nbytes >= _DROP_FROM_BYTES:
            self._mapping = _shared_mapping(array)

    def __getitem__(self, elements: slice) -> Array:
        piece = self._array.flat[elements] if self._flat is None else self._flat[elements]
        native = piece.dtype.newbyteorder("=")
        return piece if piece.dtype == native else piece.astype(native)

    def drop(self, start: int, stop: int) -> None:
        """Give back the memory of the mapped elements from `start` to before `stop`."""
        if self._mapping is None or start == stop:
            return
        mapping, offset = self._mapping
        first = offset + start * self._array.itemsize
        first -= first % mmap.PAGESIZE
        last = offset + stop * self._array.itemsize
        mapping.madvise(mmap.MADV_DONTNEED, first, last - first)


def _shared_mapping(array: Array) -> tuple[mmap.mmap, int] | None:
    """The shared file mapping that `array` lies in, and the byte at which the array begins in it."""
    if not hasattr(mmap, "MADV_DONTNEED"):  # Windows
        return None
    owner: Any = array
    shared = False
    while isinstance(owner, np.ndarray):
        shared = shared or (isinstance(owner, np.memmap) and owner.mode in ("r", "r+", "w+"))
        owner = owner.base
    if not shared or not isinstance(owner, mmap.mmap):
        return None
    begin = np.frombuffer(owner, np.uint8).ctypes.data
    return owner, array.ctypes.data - begin

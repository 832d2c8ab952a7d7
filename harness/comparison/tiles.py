"""How a tensor is cut into tiles, and how the memory that mapped tiles took is given back."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_DROP_FROM_BYTES = 1 << 24  # smaller mapped arrays may stay in memory


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

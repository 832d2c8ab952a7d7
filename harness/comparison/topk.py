"""Top-k agreement along the last axis, whole rows or pieces of long ones.

The k largest elements of a row are those that a stable sort puts first: of equal ones those with the lowest index.
So a candidate that is constant does not agree with everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Largest:
    """The largest elements of a piece of a row: their values, and their flat indices in the tensor."""

    values: Array
    indices: Array


@dataclass(frozen=True)
class RowPiece:
    """What a piece of one long row may add to the top k of the whole row."""

    row: int
    candidate: Largest
    reference: Largest


def count_hits(candidate: Array, reference: Array, k: int) -> int:
    """How many of the reference's k largest elements of each row are among the candidate's k largest.

    Args:
        candidate: floats [rows, columns] without NaN.
        reference: the same of the reference.
        k: less than the number of columns.
    """
    if k == 1:
        return int(np.count_nonzero(candidate.argmax(axis=-1) == reference.argmax(axis=-1)))
    return int(np.count_nonzero(_are_largest(candidate, k) & _are_largest(reference, k)))


def row_piece(row: int, candidate: Array, reference: Array, k: int, start: int) -> RowPiece:
    """The top k of a piece of a row.

    Args:
        row: index of the row.
        candidate: floats [columns] without NaN.
        reference: the same of the reference.
        k: how many to keep, at most.
        start: flat index of the piece in the tensor.
    """
    return RowPiece(row, _largest(candidate, k, start), _largest(reference, k, start))


def count_piece_hits(pieces: Iterable[RowPiece], k: int) -> int:
    """`count_hits` of the rows that the pieces make up."""
    rows: dict[int, list[RowPiece]] = {}
    for piece in pieces:
        rows.setdefault(piece.row, []).append(piece)
    return sum(
        len(
            _merged([piece.candidate for piece in row], k) & _merged([piece.reference for piece in row], k),
        )
        for row in rows.values()
    )


def without_nan(values: Array) -> Array:
    """A copy with NaN below every number, so that it can be ordered."""
    return np.where(np.isnan(values), -np.inf, values)


def _are_largest(values: Array, k: int) -> Array:
    """Which elements of [rows, columns] are among the k largest of their row."""
    last = values.shape[-1] - k
    threshold = np.partition(values, last, axis=-1)[:, last, None]
    above, equal = values > threshold, values == threshold
    left = k - np.count_nonzero(above, axis=-1, keepdims=True)
    chosen: Array = above | (equal & (np.cumsum(equal, axis=-1) <= left))
    return chosen


def _largest(values: Array, k: int, start: int) -> Largest:
    if k == 1:
        places = np.array([values.argmax()])
    elif k < values.size:
        places = np.flatnonzero(_are_largest(values[None], k)[0])
    else:
        places = np.arange(values.size)
    return Largest(values[places], places + start)


def _merged(pieces: list[Largest], k: int) -> set[int]:
    """The flat indices of the k largest elements of a row."""
    values = np.concatenate([piece.values for piece in pieces])
    indices = np.concatenate([piece.indices for piece in pieces])
    return set(indices[np.lexsort((indices, -values))[:k]].tolist())

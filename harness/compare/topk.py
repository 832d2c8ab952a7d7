"""Top-k agreement along the last axis, whole rows or pieces of long ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class RowPiece:
    """What a piece of one long row may add to the top k of the whole row.

    Args:
        row: index of the row.
        reference: the k largest reference values of the piece.
        candidate_there: the candidate's values at their places.
        candidate: the k largest candidate values of the piece.
    """

    row: int
    reference: Array
    candidate_there: Array
    candidate: Array


def count_hits(candidate: Array, reference: Array, k: int) -> int:
    """How many of the reference's k largest elements of each row are among the candidate's k largest.

    An element counts when it is not below the candidate's k-th largest, so a tie is a hit.

    Args:
        candidate: floats [rows, columns] without NaN.
        reference: the same of the reference.
        k: less than the number of columns.
    """
    rows, columns = candidate.shape
    if k == 1:
        first = np.arange(0, rows * columns, columns)
        expected, found = reference.argmax(axis=-1) + first, candidate.argmax(axis=-1) + first
        flat = candidate.reshape(-1)
        return int(np.count_nonzero(flat[expected] >= flat[found]))
    last = columns - k
    places = np.argpartition(reference, last, axis=-1)[:, last:]
    threshold = np.partition(candidate, last, axis=-1)[:, last, None]
    return int(np.count_nonzero(np.take_along_axis(candidate, places, axis=-1) >= threshold))


def row_piece(row: int, candidate: Array, reference: Array, k: int) -> RowPiece:
    """The top k of a piece of a row: 1-D floats without NaN."""
    if k == 1:
        place = int(reference.argmax())
        best = np.maximum.reduce(candidate, keepdims=True)
        return RowPiece(row, reference[place, None], candidate[place, None], best)
    k = min(k, candidate.size)
    last = candidate.size - k
    places = np.argpartition(reference, last)[last:]
    return RowPiece(row, reference[places], candidate[places], np.partition(candidate, last)[last:])


def count_piece_hits(pieces: Iterable[RowPiece], k: int) -> int:
    """`count_hits` of the rows that the pieces make up."""
    rows: dict[int, list[RowPiece]] = {}
    for piece in pieces:
        rows.setdefault(piece.row, []).append(piece)
    hits = 0
    for row in rows.values():
        reference = np.concatenate([piece.reference for piece in row])
        there = np.concatenate([piece.candidate_there for piece in row])
        candidate = np.concatenate([piece.candidate for piece in row])
        places = np.argpartition(reference, reference.size - k)[-k:]
        threshold = np.partition(candidate, candidate.size - k)[-k]
        hits += int(np.count_nonzero(there[places] >= threshold))
    return hits


def without_nan(values: Array) -> Array:
    """A copy with NaN below every number, so that it can be ordered."""
    return np.where(np.isnan(values), -np.inf, values)

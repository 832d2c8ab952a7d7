"""Where in a tensor the error sits: its last two axes as a small map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.comparison.quantile import absolute_error

Array = np.ndarray[Any, np.dtype[Any]]

MOST_ROWS, MOST_COLUMNS = 24, 48


@dataclass(frozen=True)
class ErrorMap:
    """The largest |candidate - reference| of each cell of a grid over the last two axes of a tensor.

    Args:
        tensor: name of the tensor.
        sample: position of the sample.
        shape: its shape; axes before the last two are looked at together.
        cells: row by row; infinite where an element is not finite as it should be.
    """

    tensor: str
    sample: int
    shape: tuple[int, ...]
    cells: tuple[tuple[float, ...], ...]


def map_error(candidate: Array, reference: Array, *, tensor: str, sample: int) -> ErrorMap | None:
    """The map of two tensors of one shape; None for less than one axis, and where nothing can be paired."""
    if candidate.shape != reference.shape or not reference.size or reference.ndim < 1:
        return None
    rows = reference.shape[-2] if reference.ndim > 1 else 1
    plane = absolute_error(candidate, reference).reshape(-1, rows, reference.shape[-1]).max(axis=0)
    for axis, most in ((0, MOST_ROWS), (1, MOST_COLUMNS)):
        cells = min(plane.shape[axis], most)
        starts = np.arange(cells) * plane.shape[axis] // cells
        plane = np.maximum.reduceat(plane, starts, axis=axis)
    return ErrorMap(tensor, sample, reference.shape, tuple(map(tuple, plane.tolist())))

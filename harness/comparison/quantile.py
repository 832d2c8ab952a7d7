"""Quantiles of the absolute error, counted only where a gate asks for one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_BLOCK = 1 << 20
_SHIFT = 16  # of the 23 bits of the mantissa 7 are kept
_BUCKETS = 1 << (32 - 1 - _SHIFT)


def absolute_error(candidate: Array, reference: Array) -> Array:
    """|candidate - reference| of each element as float64: 0 where both are the same infinity or NaN, else infinite
    where one is not finite."""
    with np.errstate(all="ignore"):
        c, r = candidate.astype(np.float64), reference.astype(np.float64)
        error: Array = np.abs(c - r)
        error[(c == r) | (np.isnan(c) & np.isnan(r))] = 0
        error[np.isnan(error)] = np.inf
    return error


class ErrorHistogram:
    """Counts |candidate - reference| in buckets of 1/128 octave; one element is not finite: an infinite error."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BUCKETS, np.int64)

    def add(self, candidate: Array, reference: Array) -> None:
        """Count the elements of two arrays of one shape; the same infinity, or NaN on both sides, is no error."""
        left, right = candidate.reshape(-1), reference.reshape(-1)
        with np.errstate(over="ignore"):
            for start in range(0, left.size, _BLOCK):
                c, r = (each[start : start + _BLOCK] for each in (left, right))
                codes = absolute_error(c, r).astype(np.float32).view(np.int32) >> _SHIFT
                self._counts += np.bincount(codes, minlength=_BUCKETS)

    def at(self, share: float) -> float:
        """The smallest error that at least `share` of the elements do not exceed; never too low, and at most 0.8 %
        too high."""
        population = int(self._counts.sum())
        if population == 0:
            return 0.0
        rank = max(math.ceil(share * population), 1)
        bucket = int(np.searchsorted(np.cumsum(self._counts), rank))
        if bucket == 0:
            return 0.0
        edge = float(np.array((bucket + 1) << _SHIFT, np.int32).view(np.float32))
        return edge if math.isfinite(edge) else math.inf

"""Quantiles of the absolute error, counted only where a gate asks for one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_BLOCK = 1 << 20
_SHIFT = 16  # of the 23 bits of the mantissa 7 are kept
_BUCKETS = 1 << (32 - 1 - _SHIFT)


class ErrorHistogram:
    """Counts |candidate - reference| in buckets of 1/128 octave; one element is not finite: an infinite error."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BUCKETS, np.int64)

    def add(self, candidate: Array, reference: Array) -> None:
        """Count the elements of two arrays of one shape; the same infinity, or NaN on both sides, is no error."""
        left, right = candidate.reshape(-1), reference.reshape(-1)
        with np.errstate(all="ignore"):
            for start in range(0, left.size, _BLOCK):
                c = left[start : start + _BLOCK].astype(np.float64)
                r = right[start : start + _BLOCK].astype(np.float64)
                error = np.abs(c - r)
                error[(c == r) | (np.isnan(c) & np.isnan(r))] = 0
                error[np.isnan(error)] = np.inf
                codes = error.astype(np.float32).view(np.int32) >> _SHIFT
                self._counts += np.bincount(codes, minlength=_BUCKETS)

    def merge(self, other: ErrorHistogram) -> None:
        """Add everything that `other` has counted."""
        self._counts += other._counts

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

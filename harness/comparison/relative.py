"""The error of a tensor over its reference as one number, for what is measured and not judged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.comparison.kernel import TILE, dot

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class RelativeError:
    """How far a tensor is from its reference.

    Args:
        nrmse: root mean square of the difference over that of the reference; as `Metrics.nrmse`.
        nonfinite: elements that are not finite, or that the reference has not finite, and are not the same.
    """

    nrmse: float
    nonfinite: int

    @property
    def error(self) -> float:
        """nrmse, and infinite as soon as one element is not finite where the reference is."""
        return math.inf if self.nonfinite or math.isnan(self.nrmse) else self.nrmse


class RelativeErrorSum:
    """Collects the relative error of one tensor over any number of samples, at a fifth of the cost of all metrics."""

    def __init__(self) -> None:
        self._difference = self._reference = 0.0  # sums of squares
        self._nonfinite = self._compared = 0

    def update(self, candidate: Array, reference: Array) -> None:
        """Add one sample; one of another shape than its reference is wrong in every element."""
        if candidate.shape != reference.shape:
            self.fail(reference)
            return
        pair = candidate.reshape(-1), reference.reshape(-1)
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, reference.size, TILE):
                low, exact = (each[start : start + TILE].astype(np.float64) for each in pair)
                self._add(low, exact)

    def fail(self, reference: Array) -> None:
        """Add one sample that is wrong in every element, as it could not be computed."""
        self._nonfinite += max(reference.size, 1)

    @property
    def rmse(self) -> float:
        """The root mean square of the difference so far; infinite as soon as one element is not finite."""
        return math.inf if self._nonfinite else math.sqrt(self._difference / max(self._compared, 1))

    def _add(self, low: Array, exact: Array) -> None:
        apart = low - exact
        self._compared += low.size
        difference, reference = dot(apart, apart), dot(exact, exact)
        if not math.isfinite(difference + reference):
            finite = np.isfinite(exact)
            broken = ~(np.isfinite(low) & finite)
            same = (low == exact) | (np.isnan(low) & np.isnan(exact))
            self._nonfinite += int(np.count_nonzero(broken & ~same))
            self._compared -= int(np.count_nonzero(broken & same))
            apart, exact = apart[~broken], exact[finite]
            difference, reference = dot(apart, apart), dot(exact, exact)
        self._difference += difference
        self._reference += reference

    def result(self) -> RelativeError:
        """The error of everything seen so far."""
        if self._nonfinite:
            return RelativeError(math.inf, self._nonfinite)
        if not self._reference:
            return RelativeError(math.inf if self._difference else 0.0, 0)
        return RelativeError(math.sqrt(self._difference / self._reference), 0)

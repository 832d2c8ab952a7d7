"""What earlier nights say of the next one: their level, and how far a night may lie from it.

The builds of one night share its machine, its driver and its load, so that nights, not builds, are what varies: 30
nights of 3 builds are 30 samples and not 90. A night counts by the mean of its builds. And a bad night must not widen
the band of the others for as long as it is remembered, so that the tenth of the nights that is lowest, and the tenth
that is highest, count only as much as the next one (winsorizing):

    median ± t(h − 1) · s · √(π / 2K + 1),   h = K − 2g,   g = ⌊K / 10⌋

s is the standard deviation of the K winsorized nights over what that of a normal population would be after the same
treatment, and t the quantile of Student's distribution for the h nights that were left as they are (J. W. Tukey and
D. H. McLaughlin, "Less vulnerable confidence and significance procedures for location based on a single sample",
Sankhyā A 25, 1963; W. J. Dixon and J. W. Tukey, Technometrics 10, 1968). π / 2K is the variance of the median. The
median absolute deviation would bear more bad nights, and is no use here: where most nights have the same bits it is 0,
and the tactics that two nights in five choose would be an alarm on each of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from harness.history.judgement.noise import quantiles

#: The share of nights, on either side, that is taken for outliers.
OUTLYING = 0.1


def mean_of_builds(groups: np.ndarray, errors: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The level of each group of builds: the mean of the finite errors, infinite where most are not finite.

    Args:
        groups: the group of each build, from 0.
        errors: error of each build; NaN is not finite.
        size: how many groups there are.

    Returns:
        The levels, NaN of no builds; and how many builds of each group are finite.
    """
    known = np.isfinite(errors)
    finite = np.bincount(groups[known], minlength=size)
    total = np.bincount(groups, minlength=size)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(groups[known], weights=errors[known], minlength=size) / finite
    return np.where(2 * finite < total, np.inf, mean), finite


@dataclass(frozen=True)
class Nights:
    """The earlier nights of several tensors.

    Args:
        level: median over the nights; infinite where that of most nights is.
        deviation: of the finite nights, winsorized; exactly 0 where those left are equal, NaN of fewer than two.
        count: how many nights are finite.
    """

    level: np.ndarray
    deviation: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, tensors: np.ndarray, nights: np.ndarray, errors: np.ndarray, size: int, width: int) -> Nights:
        """The nights behind rows of builds.

        Args:
            tensors: number of the tensor of each row, below `size`.
            nights: number of its night, below `width`.
            errors: its error; NaN is not finite.
            size: how many tensors there are.
            width: how many nights there are.
        """
        means, _ = mean_of_builds(tensors * width + nights, errors, size * width)
        ordered = np.sort(
            means.reshape(size, width), axis=1
        )  # what is infinite after the rest, no night last
        total = width - np.isnan(ordered).sum(axis=1)
        count = np.isfinite(ordered).sum(axis=1)
        middle = [np.maximum(total - 1, 0) // 2, np.minimum(total // 2, width - 1)]
        level = np.take_along_axis(ordered, np.stack(middle, axis=1), axis=1).mean(axis=1)
        trimmed = _outlying(count)[:, None]
        place = np.arange(width)[None, :]
        inner = np.clip(place, trimmed, np.maximum(count[:, None] - 1 - trimmed, 0))
        values = np.take_along_axis(ordered, inner, axis=1)
        used = place < count[:, None]
        low, high = values.min(axis=1, initial=np.inf, where=used), values.max(axis=1, initial=0, where=used)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(used, values, 0).sum(axis=1) / count
            squares = np.where(used, (values - mean[:, None]) ** 2, 0).sum(axis=1)
            spread = np.sqrt(squares / np.where(count > 1, count - 1, np.nan)) / _shrunk(count)
        return cls(level, np.where((low == high) & (count > 1), 0.0, spread), count)

    def half_width(self, confidence: float) -> np.ndarray:
        """Half the width of the band in which the next night lies; NaN where one night leaves it unknown."""
        left = self.count - 2 * _outlying(self.count) - 1
        spread = np.sqrt(math.pi / (2 * np.maximum(self.count, 1)) + 1)
        return np.asarray(quantiles(left, confidence) * self.deviation * spread)


def _outlying(count: np.ndarray) -> np.ndarray:
    """How many nights on either side are taken for outliers."""
    return np.floor(count * OUTLYING).astype(np.int64)


def _shrunk(count: np.ndarray) -> np.ndarray:
    """The standard deviation of normal nights, of 1, after winsorizing."""
    counts, which = np.unique(count, return_inverse=True)
    return np.array([_winsorized_deviation(int(number)) for number in counts])[which]


@lru_cache(maxsize=1024)
def _winsorized_deviation(count: int) -> float:
    """That of a normal population of which as large a share is winsorized as of `count` nights."""
    share = int(_outlying(np.array(count))) / max(count, 1)
    if not share:
        return 1.0
    normal = NormalDist()
    edge = normal.inv_cdf(1 - share)
    inside = 1 - 2 * share - 2 * edge * normal.pdf(edge)
    return math.sqrt(inside + 2 * share * edge**2)

"""Steps in nightly series: on which night the level changed for good.

Binary segmentation: the likeliest place of a step is sought in the whole series, and if the step is real, in the
parts before and after it (as in L. Yu. Vostrikova, "Detecting 'disorder' in multidimensional random processes",
Soviet Mathematics Doklady 24, 1981). For each place the nights before it are held against those after it with the
Mann-Whitney statistic, standardized and corrected for ties; the largest over all places is the statistic of the
series (D. M. Hawkins and Q. Deng, "A nonparametric change-point control chart", Journal of Quality Technology 42,
2010). Ranks know no scale and no distribution, so what chance alone makes of it is the same for every series of a
length: it is simulated once, by permutations with a fixed seed. A step counts if fewer than one in a thousand
permutations do as well, and if the medians differ by more than the effect-size floor. A series of fewer than
MIN_NIGHTS nights has no steps, and no side of a step is shorter than MIN_SIDE nights.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from harness.tensors.precision import Precision

MIN_NIGHTS = 20
MIN_SIDE = 5
SIGNIFICANCE = 1e-3
_PERMUTATIONS = 4000
_SEED = 20100401


@dataclass(frozen=True)
class Step:
    """A step: from the value at `place` on, the level is another one.

    Args:
        place: index of the first value of the new level.
        before: median of the level before, back to the step before it.
        after: median of the level after, up to the next step.
        significance: share of permutations that do as well, 0 if none of them does.
    """

    place: int
    before: float
    after: float
    significance: float


@dataclass(frozen=True)
class Series:
    """The error of one output of one sample on one release, night by night.

    Args:
        case: name of the case.
        precision: the precision asked for.
        release: the environment.
        tensor: ONNX name of the output.
        sample: number of the sample.
        runs: the nights.
        errors: mean error of each night's builds.
        steps: where the level changed; None if there are too few nights to say.
    """

    case: str
    precision: Precision
    release: str
    tensor: str
    sample: int
    runs: tuple[str, ...]
    errors: tuple[float, ...]
    steps: tuple[Step, ...] | None

    def night(self, step: Step) -> str:
        """The run in which a step came."""
        return self.runs[step.place]


def find_steps(values: np.ndarray, *, relative: float, absolute: float) -> tuple[Step, ...]:
    """The steps of one series, in order.

    Args:
        values: one number a night, the oldest first; may be infinite, must not be NaN.
        relative: share of the level before by which a step must change it.
        absolute: by how much it must change it besides.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < MIN_NIGHTS:
        return ()
    found: dict[int, float] = {}
    waiting = [(0, len(values))]
    while waiting:
        start, end = waiting.pop()
        split = _split(values[start:end])
        if split is None:
            continue
        place, significance = start + split[0], split[1]
        found[place] = significance
        waiting += [(start, place), (place, end)]
    return _real(values, found, relative, absolute)


def _split(values: np.ndarray) -> tuple[int, float] | None:
    """The likeliest step of a part and its significance; None if chance does as well."""
    count = len(values)
    if count < 2 * MIN_SIDE or (values == values[0]).all():
        return None
    scores = _scores(_ranks(values)[None, :])[0]
    best = int(np.argmax(scores))
    null = _null(count)
    significance = float((null >= scores[best]).mean())
    return (best + MIN_SIDE, significance) if significance < SIGNIFICANCE else None


def _real(values: np.ndarray, found: dict[int, float], relative: float, absolute: float) -> tuple[Step, ...]:
    """The steps whose levels differ enough; the least is taken out first, since its sides then become one."""
    places = dict(found)
    while True:
        steps = _levels(values, places)
        small = [
            (abs(_change(step)), step.place)
            for step in steps
            if not abs(_change(step)) > max(relative * step.before, absolute)
        ]
        if not small:
            return steps
        del places[min(small)[1]]


def _change(step: Step) -> float:
    if math.isinf(step.before) and math.isinf(step.after):
        return 0.0
    return step.after - step.before


def _levels(values: np.ndarray, places: dict[int, float]) -> tuple[Step, ...]:
    order = sorted(places)
    ends = [0, *order, len(values)]
    medians = [float(np.median(values[start:end])) for start, end in itertools.pairwise(ends)]
    return tuple(
        Step(place, medians[number], medians[number + 1], places[place]) for number, place in enumerate(order)
    )


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _scores(ranks: np.ndarray) -> np.ndarray:
    """|z| of the Mann-Whitney statistic for each place of each row: MIN_SIDE … n - MIN_SIDE values before it."""
    count = ranks.shape[1]
    before = np.arange(MIN_SIDE, count - MIN_SIDE + 1)
    sums = np.cumsum(ranks, axis=1)[:, before - 1]
    spread = ranks.var(axis=1, keepdims=True)  # of the ranks as they are: that is the correction for ties
    variance = before * (count - before) / (count - 1) * spread
    return np.abs(sums - before * (count + 1) / 2) / np.sqrt(variance)


@lru_cache(maxsize=1024)
def _null(count: int) -> np.ndarray:
    """The statistic of `_PERMUTATIONS` random orders of `count` values."""
    stream = np.random.default_rng((_SEED, count))
    ranks = np.tile(np.arange(1.0, count + 1), (_PERMUTATIONS, 1))
    return _scores(stream.permuted(ranks, axis=1)).max(axis=1)

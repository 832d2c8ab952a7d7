"""Steps in nightly series: on which night the level changed for good.

Binary segmentation: the likeliest place of a step is sought in the whole series, and if the step is real, in the
parts before and after it (as in L. Yu. Vostrikova, "Detecting 'disorder' in multidimensional random processes",
Soviet Mathematics Doklady 24, 1981). For each place the nights before it are compared with those after it by the
Mann-Whitney statistic, standardized and corrected for ties; the largest over all places is the statistic of the
series (D. M. Hawkins and Q. Deng, "A nonparametric change-point control chart", Journal of Quality Technology 42,
2010). Ranks know no scale and no distribution, so what chance alone makes of it is the same for every series of a
length: it is simulated once, by permutations with a fixed seed. A step counts if fewer than one in a thousand
permutations do as well, and if the medians differ by more than the effect-size floor. A series of fewer than
MIN_NIGHTS nights has no steps, and no side of a step is shorter than MIN_SIDE nights.

A level that creeps has steps as well, at places that mean nothing. So a series whose steps all go one way creeps where
there are CREEPING_STEPS of them, or where a line through the logarithms of its errors leaves less of them unexplained
than its levels do (the resistant line: J. W. Tukey, "Exploratory Data Analysis", 1977, chapter 5).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from harness.tensors import Precision

MIN_NIGHTS = 20
MIN_SIDE = 5
SIGNIFICANCE = 1e-3
#: So many steps in one direction are a level that creeps.
CREEPING_STEPS = 3
_BETTER = 0.9  # of the mean absolute residual of the levels: what a line must leave less than
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
class Creep:
    """A level that goes one way all the time.

    Args:
        ratio: median of the last MIN_SIDE nights over that of the first ones.
        nights: how many nights the series has.
    """

    ratio: float
    nights: int


@dataclass(frozen=True)
class Series:
    """The error of one output of one sample on one release, night by night.

    Args:
        case: name of the case.
        precision: the precision under test.
        release: the environment.
        tensor: ONNX name of the output.
        sample: number of the sample.
        runs: the nights.
        errors: mean error of each night's finite builds; infinite where most are not finite.
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

    @property
    def creep(self) -> Creep | None:
        """How the level creeps; None if it does not."""
        return find_creep(np.array(self.errors), self.steps or ())

    @property
    def rise(self) -> Step | None:
        """The last step, if it is one up whose level still lasts; None where the level creeps."""
        last = self.steps[-1] if self.steps else None
        if last is None or last.after <= last.before or self.creep is not None:
            return None
        tonight = self.errors[-1]
        lasts = tonight > math.sqrt(last.before * last.after) or not math.isfinite(tonight)
        return last if lasts else None


def find_creep(values: np.ndarray, steps: Sequence[Step]) -> Creep | None:
    """How the level of a series creeps; None if it does not.

    Args:
        values: one error a night, the oldest first.
        steps: its steps.
    """
    if len({_change(step) > 0 for step in steps}) != 1 or not (np.isfinite(values) & (values > 0)).all():
        return None
    if len(steps) < CREEPING_STEPS:
        logs = np.log(values)
        levels = np.split(logs, [step.place for step in steps])
        around_levels = np.concatenate([level - np.median(level) for level in levels])
        if np.abs(_around_line(logs)).mean() >= _BETTER * np.abs(around_levels).mean():
            return None
    return Creep(float(np.median(values[-MIN_SIDE:]) / np.median(values[:MIN_SIDE])), len(values))


def _around_line(values: np.ndarray) -> np.ndarray:
    """What the resistant line leaves of `values`: through the medians of their first and last third."""
    places = np.arange(len(values), dtype=np.float64)
    third = len(values) // 3
    width = np.median(places[-third:]) - np.median(places[:third])
    slope = (np.median(values[-third:]) - np.median(values[:third])) / width
    rest = values - slope * places
    return np.asarray(rest - np.median(rest))


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
        small = [(abs(_change(step)), step.place) for step in steps if not _is_real(step, relative, absolute)]
        if not small:
            return steps
        del places[min(small)[1]]


def _is_real(step: Step, relative: float, absolute: float) -> bool:
    change = _change(step)
    return math.isinf(change) or abs(change) > max(relative * step.before, absolute)


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
    return np.asarray((last - (counts - 1) / 2)[inverse])


def _scores(ranks: np.ndarray) -> np.ndarray:
    """|z| of the Mann-Whitney statistic for each place of each row: MIN_SIDE … n - MIN_SIDE values before it."""
    count = ranks.shape[1]
    before = np.arange(MIN_SIDE, count - MIN_SIDE + 1)
    sums = np.cumsum(ranks, axis=1)[:, before - 1]
    spread = ranks.var(axis=1, keepdims=True)  # of the ranks as they are: that is the correction for ties
    variance = before * (count - before) / (count - 1) * spread
    return np.asarray(np.abs(sums - before * (count + 1) / 2) / np.sqrt(variance))


@lru_cache(maxsize=1024)
def _null(count: int) -> np.ndarray:
    """The statistic of `_PERMUTATIONS` random orders of `count` values."""
    stream = np.random.default_rng((_SEED, count))
    ranks = np.tile(np.arange(1.0, count + 1), (_PERMUTATIONS, 1))
    return np.asarray(_scores(stream.permuted(ranks, axis=1)).max(axis=1))

"""The noise band: Student's quantiles, and how often the band holds what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.errors import UsageError
from harness.history import Floors
from harness.history.judgement.noise import half_width, student
from harness.history.types import FLOORS
from harness.tensors import Precision

# Abramowitz and Stegun, "Handbook of Mathematical Functions", table 26.10.
TABLE = {
    (1, 0.99): 63.657, (2, 0.99): 9.925, (3, 0.99): 5.841, (4, 0.99): 4.604, (5, 0.99): 4.032,
    (10, 0.99): 3.169, (20, 0.99): 2.845, (30, 0.99): 2.750, (120, 0.99): 2.617,
    (1, 0.999): 636.619, (2, 0.999): 31.598, (3, 0.999): 12.924, (10, 0.999): 4.587, (30, 0.999): 3.646,
    (4, 0.9): 2.132, (15, 0.95): 2.131,
}  # fmt: skip


@pytest.mark.parametrize(("asked", "known"), TABLE.items())
def test_quantiles_of_students_t(asked: tuple[int, float], known: float) -> None:
    assert student(*asked) == pytest.approx(known, rel=5e-4)


@pytest.mark.parametrize(("builds", "further"), [(3, 3), (3, 1), (5, 2), (30, 1)])
def test_the_band_holds_the_mean_of_further_builds_as_often_as_it_says(builds: int, further: int) -> None:
    stream = np.random.default_rng(builds)
    old = stream.standard_normal((40_000, builds))
    new = stream.standard_normal((40_000, further)).mean(axis=1)
    count = np.full(len(old), builds)
    width = half_width(count, old.std(axis=1, ddof=1), np.full(len(old), further), 0.99)
    held = np.abs(new - old.mean(axis=1)) <= width
    assert held.mean() == pytest.approx(0.99, abs=0.002)


@pytest.mark.parametrize(("builds", "further"), [(3, 3), (5, 2), (1, 4)])
def test_two_means_of_one_population_differ_by_less_as_often_as_it_says(builds: int, further: int) -> None:
    stream = np.random.default_rng(builds)
    old, new = (stream.standard_normal((40_000, count)) for count in (builds, further))
    spreads = [side.std(axis=1, ddof=1) if side.shape[1] > 1 else np.zeros(len(side)) for side in (old, new)]
    counts = [np.full(len(old), count) for count in (builds, further)]
    width = half_width(counts[0], spreads[0], counts[1], 0.99, further_deviation=spreads[1])
    held = np.abs(new.mean(axis=1) - old.mean(axis=1)) <= width
    assert held.mean() == pytest.approx(0.99, abs=0.002)
    three = np.array([3]), np.array([0.5]), np.array([1]), 0.99
    alone = half_width(*three, further_deviation=np.array([np.nan]))
    assert alone == half_width(*three)
    ones = np.ones(1, dtype=int)
    assert np.isnan(half_width(ones, np.zeros(1), ones, 0.99, further_deviation=np.zeros(1))).all()


def test_one_build_leaves_the_noise_unknown_and_equal_builds_have_none() -> None:
    width = half_width(np.array([1, 3]), np.array([0.0, 0.0]), np.array([3, 3]), 0.99)
    assert np.isnan(width[0])
    assert width[1] == 0


def test_there_is_a_floor_for_every_precision() -> None:
    assert set(FLOORS) == set(Precision)
    assert FLOORS[Precision.FP16] == pytest.approx(2**-11 / 10)
    assert FLOORS[Precision.FP32] == pytest.approx(16 * 2**-24)


@pytest.mark.parametrize(
    "wrong",
    [
        {"relative": -0.1},
        {"relative": math.nan},
        {"latency": -1},
        {"latency": math.nan},
        {"confidence": 1.0},
        {"confidence": 0},
    ],
)
def test_senseless_floors_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Floors(**wrong)  # type: ignore[arg-type]

"""Step detection: where a level changed, and that chance is not taken for it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.history import Series
from harness.history.judgement.steps import MIN_NIGHTS, find_steps
from harness.history.judgement.wording import series_text
from harness.tensors import Precision

STREAM = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def _same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test draws the same numbers, whichever ran before it."""
    monkeypatch.setattr(f"{__name__}.STREAM", np.random.default_rng(5))


def steps(values, relative: float = 0.25, absolute: float = 0.0):
    return find_steps(np.asarray(values), relative=relative, absolute=absolute)


@pytest.mark.parametrize(("nights", "place"), [(40, 30), (40, 10), (200, 193), (60, 30)])
def test_a_step_is_found_on_its_night(nights: int, place: int) -> None:
    values = 1e-3 * (1 + 0.02 * STREAM.standard_normal(nights))
    values[place:] *= 1.6
    (step,) = steps(values)
    assert step.place == place
    assert step.after / step.before == pytest.approx(1.6, rel=0.05)
    assert step.significance < 1e-3


def test_two_steps_are_found_as_two() -> None:
    values = np.concatenate([np.full(30, 1e-3), np.full(30, 2e-3), np.full(30, 0.5e-3)])
    found = steps(values * (1 + 0.01 * STREAM.standard_normal(90)))
    assert [step.place for step in found] == [30, 60]
    assert found[1].after < found[1].before


@pytest.mark.parametrize("lengths", [(15, 15, 60), (60, 15, 15)])
def test_both_sides_of_a_step_are_searched(lengths: tuple[int, int, int]) -> None:
    levels = [np.full(length, level) for length, level in zip(lengths, (1e-3, 2e-3, 4e-3), strict=True)]
    found = steps(np.concatenate(levels))
    assert [step.place for step in found] == [lengths[0], lengths[0] + lengths[1]]
    assert [(step.before, step.after) for step in found] == [(1e-3, 2e-3), (2e-3, 4e-3)]


def test_of_two_steps_that_are_too_small_the_larger_one_stays_where_both_add_up() -> None:
    levels = [np.full(30, 1e-3), np.full(15, 1.1e-3), np.full(30, 1.3e-3)]
    (step,) = steps(np.concatenate(levels))
    assert (step.place, step.before, step.after) == (45, 1e-3, 1.3e-3)


def test_exactly_constant_levels_and_infinite_ones() -> None:
    (step,) = steps([1e-3] * 20 + [math.inf] * 10)
    assert (step.place, step.after) == (20, math.inf)
    (back,) = steps([math.inf] * 20 + [1e-3] * 10)
    assert (back.place, back.before, back.after) == (20, math.inf, 1e-3)
    assert steps([math.inf] * 40) == ()
    assert steps([1e-3] * 400) == ()


def test_a_step_below_the_floor_does_not_count_however_certain() -> None:
    values = [1e-3] * 30 + [1.1e-3] * 30
    assert steps(values) == ()
    assert [step.place for step in steps(values, relative=0.05)] == [30]
    assert steps(values, relative=0.05, absolute=1e-3) == ()


def test_fewer_nights_raise_no_alarm() -> None:
    values = [1e-3] * 10 + [1.0] * (MIN_NIGHTS - 11)
    assert steps(values) == ()
    assert len(steps([*values, 1.0])) == 1


def test_one_bad_night_is_not_a_step() -> None:
    values = 1e-3 * (1 + 0.05 * STREAM.standard_normal(60))
    values[40] = 1.0
    values[59] = 1.0
    assert steps(values) == ()


def test_chance_is_taken_for_a_step_in_less_than_one_percent() -> None:
    alarms = sum(bool(steps(np.exp(STREAM.standard_normal(31)), relative=0.0)) for _ in range(1000))
    assert alarms <= 10


def test_a_ramp_that_adds_up_is_seen() -> None:
    assert steps(np.linspace(1e-3, 4e-3, 90) * (1 + 0.01 * STREAM.standard_normal(90)))


# --- what a series comes to ---------------------------------------------------------------------------------


def series(values) -> Series:
    runs = tuple(f"night {number}" for number in range(len(values)))
    return Series(
        "net", Precision.FP16, "trt", "y", 0, runs, tuple(map(float, values)), steps(np.asarray(values))
    )


def shaken(values):
    return np.asarray(values) * (1 + 0.02 * STREAM.standard_normal(len(values)))


@pytest.mark.parametrize(("ratio", "nights"), [(10, 120), (1.8, 31), (3, 60), (0.1, 120)])
def test_a_creeping_level_is_not_a_step(ratio: float, nights: int) -> None:
    one = series(shaken(1e-3 * ratio ** (np.arange(nights) / (nights - 1))))
    assert one.steps, "it has steps, at places that mean nothing"
    assert one.creep is not None
    assert (one.creep.nights, one.rise) == (nights, None)
    assert one.creep.ratio == pytest.approx(ratio, rel=0.2)
    assert series_text(one).startswith("y, sample 0: creeping, ×")
    assert series_text(one).endswith(f" over {nights} nights")


@pytest.mark.parametrize("nights", [(25, 6), (15, 16), (6, 25), (30, 30)])
def test_a_step_up_is_reported_for_as_long_as_its_level_lasts(nights: tuple[int, int]) -> None:
    values = shaken(np.repeat([1e-3, 2e-3], nights))
    one = series(values)
    assert (one.creep, one.rise) == (None, one.steps[0])
    assert one.night(one.rise) == f"night {nights[0]}"
    assert f" since night {nights[0]}, " in series_text(one)
    assert series([*values, 1e-3]).rise is None, "tonight it is gone"


def test_a_step_down_and_one_up_and_down_are_not_reported() -> None:
    for levels in ([2e-3, 1e-3], [1e-3, 2e-3, 0.5e-3]):
        one = series(shaken(np.repeat(levels, 20)))
        assert (bool(one.steps), one.rise, one.creep, series_text(one)) == (True, None, None, "")
    overflowing = series([1e-3] * 20 + [math.inf] * 10)
    assert overflowing.rise is not None
    assert series_text(overflowing) == "y, sample 0: inf since night 20, 1e-3 before"
    assert series([1e-3] * 40).rise is series([1e-3] * 40).creep is None

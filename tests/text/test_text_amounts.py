"""Numbers, counts and durations in words."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.text import (
    bound,
    duration,
    is_multiple,
    magnitude,
    magnitudes,
    multiple,
    number,
    numbers,
    percent,
    plural,
    ratio,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (1.2e-7, "1.2e-7"),
        (4e-3, "4e-3"),
        (0.016, "0.016"),
        (0.6, "0.6"),
        (131.0, "131"),
        (2.03e5, "2e5"),
        (9999.4, "9999"),
        (12345.0, "1.2e4"),
        (0.0099, "9.9e-3"),
        (-0.5, "-0.5"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
    ],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "other", "texts"),
    [
        (2.15e-3, 1e-5, ("2.2e-3", "1e-5")),
        (0.0100004, 0.01, ("0.0100004", "0.01")),
        (1.004e-3, 1e-3, ("1.004e-3", "1e-3")),
        (0.01, 0.01, ("0.01", "0.01")),
        (math.inf, 0.01, ("inf", "0.01")),
    ],
)
def test_a_value_and_its_limit_never_read_alike(value: float, other: float, texts: tuple[str, str]) -> None:
    assert numbers(value, other) == texts


@given(st.floats(min_value=-1e300, max_value=1e300))
def test_a_short_number_still_is_the_number(value: float) -> None:
    assert float(number(value)) == pytest.approx(value, rel=0.06)
    assert len(number(value)) <= 9


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (65504.0, "65504"),
        (99999.0, "99999"),
        (3141.6, "3.1e3"),
        (123456.0, "1.2e5"),
        (-3.4e38, "-3.4e38"),
        (0.98, "0.98"),
        (6e-8, "6e-8"),
        (0.0, "0"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_values_of_tensors_keep_the_digits_that_limits_are_known_by(value: float, text: str) -> None:
    assert magnitude(value) == text


def test_two_values_are_written_with_as_many_digits_as_distinguish_them() -> None:
    assert magnitudes(3.4028e38, 3.3895e38) == ("3.40e38", "3.39e38")
    assert magnitudes(1e30, 2e30) == ("1e30", "2e30")
    assert magnitudes(1e30, 1e30) == ("1e30", "1e30")


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1×"), (1.004, "1.004×"), (1.00007, "1.0001×"), (12.0, "12×"), (math.inf, "inf×")],
)
def test_a_multiple_that_is_not_1_does_not_read_1(value: float, text: str) -> None:
    assert multiple(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7.75, "×7.75"),
        (0.3, "×0.3"),
        (0.1, "×0.1"),
        (6.4e-4, "1,600 times smaller"),
        (0.05, "20 times smaller"),
        (1540, "×1,500"),
        (math.inf, "×inf"),
        (0, "×0"),
    ],
)
def test_a_ratio_far_below_1_is_written_the_other_way_round(value: float, text: str) -> None:
    assert ratio(value) == text
    assert is_multiple(value) == ("smaller" not in text)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.98, "98 %"),
        (0.003, "0.3 %"),
        (1e-4, "less than 0.1 %"),
        (0.999, "nearly all"),
        (1.0, "all"),
        (0.0, "0 %"),
    ],
)
def test_shares_are_percent(share: float, text: str) -> None:
    assert percent(share) == text


@given(st.floats(1e-40, 3e38))
def test_a_limit_to_type_is_rounded_to_the_safe_side(value: float) -> None:
    assert 0.9 * value <= float(bound(value)) <= value <= float(bound(value, least=True)) <= 1.1 * value


def test_counts_agree_with_their_noun() -> None:
    assert [plural(amount, "run") for amount in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert [plural(amount, "axis", "axes") for amount in (1, 2)] == ["1 axis", "2 axes"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (0.81, "0.8 s"),
        (9.96, "10 s"),
        (18.2, "18 s"),
        (125, "2 min 5 s"),
        (3725, "1 h 2 min"),
    ],
)
def test_durations_have_the_unit_that_a_person_would_say(seconds: float, text: str) -> None:
    assert duration(seconds) == text

"""The accumulator of tensor cores, against what was measured and against sums that are exact."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.emulation.accumulators import accumulate_in_fp16
from harness.model import DEPTH

VALUES = st.floats(-64, 64, width=16)


@pytest.mark.parametrize(("terms", "measured"), [(64, 3.34e-4), (1024, 1.19e-3), (8192, 3.33e-3)])
def test_it_errs_as_engines_were_seen_to(terms: int, measured: float) -> None:
    rng = np.random.default_rng(terms)
    left = rng.standard_normal((128, terms)).astype(np.float16)
    right = rng.standard_normal((terms, 128)).astype(np.float16)
    exact = left.astype(np.float64) @ right.astype(np.float64)
    error = accumulate_in_fp16(left, right) - exact
    nrmse = np.sqrt(np.mean(error**2) / np.mean(exact**2))
    assert nrmse == pytest.approx(measured, rel=0.04)


@settings(max_examples=60)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=40))
def test_sixteen_products_are_added_exactly_and_then_rounded(pairs: list[tuple[float, float]]) -> None:
    left = np.array([[pair[0] for pair in pairs]], np.float16)
    right = np.array([[pair[1]] for pair in pairs], np.float16)
    total = Fraction(0)
    for first in range(0, len(pairs), DEPTH):
        part = sum((Fraction(a) * Fraction(b) for a, b in pairs[first : first + DEPTH]), Fraction(0))
        total = Fraction(float(np.float16(float(total + part))))
    assert accumulate_in_fp16(left, right)[0, 0] == float(total)


@settings(max_examples=30)
@given(st.integers(1, 16), st.integers(0, 1000))
def test_short_sums_are_only_rounded(terms: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = rng.standard_normal((4, terms)), rng.standard_normal((terms, 4))
    left, right = (each.astype(np.float16).astype(np.float64) for each in (left, right))
    assert (accumulate_in_fp16(left, right) == (left @ right).astype(np.float16)).all()


def test_partial_sums_overflow_where_the_result_does_not() -> None:
    left = np.full((1, 64), 500.0)
    right = np.concatenate([np.full((32, 1), 500.0), np.full((32, 1), -500.0)])
    assert not np.isfinite(accumulate_in_fp16(left.astype(np.float16), right.astype(np.float16))).any()

"""The relative error is the nrmse of all metrics, at less cost."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness.comparison import Accumulator, RelativeErrorSum

ANY = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(max_examples=200)
@given(samples=st.lists(arrays.arrays(np.float32, (2, 7), elements=ANY), min_size=1, max_size=3))
def test_it_is_the_nrmse_of_all_metrics(samples: list[np.ndarray]) -> None:
    cheap, full = RelativeErrorSum(), Accumulator(dtype="float32")
    for sample in samples:
        cheap.update(sample[0], sample[1])
        full.update(sample[0], sample[1])
    found, metrics = cheap.result(), full.result()
    assert found.nonfinite == metrics.nonfinite
    if metrics.reference_nonfinite == 0 and metrics.reference_rms > 1e-30:
        assert found.error == pytest.approx(metrics.error, rel=1e-5, abs=1e-12)
    assert math.isinf(found.error) == math.isinf(metrics.error) or metrics.reference_rms < 1e-30


def test_many_tiles_are_added_up() -> None:
    exact = np.random.default_rng(1).standard_normal((3, 50_000)).astype(np.float32)
    low = exact.astype(np.float16)
    cheap, full = RelativeErrorSum(), Accumulator(dtype="float16")
    cheap.update(low, exact)
    full.update(low, exact)
    assert cheap.result().nrmse == pytest.approx(full.result().nrmse, rel=1e-6)


def test_another_shape_is_wrong_in_every_element() -> None:
    total = RelativeErrorSum()
    total.update(np.zeros(3), np.zeros(4))
    assert total.result().error == math.inf


def test_zeros_are_right_only_for_zeros() -> None:
    right, wrong = RelativeErrorSum(), RelativeErrorSum()
    right.update(np.zeros(3), np.zeros(3))
    wrong.update(np.ones(3), np.zeros(3))
    assert (right.result().error, wrong.result().error) == (0.0, math.inf)

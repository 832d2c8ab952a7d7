"""The relative error is the nrmse of all metrics, at less cost."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness.comparison import Accumulator, CompareOptions, RelativeError, RelativeErrorSum, compare_tensors

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
    assert cheap.rmse == pytest.approx(metrics.rmse, rel=1e-5, abs=1e-12)


def test_many_tiles_are_added_up() -> None:
    exact = np.random.default_rng(1).standard_normal((3, 50_000)).astype(np.float32)
    low = exact.astype(np.float16)
    cheap, full = RelativeErrorSum(), Accumulator(dtype="float16")
    cheap.update(low, exact)
    full.update(low, exact)
    assert cheap.result().nrmse == pytest.approx(full.result().nrmse, rel=1e-6)


def test_what_is_of_another_shape_or_not_computed_is_wrong_in_every_element() -> None:
    shaped, failed = RelativeErrorSum(), RelativeErrorSum()
    shaped.update(np.zeros(3), np.zeros(4))
    failed.fail(np.zeros(4))
    for total in (shaped, failed):
        assert total.result() == RelativeError(math.inf, 4)
        assert total.rmse == math.inf


def test_zeros_are_right_only_for_zeros() -> None:
    right, wrong = RelativeErrorSum(), RelativeErrorSum()
    right.update(np.zeros(3), np.zeros(3))
    wrong.update(np.ones(3), np.zeros(3))
    assert (right.result().error, wrong.result().error) == (0.0, math.inf)


@pytest.mark.parametrize("broken", [False, True])
def test_in_brief_is_measured_what_default_gates_ask_for(*, broken: bool) -> None:
    exact = np.random.default_rng(2).standard_normal((40, 64)).astype(np.float32)
    low = exact.astype(np.float16).astype(np.float32)
    low[3] *= 1.5
    if broken:
        low[7, 9] = np.inf
    options = CompareOptions(slice_floor=1e-3)
    full, brief = (
        compare_tensors(low, exact, dtype="float16", options=replace(options, brief=each))
        for each in (False, True)
    )
    same = ("count", "rmse", "nrmse", "nonfinite", "headroom", "slice_nrmse", "worst_slice", "overflow_count")
    assert [getattr(brief, name) for name in same] == [getattr(full, name) for name in same]
    assert full.p99_ulp > 0
    assert full.topk_agreement is not None
    assert (brief.topk_agreement, brief.mismatch_fraction == 0) == (None, not broken)
    assert brief.subnormal_count == 0
    assert brief.max_ulp == (math.inf if broken else 0.0)
    assert brief.max_rel == math.inf

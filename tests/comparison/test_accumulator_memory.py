"""What is kept of a tensor is small: a model has thousands of them at a time."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from harness.comparison import Accumulator, CompareOptions
from harness.errors import UsageError


def accumulated(samples: int) -> Accumulator:
    rng, total = (
        np.random.default_rng(0),
        Accumulator(dtype="float16", options=CompareOptions(slice_floor=0.01)),
    )
    for _ in range(samples):
        reference = rng.standard_normal((8, 32)).astype(np.float32)
        total.update(reference + 0.5 * rng.standard_normal((8, 32)).astype(np.float32), reference)
    return total


def test_a_small_tensor_with_large_errors_keeps_a_few_kilobytes() -> None:
    accumulated(1)
    tracemalloc.start()
    try:
        kept = [accumulated(1) for _ in range(20)]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / len(kept) < 20_000


def test_what_was_packed_counts_as_before() -> None:
    twice = Accumulator(dtype="float16", options=CompareOptions(slice_floor=0.01))
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((8, 32)).astype(np.float32)
    candidate = reference + 0.5 * rng.standard_normal((8, 32)).astype(np.float32)
    twice.update(candidate, reference)
    once = twice.result()
    twice.update(candidate, reference)
    assert twice.result().p99_ulp == once.p99_ulp
    assert twice.result().max_ulp == once.max_ulp
    assert twice.result() == twice.result(), "reading changes nothing"


@pytest.mark.parametrize("error", [0.0, 1e-4, 0.5])
def test_one_sample_alone_has_the_metrics_of_one_of_many(error: float) -> None:
    rng = np.random.default_rng(1)
    reference = rng.standard_normal((400, 300)).astype(np.float32)
    reference[0, :9] = [0.0, -0.0, np.inf, np.nan, 1e-6, -1e-6, 7e4, 1e-30, 1.0]
    candidate = reference + np.float32(error) * rng.standard_normal((400, 300)).astype(np.float32)
    options = CompareOptions(slice_floor=0.01)
    sums = [Accumulator(dtype="float16", options=options, alone=alone) for alone in (True, False)]
    for each in sums:
        each.update(candidate, reference)
    assert sums[0].result() == sums[1].result()
    with pytest.raises(UsageError):
        sums[0].update(candidate, reference)

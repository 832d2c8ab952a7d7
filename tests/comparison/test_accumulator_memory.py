"""What is kept of a tensor is small: a model has thousands of them at a time."""

from __future__ import annotations

import tracemalloc

import numpy as np

from harness.comparison import Accumulator, CompareOptions


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
    halves = accumulated(1)
    halves.merge(accumulated(1))
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((8, 32)).astype(np.float32)
    candidate = reference + 0.5 * rng.standard_normal((8, 32)).astype(np.float32)
    whole = Accumulator(dtype="float16", options=CompareOptions(slice_floor=0.01))
    whole.update(candidate, reference)
    assert halves.result().p99_ulp == whole.result().p99_ulp
    assert halves.result().max_ulp == whole.result().max_ulp
    assert halves.result() == halves.result(), "reading changes nothing"

"""The worst slice of a tensor: found in the pass that measures the whole, whatever its shape."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.comparison import Accumulator, CompareOptions, Slice, compare_tensors

FLOOR = 0.25
OPTIONS = CompareOptions(slice_floor=FLOOR)
SHAPES = [
    (12,),
    (3, 9),
    (2, 3, 4, 5),
    (1, 64, 14, 14),
    (2, 70_000),
    (3, 20_000, 4),
    (64, 49, 49),
    (1, 8, 400),
]


def plain(candidate: np.ndarray, reference: np.ndarray) -> tuple[float, int, int]:
    """The nrmse, axis and index of the worst slice, by a plain formula."""
    error, reference = candidate.astype(np.float64) - reference, reference.astype(np.float64)
    whole, best = math.sqrt(np.mean(reference**2)), (0.0, -1, -1)
    for axis, length in enumerate(reference.shape):
        if not 1 < length <= 4096 or reference.size < 32 * length:
            continue
        others = tuple(other for other in range(reference.ndim) if other != axis)
        size = np.maximum(np.sqrt(np.mean(reference**2, axis=others)), FLOOR * whole)
        nrmse = np.sqrt(np.mean(error**2, axis=others)) / size
        if nrmse.max() > best[0]:
            best = (float(nrmse.max()), axis, int(nrmse.argmax()))
    return best


def off(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A candidate and its reference, whose channels have many sizes."""
    rng = np.random.default_rng(seed)
    reference = rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, 1, [*shape[:-1], 1])
    return (reference + 1e-3 * rng.standard_normal(shape)).astype(np.float32), reference.astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_that_of_a_plain_formula(shape: tuple[int, ...]) -> None:
    candidate, reference = off(shape)
    found, (nrmse, axis, index) = (
        compare_tensors(candidate, reference, options=OPTIONS),
        plain(candidate, reference),
    )
    if axis < 0:
        assert found.worst_slice is None
        return
    assert found.worst_slice is not None
    assert (found.worst_slice.axis, found.worst_slice.index) == (axis, index)
    assert found.slice_nrmse == found.worst_slice.nrmse == pytest.approx(nrmse, rel=1e-4)
    assert found.worst_slice.size == reference.size // shape[axis]


@settings(max_examples=30)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 99))
def test_it_is_that_of_a_plain_formula_for_any_shape(shape: list[int], seed: int) -> None:
    candidate, reference = off(tuple(shape), seed)
    found = compare_tensors(candidate, reference, options=OPTIONS)
    assert found.slice_nrmse == pytest.approx(plain(candidate, reference)[0], rel=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_measuring_slices_changes_no_other_metric(shape: tuple[int, ...]) -> None:
    candidate, reference = off(shape)
    with_slices, without = (
        compare_tensors(candidate, reference, options=OPTIONS),
        compare_tensors(candidate, reference),
    )
    assert without.worst_slice is None
    for name in ("rmse", "nrmse", "cosine", "max_abs", "p99_ulp", "topk_agreement", "worst_index"):
        assert getattr(with_slices, name) == pytest.approx(getattr(without, name), rel=1e-6), name


def test_one_channel_of_512_that_is_wrong_is_named() -> None:
    reference = np.random.default_rng(0).standard_normal((1, 512, 8, 8)).astype(np.float32)
    candidate = reference.copy()
    candidate[:, 300] = 0
    found = compare_tensors(candidate, reference, options=OPTIONS)
    assert found.nrmse < 0.06 < 0.9 < found.slice_nrmse
    assert str(found.worst_slice) == "[:, 300, :, :]"


def test_what_rounding_leaves_of_a_channel_of_nothing_is_no_error() -> None:
    reference = np.random.default_rng(0).standard_normal((1, 16, 8, 8)).astype(np.float32)
    reference[:, 3] = 0
    found = compare_tensors(reference + np.float32(1e-4), reference, options=OPTIONS)
    assert found.slice_nrmse < 1e-3


def test_infinities_of_a_mask_belong_to_no_slice() -> None:
    candidate, reference = off((4, 64))
    candidate[:, ::2] = reference[:, ::2] = -np.inf
    found = compare_tensors(candidate, reference, options=OPTIONS)
    assert math.isfinite(found.slice_nrmse)
    assert found.nonfinite == 0


def test_samples_add_up_slice_by_slice() -> None:
    pairs = [off((4, 64), seed) for seed in range(3)]
    sums = Accumulator(options=OPTIONS)
    for candidate, reference in pairs:
        sums.update(candidate, reference)
    together = compare_tensors(*(np.stack(side) for side in zip(*pairs, strict=True)), options=OPTIONS)
    error = np.stack([c.astype(np.float64) - r for c, r in pairs])
    found = sums.result().worst_slice
    assert found is not None
    taken = np.take(error, found.index, axis=found.axis + 1)
    assert found.rmse == pytest.approx(math.sqrt(np.mean(taken**2)), rel=1e-5)
    assert together.nrmse == pytest.approx(sums.result().nrmse)


def test_samples_of_other_shapes_have_no_slices_in_common() -> None:
    sums = Accumulator(options=OPTIONS)
    for shape in ((4, 64), (5, 64)):
        sums.update(*off(shape))
    assert sums.result().worst_slice is None


def test_a_slice_is_written_as_numpy_does() -> None:
    assert str(Slice(1, 4, 3, 10, 0.1, 1.0, 0.1)) == "[:, 4, :]"

"""The metrics against straightforward float64 formulas, across tile boundaries, with NaN and infinities."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.comparison import (
    Accumulator,
    CompareOptions,
    Metrics,
    accumulator,
    compare_tensors,
    not_computed,
)
from harness.errors import InputDataError, UsageError
from harness.tensors import to_json

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
DTYPES = [np.dtype("float16"), BFLOAT16, np.dtype("float32"), np.dtype("float64")]
# Odd, so that no element lies on the edge of the tolerance.
OPTIONS = CompareOptions(atol=1.2345e-3, rtol=2.3456e-3)
EXACT = {
    "count", "max_ulp", "mismatch_fraction", "nan_count", "inf_count", "overflow_count", "subnormal_count",
    "nonfinite", "nan_both", "reference_nonfinite",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _small_tiles() -> Any:
    """Tiles that small arrays fill many times over; the real size is used where a test says so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accumulator, "TILE", 96)
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def place(value: float, dtype: np.dtype) -> int:
    """Where `value`, rounded to `dtype`, stands among the numbers of the dtype; zero stands at 0."""
    code = int(np.array(value).astype(dtype).view(f"uint{8 * dtype.itemsize}"))
    sign = 1 << (8 * dtype.itemsize - 1)
    return code if code < sign else sign - code


def expected_metrics(candidate: np.ndarray, reference: np.ndarray, dtype: np.dtype) -> dict[str, float]:
    """What the docstring of Metrics says, in float64."""
    c, r = (np.asarray(x).astype(np.float64).reshape(-1) for x in (candidate, reference))
    both = np.isfinite(c) & np.isfinite(r)
    same = np.isinf(c) & (c == r) | np.isnan(c) & np.isnan(r)
    wrong = int(np.sum(~both & ~same))
    known = r[np.isfinite(r)]
    rms = math.sqrt(np.mean(known**2)) if known.size else 0.0
    cf, rf = c[both], r[both]
    d = np.abs(cf - rf)
    rounded = np.abs(cf.astype(dtype).astype(np.float64))
    ulps = sorted(abs(place(x, dtype) - place(y, dtype)) for x, y in zip(cf, rf, strict=True))
    ulps += [math.inf] * wrong
    norms = float(np.linalg.norm(cf) * np.linalg.norm(rf))
    rmse = math.sqrt(np.mean(d**2)) if d.size else 0.0
    errors = {
        "max_abs": float(d.max(initial=0)),
        "mean_abs": float(d.mean()) if d.size else 0.0,
        "max_rel": max(
            (e and (e / x if x else math.inf) for e, x in zip(d, abs(rf), strict=True)), default=0.0
        ),
        "rmse": rmse,
        "nrmse": rmse and (rmse / rms if rms else math.inf),
    }
    return {
        **(dict.fromkeys(errors, math.inf) if wrong else errors),
        "count": c.size,
        "cosine": math.nan if wrong else (cf @ rf / norms if norms else float(not cf.any() and not rf.any())),
        "max_ulp": float(ulps[-1]) if ulps else 0,
        "p99_ulp": ulps[math.ceil(0.99 * len(ulps)) - 1] if ulps else 0,
        "mismatch_fraction": (int(np.sum(d > OPTIONS.atol + OPTIONS.rtol * np.abs(rf))) + wrong) / max(c.size, 1),
        "nan_count": int(np.isnan(c).sum()),
        "inf_count": int(np.isinf(c).sum()),
        "overflow_count": int((np.isinf(c) & np.isfinite(r)).sum()),
        "subnormal_count": int(((rounded < float(ml_dtypes.finfo(dtype).smallest_normal)) & (rounded > 0)).sum()),
        "nonfinite": wrong,
        "nan_both": int((np.isnan(c) & np.isnan(r)).sum()),
        "reference_nonfinite": int((~np.isfinite(r)).sum()),
        "reference_rms": rms,
        "reference_max": float(np.abs(known).max(initial=0)),
        "headroom": float(np.abs(known).max(initial=0)) / float(ml_dtypes.finfo(dtype).max),
    }  # fmt: skip


def assert_metrics(found: Metrics, expected: dict[str, float], *, exact_p99: bool) -> None:
    for name, value in expected.items():
        actual = getattr(found, name)
        if name in EXACT or (name == "p99_ulp" and exact_p99):
            assert actual == value, name
        elif name == "p99_ulp":
            assert float(value) <= actual <= value * (1 + 1 / 64), name
        else:
            tolerance = {"abs": 5e-7} if name == "cosine" else {"rel": 2e-6, "abs": 1e-290}
            assert actual == pytest.approx(value, nan_ok=True, **tolerance), name


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A candidate and a reference: noise on the same numbers, unrelated numbers, or both."""
    dtype, reference_dtype = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(DTYPES[2:]))
    info = ml_dtypes.finfo(dtype)
    largest, tiny = min(float(info.max), 1e30), max(float(info.smallest_normal), 1e-30)
    odd = [0.0, -0.0, tiny, -tiny / 4, largest, -largest, math.nan, math.inf, -math.inf]
    numbers = st.floats(-1, 1) | st.floats(-largest, largest)
    if draw(st.booleans()):
        numbers |= st.sampled_from(odd)
    pool = np.array(draw(st.lists(numbers, min_size=1, max_size=12)))
    pool[np.abs(pool) < 1e-100] = 0  # squares of less vanish in float64, too
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    reference = rng.choice(pool, shape)
    with np.errstate(all="ignore"):
        noise = 1 + draw(st.sampled_from([0, 1e-7, 1e-3, 1])) * rng.standard_normal(shape)
        unrelated = rng.random(shape) < draw(st.sampled_from([0, 0.1, 1]))
        candidate = np.where(unrelated, rng.choice(pool, shape), reference * noise)
        return candidate.astype(dtype), reference.astype(reference_dtype)


@settings(max_examples=250)
@given(pair=pairs(), storage=st.sampled_from([None, "float16", "bfloat16", "float32"]))
def test_every_metric_follows_its_formula(pair: tuple[np.ndarray, np.ndarray], storage: str | None) -> None:
    candidate, reference = pair
    dtype = candidate.dtype if storage is None else BFLOAT16 if storage == "bfloat16" else np.dtype(storage)
    with np.errstate(all="ignore"):
        expected = expected_metrics(candidate, reference, dtype)
    found = compare_tensors(candidate, reference, dtype=storage, options=OPTIONS)
    assert_metrics(found, expected, exact_p99=dtype.itemsize <= 2)


@settings(max_examples=40)
@given(pair=pairs(), cuts=st.lists(st.floats(0, 1), max_size=3), shuffled=st.randoms())
def test_samples_add_up_in_any_order(
    pair: tuple[np.ndarray, np.ndarray], cuts: list[float], shuffled: Any
) -> None:
    candidate, reference = (array.reshape(-1) for array in pair)
    bounds = [0, *sorted(int(cut * candidate.size) for cut in cuts), candidate.size]
    parts = [slice(*ends) for ends in itertools.pairwise(bounds)]
    shuffled.shuffle(parts)
    whole = Accumulator(options=OPTIONS)
    for part in parts:
        whole.update(candidate[part], reference[part])
    with np.errstate(all="ignore"):
        expected = expected_metrics(candidate, reference, candidate.dtype)
    assert_metrics(whole.result(), expected, exact_p99=candidate.dtype.itemsize <= 2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_real_tiles_with_a_rest_and_a_shifting_error(
    dtype: type, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 99th percentile is right although most elements are never sorted into buckets."""
    from harness.comparison import kernel

    monkeypatch.setattr(accumulator, "TILE", kernel.TILE)
    size = 3 * kernel.TILE + 517
    reference = rng.standard_normal(size).astype(np.float32)
    scale = np.logspace(-2, -5, size)  # the largest errors come first
    for errors in (scale, scale[::-1]):
        candidate = (reference * (1 + errors * rng.standard_normal(size))).astype(dtype)
        expected = expected_metrics(candidate, reference, np.dtype(dtype))
        found = compare_tensors(candidate, reference, options=OPTIONS)
        assert_metrics(found, expected, exact_p99=dtype is np.float16)
        both = Accumulator(options=OPTIONS)
        both.update(candidate, reference)
        assert both.result() == found


def test_cosine_near_one_keeps_its_digits(rng: np.random.Generator) -> None:
    reference = rng.standard_normal(100_000).astype(np.float32)
    candidate = (reference + 1e-5 * rng.standard_normal(100_000)).astype(np.float32)
    c, r = candidate.astype(np.longdouble), reference.astype(np.longdouble)
    exact = 1 - float(c @ r / np.sqrt((c @ c) * (r @ r)))
    assert 1 - compare_tensors(candidate, reference).cosine == pytest.approx(exact, rel=1e-4)


def test_cosine_of_a_candidate_that_all_but_vanished(rng: np.random.Generator) -> None:
    reference = rng.standard_normal(10_000).astype(np.float32)
    assert compare_tensors(reference * np.float32(1e-7), reference).cosine == pytest.approx(1, abs=1e-6)


def test_layouts_and_byte_orders_make_no_difference(rng: np.random.Generator) -> None:
    reference = rng.standard_normal((7, 11, 13)).astype(np.float32)
    candidate = reference + np.float32(1e-3)
    plain = compare_tensors(candidate, reference)
    assert compare_tensors(np.asfortranarray(candidate), reference.astype(">f4")) == plain
    assert compare_tensors(np.repeat(candidate, 2, axis=1)[:, ::2], reference[::-1][::-1]) == plain


class TestSpecialValues:
    def test_same_infinity_is_equal(self) -> None:
        values = np.array([1.0, np.inf, -np.inf, np.nan], np.float32)
        found = compare_tensors(values, values)
        assert (found.max_abs, found.rmse, found.cosine, found.max_ulp, found.mismatch_fraction) == (
            0,
            0,
            1,
            0,
            0,
        )
        assert (found.nonfinite, found.reference_nonfinite, found.nan_both) == (0, 3, 1)
        assert (found.inf_count, found.nan_count, found.overflow_count) == (2, 1, 0)
        assert found.worst_index is None

    @pytest.mark.parametrize(
        ("candidate", "reference"),
        [
            (math.inf, 1.0),
            (math.nan, 1.0),
            (math.inf, -math.inf),
            (1.0, math.inf),
            (math.nan, math.inf),
            (1.0, math.nan),
            (math.inf, math.nan),
        ],
    )
    def test_any_other_pair_with_a_special_value_is_an_infinite_error(
        self, candidate: float, reference: float
    ) -> None:
        found = compare_tensors(
            np.array([2.0, candidate, candidate], np.float32),
            np.array([2.5, reference, reference], np.float32),
        )
        assert found.nonfinite == 2
        assert found.worst_index == (1,)
        assert {found.max_abs, found.mean_abs, found.rmse, found.nrmse, found.max_ulp} == {math.inf}
        assert math.isnan(found.cosine)
        assert found.sqnr_db == -math.inf

    def test_a_few_infinite_errors_leave_the_percentile_finite(self) -> None:
        reference = np.ones(1000, np.float16)
        candidate = reference.copy()
        candidate[:10] = np.inf
        assert compare_tensors(candidate, reference).p99_ulp == 0
        candidate[:11] = np.inf
        assert compare_tensors(candidate, reference).p99_ulp == math.inf

    def test_nan_on_both_sides_does_not_hide_the_other_errors(self) -> None:
        reference = np.array([np.nan, 1.0, 2.0], np.float32)
        candidate = np.array([np.nan, 1.5, 2.0], np.float32)
        found = compare_tensors(candidate, reference)
        assert (found.max_abs, found.mean_abs, found.nonfinite, found.nan_both) == (0.5, 0.25, 0, 1)
        assert found.reference_rms == pytest.approx(math.sqrt(2.5))

    def test_equal_special_values_do_not_water_down_the_percentile(self) -> None:
        reference = np.full(1000, np.inf, np.float32)
        reference[:10] = 1
        candidate = reference.copy()
        candidate[0] = 2
        assert compare_tensors(candidate, reference).p99_ulp == 1 << 23

    def test_overflow_in_a_dtype_without_infinity(self) -> None:
        reference = np.array([1000.0, 1.0, 448.0], np.float32)
        with np.errstate(all="ignore"):
            candidate = reference.astype(E4M3)
        assert np.isnan(candidate.astype(np.float32)).tolist() == [True, False, False]
        found = compare_tensors(candidate, reference)
        assert (found.overflow_count, found.nan_count, found.nonfinite) == (1, 1, 1)
        assert found.headroom == pytest.approx(1000 / 448)

    def test_nan_in_a_dtype_without_infinity_is_no_overflow_where_the_value_would_fit(self) -> None:
        reference = np.array([1.0, 448.0], np.float32)
        found = compare_tensors(np.full(2, math.nan, np.float32).astype(E4M3), reference)
        assert (found.overflow_count, found.nan_count, found.nonfinite) == (0, 2, 2)

    def test_zero_reference(self) -> None:
        zeros = np.zeros(4, np.float32)
        equal = compare_tensors(zeros, zeros)
        assert (equal.nrmse, equal.max_rel, equal.cosine, equal.sqnr_db) == (0, 0, 1, math.inf)
        wrong = compare_tensors(np.array([0, 0, 0, 1e-3], np.float32), zeros)
        assert (wrong.nrmse, wrong.max_rel, wrong.cosine, wrong.sqnr_db) == (math.inf, math.inf, 0, -math.inf)

    def test_signed_zeros_are_equal(self) -> None:
        assert compare_tensors(np.array([-0.0], np.float32), np.array([0.0], np.float32)).max_ulp == 0

    def test_extreme_magnitudes_neither_overflow_nor_vanish(self) -> None:
        huge = np.full(300, 3e38, np.float32)
        found = compare_tensors(-huge, huge)
        assert found.rmse == pytest.approx(6e38)
        assert found.cosine == pytest.approx(-1)
        tiny = np.full(300, 1e-30, np.float32)
        assert compare_tensors(tiny * 2, tiny).nrmse == pytest.approx(1)

    def test_masks_of_the_lowest_number_become_infinite_in_half(self) -> None:
        mask = np.where(np.arange(10) < 5, np.float32(0), np.finfo(np.float32).min)
        with np.errstate(all="ignore"):
            found = compare_tensors(mask.astype(np.float16), mask)
        assert (found.overflow_count, found.nonfinite) == (5, 5)

    @pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
    def test_empty_is_equal(self, shape: tuple[int, ...]) -> None:
        found = compare_tensors(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
        assert (found.count, found.nrmse, found.cosine, found.sqnr_db) == (0, 0, 1, math.inf)
        assert (found.worst_index, found.topk_agreement) == (None, None)

    def test_scalars(self) -> None:
        found = compare_tensors(np.float32(1.5), np.float32(1.0))
        assert (found.count, found.max_abs, found.worst_index, found.topk_agreement) == (1, 0.5, (), None)

    def test_a_small_element_has_no_tolerance_of_a_large_one_beside_it(self) -> None:
        reference, candidate = np.array([0.0, 1000.0], np.float32), np.array([0.5, 1000.0], np.float32)
        options = CompareOptions(atol=0.1, rtol=0.01)
        assert compare_tensors(candidate, reference, options=options).mismatch_fraction == 0.5


class TestUlps:
    def test_counts_steps_of_the_storage_dtype(self) -> None:
        one = np.ones(1, np.float32)
        above = np.nextafter(one, np.float32(2))
        assert compare_tensors(above, one).max_ulp == 1
        assert compare_tensors(above, one, dtype="float16").max_ulp == 0
        assert compare_tensors(one * np.float32(1 + 2**-9), one, dtype="float16").max_ulp == 2
        assert compare_tensors(one * np.float32(1 + 2**-7), one, dtype="bfloat16").max_ulp == 1

    def test_one_percent_far_off_does_not_lift_the_percentile(self) -> None:
        reference = np.ones(960, np.float16)
        candidate = reference.copy()
        candidate[:9] += np.float16(0.5)  # fewer than 1 %, and the first to be seen
        candidate[96:] += np.float16(3 * 2**-10)
        assert compare_tensors(candidate, reference).p99_ulp == 3

    def test_across_zero_both_sides_count(self) -> None:
        tiny = np.array([5e-324])
        assert compare_tensors(-2 * tiny, tiny).max_ulp == 3
        half = np.full(1, np.finfo(np.float16).smallest_subnormal, np.float16)
        assert compare_tensors(half, -half).max_ulp == 2

    def test_largest_possible_distance(self) -> None:
        largest = np.array([np.finfo(np.float32).max])
        assert compare_tensors(largest, -largest).max_ulp == 2 * 0x7F7FFFFF

    def test_overflow_is_one_step_beyond_the_largest_number(self) -> None:
        found = compare_tensors(
            np.array([65504.0], np.float32), np.array([70000.0], np.float32), dtype="float16"
        )
        assert found.max_ulp == 1


class TestTopK:
    def test_share_of_the_largest_that_agree(self) -> None:
        reference = np.array([[1, 2, 3, 4], [4, 3, 2, 1]], np.float32)
        candidate = np.array([[1, 2, 5, 4], [4, 3, 2, 1]], np.float32)
        assert compare_tensors(candidate, reference).topk_agreement == 0.5
        assert compare_tensors(candidate, reference, options=CompareOptions(topk=2)).topk_agreement == 1
        assert compare_tensors(candidate, reference, options=CompareOptions(topk=3)).topk_agreement == 1
        assert compare_tensors(candidate, reference, options=CompareOptions(topk=0)).topk_agreement is None

    def test_of_equal_elements_the_first_are_the_largest(self) -> None:
        assert compare_tensors(np.array([3.0, 3.0]), np.array([2.0, 3.0])).topk_agreement == 0
        assert compare_tensors(np.array([3.0, 3.0]), np.array([3.0, 2.0])).topk_agreement == 1

    @pytest.mark.parametrize("k", [1, 2])
    def test_a_constant_candidate_does_not_agree_with_everything(
        self, k: int, rng: np.random.Generator
    ) -> None:
        reference = rng.standard_normal((200, 10)).astype(np.float32)
        found = compare_tensors(np.zeros_like(reference), reference, options=CompareOptions(topk=k))
        assert found.topk_agreement == pytest.approx(k / 10, abs=0.1)

    def test_does_not_apply_to_integers_nor_to_rows_that_are_too_short(self) -> None:
        assert compare_tensors(np.arange(3), np.arange(3)).topk_agreement is None
        assert compare_tensors(np.ones((3, 1)), np.ones((3, 1))).topk_agreement is None
        assert compare_tensors(np.ones(5), np.ones(5), options=CompareOptions(topk=5)).topk_agreement is None

    def test_nan_never_is_among_the_largest(self) -> None:
        reference = np.array([[1, 2, 3], [1, np.nan, 3]], np.float32)
        assert compare_tensors(reference, reference).topk_agreement == 1
        candidate = np.array([[1, 2, np.nan], [1, np.nan, 3]], np.float32)
        assert compare_tensors(candidate, reference).topk_agreement == 0.5

    @settings(max_examples=60)
    @given(
        rows=st.integers(1, 4),
        columns=st.sampled_from([2, 5, 31, 96, 97, 200, 500]),
        k=st.integers(1, 6),
        noise=st.sampled_from([0.0, 0.1, 3.0]),
        decimals=st.sampled_from([0, 1, 6]),
        seed=st.integers(0, 2**16),
    )
    def test_rows_longer_than_a_tile_count_like_short_ones(
        self, rows: int, columns: int, k: int, noise: float, decimals: int, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        reference = rng.standard_normal((rows, columns)).astype(np.float32)
        candidate = (
            (reference + noise * rng.standard_normal((rows, columns))).astype(np.float32).round(decimals)
        )
        found = compare_tensors(candidate, reference, options=CompareOptions(topk=k)).topk_agreement
        if columns <= k:
            assert found is None
            return
        best = [
            [set(np.argsort(-row, kind="stable")[:k]) for row in array] for array in (candidate, reference)
        ]
        shares = [len(c & r) / k for c, r in zip(*best, strict=True)]
        assert found == pytest.approx(np.mean(shares))


class TestIntegersAndBools:
    @pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64", ml_dtypes.int4])
    def test_differences_are_exact(self, dtype: Any) -> None:
        info = ml_dtypes.iinfo(dtype)
        reference = np.array([0, info.max, info.min, 3], dtype)
        found = compare_tensors(np.array([0, info.max - 1, info.min, 3], dtype), reference, dtype="float16")
        assert (found.max_abs, found.max_ulp, found.mismatch_fraction) == (1, 1, 0.25)
        assert found.worst_index == (1,)
        assert found.headroom >= 1
        everything = compare_tensors(reference[[1, 2]], reference[[2, 1]])
        assert everything.max_ulp == float(int(info.max) - int(info.min))

    def test_tolerances_do_not_apply(self) -> None:
        options = CompareOptions(atol=10, rtol=1)
        assert compare_tensors(np.array([5, 6]), np.array([5, 7]), options=options).mismatch_fraction == 0.5

    def test_widths_may_differ(self) -> None:
        wide = np.array([1, 2**40])
        assert compare_tensors(np.array([1, 3], np.int32), wide).max_ulp == 2**40 - 3

    def test_bools(self) -> None:
        found = compare_tensors(np.array([True, False, True]), np.array([True, True, True]))
        assert found.mismatch_fraction == pytest.approx(1 / 3)
        assert found.worst_index == (1,)


class TestIncomparable:
    @pytest.mark.parametrize(
        ("candidate", "reference"),
        [((3,), (3, 1)), ((3,), (1,)), ((), (1,)), ((0,), (2,)), ((2, 5), (2, 0))],
    )
    def test_another_shape_is_an_infinite_error_and_never_broadcast(
        self, candidate: tuple[int, ...], reference: tuple[int, ...]
    ) -> None:
        for dtype in (np.float32, np.int64, bool):
            found = compare_tensors(np.ones(candidate, dtype), np.ones(reference, dtype))
            assert (found.shape, found.reference_shape) == (candidate, reference)
            assert found.incomparable == f"shape {candidate} instead of {reference}"
            errors = found.max_abs, found.mean_abs, found.max_rel, found.rmse, found.nrmse, found.max_ulp
            assert set(errors) == {math.inf}
            assert (found.mismatch_fraction, found.sqnr_db) == (1.0, -math.inf)
            assert math.isnan(found.cosine)

    def test_what_can_be_said_of_the_reference_and_the_candidate_is_said(self) -> None:
        found = compare_tensors(np.array([np.nan, np.inf, 1.0, 2.0]), np.array([3.0, -4.0]), dtype="float16")
        assert (found.reference_rms, found.reference_max) == (pytest.approx(math.sqrt(12.5)), 4.0)
        assert (found.nan_count, found.inf_count, found.nonfinite, found.count) == (1, 1, 0, 2)

    def test_one_sample_of_another_shape_or_not_computed_spoils_all(self) -> None:
        shapes, failure = Accumulator(), Accumulator()
        for sums in (shapes, failure):
            sums.update(np.ones(3), np.ones(3))
        shapes.update(np.ones(2), np.ones(4))
        failure.fail(np.ones(4), "a node fails")
        assert shapes.result().incomparable == "shape (2,) instead of (4,)"
        assert failure.result().incomparable == "not computed: a node fails"
        assert {shapes.result().nrmse, failure.result().nrmse} == {math.inf}
        assert shapes.result().shape == (2,)
        shapes.fail(np.ones(4), "a node fails")
        assert shapes.result().failure == "a node fails"
        assert shapes.result().count == 11

    def test_what_is_not_computed_has_the_reference_and_no_candidate(self) -> None:
        found = not_computed(np.array([3.0, -4.0]), "no such index", dtype="float16")
        assert (found.reference_max, found.nan_count, found.rmse) == (4.0, 0, math.inf)

    def test_the_names_of_what_is_incomparable_are_left_out_where_all_is_well(self) -> None:
        assert not {"shape", "reference_shape", "failure"} & set(
            to_json(compare_tensors(np.ones(2), np.ones(2)))
        )
        assert to_json(compare_tensors(np.ones(2), np.ones(3)))["shape"] == [2]


class TestMistakes:
    @pytest.mark.parametrize(
        ("candidate", "reference", "message"),
        [
            (np.ones(3), np.ones(3, int), "dtype float64, the reference int64"),
            (np.ones(3, bool), np.ones(3, np.uint8), "dtype bool, the reference uint8"),
            (np.ones(3, np.uint64), np.ones(3, np.int64), "dtype uint64, the reference int64"),
            (np.array(["a"]), np.array(["a"]), "cannot be compared"),
            (np.ones(3, complex), np.ones(3, complex), "'complex128' cannot be compared"),
            (np.ones(3, ml_dtypes.float8_e8m0fnu), np.ones(3), "'float8_e8m0fnu' cannot be compared"),
        ],
    )
    def test_pairs_that_cannot_be_compared(
        self, candidate: np.ndarray, reference: np.ndarray, message: str
    ) -> None:
        for function in (compare_tensors, Accumulator().update):
            with pytest.raises(InputDataError, match=message):
                function(candidate, reference)

    def test_a_refused_sample_leaves_the_accumulator_as_it_was(self) -> None:
        sums = Accumulator()
        sums.update(np.ones(3), np.ones(3))
        before = sums.result()
        with pytest.raises(InputDataError, match="do not add up"):
            sums.update(np.ones(3, int), np.ones(3, int))
        assert sums.result() == before

    def test_nothing_seen(self) -> None:
        with pytest.raises(UsageError, match="no sample"):
            Accumulator().result()

    @pytest.mark.parametrize("options", [{"atol": -1.0}, {"rtol": math.nan}, {"topk": -1}])
    def test_options_out_of_range(self, options: dict[str, Any]) -> None:
        with pytest.raises(UsageError):
            CompareOptions(**options)

    def test_storage_must_be_a_float(self) -> None:
        with pytest.raises(UsageError, match="float dtype"):
            compare_tensors(np.ones(2), np.ones(2), dtype="int8")
        with pytest.raises(InputDataError, match="did you mean 'float16'"):
            compare_tensors(np.ones(2), np.ones(2), dtype="flot16")


def test_worst_index_of_several_samples_is_that_of_the_worst() -> None:
    sums = Accumulator()
    zeros = np.zeros((2, 3), np.float32)
    for place_, error in (((0, 1), 1.0), ((1, 2), 3.0), ((1, 0), 3.0)):
        candidate = zeros.copy()
        candidate[place_] = error
        sums.update(candidate, zeros)
    assert sums.result().worst_index == (1, 2)


def test_a_value_that_is_not_finite_is_worse_than_any_error_of_another_sample() -> None:
    reference = np.zeros(3, np.float32)
    broken, far = np.array([0.5, 0, math.nan], np.float32), np.array([0, 1e6, 0], np.float32)
    for samples in itertools.permutations([broken, far]):
        sums = Accumulator()
        for candidate in samples:
            sums.update(candidate, reference)
        assert sums.result().worst_index == (2,)


def test_the_json_names_every_metric() -> None:
    found = compare_tensors(np.ones(3, np.float32), np.ones(3, np.float32))
    unlike = {"shape", "reference_shape", "failure", "slice_nrmse", "worst_slice"}
    unlike |= {"overflow_low", "overflow_high", "abs_quantile", "psnr_db"}
    names = [field.name for field in dataclasses.fields(Metrics) if field.name not in unlike]
    assert list(to_json(found)) == names

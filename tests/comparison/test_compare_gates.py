"""Gates, the default table, and how a case's tolerances replace it."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest

from harness.case import MetricLimits, Tolerance, merge_tolerances
from harness.comparison import (
    DEFAULT_GATES,
    LOWER_BOUNDED,
    Accumulator,
    CompareOptions,
    Gate,
    GateResult,
    Metrics,
    apply_gates,
    compare_tensors,
    gates_for,
    map_error,
    options_for,
)
from harness.comparison.gates import UPPER_BOUNDED, default_gate
from harness.errors import UsageError
from harness.tensors import Precision, to_json

FP16 = Precision.FP16
REFERENCE = np.linspace(-1, 1, 1001, dtype=np.float32)
RMS = float(np.sqrt(np.mean(REFERENCE.astype(np.float64) ** 2)))


def metrics(error: float) -> Metrics:
    """Of a tensor with a constant error."""
    return compare_tensors(REFERENCE + np.float32(error), REFERENCE)


def resolve(*rules: Tolerance, emulated: Metrics | None = None, exact: bool = False) -> dict[str, float]:
    gates = gates_for(
        merge_tolerances(rules, FP16, tensor="logits", node="head", is_output=True),
        FP16,
        is_output=True,
        emulated_rmse=None if emulated is None else emulated.rmse,
        reference_rms=RMS,
        exact=exact,
    )
    return {gate.metric: gate.limit for gate in gates}


class TestGate:
    def test_the_limit_itself_passes(self) -> None:
        found = metrics(0.0)
        assert Gate("max_abs", 0).check(found).passed
        assert Gate("cosine", 1).check(found).passed

    def test_direction_depends_on_the_metric(self) -> None:
        found = metrics(0.5)
        assert not Gate("nrmse", 1e-2).check(found).passed
        assert not Gate("sqnr_db", 40).check(found).passed
        assert Gate("sqnr_db", -100).check(found).passed

    def test_nan_and_what_does_not_apply_never_pass(self) -> None:
        broken = compare_tensors(np.array([np.nan], np.float32), np.array([1], np.float32))
        assert math.isnan(broken.cosine)
        assert not Gate("cosine", -1).check(broken).passed
        result = Gate("topk_agreement", 0).check(broken)
        assert math.isnan(result.value)
        assert not result.passed

    def test_results_keep_the_order_and_are_plain(self) -> None:
        results = apply_gates(metrics(0.0), [Gate("nonfinite", 0), Gate("nrmse", 1e-2)])
        assert results[1] == GateResult("nrmse", 1e-2, 0.0, passed=True)
        assert to_json(results[0]) == {"metric": "nonfinite", "limit": 0, "value": 0.0, "passed": True}
        assert to_json(Gate("nrmse", 1)) == {"metric": "nrmse", "limit": 1}

    def test_unknown_metrics_and_nan_limits_are_refused(self) -> None:
        with pytest.raises(UsageError, match="did you mean 'nrmse'"):
            Gate("nrms", 1)
        with pytest.raises(UsageError, match="NaN"):
            Gate("nrmse", math.nan)

    def test_every_metric_of_the_registry_exists(self) -> None:
        assert {field.name for field in fields(Metrics)} >= UPPER_BOUNDED | LOWER_BOUNDED

    def test_every_limit_of_a_case_has_a_gate(self) -> None:
        limits = set(MetricLimits.model_fields) - {"atol", "rtol", "topk", "quantile", "relative"}
        assert limits <= UPPER_BOUNDED | LOWER_BOUNDED


class TestDefaults:
    def test_every_precision_has_a_row(self) -> None:
        assert set(DEFAULT_GATES) == set(Precision)

    def test_the_emulator_is_compared_with_its_bound(self) -> None:
        assert resolve() == {"nonfinite": 0, "nrmse": DEFAULT_GATES[FP16].bound}

    def test_an_engine_is_compared_with_the_emulator(self) -> None:
        row = DEFAULT_GATES[FP16]
        emulated = metrics(1e-3)
        limit = row.factor * emulated.rmse + row.floor * RMS
        assert resolve(emulated=emulated) == {"nonfinite": 0, "rmse": pytest.approx(limit)}

    @pytest.mark.parametrize(("is_output", "factor"), [(True, 1.5), (False, 2.0)])
    def test_a_layer_may_err_by_more_than_an_output(self, *, is_output: bool, factor: float) -> None:
        for precision in (FP16, Precision.BF16):
            gate = default_gate(precision, metrics(1e-3).rmse, RMS, is_output=is_output)
            floor = DEFAULT_GATES[precision].floor * RMS
            assert gate.limit == pytest.approx(factor * metrics(1e-3).rmse + floor)

    @pytest.mark.parametrize("error", [0.5, math.inf, math.nan])
    def test_a_fault_that_the_emulator_predicts_does_not_excuse_the_engine(self, error: float) -> None:
        row = DEFAULT_GATES[FP16]
        limit = (row.factor * row.bound + row.floor) * RMS
        assert resolve(emulated=metrics(error))["rmse"] == pytest.approx(limit)

    def test_a_zero_reference_asks_for_zeros(self) -> None:
        gates = gates_for(None, FP16, is_output=True, emulated_rmse=0.0, reference_rms=0.0)
        zeros = np.zeros(3, np.float32)
        assert all(result.passed for result in apply_gates(compare_tensors(zeros, zeros), gates))
        assert not all(
            result.passed for result in apply_gates(compare_tensors(zeros + np.float32(1e-9), zeros), gates)
        )

    def test_integers_must_be_equal(self) -> None:
        assert resolve(exact=True) == {"nonfinite": 0, "mismatch_fraction": 0}

    def test_non_finite_values_fail_whatever_the_gates(self) -> None:
        broken = compare_tensors(np.array([np.inf, 1], np.float32), np.array([1, 1], np.float32))
        gates = gates_for(Tolerance(mismatch_fraction=1.0), FP16, is_output=True, reference_rms=1.0)
        assert [(result.metric, result.passed) for result in apply_gates(broken, gates)] == [
            ("nonfinite", False),
            ("mismatch_fraction", True),
        ]


class TestTolerances:
    def test_a_matching_rule_replaces_the_default(self) -> None:
        assert resolve(Tolerance(cosine=0.99)) == {"nonfinite": 0, "cosine": 0.99}

    def test_a_rule_for_something_else_leaves_the_default(self) -> None:
        assert resolve(Tolerance(output=("boxes",), cosine=0.99)) == resolve()
        assert resolve(Tolerance(precision=(Precision.BF16,), cosine=0.99)) == resolve()

    def test_all_matching_rules_are_merged_and_the_later_wins(self) -> None:
        rules = [
            Tolerance(nrmse=1e-2, max_abs=1.0),
            Tolerance(output=("log*",), nrmse=1e-3),
            Tolerance(layer=("head",), max_ulp=4.0),
        ]
        assert resolve(*rules) == {"nonfinite": 0, "nrmse": 1e-3, "max_abs": 1.0, "max_ulp": 4.0}

    def test_a_relative_rule_multiplies_the_emulators_error(self) -> None:
        rule = Tolerance.model_validate({"relative": {"factor": 3.0, "floor": 0.25}})
        emulated = metrics(0.5)
        assert resolve(rule, emulated=emulated)["rmse"] == pytest.approx(3 * emulated.rmse + 0.25)

    def test_a_relative_rule_has_no_limit_to_take_from_an_emulator_that_overflows(self) -> None:
        rule = Tolerance.model_validate({"relative": {"factor": 3.0}})
        assert resolve(rule, emulated=metrics(math.inf))["rmse"] == pytest.approx(
            3 * DEFAULT_GATES[FP16].bound * RMS
        )

    def test_a_relative_rule_leaves_the_emulator_its_default(self) -> None:
        rule = Tolerance.model_validate({"relative": {"factor": 3.0}})
        assert resolve(rule) == resolve()

    def test_options_come_from_the_same_rules(self) -> None:
        def options(*rules: Tolerance) -> CompareOptions:
            return options_for(merge_tolerances(rules, FP16, tensor="logits", is_output=True))

        assert options() == CompareOptions()
        assert options(Tolerance(nrmse=1.0)) == CompareOptions()
        assert options(Tolerance(atol=1e-3)) == CompareOptions(atol=1e-3, rtol=0)
        assert options(Tolerance(rtol=1e-3), Tolerance(topk=5)) == CompareOptions(atol=0, rtol=1e-3, topk=5)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 1.0])
def test_a_quantile_of_the_error_is_that_of_numpy_and_never_below(share: float) -> None:
    rng = np.random.default_rng(2)
    reference = rng.standard_normal((300, 40)).astype(np.float32)
    candidate = reference + rng.standard_normal((300, 40)).astype(np.float32) ** 3
    exact = np.quantile(np.abs(candidate.astype(np.float64) - reference), share, method="inverted_cdf")
    options = CompareOptions(quantile=share)
    whole = compare_tensors(candidate, reference, options=options).abs_quantile
    assert exact <= whole <= 1.009 * exact
    parts = Accumulator(options=options)
    for rows in (slice(0, 100), slice(100, 300)):
        parts.update(candidate[rows], reference[rows])
    assert parts.result().abs_quantile == whole


def test_an_element_that_is_not_finite_is_in_the_highest_quantiles_only() -> None:
    reference = np.ones(100, np.float32)
    candidate = reference.copy()
    candidate[7] = np.inf
    assert compare_tensors(candidate, reference, options=CompareOptions(quantile=0.99)).abs_quantile == 0
    assert (
        compare_tensors(candidate, reference, options=CompareOptions(quantile=1.0)).abs_quantile == math.inf
    )
    assert compare_tensors(candidate, reference).abs_quantile is None


def test_the_peak_signal_to_noise_ratio_is_that_of_polygraphy() -> None:
    from polygraphy.comparator import IterationResult, PsnrCompareFunc

    rng = np.random.default_rng(3)
    reference = rng.random((1, 3, 16, 16)).astype(np.float32)
    candidate = reference + rng.standard_normal(reference.shape).astype(np.float32) / 50
    compared = PsnrCompareFunc()(IterationResult({"y": reference}), IterationResult({"y": candidate}))
    assert compare_tensors(candidate, reference).psnr_db == pytest.approx(compared["y"].psnr, rel=1e-5)
    assert compare_tensors(reference, reference).psnr_db == math.inf


def test_the_gates_of_images_and_quantiles_are_those_of_the_case() -> None:
    rules = (Tolerance(psnr_db=40.0), Tolerance(abs_quantile=0.1, quantile=0.9))
    limits = merge_tolerances(rules, FP16, tensor="y", is_output=True)
    gates = gates_for(limits, FP16, is_output=True, reference_rms=1.0)
    assert {(gate.metric, gate.limit) for gate in gates} == {
        ("nonfinite", 0), ("psnr_db", 40.0), ("abs_quantile", 0.1)
    }  # fmt: skip
    options = options_for(limits)
    assert options.quantile == 0.9
    reference = np.ones(10, np.float32)
    metrics = compare_tensors(reference + np.float32(0.05), reference, options=options)
    passed = {result.metric: result.passed for result in apply_gates(metrics, gates)}
    assert passed == {"nonfinite": True, "psnr_db": False, "abs_quantile": True}


def test_the_map_of_an_error_shows_its_place_in_the_last_two_axes() -> None:
    reference = np.zeros((2, 100, 96), np.float32)
    candidate = reference.copy()
    candidate[1, 99, 0] = 3
    candidate[0, 0, 95] = np.nan
    found = map_error(candidate, reference, tensor="y", sample=0)
    assert found is not None
    cells = np.array(found.cells)
    assert cells.shape == (24, 48)
    assert cells[-1, 0] == 3
    assert cells[0, -1] == np.inf
    assert np.count_nonzero(cells) == 2
    small = map_error(np.float32([1, 2]), np.float32([1, 4]), tensor="y", sample=0)
    assert small is not None
    assert small.cells == ((0.0, 2.0),)
    assert map_error(np.zeros(3), np.zeros(4), tensor="y", sample=0) is None

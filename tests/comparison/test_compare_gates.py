"""Gates, the default table, and how a case's tolerances replace it."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest

from harness.case import Limits, Tolerance
from harness.comparison import (
    DEFAULT_GATES,
    LOWER_BOUNDED,
    CompareOptions,
    Gate,
    GateResult,
    Metrics,
    check,
    compare,
    gates_for,
    options_for,
)
from harness.comparison.gates import UPPER_BOUNDED
from harness.errors import UsageError
from harness.tensors import Precision, to_json

FP16 = Precision.FP16
REFERENCE = np.linspace(-1, 1, 1001, dtype=np.float32)
RMS = float(np.sqrt(np.mean(REFERENCE.astype(np.float64) ** 2)))


def metrics(error: float) -> Metrics:
    """Of a tensor with a constant error."""
    return compare(REFERENCE + np.float32(error), REFERENCE)


def resolve(*rules: Tolerance, emulated: Metrics | None = None, exact: bool = False) -> dict[str, float]:
    gates = gates_for(
        rules,
        precision=FP16,
        tensor="logits",
        node="head",
        is_output=True,
        metrics_of_emulator=emulated,
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
        broken = compare(np.array([np.nan], np.float32), np.array([1], np.float32))
        assert math.isnan(broken.cosine)
        assert not Gate("cosine", -1).check(broken).passed
        result = Gate("topk_agreement", 0).check(broken)
        assert math.isnan(result.value)
        assert not result.passed

    def test_results_keep_the_order_and_are_plain(self) -> None:
        results = check(metrics(0.0), [Gate("nonfinite", 0), Gate("nrmse", 1e-2)])
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
        limits = set(Limits.model_fields) - {"atol", "rtol", "topk", "relative"}
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

    @pytest.mark.parametrize("error", [0.5, math.inf, math.nan])
    def test_a_fault_that_the_emulator_predicts_does_not_excuse_the_engine(self, error: float) -> None:
        row = DEFAULT_GATES[FP16]
        limit = (row.factor * row.bound + row.floor) * RMS
        assert resolve(emulated=metrics(error))["rmse"] == pytest.approx(limit)

    def test_a_zero_reference_asks_for_zeros(self) -> None:
        gates = gates_for(
            (),
            precision=FP16,
            tensor="x",
            is_output=True,
            metrics_of_emulator=metrics(0.0),
            reference_rms=0.0,
        )
        zeros = np.zeros(3, np.float32)
        assert all(result.passed for result in check(compare(zeros, zeros), gates))
        assert not all(result.passed for result in check(compare(zeros + np.float32(1e-9), zeros), gates))

    def test_integers_must_be_equal(self) -> None:
        assert resolve(exact=True) == {"nonfinite": 0, "mismatch_fraction": 0}

    def test_non_finite_values_fail_whatever_the_gates(self) -> None:
        broken = compare(np.array([np.inf, 1], np.float32), np.array([1, 1], np.float32))
        gates = gates_for(
            [Tolerance(mismatch_fraction=1.0)], precision=FP16, tensor="x", is_output=True, reference_rms=1.0
        )
        assert [(result.metric, result.passed) for result in check(broken, gates)] == [
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
            return options_for(rules, precision=FP16, tensor="logits", is_output=True)

        assert options() == CompareOptions()
        assert options(Tolerance(nrmse=1.0)) == CompareOptions()
        assert options(Tolerance(atol=1e-3)) == CompareOptions(atol=1e-3, rtol=0)
        assert options(Tolerance(rtol=1e-3), Tolerance(topk=5)) == CompareOptions(atol=0, rtol=1e-3, topk=5)

"""How runs are arranged, and what is said of each."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from harness.comparison import GateResult
from harness.judge import Accumulators, Emulation, RunError, Verdict
from harness.report import attention, deciding_error
from harness.report.run.view import alike, explain, flags, gate_text, matrix
from harness.report.words import Statement
from harness.tensors import Accumulate, Precision
from harness.worker.protocol import EngineFacts, LayerInfo


def statements(result) -> dict[str, str]:
    return {statement.label: statement.text for statement in explain(result).statements if statement.label}


def test_rows_are_cases_and_candidates_and_columns_precisions(make_report, make_result) -> None:
    report = make_report(
        make_result(case="b", case_path="b", precision=Precision.BF16),
        make_result(case="b", case_path="b", precision=Precision.FP32),
        make_result(case="a", case_path="a", precision=Precision.FP32, candidate="trt-8.6.0"),
    )
    arranged = matrix(report)
    assert arranged.precisions == (Precision.FP32, Precision.BF16)
    assert [(row.case, row.candidate, len(row.runs)) for row in arranged.rows] == [
        ("b", "emulator", 2),
        ("a", "trt-8.6.0", 1),
    ]
    assert arranged.named


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (["f16f16_f16f16_f16"], "tactics add up in FP16"),
        (["f16f16_f16f32_f32"] * 2, "tactics add up in FP32"),
        (["f16f16_f16_f16", "f16f16_f16f32_f32", "f16f16_f16f16_f16"], "tactics add up in FP32 in 1 of 3"),
        (["f32f32_f32f32_f32", "bf16bf16_bf16f32_f32"], None),  # not of FP16
    ],
)
def test_what_tactics_add_up_in_stands_beside_what_was_assumed(
    groups: list[str], said: str | None, make_report, make_result
) -> None:
    layers = tuple(
        LayerInfo(f"layer{place}", tactic=f"sm80_xmma_gemm_{group}_tn_n_tilesize32x32x64")
        for place, group in enumerate([*groups, "sm50_xmma_pooling_fw_4d_FP16FP32NHWC_Average"])
    )
    run = make_result(
        precision=Precision.FP16,
        candidate="trt-8.6",
        facts=EngineFacts(layers=layers),
        emulation=Emulation(accumulate=Accumulate.FP16),
    )
    (row,) = matrix(make_report(run, replace(run, precision=Precision.FP32))).rows
    assert row.candidate == (f"trt-8.6 (FP16 sums assumed, {said})" if said else "trt-8.6")
    told = run.to_dict()["facts"].get("accumulators")
    assert (told is None) == (said is None)
    if said is not None:
        assert told["fp16"] + told["fp32"] == len(groups)


@pytest.mark.parametrize(
    ("tactic", "expected"),
    [
        ("ampere_h16816gemm_256x128_ldg8_stages_32x3_nn", Accumulators(1, 0)),
        ("ampere_fp16_s16816gemm_fp16_128x64_ldg8_f2f_stages_64x5_tn", Accumulators(0, 1)),
        ("ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_stages_64x5_tn", None),
    ],
)
def test_names_of_cublas_tactics_show_the_accumulator_too(tactic: str, expected: Accumulators | None) -> None:
    assert Accumulators.of(EngineFacts(layers=(LayerInfo("layer", tactic=tactic),))) == expected


def test_cases_of_one_name_in_two_folders_keep_rows_of_their_own(make_report, make_result) -> None:
    report = make_report(make_result(case_path="x/a.case.yaml"), make_result(case_path="y/a.case.yaml"))
    assert len(matrix(report).rows) == 2


def test_the_worst_run_of_a_row_gives_its_origin(make_report, make_result) -> None:
    report = make_report(
        make_result(precision=Precision.FP32),
        make_result(Verdict.FAIL),
        make_result(precision=Precision.BF16),
    )
    (row,) = matrix(report).rows
    assert row.worst_run.verdict is Verdict.FAIL
    assert [layer.node for layer in row.origins] == ["b7_sq"]


def test_only_what_is_unexpected_asks_for_attention_worst_first(make_report, make_result) -> None:
    report = make_report(*[make_result(verdict) for verdict in Verdict])
    assert [result.verdict for result in attention(report)] == [Verdict.ERROR, Verdict.FAIL, Verdict.XPASS]


def test_a_mistake_that_stops_all_runs_of_a_case_is_reported_once(make_report, make_result) -> None:
    runs = [
        make_result(Verdict.ERROR, mistake=True, detail="no such file", precision=precision)
        for precision in Precision
    ]
    assert len(attention(make_report(*runs))) == 1


def test_mistakes_come_after_what_says_something_of_a_candidate(make_report, make_result) -> None:
    missing = make_result(Verdict.ERROR, mistake=True, case="missing")
    failed = make_result(Verdict.FAIL)
    report = make_report(missing, make_result(Verdict.XPASS, case="odd"), failed, make_result())
    assert [result.case for result in attention(report)] == ["rmsnorm-overflow", "odd", "missing"]
    assert explain(missing).command == "", "to run it again says no more"


def test_runs_that_ended_with_the_same_error_are_explained_together(make_report, make_result) -> None:
    error = RunError("UsageError", "axis 0 of 'x' is dynamic", where="a", hint="give a shape")
    runs = [
        make_result(
            Verdict.ERROR,
            mistake=True,
            case=name,
            detail=f"{name}: dynamic",
            error=replace(error, where=name),
        )
        for name in "abc"
    ]
    other = make_result(Verdict.ERROR, mistake=True, error=replace(error, message="no such file"))
    (together, alone) = alike([*runs, other])
    assert [result.case for result in together] == ["a", "b", "c"]
    assert alone == (other,)
    explanation = explain(*together)
    assert explanation.headline == "3 cases: axis 0 of 'x' is dynamic (give a shape)"
    assert explanation.statements[0] == Statement("cases", "a, b, c")
    assert explain(*alone).headline == f"rmsnorm-overflow: {other.reason}"
    assert len(alike([make_result(), make_result()])) == 2, "without an error each stands alone"


def test_a_failure_says_what_where_and_what_next(make_result) -> None:
    said = statements(make_result(Verdict.FAIL))
    assert said["output"] == "y: nrmse 0.6 > 0.01; largest error 1.8 at [0, 3]"
    assert said["origin"] == (
        "node b7_sq (Pow): 12 of 1000 elements overflow; the reference reaches 2e5, 3.1× the largest float16"
    )
    explanation = explain(make_result(Verdict.FAIL))
    assert explanation.headline == "rmsnorm-overflow at fp16: y: nrmse 0.6 > 0.01"
    assert "cases/rmsnorm-overflow.case.yaml --precision fp16" in explanation.command


def test_an_origin_without_overflow_shows_its_gate(make_result, make_layer) -> None:
    layer = make_layer(3, 0.4, introduced=0.3, origin=True, node="norm", op="ReduceMean")
    said = statements(make_result(Verdict.FAIL, layers=(layer,)))
    assert said["origin"] == "node norm (ReduceMean): nrmse 0.4 > 0.01; alone it introduces nrmse 0.3"


def test_what_would_fit_did_not_overflow_when_it_becomes_infinite(make_result, make_layer) -> None:
    infinite = {"nonfinite": 7, "overflow_count": 7, "inf_count": 7}
    layer = make_layer(3, math.inf, origin=True, node="lg", op="Log", **infinite)
    said = statements(make_result(Verdict.FAIL, layers=(layer,)))
    assert said["origin"] == "node lg (Log): 7 of 1000 elements become infinite"
    assert flags(layer) == "ORIGIN, infinite"


def test_many_origins_are_counted(make_result, make_layer) -> None:
    layers = tuple(make_layer(place, 0.4, origin=True, node=f"n{place}") for place in range(30))
    texts = [statement.text for statement in explain(make_result(Verdict.FAIL, layers=layers)).statements]
    assert "and 26 more origins: n4, n5, n6, n7, n8, n9, n10, n11 …" in texts


def test_an_error_shows_the_end_of_its_evidence(make_result) -> None:
    evidence = tuple(f"line {place}" for place in range(40))
    result = make_result(Verdict.ERROR, outputs=(), layers=(), evidence=evidence)
    texts = [statement.text for statement in explain(result).statements]
    assert texts[-1] == "line 39"
    assert len(texts) == 12


def test_a_perturbed_observation_is_reported(make_result) -> None:
    assert "perturbed" in statements(make_result(Verdict.FAIL, faithful=False))
    assert "perturbed" not in statements(make_result(Verdict.FAIL, faithful=True))


def test_a_changed_golden_reference_is_no_fault_of_the_candidate(make_result) -> None:
    result = make_result(
        Verdict.FAIL, layers=(), golden="changed", detail="the reference is not the golden one"
    )
    assert list(statements(result)) == ["then"]
    assert explain(result).command == "harness run cases/rmsnorm-overflow.case.yaml --golden-update"


def test_warnings_are_part_of_an_explanation(make_result) -> None:
    assert statements(make_result(Verdict.FAIL, warnings=("golden differs",)))["warning"] == "golden differs"


@pytest.mark.parametrize(
    ("gate", "text"),
    [
        (GateResult("nrmse", 0.01, 0.6, False), "nrmse 0.6 > 0.01"),
        (GateResult("nrmse", 0.01, 0.001, True), "nrmse 1e-3 ≤ 0.01"),
        (GateResult("cosine", 0.99, 0.5, False), "cosine 0.5 < 0.99"),
        (GateResult("cosine", 0.99, 1.0, True), "cosine 1 ≥ 0.99"),
    ],
)
def test_a_gate_reads_as_a_comparison_that_is_true(gate: GateResult, text: str) -> None:
    assert gate_text(gate) == text


def test_an_output_that_is_not_finite_has_an_infinite_error(make_result, make_output) -> None:
    result = make_result(Verdict.FAIL, outputs=(make_output("y", 0.1, nonfinite=3),))
    assert deciding_error(result) == math.inf
    assert "3 of 1000 elements not finite" in statements(result)["output"]
    assert deciding_error(make_result(outputs=())) is None


def test_flags_say_what_is_remarkable(make_layer) -> None:
    assert flags(make_layer(0, 1e-4)) == ""
    assert flags(make_layer(0, 0.5)) == "diverged"
    assert (
        flags(make_layer(0, 0.5, origin=True, overflow_count=1, headroom=2.0))
        == "ORIGIN, overflow, out of range"
    )

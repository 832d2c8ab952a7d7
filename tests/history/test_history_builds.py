"""What came of each build: where a run fails and whether it may, its gates, and builds that compute differently."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from history_rows import engine_rows, frame, tensor_rows

import harness
from harness.history import (
    DriftOptions,
    DriftVerdict,
    FailsOn,
    Floors,
    JudgedTensor,
    RowKind,
    RunDrift,
    builds_text,
    gate_text,
    noise_text,
    place_text,
    tensor_text,
)
from harness.history.judgement.builds import BuildOutcome, Builds, differing_share
from harness.history.judgement.runs import compare_pair, pairs_of
from harness.history.judgement.tensors import JUDGED, judge_tensors, worst_of
from harness.history.store.engines import EngineRow, read_layers

NOISY = [1.00e-3, 1.01e-3, 0.99e-3]
NO = [False] * 3


def compare(*rows: list[dict[str, Any]]) -> RunDrift:
    records = frame(*rows)
    (pair,) = pairs_of(records, ("old", "new"))
    (run,) = compare_pair(records, pair, floors=Floors()).runs
    return run


def side(
    release: str, errors: list[float], passed: list[bool] | None = None, **facts: Any
) -> list[dict[str, Any]]:
    """The engine rows and the output rows of one release."""
    held = [True] * len(errors) if passed is None else passed
    engines = engine_rows(release, **facts)
    for row, held_in_build in zip(engines, held, strict=True):
        row |= {} if held_in_build or "verdict" in facts else {"verdict": "fail", "reason": "y: nrmse 1"}
    return [*engines, *tensor_rows(release, errors, passed=held)]


# --- where a run fails --------------------------------------------------------------------------------------


def test_a_run_that_fails_on_both_releases_does_not_drift_and_is_known_to_fail() -> None:
    run = compare(side("old", NOISY, NO), side("new", NOISY, NO))
    assert run.verdict is DriftVerdict.WITHIN_NOISE
    assert run.builds.fails_on is FailsOn.BOTH
    assert (run.builds.expected, run.fails_unexpectedly, run.builds.reason) == (False, True, "y: nrmse 1")


def test_an_overflow_on_both_releases_is_known_to_fail() -> None:
    run = compare(side("old", [math.inf] * 3, NO), side("new", [math.inf] * 3, NO))
    assert (run.verdict, run.builds.fails_on) == (DriftVerdict.WITHIN_NOISE, FailsOn.BOTH)


def test_expected_failures_differ_from_unexpected_ones() -> None:
    planted = {"verdict": "xfail", "reason": "fails as expected: planted"}
    expected = compare(side("old", NOISY, NO, **planted), side("new", NOISY, NO, **planted))
    assert (expected.builds.fails_on, expected.builds.expected) == (FailsOn.BOTH, True)
    assert (expected.fails_unexpectedly, expected.builds.reason) == (False, "fails as expected: planted")
    elsewhere = compare(side("old", NOISY, NO, **planted), side("new", NOISY, NO))
    assert elsewhere.fails_unexpectedly, "the case expects another failure than that of the newer release"


def test_a_gate_that_breaks_within_the_noise_fails_on_the_newer_release_alone() -> None:
    run = compare(side("old", NOISY), side("new", NOISY, [True, False, True]))
    assert (run.verdict, run.builds.fails_on) == (DriftVerdict.WITHIN_NOISE, FailsOn.NEWER)
    assert [build.failed for build in run.builds.new] == [False, True, False]
    assert run.fails_unexpectedly
    fixed = compare(side("old", [2e-2, 2.1e-2, 2e-2], NO), side("new", NOISY))
    assert (fixed.builds.fails_on, fixed.fails_unexpectedly) == (FailsOn.OLDER, False)


def test_what_fails_for_another_reason_than_its_gates_fails() -> None:
    golden = {"verdict": "fail", "reason": "the reference is not the golden one any more"}
    run = compare(side("old", NOISY), side("new", NOISY, **golden))
    assert (run.builds.fails_on, run.builds.reason) == (FailsOn.NEWER, golden["reason"])


def test_gates_decide_where_the_verdict_of_a_build_is_unknown() -> None:
    baseline = side("old", NOISY, NO, verdict="pass", reason=None)
    planted = {"verdict": "xfail", "reason": "fails as expected: planted"}
    run = compare(baseline, side("new", NOISY, NO, **planted))
    assert (run.builds.fails_on, run.builds.expected) == (FailsOn.BOTH, True)


def test_builds_that_could_not_be_judged_fail_nothing() -> None:
    run = compare(side("old", NOISY), engine_rows("new", verdict="error", reason="no engine"))
    assert (run.builds.new, run.builds.fails_on) == ((), FailsOn.NONE)


def test_real_runs_separate_expected_failures_from_others(tiny_cases, tmp_path: Path) -> None:
    report = harness.drift(
        tiny_cases("clean", "expected", "failing"),
        environments=["emulator:fp16,noise=0.2,seed=1", "emulator:fp16,noise=0.2,seed=2"],
        precisions=["fp16"],
        options=DriftOptions(repeats=2),
        history=tmp_path / "h",
    )
    found = {run.case: (run.builds.fails_on.value, run.builds.expected) for run in report.runs}
    assert found == {"clean": ("none", False), "expected": ("both", True), "failing": ("both", False)}
    document = {run["case"]: run for run in report.to_dict()["runs"]}
    assert (document["failing"]["fails_on"], document["failing"]["expected"]) == ("both", False)
    assert (document["expected"]["fails_on"], document["expected"]["expected"]) == ("both", True)
    assert [len(document["failing"]["builds"][one]) for one in ("old", "new")] == [2, 2]
    kept = harness.load_history(tmp_path / "h")
    row = kept[(kept["case"] == "failing") & (kept["kind"] == "output")].iloc[-1]
    worst = next(run.worst for run in report.runs if run.case == "failing")
    assert worst is not None
    assert (worst.gate, worst.limit) == (row["gate"], pytest.approx(row["limit"]))


# --- the gate behind a verdict ------------------------------------------------------------------------------


def judged(*rows: list[dict[str, Any]]) -> dict[str, Any]:
    table = frame(*rows)
    release = table["release"].to_numpy()
    (row,) = judge_tensors(table, release == "old", release == "new", Floors()).to_dict("records")
    return {str(name): value for name, value in row.items()}


def test_a_judgement_names_the_gate_with_its_limit_as_an_error() -> None:
    where = {"gate": "rmse", "limit": 2e-4, "reference_rms": 0.1}
    row = judged(tensor_rows("old", NOISY, **where), tensor_rows("new", NOISY, **where))
    assert (row["gate"], row["limit"], row["error_limit"]) == ("rmse", 2e-4, pytest.approx(2e-3))
    where = {"gate": "nrmse", "limit": 1e-2, "reference_rms": 0.1}
    row = judged(tensor_rows("old", NOISY, **where), tensor_rows("new", NOISY, **where))
    assert (row["gate"], row["error_limit"]) == ("nrmse", 1e-2)


def test_the_gate_that_fails_is_named_before_one_that_holds() -> None:
    where = {"gate": "rmse", "limit": 2e-4, "reference_rms": 0.1}
    new = tensor_rows("new", [1e-3, math.inf, 1e-3], passed=[True, False, True], **where)
    new[1] |= {"gate": "nonfinite", "limit": 0.0}
    row = judged(tensor_rows("old", NOISY, **where), new)
    assert (row["gate"], row["limit"]) == ("nonfinite", 0.0)
    assert math.isnan(row["error_limit"]), "it is no limit of an error"


def test_without_gates_in_the_rows_none_is_named() -> None:
    row = judged(tensor_rows("old", NOISY), tensor_rows("new", NOISY))
    assert (row["gate"], math.isnan(row["limit"]), math.isnan(row["error_limit"])) == (None, True, True)
    where = {"gate": "rmse", "limit": 2e-4, "reference_rms": 0.1}
    row = judged(tensor_rows("old", NOISY, **where), tensor_rows("new", NOISY, gate=None))
    assert row["gate"] == "rmse", "the older release's, where the newer one's is not known"


# --- the sample that the numbers are of ---------------------------------------------------------------------


def tensor(old: float, new: float, sample: int = 0, **changes: Any) -> JudgedTensor:
    values: dict[str, Any] = {
        **dict.fromkeys(JUDGED, math.nan),
        "release": "new",
        "case": "net",
        "precision": "fp16",
        "kind": RowKind.OUTPUT,
        "tensor": "y",
        "node": "y",
        "op": "Add",
        "verdict": DriftVerdict.IMPROVED,
        "noise": 1e-5,
        "floor": 1e-4,
        "gate": None,
        "zero_reference": False,
        **dict.fromkeys(("old_builds", "new_builds", "old_passed", "new_passed"), 3),
        **changes,
    }
    return JudgedTensor(**{**values, "old": old, "new": new, "sample": sample})


def test_the_numbers_of_a_run_are_those_of_its_worst_sample() -> None:
    further, larger = tensor(3.5e-4, 2.2e-7, 0), tensor(3.6e-4, 3.6e-7, 1)
    assert worst_of([further, larger]) is larger, "as the lines of progress name the largest error of all"
    worse = tensor(1e-5, 2e-4, 2, verdict=DriftVerdict.REGRESSED)
    assert worst_of([further, larger, worse]) is worse
    run = compare(
        engine_rows("old"), engine_rows("new"),
        *(tensor_rows("old", [level] * 3, sample=place) for place, level in enumerate((3.5e-4, 3.6e-4))),
        *(tensor_rows("new", [level] * 3, sample=place) for place, level in enumerate((2.2e-7, 3.6e-7))),
    )  # fmt: skip
    assert run.worst is not None
    assert (run.worst.sample, run.worst.old) == (1, pytest.approx(3.6e-4))
    assert [build.error for build in run.builds.old] == [pytest.approx(3.6e-4)] * 3
    assert "sample 1: error 3.6e-4 → 3.6e-7 (1,000 times smaller)" in run.reason


# --- builds that compute differently ------------------------------------------------------------------------


def structure(**precisions: str) -> str:
    return json.dumps(
        [{"name": node, "onnx_nodes": [node], "precision": name} for node, name in precisions.items()]
    )


def engines(*structures: str | None) -> list[EngineRow]:
    layers = [None if text is None else read_layers(text) for text in structures]
    return [EngineRow("run", build, "pass", layers=known) for build, known in enumerate(layers)]


FP16, FP32 = (structure(**dict.fromkeys("abcdefgh", name)) for name in ("fp16", "fp32"))


def test_builds_of_one_release_in_different_precisions_are_reported() -> None:
    old, new = side("old", NOISY, structure=FP32), side("new", NOISY, structure=FP16)
    old[2]["structure"] = FP16
    run = compare(old, new)
    assert (run.builds.differ, run.builds.old_differing, run.builds.new_differing) == (True, 1.0, 0.0)
    assert [build.layers for build in run.builds.old] == [{"fp32": 8}, {"fp32": 8}, {"fp16": 8}]
    alike = compare(side("old", NOISY, structure=FP32), side("new", NOISY, structure=FP16))
    assert not alike.builds.differ, "another precision on the newer release is a change of structure"


def test_a_few_nodes_in_another_precision_do_not_make_another_engine() -> None:
    one = structure(**{**dict.fromkeys("abcdefgh", "fp16"), "h": "fp32"})
    assert differing_share(engines(FP16, one, FP16)) == 1 / 8
    assert not Builds(old_differing=1 / 8).differ
    assert Builds(new_differing=1 / 4).differ
    assert differing_share(engines(None, FP16)) == 0.0
    assert differing_share(engines(structure(), FP16)) == 0.0


# --- words --------------------------------------------------------------------------------------------------


def test_no_noise_and_unknown_noise_are_put_into_words() -> None:
    assert noise_text(0.0) == "no noise: the builds of each release err alike"
    assert noise_text(math.nan) == "noise not measured"
    assert noise_text(5e-5) == "noise ±5e-5"


@pytest.mark.parametrize(
    ("gate", "text"),
    [
        ({"gate": "nrmse", "limit": 0.01, "error_limit": 0.01}, "gate nrmse ≤ 0.01"),
        ({"gate": "rmse", "limit": 2e-4, "error_limit": 1.8e-3}, "gate rmse ≤ 2e-4 (error ≤ 1.8e-3)"),
        ({"gate": "rmse", "limit": 3.11e-3, "error_limit": 3.12e-3}, "gate rmse ≤ 3.1e-3"),
        ({"gate": "cosine", "limit": 0.99}, "gate cosine ≥ 0.99"),
        ({"gate": "nonfinite", "limit": 0.0}, "gate: all finite,"),
        ({"gate": "shape", "limit": 0.0}, "gate: the same shape,"),
        ({"gate": "computed", "limit": 0.0}, "gate: computed,"),
        ({}, "gates"),
    ],
)
def test_a_gate_is_named_with_its_limit(gate: dict[str, Any], text: str) -> None:
    assert gate_text(tensor(1e-3, 1e-3, **gate)) == text.removeprefix("gate").strip("s:, ")
    failed = tensor(1e-3, 2e-2, verdict=DriftVerdict.NEW_FAILURE, new_passed=0, **gate)
    assert f"{text} held in 3 of 3 builds, now in 0 of 3" in tensor_text(failed)


def test_a_place_names_the_sample_where_it_is_measured_by_itself() -> None:
    assert place_text(tensor(1, 1, 1)) == "y (Add), sample 1"
    assert place_text(tensor(1, 1, -1, node="n")) == "y of node n (Add)"


def test_errors_of_builds_are_listed_or_given_as_a_range() -> None:
    def builds(*errors: float) -> list[BuildOutcome]:
        return [BuildOutcome(number, failed=False, error=error) for number, error in enumerate(errors)]

    assert builds_text(builds(5.8e-8, 5.6e-8, 3.5e-4)) == "5.8e-8, 5.6e-8, 3.5e-4"
    assert builds_text(builds(1e-3, 1e-3, 1e-3)) == "1e-3 in each of 3"
    assert builds_text(builds(*(1e-3 * n for n in range(1, 10)))) == "1e-3 to 9e-3 in 9"
    assert builds_text([]) == ""


def test_a_failure_that_the_case_expects_elsewhere_is_unexpected(tiny_cases, tmp_path: Path) -> None:
    (path,) = Path(tiny_cases("expected")).glob("*.case.yaml")
    text = path.read_text()
    for where, expected in (("emulator", True), ("tensorrt", False)):
        path.write_text(text.replace("expect: fail", f"expect: fail, where: {where}"))
        report = harness.drift(
            path, environments=["emulator:fp16", "emulator:fp16,seed=2"], history=tmp_path / where
        )
        found = {run.case: run.builds.expected for run in report.runs if run.builds.fails_on is FailsOn.BOTH}
        assert found == {"expected": expected}

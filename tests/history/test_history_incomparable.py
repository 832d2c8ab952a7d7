"""Drift where a release gives another shape, or cannot compute what the other can."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import pytest
from graphs import looked_up, picked_elements
from history_rows import engine_rows, frame, tensor_rows

import harness
from harness.history import DriftOptions, DriftReport, Floors, gate_text
from harness.history.judgement.runs import compare_pair, pairs_of
from harness.report.drift.view import explain

FINE, COARSE = "emulator:fp32", "emulator:fp16"


@pytest.fixture
def drift(tmp_path: Path):
    def run(proto: onnx.ModelProto, *releases: str) -> DriftReport:
        onnx.save(proto, tmp_path / "m.onnx")
        return harness.drift(
            tmp_path / "m.onnx",
            environments=releases,
            precisions=["fp32"],
            options=DriftOptions(repeats=2),
            history=tmp_path / "h",
        )

    return run


@pytest.mark.parametrize(
    ("proto", "output", "start", "gate"),
    [
        (picked_elements(), "picked", "far", "the same shape"),
        (looked_up(), "y", "size", "computed"),
    ],
)
def test_it_is_a_new_failure_and_the_way_back_a_fix(
    drift, proto: onnx.ModelProto, output: str, start: str, gate: str
) -> None:
    (run,) = drift(proto, FINE, COARSE).runs
    assert run.verdict == "new failure"
    assert run.worst.tensor == output
    assert gate_text(run.worst) == gate
    assert run.worst.new == math.inf
    assert start in {each.node for each in run.origins}
    (back,) = drift(proto, COARSE, FINE).runs
    assert back.verdict == "fixed"


@pytest.mark.parametrize("proto", [picked_elements(), looked_up()])
def test_two_builds_that_fail_alike_are_the_same(drift, proto: onnx.ModelProto) -> None:
    report = drift(proto, COARSE, f"{COARSE},seed=1")
    assert set(report.to_frame()["verdict"]) == {"same"}


@pytest.mark.parametrize("gate", ["rmse", "nonfinite"])
def test_an_all_zero_reference_is_not_reported_as_values_that_are_not_finite(gate: str) -> None:
    facts: dict[str, object] = {"reference_rms": 0.0, "gate": gate, "limit": 1e-3}
    rows = [tensor_rows(name, [math.inf] * 3, **facts) for name in ("old", "new")]
    records = frame(engine_rows("old"), engine_rows("new"), *rows)
    (pair,) = pairs_of(records, ("old", "new"))
    (run,) = compare_pair(records, pair, floors=Floors()).runs
    assert run.worst is not None
    assert run.worst.zero_reference
    text = {statement.label: statement.text for statement in explain(run).statements}["numbers"]
    if gate == "rmse":
        assert text.endswith(
            "error inf → inf (the reference is all zero: errors relative to it are infinite)"
        )
    else:
        assert text.endswith("error inf → inf, not finite on either side")

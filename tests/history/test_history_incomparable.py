"""Drift where a release gives another shape, or cannot compute what the other can."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import pytest
from graphs import looked_up, picked_elements

import harness
from harness.history import DriftOptions, DriftReport
from harness.history.telling import tell_gate

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
        (picked_elements(), "picked", "far", "gate: the shape of the reference,"),
        (looked_up(), "y", "size", "gate: that it can be computed,"),
    ],
)
def test_it_is_a_new_failure_and_the_way_back_a_fix(
    drift, proto: onnx.ModelProto, output: str, start: str, gate: str
) -> None:
    (run,) = drift(proto, FINE, COARSE).runs
    assert run.verdict == "new failure"
    assert run.worst.tensor == output
    assert tell_gate(run.worst) == gate
    assert run.worst.new == math.inf
    assert start in {each.node for each in run.origins}
    (back,) = drift(proto, COARSE, FINE).runs
    assert back.verdict == "fixed"


@pytest.mark.parametrize("proto", [picked_elements(), looked_up()])
def test_two_builds_that_fail_alike_are_the_same(drift, proto: onnx.ModelProto) -> None:
    report = drift(proto, COARSE, f"{COARSE},seed=1")
    assert set(report.to_frame()["verdict"]) == {"same"}

"""Outputs of which a mask fills a part: the rest has gates of its own."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import graph_model
from onnx import helper

from harness.backends import Computed
from harness.case import Tolerance
from harness.judge import TensorGates
from harness.model import load_model
from harness.tensors import Precision

MODEL = load_model(
    graph_model(
        [helper.make_node("Relu", ["x"], ["y"], name="relu")], inputs={"x": [4, 100]}, outputs={"y": [4, 100]}
    )
)
MASK = np.arange(100) < 50
REFERENCE = np.where(MASK, -1e4, np.random.default_rng(0).standard_normal((4, 100))).astype(np.float32)


def gates(
    factor: float, *tolerances: Tolerance, emulated: float | None = None, reference: np.ndarray = REFERENCE
) -> dict[str, bool]:
    """The gates that are on the error; the elements that are not masked are `factor` times what they should be."""

    def off(by: float) -> Computed:
        return Computed({"y": np.where(MASK, reference, reference * np.float32(by))})

    judged = TensorGates(MODEL, tolerances, Precision.FP16)
    (output,) = judged.judge(0, {"y": reference}, off(factor), None if emulated is None else off(emulated))
    others = ("nonfinite", "slice_nrmse")
    return {gate.metric: gate.passed for gate in output.gates if gate.metric not in others}


def test_an_error_behind_a_mask_fails() -> None:
    assert gates(1.0001) == {"nrmse": True, "unmasked_nrmse": True}
    assert gates(0.0) == {"nrmse": True, "unmasked_nrmse": False}


def test_without_a_mask_there_is_one_gate() -> None:
    assert gates(1.5, reference=np.abs(REFERENCE) % 7) == {"nrmse": False}


@pytest.mark.parametrize(("engine", "emulated", "holds"), [(1.004, 1.002, True), (1.02, 1.002, False)])
def test_an_engine_may_err_as_the_emulator_does_there(engine: float, emulated: float, holds: bool) -> None:
    assert gates(engine, emulated=emulated) == {"rmse": True, "unmasked_rmse": holds}


def test_limits_of_the_case_hold_there_too_and_those_on_other_metrics_are_checked_once() -> None:
    assert gates(1.05, Tolerance(nrmse=0.1)) == {"nrmse": True, "unmasked_nrmse": True}
    assert gates(1.05, Tolerance(nrmse=0.01, cosine=0.9)) == {
        "nrmse": True,
        "cosine": True,
        "unmasked_nrmse": False,
    }
    assert gates(1.5, Tolerance(max_abs=10.0)) == {"max_abs": True}


def test_an_output_of_another_shape_fails_for_that_alone() -> None:
    judged = TensorGates(MODEL, (), Precision.FP16)
    (output,) = judged.judge(0, {"y": REFERENCE}, Computed({"y": REFERENCE[:2]}), None)
    assert not output.passed
    assert not any(gate.metric.startswith("unmasked") for gate in output.gates)

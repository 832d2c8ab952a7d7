"""A case's tolerances reach the metrics, and integer outputs are judged by equality."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.judge import Verdict, run

CASE = """\
model: {path: model.onnx}
inputs: {x: {shape: [64, 8]}}
runs: [bf16]
"""


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A matrix product and its arg max, over columns so alike that bfloat16 confuses them."""
    weight = 1 + 1e-4 * np.random.default_rng(0).standard_normal((8, 16))
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["scores"], name="product"),
            helper.make_node("ArgMax", ["scores"], ["label"], name="choice", axis=1, keepdims=0),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 8])],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [64, 16]),
            helper.make_tensor_value_info("label", TensorProto.INT64, [64]),
        ],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    path = tmp_path / "labels.case.yaml"
    path.write_text(CASE)
    return path


def test_integer_outputs_must_be_equal(case: Path) -> None:
    (result,) = run(case).results
    scores, label = result.outputs
    assert scores.passed
    assert [gate.metric for gate in label.gates] == ["nonfinite", "mismatch_fraction"]
    assert not label.passed
    assert result.verdict is Verdict.FAIL, "one output that fails is enough"


def test_bools_must_be_equal(case: Path) -> None:
    model = onnx.load(case.with_name("model.onnx"))
    model.graph.node.append(helper.make_node("Less", ["scores", "bound"], ["small"], name="less"))
    model.graph.node.insert(0, helper.make_node("ReduceMean", ["x"], ["bound"], name="mean", keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("small", TensorProto.BOOL, [64, 16]))
    onnx.save(model, case.with_name("model.onnx"))
    small = run(case).results[0].outputs[-1]
    assert (small.tensor, [gate.metric for gate in small.gates]) == (
        "small",
        ["nonfinite", "mismatch_fraction"],
    )


@pytest.mark.parametrize(("atol", "passed"), [(1.0, True), (1e-6, False)])
def test_the_tolerance_behind_mismatch_fraction(case: Path, atol: float, passed: bool) -> None:
    case.write_text(f"{CASE}tolerances: [{{output: scores, atol: {atol}}}]\n")
    scores = run(case).results[0].outputs[0]
    assert [gate.metric for gate in scores.gates] == ["nonfinite", "mismatch_fraction"]
    assert scores.passed is passed


def test_the_k_behind_topk_agreement(case: Path) -> None:
    shares = []
    for k in (1, 15):
        case.write_text(f"{CASE}tolerances: [{{output: scores, topk: {k}, topk_agreement: 0.0}}]\n")
        shares.append(run(case).results[0].outputs[0].metrics.topk_agreement)
    assert shares[0] < 0.5 < shares[1]

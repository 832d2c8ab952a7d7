"""Outputs and layers that cannot be compared element by element: other shapes, and what could not be computed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import graph_model, looked_up, picked_elements
from onnx import helper

from harness.judge import RunResult, Verdict, run


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def judged(proto: onnx.ModelProto, precision: str = "fp16") -> RunResult:
    onnx.save(proto, "m.onnx")
    (result,) = run("m.onnx", precisions=[precision]).results
    return result


def test_an_output_of_another_shape_is_a_failure_that_names_both() -> None:
    result = judged(picked_elements())
    (output,) = result.outputs
    shape, expected = output.metrics.shape, output.metrics.reference_shape
    assert result.verdict is Verdict.FAIL
    assert not result.mistake
    assert shape is not None
    assert expected is not None
    assert shape < expected
    assert result.reason == f"picked: shape {shape} instead of {expected}"
    gate = output.gates[0]
    assert (gate.metric, gate.limit, gate.value, gate.passed) == ("shape", 0.0, np.inf, False)
    assert judged(picked_elements(), "fp32").verdict is Verdict.PASS


def test_the_json_names_the_shapes() -> None:
    document = json.loads(json.dumps(judged(picked_elements()).to_dict(), allow_nan=False))
    metrics = document["outputs"][0]["metrics"]
    assert metrics["nrmse"] == "inf"
    assert len(metrics["shape"]) == len(metrics["reference_shape"]) == 1


def test_a_layer_of_another_shape_is_an_origin() -> None:
    result = judged(picked_elements(summed=True))
    layers = {layer.node: layer for layer in result.layers}
    assert result.verdict is Verdict.FAIL
    assert result.outputs[0].metrics.shape is None
    assert [layer.node for layer in result.origins] == ["picked"]
    assert layers["ones"].diverged
    assert (layers["picked"].metrics.incomparable or "").startswith("shape (")


def test_an_expected_failure_may_be_one_of_shapes() -> None:
    onnx.save(picked_elements(), "m.onnx")
    Path("m.case.yaml").write_text(
        "model: {path: m.onnx}\n"
        "runs:\n  - {precision: fp16, expect: fail, reason: FP16 is too coarse, origin: picked}\n"
    )
    assert run("m.case.yaml").results[0].verdict is Verdict.XFAIL


def test_a_node_that_fails_on_the_candidate_alone_fails_what_is_computed_from_it() -> None:
    result = judged(looked_up())
    beside, output = result.outputs
    layers = {layer.node: layer for layer in result.layers}
    assert result.verdict is Verdict.FAIL
    assert not result.mistake
    assert beside.passed
    assert beside.metrics.nrmse < 1e-3
    assert output.gates[0].metric == "computed"
    assert result.reason.startswith("y: not computed: ONNX Runtime fails at read (Gather): ")
    assert "out of data bounds" in result.reason
    assert "input shapes" not in result.reason
    assert [layer.node for layer in result.origins] == ["large"]
    assert layers["read"].metrics.failure == layers["y"].metrics.failure == output.metrics.failure
    assert layers["size"].metrics.nrmse < 1e-3
    assert judged(looked_up(), "fp32").verdict is Verdict.PASS


def test_a_node_that_fails_in_the_reference_too_is_a_mistake() -> None:
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"], name="read")]
    table = np.zeros((3, 2), dtype=np.float32)
    proto = graph_model(
        nodes,
        inputs={"x": [4]},
        outputs={"y": [4, 2]},
        weights={"table": table},
        dtypes={"x": onnx.TensorProto.INT64},
    )
    onnx.save(proto, "m.onnx")
    Path("m.case.yaml").write_text(
        "model: {path: m.onnx}\ninputs: {x: {shape: [4], fill: {kind: constant, value: 7}}}\nruns: [fp32]\n"
    )
    (result,) = run("m.case.yaml").results
    assert result.verdict is Verdict.ERROR
    assert result.mistake
    assert "ONNX Runtime fails at read (Gather)" in result.reason
    assert "check the input shapes" in result.reason

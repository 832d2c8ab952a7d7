"""An output that only joins tensors is judged by each of them, and every tensor by its worst slice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import graph_model
from onnx import helper
from report_models import detection_head

from harness.case import Case, ModelSource
from harness.errors import CaseFileError
from harness.judge import RunResult, Verdict, Workbench, run
from harness.model import load_model


def judged(model: onnx.ModelProto, folder: Path, *, rules: str = "", precision: str = "fp16") -> RunResult:
    """What is said of a model at one precision, with a case around it if there are rules."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    if rules:
        path = folder / "model.case.yaml"
        path.write_text(f"model: {{path: model.onnx}}\nruns: [{precision}]\ntolerances: [{rules}]\n")
    (result,) = run(path, precisions=[precision]).results
    return result


def test_scores_beside_boxes_in_pixels_are_judged_by_themselves(tmp_path: Path) -> None:
    result = judged(detection_head(norm=True), tmp_path)
    (output,) = result.outputs
    assert output.metrics.nrmse < 0.01  # over boxes and scores together nothing is wrong
    assert result.verdict is Verdict.FAIL
    assert result.reason == "output0: nrmse of scores 0.808, limit 0.01"
    assert [layer.node for layer in result.origins] == ["cls_sq"]
    assert [(part.tensor, part.passed) for part in output.parts] == [("boxes", True), ("scores", False)]


def test_a_head_that_is_right_passes_with_all_its_parts(tmp_path: Path) -> None:
    result = judged(detection_head(), tmp_path)
    assert result.verdict is Verdict.PASS
    parts = result.outputs[0].parts
    assert [(part.tensor, part.passed) for part in parts] == [("boxes", True), ("scores", True)]


def moved(*nodes: onnx.NodeProto, shape: list[int | str]) -> onnx.ModelProto:
    """Two tensors of [2, 3, 4], `a` and `b`, and what `nodes` make of them."""
    first = [helper.make_node("Tanh", [f"x{k}"], [k], name=k) for k in "ab"]
    weights = {
        "flat": np.array([2, 12]),
        "starts": np.array([1]),
        "ends": np.array([2]),
        "axis": np.array([0]),
    }
    return graph_model(
        [*first, *nodes],
        inputs={"xa": [2, 3, 4], "xb": [2, 3, 4]},
        outputs={"y": shape},
        weights={name: value.astype(np.int64) for name, value in weights.items()},
    )


JOIN = helper.make_node("Concat", ["a", "b"], ["j"], name="j", axis=1)


@pytest.mark.parametrize(
    "nodes",
    [
        [JOIN, helper.make_node("Transpose", ["j"], ["y"], name="y", perm=[2, 0, 1])],
        [
            helper.make_node("Transpose", ["b"], ["t"], name="t", perm=[0, 2, 1]),
            helper.make_node("Transpose", ["a"], ["s"], name="s", perm=[0, 2, 1]),
            helper.make_node("Concat", ["s", "t"], ["y"], name="y", axis=2),
        ],
        [JOIN, helper.make_node("Slice", ["j", "starts", "ends", "axis"], ["y"], name="y")],
        [
            helper.make_node("Reshape", ["a", "flat"], ["s"], name="s"),
            helper.make_node("Reshape", ["b", "flat"], ["t"], name="t"),
            helper.make_node("Concat", ["s", "t"], ["c"], name="c", axis=1),
            helper.make_node("Cast", ["c"], ["y"], name="y", to=1),
        ],
    ],
    ids=["transposed", "transposed before", "sliced", "reshaped"],
)
def test_a_part_is_the_tensor_it_was(nodes: list[onnx.NodeProto]) -> None:
    model = load_model(moved(*nodes, shape=["n"] * (2 if nodes[-1].op_type == "Cast" else 3)), name="moved")
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((2, 3, 4)).astype(np.float32) for name in ("xa", "xb")}
    bench = Workbench(Case(name="moved", model=ModelSource(path="moved.onnx")), memory_budget=1 << 30)
    bench.model, bench.feeds = model, [feeds]
    found = bench.reference.run(
        feeds, ["y", "a", "b", *(name for name in ("s", "t") if model.producer(name))]
    )
    parts = bench.parts(0)["y"]
    bench.close()
    assert len(parts) == 2
    for part in parts:
        own = found[part.tensor]
        taken = part.of(found["y"])
        if taken.size < own.size:
            own = own[1:2]
        np.testing.assert_array_equal(taken, own)


def test_an_output_that_is_computed_has_no_parts(tmp_path: Path) -> None:
    nodes = [JOIN, helper.make_node("Relu", ["j"], ["y"], name="y")]
    result = judged(moved(*nodes, shape=[2, 6, 4]), tmp_path)
    assert result.outputs[0].parts == ()


def test_limits_can_be_for_a_slice_of_an_output(tmp_path: Path) -> None:
    boxes, scores = (
        f"{{output: output0, slice: '[:, {place}, :]', max_abs: 1.0e-9}}" for place in (":4", "4:")
    )
    result = judged(detection_head(), tmp_path, rules=scores)
    assert result.verdict is Verdict.FAIL
    assert result.reason.startswith("output0: max_abs of [:, 4:, :] ")
    failed = [gate for gate in result.outputs[0].gates if not gate.passed]
    assert [(gate.metric, gate.slice) for gate in failed] == [("max_abs", "[:, 4:, :]")]
    both = judged(detection_head(), tmp_path, rules=f"{boxes}, {scores}")
    assert len([gate for gate in both.outputs[0].gates if gate.slice in ("[:, :4, :]", "[:, 4:, :]")]) == 2


def test_the_limits_of_the_whole_stay_where_a_slice_has_its_own(tmp_path: Path) -> None:
    rule = "{output: output0, slice: '[:, 4:, :]', max_abs: 1.0e+9}"
    assert judged(detection_head(norm=True), tmp_path, rules=rule).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{output: y, slice: '[x]', nrmse: 0.1}", "'x' is not a slice of an axis"),
        ("{layer: y, slice: '[0]', nrmse: 0.1}", "`slice` is of outputs"),
        ("{slice: '[0]', nrmse: 0.1}", "`slice` is of outputs"),
        ("{output: output0, slice: '[0, 0, 0, 0]', nrmse: 0.1}", "has 3 axes"),
    ],
)
def test_a_mistake_in_a_slice_is_one_in_the_case(tmp_path: Path, rule: str, message: str) -> None:
    with pytest.raises(CaseFileError, match=message.replace("[", r"\[")):
        judged(detection_head(), tmp_path, rules=rule)


def test_a_lone_channel_that_is_wrong_fails_the_output(tmp_path: Path) -> None:
    """One of 256 channels has an epsilon that FP16 does not hold; over all of them the error is below the bound."""
    rng = np.random.default_rng(0)
    amount = np.zeros((256, 1), np.float32)
    amount[77] = 3001.0
    nodes = [
        helper.make_node("Add", ["x", "amount"], ["shift"], name="shift"),
        helper.make_node("Sub", ["shift", "amount"], ["unshift"], name="unshift"),
        helper.make_node("Mul", ["unshift", "size"], ["y"], name="y"),
    ]
    size = np.full((256, 1), 200.0, np.float32)
    size[77] = 90.0
    model = graph_model(
        nodes,
        inputs={"x": [256, 64]},
        outputs={"y": [256, 64]},
        weights={"amount": amount, "size": size * rng.uniform(0.9, 1.1)},
    )
    result = judged(model, tmp_path, precision="bf16")
    assert result.verdict is Verdict.FAIL
    assert [gate.slice for gate in result.outputs[0].gates if not gate.passed][-1:] == ["[77, :]"]


def test_a_slice_that_most_of_the_error_is_in_is_named_although_the_whole_fails(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    weights[:, 5] /= 3e4**2  # below FP16's numbers, and scaled up again behind
    back = np.where(np.arange(8) == 5, 3e4, 1.0).astype(np.float32)
    model = graph_model(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"], name="mm"),
            helper.make_node("Mul", ["m", "back"], ["s"], name="scale"),
            helper.make_node("Mul", ["s", "back"], ["y"], name="again"),
        ],
        inputs={"x": [64, 64]},
        outputs={"y": [64, 8]},
        weights={"w": weights, "back": back},
    )
    result = judged(model, tmp_path)
    assert result.verdict is Verdict.FAIL
    assert "worst in [:, 5], nrmse 1" in result.reason


def test_no_slice_is_named_where_the_error_is_all_over(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32) * np.float32(3e-8)
    model = graph_model(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"], name="mm"),
            helper.make_node("Mul", ["m", "back"], ["y"], name="scale"),
        ],
        inputs={"x": [64, 64]},
        outputs={"y": [64, 8]},
        weights={"w": weight, "back": np.float32([3e7])},
    )
    result = judged(model, tmp_path)
    assert result.verdict is Verdict.FAIL
    assert "worst in" not in result.reason

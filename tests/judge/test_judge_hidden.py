"""What is lost behind outputs that pass is said, with the place and why nothing is seen of it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import graph_model
from onnx import helper
from report_models import residual_norms
from rich.console import Console

from harness.judge import Hiding, Loss, RunReport, Verdict, find_hidden, run
from harness.model import load_model
from harness.report.run import print_report, run_markdown, run_page
from harness.tensors import Precision


def report_of(model: onnx.ModelProto, folder: Path, precision: str = "fp16") -> RunReport:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return run(path, precisions=[precision])


def test_norms_that_overflow_behind_a_residual_are_named(tmp_path: Path) -> None:
    report = report_of(residual_norms(), tmp_path)
    (result,) = report.results
    assert result.verdict is Verdict.PASS
    assert [(each.node, each.loss) for each in result.hidden] == [
        (f"b{index}_sq", Loss.OVERFLOW) for index in range(5)
    ]
    first = result.hidden[0]
    assert (first.by, first.how, first.overflows) == ("b0_add", Hiding.ADDED, True)
    assert first.times == pytest.approx(1000, rel=0.2)
    text = (
        "at b0_sq (Mul), 197 of 256 elements overflow; the reference reaches 1.3e7; no output shows it, because b0_add "
        "(Add) adds it to numbers that are 938 times as large; and 4 more places behind outputs that pass"
    )
    stream = io.StringIO()
    print_report(Console(file=stream, width=400), report)
    assert f"hidden fault in model: {text}" in stream.getvalue()
    assert f"Hidden: {text}" in run_page(report)
    plain = run_markdown(report).replace("\\", "")
    assert f"- hidden fault in model: {text}\n" in plain
    assert report.to_dict()["results"][0]["hidden"][0]["by"] == "b0_add"


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_where_nothing_is_lost_nothing_is_said(tmp_path: Path, precision: str) -> None:
    (result,) = report_of(residual_norms(), tmp_path, precision).results
    assert result.hidden == ()
    assert "hidden" not in result.to_dict()


def test_a_run_that_fails_has_origins_instead(tmp_path: Path) -> None:
    (result,) = report_of(residual_norms(last=1.0), tmp_path).results
    assert result.verdict is Verdict.FAIL
    assert result.hidden == ()
    assert "b4_sq" in [layer.node for layer in result.origins]


def through(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """`big` overflows FP16 for every input; `nodes` make `y` of it."""
    return graph_model(
        [helper.make_node("Mul", ["x", "gain"], ["big"], name="big"), *nodes],
        inputs={"x": [4, 32]},
        outputs={"y": [4, 32]},
        weights={
            "gain": np.float32(1e8),
            "no": np.zeros((4, 32), bool),
        },
    )


CASES = {
    Hiding.CHOSEN: [helper.make_node("Where", ["no", "big", "x"], ["y"], name="y")],
    Hiding.SATURATED: [
        helper.make_node("Tanh", ["big"], ["y"], name="y"),
    ],
}


@pytest.mark.parametrize("how", CASES, ids=str)
def test_it_is_said_why_no_output_shows_it(tmp_path: Path, how: Hiding) -> None:
    (result,) = report_of(through(*CASES[how]), tmp_path).results
    assert result.verdict is Verdict.PASS
    assert [(each.node, each.how) for each in result.hidden] == [("big", how)]


def test_an_output_that_is_no_float_shows_nothing_of_it(tmp_path: Path) -> None:
    model = through(helper.make_node("Greater", ["big", "x"], ["y"], name="y"))
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.BOOL
    (result,) = report_of(model, tmp_path).results
    assert [(each.node, each.how) for each in result.hidden] == [("big", Hiding.UNUSED)]


@pytest.mark.parametrize("factor", [1.0, 1e-9])
def test_what_no_output_is_computed_from_is_neither_hidden_nor_an_origin(
    tmp_path: Path, factor: float
) -> None:
    nodes = [
        helper.make_node("Constant", [], ["factor"], value_float=factor),
        helper.make_node("Neg", ["big"], ["nothing"], name="nothing"),
        helper.make_node("Mul", ["x", "factor"], ["y"], name="y"),
    ]
    (result,) = report_of(through(*nodes), tmp_path).results
    assert result.hidden == ()
    assert [layer.node for layer in result.origins] == ([] if factor == 1.0 else ["y"])


def test_a_mean_of_numbers_around_0_loses_nothing_that_matters(tmp_path: Path) -> None:
    """The mean of what was centred before is rounding alone, and it is subtracted from numbers of 1."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], name="m", axes=[-1], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["c"], name="c"),
        helper.make_node("ReduceMean", ["c"], ["again"], name="again", axes=[-1], keepdims=1),
        helper.make_node("Sub", ["c", "again"], ["y"], name="y"),
    ]
    model = graph_model(nodes, inputs={"x": [4, 32]}, outputs={"y": [4, 32]})
    (result,) = report_of(model, tmp_path).results
    lost = {layer.tensor: layer.metrics.nrmse for layer in result.layers}
    assert lost["again"] > 0.5
    assert result.hidden == ()


@pytest.mark.parametrize("fill", [-3.4e38, -1e9])
def test_the_fill_of_a_mask_is_meant_where_it_overflows(tmp_path: Path, fill: float) -> None:
    nodes = [
        helper.make_node("Add", ["x", "mask"], ["masked"], name="masked"),
        helper.make_node("Softmax", ["masked"], ["y"], name="y", axis=-1),
    ]
    mask = np.where(np.arange(32) < 8, np.float32(fill), np.float32(0))
    model = graph_model(nodes, inputs={"x": [4, 32]}, outputs={"y": [4, 32]}, weights={"mask": mask})
    (result,) = report_of(model, tmp_path).results
    assert result.verdict is Verdict.PASS
    assert [layer.metrics.overflow_count for layer in result.layers] == [32, 0]
    assert result.hidden == ()


def test_such_a_mask_is_no_origin_beside_one(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "gain"], ["big"], name="big"),
        helper.make_node("Mul", ["big", "less"], ["scores"], name="scores"),
        helper.make_node("Add", ["scores", "mask"], ["masked"], name="masked"),
        helper.make_node("Softmax", ["masked"], ["y"], name="y", axis=-1),
    ]
    weights = {
        "mask": np.where(np.arange(32) < 8, np.float32(-1e9), np.float32(0)),
        "gain": np.float32(1e6),
        "less": np.float32(1e-6),
    }
    model = graph_model(nodes, inputs={"x": [4, 32]}, outputs={"y": [4, 32]}, weights=weights)
    (result,) = report_of(model, tmp_path).results
    assert result.verdict is Verdict.FAIL
    assert [layer.node for layer in result.origins] == ["big"]


def test_what_was_not_observed_between_hides_no_reader(tmp_path: Path) -> None:
    (result,) = report_of(residual_norms(), tmp_path).results
    model = load_model(tmp_path / "model.onnx")
    ends = ("b0_sq", "b0_add")
    few = [layer for layer in result.layers if layer.tensor in ends]
    assert len(few) == 2
    assert [each.by for each in find_hidden(few, model, Precision.FP16)] == ["b0_add"]


def test_what_is_finite_and_lost_counts(tmp_path: Path) -> None:
    (result,) = report_of(through(*CASES[Hiding.CHOSEN]), tmp_path).results
    model = load_model(tmp_path / "model.onnx")
    finite = {"nonfinite": 0, "nan_count": 0, "inf_count": 0, "overflow_count": 0, "nrmse": 0.8}
    lost = [
        replace(layer, metrics=replace(layer.metrics, **finite)) if layer.tensor == "big" else layer
        for layer in result.layers
    ]
    assert [each.loss for each in find_hidden(lost, model, Precision.FP16)] == [Loss.LOST]


@pytest.mark.parametrize(("times", "told"), [(110, True), (300, True), (3000, False)])
def test_a_loss_is_told_down_to_one_step_of_the_precision_beside_what_it_is_added_to(
    tmp_path: Path, times: float, told: bool
) -> None:
    small = np.float32(1e-9)  # below FP16's numbers, and scaled up again
    model = graph_model(
        [
            helper.make_node("Mul", ["x", "small"], ["lost"], name="lost"),
            helper.make_node("Mul", ["lost", "up"], ["half"], name="half"),
            helper.make_node("Mul", ["half", "up"], ["back"], name="back"),
            helper.make_node("Mul", ["x", "times"], ["large"], name="large"),
            helper.make_node("Add", ["large", "back"], ["y"], name="add"),
        ],
        inputs={"x": [4, 32]},
        outputs={"y": [4, 32]},
        weights={
            "small": small,
            "up": np.float32(np.sqrt(1 / small)),
            "times": np.float32(times),
        },
    )
    (result,) = report_of(model, tmp_path).results
    assert result.verdict is Verdict.PASS
    assert [each.node for each in result.hidden] == (["lost"] if told else [])

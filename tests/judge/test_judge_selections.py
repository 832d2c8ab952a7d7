"""Nodes that choose by nearly equal numbers: their choice is judged as one, and what follows by the same choice."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import graph_model
from onnx import TensorProto, helper
from report_models import topk_head
from rich.console import Console

from harness.backends import Reference
from harness.diagnosis import DiagnosisVerdict, diagnose
from harness.judge import Given, RunReason, RunReport, RunResult, Verdict, compare, run
from harness.model import load_model, with_islands
from harness.report import print_report
from harness.tensors import Precision

RNG = np.random.default_rng(0)
INT64, FLOAT = TensorProto.INT64, TensorProto.FLOAT


def judged(model: onnx.ModelProto, folder: Path, precision: str = "fp16") -> RunResult:
    path = folder / "model.onnx"
    onnx.save(model, path)
    (result,) = run(path, precisions=[precision]).results
    return result


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_ranking_that_changes_by_near_ties_fails_nothing_behind_it(tmp_path: Path, precision: str) -> None:
    result = judged(topk_head(), tmp_path, precision)
    assert result.verdict is Verdict.PASS
    (selection,) = result.selections
    assert (selection.node, selection.op, selection.tensor) == ("top_scores", "TopK", "top_index")
    assert selection.changed > 1000
    assert selection.others < 5
    assert selection.steps is not None
    assert selection.steps < 3
    assert "the order of near ties changes at top_scores (TopK); " in result.reason
    gathered = next(layer for layer in result.layers if layer.tensor == "sorted_tokens")
    assert not gathered.diverged
    assert result.to_dict()["selections"][0]["node"] == "top_scores"


def test_near_ties_of_all_samples_are_told_once(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(topk_head(), path)
    given = Given(samples=3)
    report = run(path, precisions=["fp16"], given=given)
    (selection,) = report.results[0].selections
    assert selection.size == 3 * 5000
    said = "the order of near ties changes at top_scores (TopK)"
    assert shown(report).count(said) == shown(report, details=True).count(said) == 1
    found = diagnose(path, precision=Precision.FP16, given=given, journal=tmp_path / "journal")
    assert found.selections == (selection,)
    failing = replace(report.results[0], verdict=Verdict.FAIL, why=RunReason(detail="another output fails"))
    assert shown(replace(report, results=(failing,))).count(said) == 1


def shown(report: RunReport, **options: bool) -> str:
    """What the console says, in one line."""
    stream = io.StringIO()
    print_report(Console(file=stream, width=400), report, **options)
    return " ".join(stream.getvalue().split())


def test_a_few_boxes_with_the_same_set_say_so(tmp_path: Path) -> None:
    result = judged(topk_head(tokens=640, k=640), tmp_path)
    assert "the set is the same; gaps are" in result.reason


def test_a_diagnosis_fits_no_island_to_near_ties(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(topk_head(), path)
    found = diagnose(path, precision=Precision.FP16, journal=tmp_path / "journal")
    assert (found.verdict, found.culprits) == (DiagnosisVerdict.NONE, ())


def segmentation(gain: float = 1.0) -> onnx.ModelProto:
    """Classes of pixels, as an output of its own: logits of two classes are nearly alike."""
    w = (RNG.standard_normal((8, 4)) * gain).astype(np.float32)
    w[:, 1] = w[:, 0] * np.float32(1 + 1.5e-3)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["logits"], name="logits"),
        helper.make_node("ArgMax", ["logits"], ["classes"], name="classes", axis=-1, keepdims=0),
    ]
    return graph_model(
        nodes,
        inputs={"x": [400, 8]},
        outputs={"classes": [400]},
        weights={"w": w},
        dtypes={"classes": INT64},
    )


def test_pixels_between_two_classes_may_change_sides(tmp_path: Path) -> None:
    result = judged(segmentation(), tmp_path)
    assert result.verdict is Verdict.PASS
    (selection,) = result.selections
    assert 0 < selection.changed == selection.others
    assert selection.steps is not None
    assert "near ties change" in result.reason
    assert "of 400 answers of classes (ArgMax)" in result.reason


def test_a_choice_by_scores_that_are_wrong_is_no_near_tie(tmp_path: Path) -> None:
    result = judged(segmentation(gain=1e5), tmp_path)  # the logits overflow
    assert result.verdict is Verdict.FAIL
    assert result.selections == ()
    assert [layer.node for layer in result.origins] == ["logits"]


def test_a_threshold_that_near_ties_cross_changes_how_much_is_kept(tmp_path: Path) -> None:
    w = RNG.standard_normal((8, 1)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["score"], name="score"),
        helper.make_node("Reshape", ["score", "flat"], ["scores"], name="scores"),
        helper.make_node("Greater", ["scores", "half"], ["keep"], name="keep"),
        helper.make_node("NonZero", ["keep"], ["where"], name="where"),
        helper.make_node("Reshape", ["where", "flat"], ["index"], name="index"),
        helper.make_node("Gather", ["x", "index"], ["y"], name="y", axis=0),
    ]
    model = graph_model(
        nodes,
        inputs={"x": [4000, 8]},
        outputs={"y": ["n", 8]},
        weights={"w": w, "flat": np.array([-1]), "half": np.float32(0.5)},
    )
    result = judged(model, tmp_path, "bf16")
    assert result.verdict is Verdict.PASS
    assert [(each.node, each.op) for each in result.selections] == [("where", "NonZero")]
    assert result.selections[0].steps < 8


def suppressed() -> onnx.ModelProto:
    """600 boxes, of which NonMaxSuppression keeps some, whose rows go on to an output."""
    constants = {
        "box_w": RNG.standard_normal((8, 4)).astype(np.float32),
        "cls_w": RNG.standard_normal((8, 1)).astype(np.float32),
        "pixels": np.array(100.0, np.float32),
        "most": np.array([100], np.int64),
        "iou": np.array([0.5], np.float32),
        "least": np.array([0.6], np.float32),
        "column": np.array(2, np.int64),
        "out_w": RNG.standard_normal((4, 4)).astype(np.float32),
    }
    reads = {
        "box_lin": ("MatMul", ["x", "box_w"]),
        "box_sig": ("Sigmoid", ["box_lin"]),
        "boxes": ("Mul", ["box_sig", "pixels"]),
        "logit": ("MatMul", ["x", "cls_w"]),
        "score": ("Sigmoid", ["logit"]),
        "scores": ("Transpose", ["score"], {"perm": [0, 2, 1]}),
        "keep": ("NonMaxSuppression", ["boxes", "scores", "most", "iou", "least"]),
        "index": ("Gather", ["keep", "column"], {"axis": 1}),
        "kept": ("Gather", ["boxes", "index"], {"axis": 1}),
        "out": ("MatMul", ["kept", "out_w"]),
    }
    nodes = [
        helper.make_node(op, inputs, [name], name=name, **(more[0] if more else {}))
        for name, (op, inputs, *more) in reads.items()
    ]
    return graph_model(nodes, inputs={"x": [1, 600, 8]}, outputs={"out": [1, None, 4]}, weights=constants)


def test_boxes_that_are_kept_by_near_ties_are_a_choice_and_so_is_what_lies_behind(tmp_path: Path) -> None:
    result = judged(suppressed(), tmp_path, "bf16")
    assert result.verdict is Verdict.PASS
    (selection,) = result.selections
    assert (selection.node, selection.op) == ("keep", "NonMaxSuppression")
    assert selection.size <= 100, "rows, not their numbers"
    assert {"kept", "out"} <= {layer.node for layer in result.layers}
    assert not any(layer.diverged for layer in result.layers)


def test_a_fault_behind_a_choice_is_found_all_the_same(tmp_path: Path) -> None:
    model = topk_head(tokens=640, k=640)
    nodes = model.graph.node
    nodes[-1].output[0] = nodes[-1].name = "raw"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1e5), "huge"))
    nodes.append(helper.make_node("Mul", ["raw", "huge"], ["big"], name="big"))
    nodes.append(helper.make_node("Div", ["big", "huge"], ["features"], name="features"))
    result = judged(model, tmp_path)
    assert result.verdict is Verdict.FAIL
    assert [layer.node for layer in result.origins] == ["big"]


def codes(rows: int = 1500) -> onnx.ModelProto:
    """x → near → ArgMax → code → out = x + code."""
    weights = {
        "turned": RNG.standard_normal((8, 256)).astype(np.float32),
        "codes": RNG.standard_normal((256, 8)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "turned"], ["near"], name="near"),
        helper.make_node("ArgMax", ["near"], ["place"], name="choice", axis=1, keepdims=0),
        helper.make_node("Gather", ["codes", "place"], ["code"], name="code", axis=0),
        helper.make_node("Add", ["x", "code"], ["out"], name="out"),
    ]
    return graph_model(nodes, inputs={"x": [rows, 8]}, outputs={"out": [rows, 8]}, weights=weights)


def computed_elsewhere(model: onnx.ModelProto, folder: Path, spoil: float = 0.0) -> RunResult:
    """A run over saved outputs: what the model computes in FP16, with another order of summation."""
    onnx.save(model, folder / "model.onnx")
    loaded = load_model(folder / "model.onnx")
    typed = with_islands(loaded, Precision.FP16, frozenset())
    rng = np.random.default_rng(1)
    (info,) = loaded.inputs
    x = rng.standard_normal(info.shape).astype(np.float32)
    np.savez(folder / "x.npz", **{info.name: x})
    noisy = x * (1 + 1e-4 * rng.standard_normal(x.shape)).astype(np.float32)
    outputs = Reference(typed).run({info.name: noisy})
    if spoil:
        outputs = {
            name: np.roll(value, 7, axis=-2) if value.ndim > 1 else value for name, value in outputs.items()
        }
    np.savez(folder / "y.npz", **outputs)
    given = Given(data=(folder / "x.npz",))
    (result,) = compare(folder / "model.onnx", folder / "y.npz", precision="fp16", given=given).results
    return result


@pytest.mark.parametrize(
    "model", [topk_head(640, 500), topk_head(1200, 1200), codes()], ids=["topk", "sort", "argmax"]
)
def test_what_was_computed_elsewhere_is_judged_by_the_choice_that_its_outputs_show(
    tmp_path: Path, model: onnx.ModelProto
) -> None:
    result = computed_elsewhere(model, tmp_path)
    assert result.verdict is Verdict.PASS, result.reason
    (selection,) = result.selections
    assert selection.changed > 0
    assert "near ties" in result.reason


@pytest.mark.parametrize("model", [topk_head(640, 500), codes()], ids=["topk", "argmax"])
def test_rows_in_another_order_than_near_ties_allow_are_a_failure(
    tmp_path: Path, model: onnx.ModelProto
) -> None:
    result = computed_elsewhere(model, tmp_path, spoil=1.0)
    assert result.verdict is Verdict.FAIL
    assert not result.selections

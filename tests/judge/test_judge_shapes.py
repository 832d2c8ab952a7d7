"""The profile is run: its ends, batches against their rows, and what an export has written into the graph."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import graph_model
from onnx import helper
from rich.console import Console

from harness.backends import FileAsItIs, Plan
from harness.case import load_case
from harness.diagnosis import DiagnosisVerdict, diagnose
from harness.judge import Cause, JudgeOptions, ShapeFault, Verdict, Workbench, run
from harness.judge.checks import check_shapes
from harness.judge.results import Baked, Skipped, baked_text
from harness.report import diagnosis_markdown, print_report
from harness.report.diagnosis.words import statements
from harness.tensors import Precision

NODE = helper.make_node
PROFILE = """
model: {{path: net.onnx}}
inputs:
  x: {{shape: {shape}, min: {min}, max: {max}}}
runs: [fp32, fp16]
"""


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def judge(proto: onnx.ModelProto, shape: list[int], low: list[int], high: list[int], precision: str = "fp32"):
    onnx.save(proto, "net.onnx")
    Path("net.case.yaml").write_text(PROFILE.format(shape=shape, min=low, max=high))
    (result,) = run("net.case.yaml", precisions=precision).results
    return result


def baked_batch() -> onnx.ModelProto:
    """Models of public reports: queries tiled and sizes reshaped to the batch of 8 that was traced."""
    rng = np.random.default_rng(949)
    nodes = [
        NODE("ReduceMean", ["x"], ["pooled"], name="pool", axes=[2, 3], keepdims=0),
        NODE("MatMul", ["pooled", "w_wh"], ["valid"], name="valid_wh"),
        NODE("Reshape", ["valid", "n112"], ["wh"], name="rep_shape"),
        NODE("Tile", ["queries", "reps"], ["tiled"], name="tile_queries"),
        NODE("Unsqueeze", ["pooled", "one"], ["middle"], name="middle"),
        NODE("Add", ["tiled", "middle"], ["conditioned"], name="conditioned"),
        NODE("MatMul", ["conditioned", "w_b"], ["raw"], name="box_raw"),
        NODE("Unsqueeze", ["raw", "one"], ["box4"], name="box4"),
        NODE("Mul", ["box4", "wh"], ["scaled"], name="box_scaled"),
        NODE("Squeeze", ["scaled", "one"], ["y"], name="boxes"),
    ]
    weights = {
        "w_wh": rng.standard_normal((3, 2)).astype(np.float32),
        "n112": np.array([8, 1, 1, 2]),
        "queries": rng.standard_normal((1, 5, 3)).astype(np.float32),
        "reps": np.array([8, 1, 1]),
        "one": np.array([1]),
        "w_b": rng.standard_normal((3, 2)).astype(np.float32),
    }
    return graph_model(
        nodes, inputs={"x": ["batch", 3, 8, 8]}, outputs={"y": ["batch", 5, 2]}, weights=weights
    )


def folded_batch() -> onnx.ModelProto:
    """What torch.onnx makes of x.view(int(x.size(0)), -1), traced with one image."""
    nodes = [
        NODE("GlobalAveragePool", ["x"], ["pooled"], name="pool"),
        NODE("Reshape", ["pooled", "one_row"], ["y"], name="view"),
    ]
    return graph_model(
        nodes,
        inputs={"x": ["batch", 4, 8, 8]},
        outputs={"y": ["rows", "columns"]},
        weights={"one_row": np.array([1, -1])},
    )


def test_a_batch_that_was_baked_in_names_its_nodes_and_their_constants() -> None:
    result = judge(baked_batch(), [8, 3, 8, 8], [1, 3, 8, 8], [16, 3, 8, 8])
    assert (result.verdict, result.cause) == (Verdict.FAIL, Cause.SHAPE)
    assert [(each.which, each.fault) for each in result.shapes] == [
        ("minimum", ShapeFault.REFUSED),
        ("maximum", ShapeFault.REFUSED),
    ]
    assert [(each.node, each.constant) for each in result.shapes[0].baked] == [
        ("rep_shape", (8, 1, 1, 2)),
        ("tile_queries", (8, 1, 1)),
    ]
    assert result.reason.startswith(
        "the batch is written into rep_shape (Reshape to [8, 1, 1, 2]), tile_queries (Tile by [8, 1, 1]): "
        "export with -1, expand, or the size of the input; at the minimum (x [1, 3, 8, 8]) "
    )
    assert "onnxruntime_src" not in result.reason
    (smaller, _) = result.to_dict()["shapes"]
    assert (smaller["baked"][1]["op"], smaller["reason"]) == ("Tile", result.shapes[0].failure)


def test_runs_that_fail_for_another_shape_are_told_once_and_without_a_figure() -> None:
    wrong = judge(baked_batch(), [8, 3, 8, 8], [1, 3, 8, 8], [16, 3, 8, 8])
    onnx.save(baked_batch(), "net.onnx")
    report = run("net.onnx", precisions="fp32", inputs={"x": [8, 3, 8, 8]})
    report = replace(report, results=(wrong, replace(wrong, precision=Precision.FP16)))
    stream = io.StringIO()
    print_report(Console(file=stream, width=100, highlight=False), report)
    lines = stream.getvalue().splitlines()
    row = next(line for line in lines if line.startswith("net"))
    assert row.split() == ["net", "✗", "FAIL", "✗", "FAIL"], "its outputs pass"
    text = " ".join(stream.getvalue().split())
    assert text.count("the batch is written into rep_shape") == 1
    assert "✗ FAIL net at fp32 and fp16: the batch is written into rep_shape" in text
    assert text.count("at the maximum") == 1


def test_without_a_profile_a_baked_batch_is_a_warning() -> None:
    onnx.save(baked_batch(), "net.onnx")
    (result,) = run("net.onnx", precisions="fp32", inputs={"x": [8, 3, 8, 8]}).results
    assert result.verdict is Verdict.PASS
    assert "tile_queries (Tile by [8, 1, 1])" in result.warnings[0]


def test_a_view_that_folds_the_batch_advises_flatten() -> None:
    result = judge(folded_batch(), [4, 4, 8, 8], [1, 4, 8, 8], [8, 4, 8, 8])
    assert (result.verdict, result.cause) == (Verdict.FAIL, Cause.SHAPE)
    assert result.reason == (
        "the batch is written into view (Reshape to [1, -1]): export with flatten(1); "
        "at batch 4 (x [4, 4, 8, 8]) its 4 rows become one"
    )
    onnx.save(folded_batch(), "net.onnx")
    (plain,) = run("net.onnx", precisions="fp32", inputs={"x": [1, 4, 8, 8]}).results
    assert "flatten(1)" in plain.warnings[0]


@pytest.mark.parametrize(
    ("constants", "cure"),
    [
        ([(4, -1)], "flatten(1)"),
        ([(1, 12)], "flatten(1)"),
        ([(4, -1, 3)], "the size of the input"),
        ([(4, -1), (4, 2, 3)], "the size of the input"),
        ([(4, 2, 3)], "-1, expand, or the size of the input"),
    ],
)
def test_a_shape_that_has_its_minus_one_is_not_advised_another(
    constants: list[tuple[int, ...]], cure: str
) -> None:
    baked = tuple(Baked(f"view{at}", "Reshape", constant, "x") for at, constant in enumerate(constants))
    assert baked_text(baked).endswith(f"export with {cure}")


def rowwise() -> onnx.ModelProto:
    nodes = [
        NODE("LayerNormalization", ["x", "scale"], ["norm"], name="norm", axis=-1),
        NODE("MatMul", ["norm", "w"], ["y"], name="project"),
    ]
    weights = {
        "scale": np.ones(8, np.float32),
        "w": np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32),
    }
    return graph_model(nodes, inputs={"x": ["batch", 8]}, outputs={"y": ["batch", 8]}, weights=weights)


def across_the_batch() -> onnx.ModelProto:
    nodes = [
        NODE("ReduceMean", ["x"], ["mean"], name="mean", axes=[0], keepdims=1),
        NODE("Sub", ["x", "mean"], ["y"], name="centre"),
    ]
    return graph_model(nodes, inputs={"x": ["batch", 8]}, outputs={"y": ["batch", 8]})


def recurrent() -> onnx.ModelProto:
    """The first axis is time."""
    rng = np.random.default_rng(2)
    node = NODE("GRU", ["x", "w", "r"], ["all", ""], name="gru", hidden_size=4)
    squeeze = NODE("Squeeze", ["all", "axis"], ["y"], name="squeeze")
    weights = {
        "w": rng.standard_normal((1, 12, 8)).astype(np.float32) / 3,
        "r": rng.standard_normal((1, 12, 4)).astype(np.float32) / 2,
        "axis": np.array([1]),
    }
    return graph_model(
        [node, squeeze], inputs={"x": ["time", 1, 8]}, outputs={"y": ["time", 1, 4]}, weights=weights
    )


@pytest.mark.parametrize(
    ("proto", "rest"), [(rowwise(), [8]), (across_the_batch(), [8]), (recurrent(), [1, 8])]
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_sound_models_raise_no_alarm(proto: onnx.ModelProto, rest: list[int], precision: str) -> None:
    result = judge(proto, [4, *rest], [1, *rest], [16, *rest], precision)
    assert (result.verdict, result.shapes) == (Verdict.PASS, ())


def test_a_precision_that_fails_at_the_maximum_alone_fails() -> None:
    nodes = [NODE("ReduceSum", ["x"], ["y"], name="sum", keepdims=1)]
    proto = graph_model(nodes, inputs={"x": [1, "length"]}, outputs={"y": [1, 1]})
    onnx.save(proto, "net.onnx")
    Path("net.case.yaml").write_text(
        "model: {path: net.onnx}\nruns: [fp32, fp16]\n"
        "inputs: {x: {shape: [1, 16], min: [1, 16], max: [1, 4096], fill: 100.0}}\n"
    )
    results = run("net.case.yaml").results
    assert [result.verdict for result in results] == [Verdict.PASS, Verdict.FAIL]
    (wrong,) = results[1].shapes
    assert (wrong.which, wrong.fault) == ("maximum", ShapeFault.GATE)
    assert wrong.reason == "y: 1 of 1 element is not finite"


def test_shapes_beyond_the_budget_are_said_and_not_run() -> None:
    onnx.save(rowwise(), "net.onnx")
    Path("net.case.yaml").write_text(PROFILE.format(shape=[2, 8], min=[1, 8], max=[100_000, 8]))
    options = JudgeOptions(memory_budget=1 << 20)
    (result,) = run("net.case.yaml", precisions="fp32", options=options).results
    assert result.verdict is Verdict.PASS
    assert result.shapes[0].skipped is Skipped.MEMORY
    assert result.warnings[0].startswith("not run at the maximum (x [100000, 8]): it takes about 9")


class Uneven(FileAsItIs):
    """A candidate that gives the last of equal rows another value, as a kernel with a bad tail does."""

    def run(self, feeds, precision, **options):
        found = super().run(feeds, precision, **options)
        x = feeds["x"]
        if len(x) > 1 and (x == x[:1]).all():
            found["y"][-1] += 1
        return found


@pytest.mark.parametrize("candidate", [FileAsItIs, Uneven])
def test_equal_rows_that_differ_within_a_batch_are_a_failure(candidate: type[FileAsItIs]) -> None:
    onnx.save(rowwise(), "net.onnx")
    Path("net.case.yaml").write_text(PROFILE.format(shape=[4, 8], min=[1, 8], max=[8, 8]))
    bench = Workbench(load_case("net.case.yaml"), memory_budget=1 << 30)
    plan = Plan(Precision.FP32)
    faults = [each.fault for each in check_shapes(bench, candidate(bench.model), plan, Precision.FP32)]
    assert faults[-1] is (ShapeFault.EQUAL_ROWS if candidate is Uneven else None)
    assert not any(faults[:-1])


def test_a_shape_that_a_baked_batch_does_not_take_names_it_and_the_batch_that_runs() -> None:
    onnx.save(baked_batch(), "net.onnx")
    (result,) = run("net.onnx", inputs={"x": [1, 3, 8, 8]}, precisions="fp32").results
    assert result.error is not None
    assert "onnxruntime_src" not in result.error.message
    assert result.error.hint is not None
    assert result.error.hint.startswith("the batch is written into rep_shape (Reshape to [8, ")
    assert result.error.hint.endswith("it runs at batch 8 alone")


def test_a_diagnosis_says_that_another_shape_is_wrong_where_the_gates_hold() -> None:
    onnx.save(baked_batch(), "net.onnx")
    path = Path("net.case.yaml")
    path.write_text(
        "model: {path: net.onnx}\nruns: [fp16]\n"
        "inputs: {x: {shape: [8, 3, 8, 8], min: [1, 3, 8, 8], max: [16, 3, 8, 8]}}\n"
    )
    found = diagnose(path, precision="fp16", journal=Path("journal"))
    assert (found.verdict, found.exit_code) == (DiagnosisVerdict.SHAPE, 1)
    assert [each.which for each in found.shapes] == ["minimum", "maximum"]
    told = " | ".join(each.text for each in statements(found))
    assert told.count("the batch is written into") == 1
    assert "export with" not in told, "the advice says it"
    assert found.advice == (
        "export rep_shape and tile_queries with -1, expand, or the size of the input",
        "let harness mend the file, with a proof: harness check net.case.yaml --fix OUT.onnx",
    )
    assert f"### What to do\n\n- `{found.advice[0]}`\n" in diagnosis_markdown(found)

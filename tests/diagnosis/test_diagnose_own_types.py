"""Models that are partly float16 themselves: what they compute is the reference, unless that overflows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import graph_model, own_norm
from onnx import TensorProto, helper

from harness.backends import DoubleReference, Reference
from harness.backends.session import create_session
from harness.comparison import compare_tensors
from harness.diagnosis import DiagnosisVerdict, Subject, diagnose, diagnose_model
from harness.diagnosis.context import cut, make_bench
from harness.diagnosis.handover import emulated_model
from harness.judge import Cause, Verdict, run
from harness.model import Model, load_model, with_islands
from harness.report.diagnosis.words import meaning
from harness.tensors import Precision

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 64)).astype(np.float32)


def nrmse(model: Model, x: np.ndarray, expected: np.ndarray) -> float:
    """The error of a typed model, whose own types the reference keeps."""
    found = Reference(model).run({"x": x})["y"]
    return compare_tensors(found.astype(np.float32), expected.astype(np.float32), dtype="float32").nrmse


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16, Precision.TF32])
def test_a_file_whose_own_float16_overflows_is_itself_to_blame(tmp_path: Path, precision: Precision) -> None:
    model = load_model(own_norm(500.0), name="own")
    diagnosis = diagnose_model(model, [{"x": X}], precision, out=tmp_path)
    assert (diagnosis.verdict, diagnosis.exit_code) == (DiagnosisVerdict.FILE, 1)
    (origin,) = diagnosis.origins
    assert (origin.node, origin.op, origin.tensor) == ("sq", "Mul", "sq")
    assert origin.why.startswith("the file itself computes in float16 here, and values up to ")
    assert diagnosis.culprits == ()
    assert not diagnosis.recipes
    summary = "The file itself is at fault, at any precision: its own float16 makes y wrong: "
    assert diagnosis.summary.startswith(summary)
    assert diagnosis.advice[0].startswith("change the file: ")
    assert "around sq." in diagnosis.advice[0]
    assert meaning(diagnosis) == "roundings in the file itself make its outputs wrong"
    assert diagnosis.to_dict()["own_types"]


def test_a_file_whose_own_float16_makes_the_output_infinite_is_to_blame_as_well() -> None:
    model = load_model(own_norm(500.0, returned="wide"), name="own")
    diagnosis = diagnose_model(model, [{"x": X}], Precision.FP16)
    assert diagnosis.verdict is DiagnosisVerdict.FILE
    assert [origin.node for origin in diagnosis.origins] == ["sq"]
    assert diagnosis.advice[0].startswith("change the file: ")


def test_a_file_of_float16_throughout_is_to_blame_although_there_is_nothing_to_lower(tmp_path: Path) -> None:
    half = TensorProto.FLOAT16
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["sq"], name="sq"),
        helper.make_node("Sqrt", ["sq"], ["root"], name="root"),
        helper.make_node("Div", ["x", "root"], ["y"], name="y"),
    ]
    shapes = {"inputs": {"x": [4, 64]}, "outputs": {"y": [4, 64]}}
    onnx.save(graph_model(nodes, **shapes, dtypes={"x": half, "y": half}), tmp_path / "half.onnx")
    case = tmp_path / "half.case.yaml"
    fill = "{shape: [4, 64], fill: {kind: uniform, low: 500, high: 1000}}"
    case.write_text(f"model: {{path: half.onnx}}\ninputs: {{x: {fill}}}\nruns: [fp16]\n")
    diagnosis = diagnose(case, journal=tmp_path / "journal")
    assert diagnosis.verdict is DiagnosisVerdict.FILE
    assert [origin.node for origin in diagnosis.origins] == ["sq"]


def test_an_overflow_of_the_files_own_that_no_output_notices_is_only_evidence() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["low"], name="low", to=TensorProto.FLOAT16),
        helper.make_node("Exp", ["low"], ["exp"], name="exp"),
        helper.make_node("Min", ["exp", "most"], ["y16"], name="y16"),
        helper.make_node("Cast", ["y16"], ["y"], name="y", to=TensorProto.FLOAT),
    ]
    proto = graph_model(nodes, inputs={"x": [4, 64]}, outputs={"y": [4, 64]}, weights={"most": np.float16(8)})
    diagnosis = diagnose_model(load_model(proto, name="own"), [{"x": 8 * X}], Precision.FP16)
    assert diagnosis.verdict is DiagnosisVerdict.NONE
    assert diagnosis.before is not None
    assert diagnosis.before.warnings == ()
    assert diagnosis.evidence[0].text.startswith("exp (Exp) overflows the model's own float16: ")


def mixed() -> Model:
    """A product in float16, the root of a mean square in FP32, and a float16 output."""
    weight = RNG.standard_normal((64, 64)).astype(np.float16)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], name="product"),
        helper.make_node("Cast", ["product"], ["up"], name="up", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["up", "hundred"], ["big"], name="big"),
        helper.make_node("Mul", ["big", "big"], ["sq"], name="sq"),
        helper.make_node("ReduceMean", ["sq"], ["mean"], name="mean", axes=[1], keepdims=1),
        helper.make_node("Sqrt", ["mean"], ["root"], name="root"),
        helper.make_node("Div", ["big", "root"], ["norm"], name="norm"),
        helper.make_node("Cast", ["norm"], ["y"], name="y", to=TensorProto.FLOAT16),
    ]
    half = TensorProto.FLOAT16
    proto = graph_model(
        nodes,
        inputs={"x": [4, 64]},
        outputs={"y": [4, 64]},
        weights={"w": weight, "hundred": np.float32(100)},
        dtypes={"x": half, "y": half},
    )
    return load_model(proto, name="mixed")


def test_a_fault_of_the_fp32_part_is_cured_by_an_island_in_the_typed_model(tmp_path: Path) -> None:
    model, x = mixed(), X.astype(np.float16)
    diagnosis = diagnose_model(model, [{"x": x}], Precision.FP16, out=tmp_path)
    assert diagnosis.verdict is DiagnosisVerdict.PRECISION
    assert diagnosis.culprits == ("sq", "mean", "root")
    assert diagnosis.repro is not None
    assert diagnosis.repro.shows
    expected = Reference(model).run({"x": x})["y"]
    assert nrmse(load_model(tmp_path / "typed.onnx"), x, expected) < 1e-2
    assert nrmse(with_islands(model, Precision.FP16), x, expected) > 0.5


def test_a_part_that_ends_in_float16_makes_a_repro_that_runs(tmp_path: Path) -> None:
    model, x = mixed(), X.astype(np.float16)
    bench = make_bench(model, [{"x": x}])
    part = cut(Subject(bench, Precision.FP16, bench.emulator), ["sq", "mean", "root", "norm", "y"], 0)
    assert part.expected["y"].dtype == np.float16
    session = create_session(emulated_model(part.model, Precision.FP16, ["y"]), where="repro")
    (found,) = session.run(None, dict(part.feeds))
    np.testing.assert_array_equal(found, np.zeros((4, 64), np.float16), err_msg="divided by infinity")


def test_double_precision_keeps_what_the_file_rounds() -> None:
    model = load_model(own_norm(500.0))
    double = DoubleReference(model, ["sq", "y"]).run({"x": X}).tensors
    reference = Reference(model).run({"x": X}, ["sq", "y"])
    assert double["sq"].dtype == np.float16
    np.testing.assert_array_equal(np.isinf(double["sq"]), np.isinf(reference["sq"]))
    np.testing.assert_array_equal(double["y"], reference["y"])


def test_an_operator_without_a_double_kernel_keeps_what_the_file_rounds() -> None:
    half = TensorProto.FLOAT16
    weight = RNG.standard_normal((4, 3, 3, 3)).astype(np.float16)
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv")
    proto = graph_model(
        [node],
        inputs={"x": [1, 3, 8, 8]},
        outputs={"y": [1, 4, 6, 6]},
        weights={"w": weight},
        dtypes={"x": half, "y": half},
    )
    model, x = load_model(proto), RNG.standard_normal((1, 3, 8, 8)).astype(np.float16)
    double = DoubleReference(model)
    assert double.fp32_ops == ("Conv",)
    expected = Reference(model).run({"x": x})["y"]
    np.testing.assert_allclose(double.run({"x": x}).tensors["y"], expected, rtol=2e-3, atol=2e-3)


def test_a_divisor_that_the_files_own_types_make_0_is_the_files_fault(tmp_path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "tiny"], ["small"], name="small"),
        helper.make_node("Cast", ["small"], ["low"], name="low", to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["low"], ["wide"], name="wide", to=TensorProto.FLOAT),
        helper.make_node("Div", ["wide", "wide"], ["y"], name="y"),
    ]
    proto = graph_model(
        nodes, inputs={"x": [4, 8]}, outputs={"y": [4, 8]}, weights={"tiny": np.float32(1e-9)}
    )
    onnx.save(proto, tmp_path / "model.onnx")
    (result,) = run(tmp_path / "model.onnx", precisions="fp16").results
    assert (result.verdict, result.cause) == (Verdict.FAIL, Cause.FILE)
    assert "y is finite without the roundings that the file brings itself" in result.reason
    diagnosis = diagnose(tmp_path / "model.onnx", precision="fp16", journal=tmp_path / "journal")
    assert diagnosis.verdict is DiagnosisVerdict.FILE
    (origin,) = diagnosis.origins
    assert origin.node == "low"
    assert origin.why.startswith("values of up to ")
    assert origin.why.endswith(" become 0 in the file's own float16, and y divides by them")

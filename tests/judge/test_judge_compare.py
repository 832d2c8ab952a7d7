"""One ONNX file judged by another, by saved outputs, or by the PyTorch module that it came from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import graph_model
from onnx import TensorProto, helper, numpy_helper
from report_models import topk_head

import harness
from harness.errors import InputDataError, ReferenceNotFiniteError, UsageError
from harness.judge import Cause, Given, Verdict, compare, run
from harness.model import load_model, save_model, with_islands
from harness.tensors import Precision

SHAPE = {"image": [2, 3, 16, 16]}


def float_model(gain: float = 1.0) -> onnx.ModelProto:
    """Two convolutions, a square of `gain` times their result and its root, and a classifier."""
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("Conv", ["image", "k1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "k2"], ["c2"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["c2", "gain"], ["big"], name="scale"),
        helper.make_node("Mul", ["big", "big"], ["sq"], name="square"),
        helper.make_node("Sqrt", ["sq"], ["root"], name="root"),
        helper.make_node("Div", ["root", "gain"], ["small"], name="unscale"),
        helper.make_node("GlobalAveragePool", ["small"], ["pool"], name="pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], name="flatten"),
        helper.make_node("MatMul", ["flat", "w"], ["logits"], name="classify"),
    ]
    weights = {
        "k1": rng.standard_normal((8, 3, 3, 3)).astype(np.float32) / 5,
        "k2": rng.standard_normal((8, 8, 3, 3)).astype(np.float32) / 8,
        "gain": np.float32(gain),
        "w": rng.standard_normal((8, 10)).astype(np.float32),
    }
    return graph_model(
        nodes, inputs={"image": ["n", 3, 16, 16]}, outputs={"logits": ["n", 10]}, weights=weights
    )


def in_fp16(proto: onnx.ModelProto) -> onnx.ModelProto:
    """As converters do: float16 throughout, under other names, between Casts at the inputs and outputs."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    graph, nodes = copy.graph, []
    for tensor in graph.initializer:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        )
    new = {value.name: f"{value.name}_half" for value in graph.input}
    for name, half in new.items():
        nodes.append(helper.make_node("Cast", [name], [half], name=f"{name}_cast", to=TensorProto.FLOAT16))
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        new |= {name: f"{name}_half" for name in node.output}
        node.output[:] = [new[name] for name in node.output]
        node.name += "_half"
        nodes.append(node)
    for value in graph.output:
        cast = helper.make_node("Cast", [new[value.name]], [value.name], name="back", to=TensorProto.FLOAT)
        nodes.append(cast)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(copy, full_check=True)
    return copy


def simplified(proto: onnx.ModelProto) -> onnx.ModelProto:
    """As onnxslim leaves it: a product with 1 is gone, and nodes and tensors have other names."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    new = {"c2": "big"}
    for node in list(copy.graph.node):
        if node.name == "scale":
            copy.graph.node.remove(node)
            continue
        node.name = f"/slim/{node.name}"
        for names in (node.input, node.output):
            names[:] = [new.get(name, name) for name in names]
    for node in copy.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"slim_{name}" if name in ("big", "sq", "root", "flat") else name for name in names]
    onnx.checker.check_model(copy, full_check=True)
    return copy


@pytest.fixture
def files(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(float_model(), "float.onnx")
    return tmp_path


def only(report):
    (result,) = report.results
    return result


def test_a_file_converted_to_fp16_is_held_to_the_gates_of_fp16(files: Path) -> None:
    onnx.save(in_fp16(float_model()), "half.onnx")
    result = only(compare("float.onnx", "half.onnx", inputs=SHAPE))
    assert (result.verdict, result.precision, result.candidate) == (Verdict.PASS, Precision.FP16, "file")
    assert 1e-5 < result.worst.metrics.nrmse < 1e-2
    assert result.compared_with.by_name == 1
    assert result.compared_with.by_position == 11
    assert not result.compared_with.unpaired


def test_an_overflow_of_the_converted_file_starts_at_its_renamed_node(files: Path) -> None:
    onnx.save(float_model(1000.0), "float.onnx")
    onnx.save(in_fp16(float_model(1000.0)), "half.onnx")
    result = only(compare("float.onnx", "half.onnx", inputs=SHAPE))
    assert result.verdict is Verdict.FAIL
    (origin,) = result.origins
    assert (origin.node, origin.tensor, origin.counterpart) == ("square_half", "sq_half", "sq")


def test_a_run_is_compared_with_the_other_file_too(files: Path) -> None:
    onnx.save(float_model(1000.0), "float.onnx")
    onnx.save(in_fp16(float_model(1000.0)), "half.onnx")
    given = Given(reference="float.onnx")
    result = only(run("half.onnx", precisions="fp16", inputs=SHAPE, given=given))
    assert result.verdict is Verdict.FAIL
    assert [layer.node for layer in result.origins] == ["square_half"]
    alone = only(run("half.onnx", precisions="fp32", inputs=SHAPE))
    assert (alone.verdict, alone.cause) == (Verdict.FAIL, Cause.FILE)


def test_a_diagnosis_says_that_a_converted_file_is_at_fault(files: Path) -> None:
    onnx.save(float_model(1000.0), "float.onnx")
    onnx.save(in_fp16(float_model(1000.0)), "half.onnx")
    given = Given(reference="float.onnx")
    diagnosis = harness.diagnose("half.onnx", precision="fp16", inputs=SHAPE, given=given)
    assert diagnosis.verdict.value == "file"
    assert [origin.node for origin in diagnosis.origins] == ["square_half"]


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_quantised_file_passes_and_one_bad_scale_is_named(form: str, files: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Samples(CalibrationDataReader):
        def __init__(self) -> None:
            rng = np.random.default_rng(3)
            self.left = [{"image": rng.standard_normal((2, 3, 16, 16)).astype(np.float32)} for _ in range(4)]

        def get_next(self):
            return self.left.pop() if self.left else None

    quantize_static("float.onnx", "quantised.onnx", Samples(), quant_format=QuantFormat[form])
    result = only(compare("float.onnx", "quantised.onnx", inputs=SHAPE))
    assert (result.verdict, result.precision) == (Verdict.PASS, Precision.INT8)
    assert result.worst.metrics.nrmse > 1e-3
    if form == "QOperator":
        return
    proto = onnx.load("quantised.onnx")
    for tensor in proto.graph.initializer:
        if tensor.name == "c2_scale":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / 20, tensor.name))
    onnx.save(proto, "bad.onnx")
    result = only(compare("float.onnx", "bad.onnx", inputs=SHAPE))
    assert result.verdict is Verdict.FAIL
    assert [layer.node for layer in result.origins] == ["c2_DequantizeLinear"]


def test_a_simplified_file_is_the_same_within_fp32(files: Path) -> None:
    onnx.save(simplified(float_model()), "slim.onnx")
    result = only(compare("float.onnx", "slim.onnx", inputs=SHAPE))
    assert (result.verdict, result.precision) == (Verdict.PASS, Precision.FP32)
    paired = {layer.tensor: layer.counterpart for layer in result.layers}
    assert paired["slim_root"] == "root"
    assert paired["slim_flat"] == "flat"


def test_one_changed_weight_is_named_with_its_node(files: Path) -> None:
    proto = float_model()
    for tensor in proto.graph.initializer:
        if tensor.name == "k2":
            values = numpy_helper.to_array(tensor).copy()
            values[3, 2] *= 1.5
            tensor.CopyFrom(numpy_helper.from_array(values, "k2"))
    onnx.save(proto, "changed.onnx")
    result = only(compare("float.onnx", "changed.onnx", inputs=SHAPE))
    assert result.verdict is Verdict.FAIL
    assert [layer.node for layer in result.origins] == ["conv2"]
    assert list(result.compared_with.weights) == ["k2"]
    assert "other values in weight k2 (nrmse 0.0" in str(result.compared_with)
    document = result.to_dict()
    assert document["compared_with"]["weights"].keys() == {"k2"}
    json.dumps(document, allow_nan=False)


def test_saved_outputs_judge_and_are_judged(files: Path) -> None:
    from onnxruntime import InferenceSession

    image = np.random.default_rng(5).standard_normal((2, 3, 16, 16)).astype(np.float32)
    (logits,) = InferenceSession("float.onnx").run(None, {"image": image})
    np.savez("inputs.npz", image=image)
    np.savez("right.npz", logits=logits)
    np.savez("wrong.npz", logits=logits + 1)
    given = Given(data=("inputs.npz",))
    for pair, verdict, candidate in (
        (("right.npz", "float.onnx"), Verdict.PASS, "file"),
        (("float.onnx", "right.npz"), Verdict.PASS, "saved"),
        (("wrong.npz", "float.onnx"), Verdict.FAIL, "file"),
        (("float.onnx", "wrong.npz"), Verdict.FAIL, "saved"),
    ):
        result = only(compare(*pair, given=given))
        assert (result.verdict, result.candidate) == (verdict, candidate)
        assert not result.regions
        assert not result.warnings


def test_saved_outputs_that_are_not_finite_are_not_laid_on_the_file(files: Path) -> None:
    np.savez("inputs.npz", image=np.zeros((2, 3, 16, 16), np.float32))
    np.savez("saved.npz", logits=np.full((2, 10), np.nan, np.float32))
    given = Given(data=("inputs.npz",))
    result = only(compare("saved.npz", "float.onnx", given=given))
    assert result.reason == "logits: 20 of 20 elements are not finite in the reference, and finite here"
    result = only(compare("float.onnx", "saved.npz", given=given))
    assert result.reason == "logits: 20 of 20 elements are not finite"


def test_saved_outputs_of_unknown_inputs_are_warned_of(files: Path) -> None:
    np.savez("saved.npz", logits=np.zeros((2, 10), np.float32))
    result = only(compare("float.onnx", "saved.npz", inputs=SHAPE))
    assert "the inputs were drawn with seed 0" in result.warnings[0]


def test_what_cannot_be_compared_says_so(files: Path) -> None:
    with pytest.raises(UsageError, match="neither is an"):
        compare("a.npz", "b.npz")
    np.savez("saved.npz", other=np.zeros(3))
    with pytest.raises(InputDataError, match="holds none of the outputs logits, but other"):
        compare("float.onnx", "saved.npz", inputs=SHAPE)


def test_a_reference_that_is_not_sound_is_an_error(files: Path) -> None:
    onnx.save(float_model(1e30), "inf.onnx")
    result = only(compare("inf.onnx", "float.onnx", inputs=SHAPE))
    assert (result.verdict, result.error.kind) == (Verdict.ERROR, ReferenceNotFiniteError.__name__)
    assert "sq" in result.reason


def test_a_case_names_its_reference(files: Path) -> None:
    onnx.save(in_fp16(float_model()), "half.onnx")
    Path("half.case.yaml").write_text(
        "model: {path: half.onnx}\nreference: {path: float.onnx}\ninputs: {image: [2, 3, 16, 16]}\nruns: [fp16]\n"
    )
    result = only(run("half.case.yaml"))
    assert result.verdict is Verdict.PASS
    assert result.compared_with.reference == "float.onnx"
    assert harness.compare is compare


TORCH = """
import torch


class Gate(torch.nn.Module):
    def forward(self, x):
        if torch.onnx.is_in_onnx_export() and {broken}:
            return torch.relu(x)
        return torch.nn.functional.silu(x)


def gate():
    return Gate(), (torch.zeros(2, 8),)
"""


@pytest.mark.parametrize("broken", [False, True])
def test_an_export_is_compared_with_its_module_by_itself(broken: bool, files: Path) -> None:
    pytest.importorskip("torch")
    (files / "nets.py").write_text(TORCH.format(broken=broken))
    Path("gate.case.yaml").write_text("model: {torch: nets:gate}\nruns: [fp32]\n")
    result = only(run("gate.case.yaml"))
    assert result.verdict is (Verdict.FAIL if broken else Verdict.PASS)
    if broken:
        assert result.cause is Cause.EXPORT
        assert "the export does not compute what the PyTorch module does" in result.reason


def test_a_pytorch_module_is_the_reference_of_a_file(files: Path) -> None:
    pytest.importorskip("torch")
    (files / "nets.py").write_text(TORCH.format(broken=False))
    node = helper.make_node("Relu", ["x"], ["y"], name="relu")
    onnx.save(graph_model([node], inputs={"x": [2, 8]}, outputs={"y": [2, 8]}), "relu.onnx")
    Path("relu.case.yaml").write_text(
        "model: {path: relu.onnx}\nreference: {torch: nets:gate}\nruns: [fp32]\n"
    )
    result = only(run("relu.case.yaml"))
    assert result.verdict is Verdict.FAIL
    assert result.compared_with.reference == "nets:gate"


def test_near_ties_that_a_converted_file_orders_otherwise_are_a_choice(files: Path) -> None:
    onnx.save(topk_head(1200, 1000), "float.onnx")
    save_model(with_islands(load_model("float.onnx"), Precision.FP16, frozenset()), "half.onnx")
    result = only(compare("float.onnx", "half.onnx"))
    assert result.verdict is Verdict.PASS
    assert "the order of near ties changes at top_scores (TopK); the set is the same" in result.reason
    assert [each.node for each in result.selections] == ["top_scores"]

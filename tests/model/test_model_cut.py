"""Cutting subgraphs out, and typed graphs with islands."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import branch_and_loop, graph_model, norm_chain
from onnx import TensorProto, helper, numpy_helper

from harness.backends import Emulator, Reference
from harness.errors import ModelError, NothingSelectedError
from harness.model import extract, load_model, save_model, with_islands
from harness.tensors import Precision

X = np.random.default_rng(1).standard_normal((5, 16)).astype(np.float32)


def test_a_cut_subgraph_computes_what_it_did_in_the_whole() -> None:
    model = load_model(norm_chain())
    whole = Reference(model).run({"x": X}, ["scaled", "root", "relu"])
    part = extract(model, ["scaled", "root"], ["relu"])
    assert [node.name for node in part.nodes] == ["norm", "proj", "relu"]
    assert {info.name: info.shape for info in part.inputs} == {"scaled": ("n", 16), "root": ("n", 1)}
    found = Reference(part).run({"scaled": whole["scaled"], "root": whole["root"]})
    np.testing.assert_array_equal(found["relu"], whole["relu"])
    assert [node.name for node in model.nodes] == [node.name for node in load_model(norm_chain()).nodes]


def test_inputs_that_the_part_does_not_need_are_left_out() -> None:
    part = extract(load_model(norm_chain()), ["x", "scaled"], ["sq"])
    assert [info.name for info in part.inputs] == ["scaled"]
    assert not part.weights


def test_a_cut_that_needs_more_inputs_is_refused() -> None:
    with pytest.raises(ModelError, match="not properly bounded"):
        extract(load_model(norm_chain()), ["root"], ["norm"])


def test_a_cut_through_a_loop_keeps_what_its_body_reads(tmp_path: Path) -> None:
    model = load_model(branch_and_loop())
    x = np.random.default_rng(5).standard_normal((4, 16)).astype(np.float32)
    whole = Reference(model).run({"x": x}, ["b", "y"])
    part = load_model(save_model(extract(model, ["b"], ["y"]), tmp_path / "loop.onnx"))
    np.testing.assert_array_equal(Reference(part).run({"b": whole["b"]})["y"], whole["y"])


def test_a_typed_graph_computes_what_the_emulator_predicts(tmp_path: Path) -> None:
    islands = ("sq", "mean", "root")
    model = load_model(norm_chain(600.0))
    path = save_model(with_islands(model, Precision.FP16, islands), tmp_path / "typed.onnx")
    onnx.checker.check_model(path, full_check=True)
    session = ort.InferenceSession(path)
    assert [(value.name, value.type) for value in session.get_inputs()] == [("x", "tensor(float)")]
    assert [(value.name, value.type) for value in session.get_outputs()] == [("y", "tensor(float)")]
    emulator = Emulator(model)
    lowered = [name for name in emulator.units(Precision.FP16) if name not in islands]
    expected = emulator.run({"x": X}, Precision.FP16, lowered=lowered)["y"]
    np.testing.assert_allclose(session.run(None, {"x": X})[0], expected, rtol=4e-3, atol=4e-3)


def test_islands_decide_which_tensors_carry_which_dtype() -> None:
    typed = with_islands(load_model(norm_chain()), Precision.FP16, ["sq", "mean"])
    kinds = {name: typed.dtypes[name] for name in ("scaled", "sq", "mean", "root", "proj")}
    assert kinds == {
        "scaled": "float16",
        "sq": "float32",
        "mean": "float32",
        "root": "float16",
        "proj": "float16",
    }
    assert sum(node.op == "Cast" for node in typed.nodes) == 4  # x in, scaled up, mean down, y back


@pytest.mark.parametrize("shown", [("y",), ("y", "proj")])
def test_a_product_between_casts_reads_and_writes_what_is_rounded(
    tmp_path: Path, shown: tuple[str, ...]
) -> None:
    model = load_model(norm_chain())
    if len(shown) > 1:  # what it writes is an output, too
        model = extract(model, ["x"], list(shown))
    path = save_model(with_islands(model, Precision.FP16, (), ["proj"]), tmp_path / "typed.onnx")
    onnx.checker.check_model(path, full_check=True)
    typed = load_model(path)
    product = typed.node("proj")
    assert [typed.dtypes[name] for name in (*product.inputs, *product.outputs)] == ["float32"] * 3
    read = [typed.producer(name) for name in product.inputs]
    assert [(node.op, typed.dtypes[node.inputs[0]]) for node in read if node] == [("Cast", "float16")] * 2
    assert all(value.dtype == np.float32 for value in Reference(typed).run({"x": X}).values())
    plain = load_model(save_model(with_islands(model, Precision.FP16), tmp_path / "plain.onnx"))
    for name, value in Reference(plain).run({"x": X}).items():  # ONNX Runtime adds up in FP32 anyway
        np.testing.assert_array_equal(Reference(typed).run({"x": X})[name], value)


@pytest.mark.parametrize("reader", ["product between Casts", "island"])
def test_what_reads_a_product_between_casts_may_be_in_fp32_itself(tmp_path: Path, reader: str) -> None:
    rng = np.random.default_rng(5)
    weights = {name: rng.standard_normal((16, 16)).astype(np.float32) for name in ("w", "v")}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["t"], name="first"),
        helper.make_node("MatMul", ["t", "v"], ["y"], name="second"),
    ]
    model = load_model(graph_model(nodes, inputs={"x": [4, 16]}, outputs={"y": [4, 16]}, weights=weights))
    island = ["second"] if reader == "island" else []
    path = save_model(
        with_islands(model, Precision.FP16, island, {"first", "second"}), tmp_path / "typed.onnx"
    )
    written = [name for node in onnx.load(path).graph.node for name in node.output]
    assert len(written) == len(set(written))
    x = rng.standard_normal((4, 16)).astype(np.float32)
    (found,) = ort.InferenceSession(path).run(["y"], {"x": x})
    lowered = {"first"} if island else {"first", "second"}
    wanted = Emulator(model).run({"x": x}, Precision.FP16, lowered=lowered)["y"]
    assert np.allclose(found, wanted, rtol=1e-3)


def test_a_typed_graph_stores_low_precision_weights(tmp_path: Path) -> None:
    typed = with_islands(load_model(norm_chain()), Precision.FP16)
    kinds = {
        tensor.name: tensor.data_type
        for tensor in onnx.load(save_model(typed, tmp_path / "t.onnx")).graph.initializer
    }
    assert kinds["w::fp16"] == TensorProto.FLOAT16
    assert "w" not in kinds


def test_a_large_weight_is_rounded_when_it_is_written_and_not_held(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    model = load_model(
        graph_model(
            [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
            inputs={"x": [1, 1024]},
            outputs={"y": [1, 1024]},
            weights={"w": weight},
        )
    )
    tracemalloc.start()
    typed = with_islands(model, Precision.FP16, set())
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < weight.nbytes / 16
    path = save_model(typed, tmp_path / "typed.onnx")
    (stored,) = onnx.load(path).graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(stored), weight.astype(np.float16))


def test_the_weights_of_an_island_stay_as_they_are(tmp_path: Path) -> None:
    model = load_model(norm_chain(3.0))
    typed = with_islands(model, Precision.FP16, {"proj"})
    weights = typed.ir.graph.initializers
    read = {name: value for name, value in weights.items() if name.startswith("w")}
    assert [(name, value.const_value.dtype.name) for name, value in read.items()] == [("w", "FLOAT")]
    np.testing.assert_array_equal(read["w"].const_value.numpy(), model.weight("w"))


def test_a_typed_bf16_graph_loads_in_onnx_runtime(tmp_path: Path) -> None:
    typed = with_islands(load_model(norm_chain()), Precision.BF16, ["proj"])
    onnx.checker.check_model(save_model(typed, tmp_path / "t.onnx"), full_check=True)
    assert typed.dtypes["sq"] == "bfloat16"
    assert typed.dtypes["proj"] == "float32"


def test_bodies_of_control_flow_stay_in_fp32_in_a_typed_graph(tmp_path: Path) -> None:
    model = load_model(branch_and_loop())
    path = save_model(with_islands(model, Precision.FP16), tmp_path / "t.onnx")
    x = np.random.default_rng(5).standard_normal((4, 16)).astype(np.float32)
    found = ort.InferenceSession(path).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, Reference(model).run({"x": x})["y"], rtol=2e-2, atol=1e-2)


def test_an_intermediate_tensor_that_is_also_an_output_keeps_its_name_and_dtype(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["a"], name="a"),
        helper.make_node("Add", ["a", "x"], ["y"], name="y"),
    ]
    model = load_model(graph_model(nodes, inputs={"x": [5, 16]}, outputs={"a": [5, 16], "y": [5, 16]}))
    session = ort.InferenceSession(save_model(with_islands(model, Precision.FP16), tmp_path / "t.onnx"))
    assert [(value.name, value.type) for value in session.get_outputs()] == [
        ("a", "tensor(float)"),
        ("y", "tensor(float)"),
    ]
    np.testing.assert_allclose(session.run(["y"], {"x": X})[0], X * X + X, rtol=2e-3, atol=2e-3)


def test_fp32_and_tf32_have_no_type_of_their_own() -> None:
    model = load_model(norm_chain())
    assert with_islands(model, Precision.FP32) is model
    assert with_islands(model, Precision.TF32, ["sq"]) is model


def test_an_island_must_be_a_node() -> None:
    with pytest.raises(NothingSelectedError, match="did you mean"):
        with_islands(load_model(norm_chain()), Precision.FP16, ["prj"])


@pytest.mark.parametrize("kind", [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2, TensorProto.BFLOAT16])
def test_a_part_may_begin_at_a_tensor_of_any_dtype(kind: int) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["low"], "lower", to=kind),
        helper.make_node("Cast", ["low"], ["y"], "raise", to=TensorProto.FLOAT),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "casts", values[:1], values[1:])
    model = load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9))
    (begins,) = extract(model, ["low"], ["y"]).inputs
    assert begins.dtype == np.dtype(helper.tensor_dtype_to_np_dtype(kind)).name

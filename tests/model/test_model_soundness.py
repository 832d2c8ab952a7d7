"""Models that are damaged or hostile: one message that says what is wrong, before anything reads or expands them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.backends import Reference
from harness.errors import ModelError
from harness.model import load_model

FLOAT = TensorProto.FLOAT


def value(name: str, dtype: int = FLOAT, shape: tuple[int, ...] = (1, 4)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def external(**entries: object) -> onnx.TensorProto:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[1, 4], data_location=TensorProto.EXTERNAL)
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=str(text))
    return tensor


def in_main_graph(tensor: onnx.TensorProto) -> onnx.ModelProto:
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", [value("x"), value("c", TensorProto.BOOL, ())], [value("y")], [tensor]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def in_branches(tensor: onnx.TensorProto) -> onnx.ModelProto:
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("Add", ["x", "w"], [name])], name, [], [value(name)], [tensor]
        )
        for name in ("then", "else")
    }
    nodes = [helper.make_node("If", ["c"], ["y"], **branches)]
    graph = helper.make_graph(nodes, "g", [value("x"), value("c", TensorProto.BOOL, ())], [value("y")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for a model, with data files of all kinds, and a file outside of it."""
    folder = tmp_path / "model"
    folder.mkdir()
    data = np.arange(4, dtype=np.float32).tobytes()
    for name in ("data.bin", "linked.bin", "../outside.bin"):
        (folder / name).write_bytes(data)
    (folder / "short.bin").write_bytes(data[:4])
    os.link(folder / "linked.bin", folder / "hard.bin")
    os.mkfifo(folder / "fifo.bin")
    (folder / "symlink.bin").symlink_to("../outside.bin")
    return folder


PLACES = pytest.mark.parametrize("place", [in_main_graph, in_branches])


@PLACES
@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ({"location": "none.bin"}, "missing"),
        ({"location": "../outside.bin"}, "outside the model's folder"),
        ({"location": "symlink.bin"}, "outside the model's folder"),
        ({"location": "/etc/hostname"}, "outside the model's folder"),
        ({"location": "fifo.bin"}, "not a regular file"),
        ({"location": "."}, "not a regular file"),
        ({"location": "hard.bin"}, "hard link"),
        ({"location": "short.bin"}, "cut short: short.bin has 4 bytes, 16 are needed"),
        ({"location": "data.bin", "offset": 4}, "cut short: data.bin has 16 bytes, 20 are needed"),
        ({"location": "data.bin", "offset": "abc"}, "offset 'abc'"),
        ({"location": "data.bin", "offset": -4}, "offset '-4'"),
        ({"location": "data.bin", "offset": 1 << 64}, "which is not a number of bytes"),
        ({"location": "data.bin", "length": 4}, "has 4 bytes, its shape takes 16"),
        ({"location": "data\0.bin"}, "names no file"),
        ({}, "names no file"),
    ],
)
def test_external_data_that_must_not_be_read_is_refused(
    folder: Path,
    place: Callable[[onnx.TensorProto], onnx.ModelProto],
    entries: dict[str, object],
    complaint: str,
) -> None:
    path = folder / "m.onnx"
    path.write_bytes(place(external(**entries)).SerializeToString())
    with pytest.raises(ModelError, match=complaint):
        load_model(path)


@PLACES
def test_external_data_is_read_and_hashed_wherever_its_tensor_is(
    folder: Path, place: Callable[[onnx.TensorProto], onnx.ModelProto]
) -> None:
    path = folder / "m.onnx"
    path.write_bytes(place(external(location="data.bin")).SerializeToString())
    model = load_model(path)
    feeds = {"x": np.ones((1, 4), np.float32), "c": np.array(True)}
    np.testing.assert_array_equal(Reference(model).run(feeds)["y"], [[1, 2, 3, 4]])
    (folder / "data.bin").write_bytes(np.zeros(4, np.float32).tobytes())
    assert load_model(path).sha256 != model.sha256


def test_a_model_that_is_no_regular_file_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="not a regular file"):
        load_model(folder / "fifo.bin")


def call(name: str, source: str, target: str) -> onnx.NodeProto:
    return helper.make_node(name, [source], [target], domain="local")


def with_functions(*functions: onnx.FunctionProto) -> onnx.ModelProto:
    graph = helper.make_graph([call("F0", "x", "y")], "g", [value("x")], [value("y")])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions)


def function(number: int, nodes: list[onnx.NodeProto]) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_function("local", f"F{number}", ["x"], ["y"], nodes, opsets)


def test_a_function_that_calls_itself_is_refused() -> None:
    proto = with_functions(function(0, [call("F1", "x", "y")]), function(1, [call("F0", "x", "y")]))
    with pytest.raises(ModelError, match=r"a function calls itself: F0 → F1 → F0|F1 → F0 → F1"):
        load_model(proto)


def test_functions_that_expand_to_more_nodes_than_memory_has_are_refused() -> None:
    doubling = [
        function(number, [call(f"F{number + 1}", "x", "t"), call(f"F{number + 1}", "t", "y")])
        for number in range(30)
    ]
    last = function(30, [helper.make_node("Relu", ["x"], ["y"])])
    with pytest.raises(ModelError, match="1,073,741,824 nodes, more than 1,000,000"):
        load_model(with_functions(*doubling, last))


def test_a_cycle_is_named() -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    graph = helper.make_graph(nodes, "g", [value("x")], [value("b")])
    with pytest.raises(ModelError, match=r"the graph has a cycle: (a → b → a|b → a → b)"):
        load_model(helper.make_model(graph))


def relu(name: str, dtype: int = FLOAT, shape: tuple[int, ...] = (1, 4)) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], name, [value("x", dtype, shape)], [value("y")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_an_input_without_a_dtype_is_refused() -> None:
    with pytest.raises(ModelError, match="'x' has no dtype"):
        load_model(relu("undefined", TensorProto.UNDEFINED))


@pytest.mark.parametrize("dtype", [TensorProto.UNDEFINED, 99])
@pytest.mark.parametrize("place", ["attribute", "branch", "function"])
def test_a_tensor_without_a_dtype_of_onnx_is_refused(dtype: int, place: str, tmp_path: Path) -> None:
    tensor = TensorProto(name="w", data_type=dtype, dims=[1, 4], raw_data=bytes(16))
    nodes = [helper.make_node("Constant", [], ["w"]), helper.make_node("Add", ["x", "w"], ["y"])]
    nodes[0].attribute.append(onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR, t=tensor))
    graph = helper.make_graph(nodes, "g", [value("x")], [value("y")])
    if place == "branch":
        branches = [helper.make_graph(nodes, name, [], [value("y")]) for name in ("then", "else")]
        choose = helper.make_node("If", ["c"], ["z"], then_branch=branches[0], else_branch=branches[1])
        graph = helper.make_graph([choose], "g", [value("x"), value("c", TensorProto.BOOL, ())], [value("z")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if place == "function":
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
        model.functions.append(helper.make_function("mine", "Added", ["x"], ["y"], nodes, opsets))
        del model.graph.node[:]
        model.graph.node.append(helper.make_node("Added", ["x"], ["y"], domain="mine"))
        model.opset_import.append(opsets[1])
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="'w' has no dtype of ONNX"):
        load_model(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "tensor",
    [
        TensorProto(name="w", data_type=1, dims=[1 << 40], raw_data=bytes(16)),
        TensorProto(name="w", data_type=1, dims=[-4], raw_data=bytes(16)),
        TensorProto(name="w", data_type=1, dims=[3], float_data=[1, 2, 3, 4]),
        TensorProto(name="w", data_type=1, dims=[4]),
        TensorProto(name="w", data_type=1, dims=[4], raw_data=bytes(3 << 20)),
        TensorProto(name="w", data_type=1, dims=[1 << 20], raw_data=bytes(1 << 20)),
        TensorProto(name="w", data_type=10, dims=[4], int32_data=[1]),
    ],
)
@pytest.mark.parametrize("place", ["initializer", "attribute"])
def test_a_tensor_that_does_not_fill_its_shape_is_refused(
    tensor: TensorProto, place: str, tmp_path: Path
) -> None:
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    if place == "attribute":
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    weights = [tensor] if place == "initializer" else []
    graph = helper.make_graph(nodes, "g", [value("x")], [value("y")], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"'w' does not hold as many values as its shape \["):
        load_model(tmp_path / "m.onnx")


def test_a_tensor_that_is_written_twice_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"])]
    graph = helper.make_graph(nodes, "g", [value("x")], [value("y")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="malformed: Output 'y' is redeclared"):
        load_model(tmp_path / "m.onnx")


def test_an_input_of_more_axes_than_an_array_has_is_refused() -> None:
    with pytest.raises(ModelError, match="'x' has 70 axes"):
        load_model(relu("deep", shape=(1,) * 70))


def test_a_size_below_zero_is_an_unknown_one() -> None:
    assert load_model(relu("negative", shape=(-1, 4))).inputs[0].shape == (None, 4)


def test_a_model_without_operators_of_onnx_runs() -> None:
    scaler = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[1.0], scale=[2.0])
    graph = helper.make_graph([scaler], "g", [value("x")], [value("y")])
    model = load_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3)], ir_version=9)
    )
    found = Reference(model).run({"x": np.ones((1, 4), np.float32)})
    np.testing.assert_array_equal(found["y"], np.zeros((1, 4)))


def test_an_output_that_is_a_sequence_is_one_clear_error() -> None:
    nodes = [helper.make_node("SequenceConstruct", ["x", "x"], ["s"])]
    sequence = helper.make_tensor_sequence_value_info("s", FLOAT, None)
    graph = helper.make_graph(nodes, "g", [value("x")], [sequence])
    model = load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    with pytest.raises(ModelError, match="output 's' is a sequence"):
        Reference(model).run({"x": np.ones((1, 4), np.float32)})


@pytest.mark.parametrize("place", ["node", "branch", "output"])
def test_a_tensor_that_nothing_writes_is_named(place: str, tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    inner = helper.make_graph(
        [helper.make_node("Relu", ["nowhere"], ["b"], "inside")],
        "then",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [2])],
    )
    nodes = {
        "node": [helper.make_node("Add", ["x", "nowhere"], ["y"], "add")],
        "branch": [helper.make_node("If", ["c"], ["y"], "iff", then_branch=inner, else_branch=inner)],
        "output": [helper.make_node("Relu", ["x"], ["z"], "relu")],
    }[place]
    constants = [numpy_helper.from_array(np.array(True), "c")] if place == "branch" else []
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "m.onnx")
    said = "nothing writes the output 'y'" if place == "output" else "reads 'nowhere', which nothing writes"
    with pytest.raises(ModelError, match=said):
        load_model(tmp_path / "m.onnx")

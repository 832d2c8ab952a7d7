from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from graphs import branch_and_loop, graph_model, norm_chain
from onnx import TensorProto, helper, numpy_helper

from harness.backends import Emulator, Plan, Reference
from harness.errors import ModelError, NothingSelectedError
from harness.model import ModelWarning, at_opset, extract, load_model, save_model
from harness.tensors import Precision


def with_external_data(folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(norm_chain(), path, save_as_external_data=True, location="model.data", size_threshold=0)
    return path


def test_a_model_is_read_with_its_inputs_outputs_and_nodes(tmp_path: Path) -> None:
    onnx.save(norm_chain(), tmp_path / "m.onnx")
    model = load_model(tmp_path / "m.onnx")
    assert (model.inputs[0].name, model.inputs[0].dtype, model.inputs[0].shape) == ("x", "float32", ("n", 16))
    assert [info.name for info in model.outputs] == ["y"]
    assert [node.name for node in model.nodes][:3] == ["scaled", "sq", "mean"]
    assert model.predecessors["norm"] == ("scaled", "root")
    assert list(model.weights) == ["w"]
    assert model.name == "m"


def test_nodes_without_a_name_get_one_and_keep_it() -> None:
    proto = norm_chain()
    for node in proto.graph.node:
        node.name = ""
    names = [node.name for node in load_model(proto).nodes]
    assert names[:2] == ["Mul_0", "Mul_1"]
    assert names == [node.name for node in load_model(proto).nodes]


def test_two_nodes_with_one_name_are_refused() -> None:
    proto = norm_chain()
    proto.graph.node[1].name = proto.graph.node[0].name
    with pytest.raises(ModelError, match="two nodes are named 'scaled'"):
        load_model(proto)


def test_local_functions_are_inlined() -> None:
    function = helper.make_function(
        "local",
        "Square",
        ["v"],
        ["w"],
        [helper.make_node("Mul", ["v", "v"], ["w"])],
        [helper.make_opsetid("", 17)],
    )
    node = helper.make_node("Square", ["x"], ["y"], name="square", domain="local")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    model = load_model(helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=8))
    assert [node.op for node in model.nodes] == ["Mul"]
    assert [node.name for node in model.nodes] == ["square/Mul_0"]


def test_nodes_of_nested_functions_are_named_after_all_their_callers() -> None:
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    square = helper.make_function(
        *("local", "Square", ["v"], ["w"]),
        [helper.make_node("Mul", ["v", "v"], ["w"], name="sq")],
        domains,
    )
    length = helper.make_function(
        *("local", "Length", ["v"], ["w"]),
        [
            helper.make_node("Square", ["v"], ["s"], domain="local"),
            helper.make_node("Sqrt", ["s"], ["w"], name="root"),
        ],
        domains,
    )
    nodes = [
        helper.make_node("Length", ["x"], ["a"], name="first", domain="local"),
        helper.make_node("Length", ["a"], ["y"], domain="local"),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:])
    model = load_model(
        helper.make_model(graph, functions=[square, length], opset_imports=domains, ir_version=8)
    )
    assert [node.name for node in model.nodes] == [
        *("first/Square_0/sq", "first/root", "Length_1/Square_0/sq", "Length_1/root")
    ]
    assert not any(node.metadata_props for node in model.ir.graph)
    np.testing.assert_array_equal(Reference(model).run({"x": np.float32([-1, 2])})["y"], [1, 2])


def test_nodes_in_bodies_are_named_after_the_node_that_holds_them() -> None:
    proto = branch_and_loop()
    choose, loop = (node for node in proto.graph.node if node.op_type in ("If", "Loop"))
    for attribute in (*choose.attribute, *loop.attribute):
        for node in attribute.g.node:
            node.name = ""
    proto.graph.node[1].name = "loop/body/Add_1"
    model = load_model(proto)
    found = {node.name for node in ir.traversal.RecursiveGraphIterator(model.ir.graph)}
    inside = {
        *("choose/then_branch/Mul_0", "choose/else_branch/Mul_0"),
        *("loop/body/MatMul_0", "loop/body/Add_1_", "loop/body/Identity_2"),
    }
    assert found == inside | {node.name for node in model.nodes}


def test_external_data_is_read_and_part_of_the_hash(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    first = load_model(path)
    x = np.ones((2, 16), dtype=np.float32)
    np.testing.assert_array_equal(
        Reference(first).run({"x": x})["y"], Reference(load_model(norm_chain())).run({"x": x})["y"]
    )
    data = bytearray((tmp_path / "model.data").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.data").write_bytes(data)
    assert load_model(path).sha256 != first.sha256


@pytest.mark.parametrize("damage", ["missing", "short", "outside"])
def test_broken_external_data_is_named(tmp_path: Path, damage: str) -> None:
    path = with_external_data(tmp_path)
    if damage == "missing":
        (tmp_path / "model.data").unlink()
    elif damage == "short":
        (tmp_path / "model.data").write_bytes(b"\0" * 8)
    else:
        proto = onnx.load(path, load_external_data=False)
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = "../secret.data"
        path.write_bytes(proto.SerializeToString())
    message = {
        "missing": "is missing: model.data",
        "short": "is cut short",
        "outside": "outside the model's folder",
    }
    with pytest.raises(ModelError, match=message[damage]) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    assert "'w'" in str(caught.value) or "'scale'" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x08\x08\x12"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.onnx.*not an ONNX model"):
        load_model(path)


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(norm_chain().SerializeToString()[:-100])
    with pytest.raises(ModelError, match=r"cut\.onnx"):
        Reference(load_model(path)).run({"x": np.ones((2, 16), dtype=np.float32)})


def test_a_missing_file_is_reported_with_its_neighbours(tmp_path: Path) -> None:
    onnx.save(norm_chain(), tmp_path / "there.onnx")
    with pytest.raises(ModelError, match=r"no such model file .this folder holds there\.onnx"):
        load_model(tmp_path / "their.onnx")


def test_a_saved_model_computes_the_same(tmp_path: Path) -> None:
    model = load_model(branch_and_loop())
    again = load_model(save_model(model, tmp_path / "deep" / "again.onnx"))
    x = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    np.testing.assert_array_equal(Reference(model).run({"x": x})["y"], Reference(again).run({"x": x})["y"])
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["again.onnx"]


def test_a_model_is_saved_as_it_is_whatever_its_tensors_hold(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = [
        helper.make_tensor("large STRING", TensorProto.STRING, [300_000], [b"word"] * 300_000),
        numpy_helper.from_array(np.float32([1, 2]), "small"),
    ]
    for kind in ("FLOAT", "FLOAT16", "BFLOAT16", "INT8", "INT4", "BOOL", "FLOAT8E4M3FN", "INT64"):
        values = rng.integers(0, 2, size=(1100, 2100)).astype(ir.DataType[kind].numpy())
        made.append(ir.serde.serialize_tensor(ir.Tensor(values, name=f"large {kind}", doc_string="ones")))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    node = helper.make_node("Add", ["x", "small"], ["y"], "add")
    proto = helper.make_model(helper.make_graph([node], "typed", [x], [y], made, doc_string="a graph"))
    model = load_model(proto)
    saved, expected = onnx.load(save_model(model, tmp_path / "saved.onnx")), ir.to_proto(model.ir)
    for graph in (saved.graph, expected.graph):
        graph.initializer.sort(key=lambda tensor: tensor.name)
    assert saved == expected
    assert list(saved.graph.initializer) == sorted(made, key=lambda tensor: tensor.name)


def test_a_model_is_saved_while_its_external_data_is_in_use(tmp_path: Path) -> None:
    model = load_model(with_external_data(tmp_path))
    weight = np.asarray(model.ir.graph.initializers["w"].const_value)
    x = np.ones((2, 16), dtype=np.float32)
    before = Reference(model).run({"x": x})["y"]
    again = load_model(save_model(model, tmp_path / "saved" / "again.onnx"))
    assert [file.name for file in (tmp_path / "saved").iterdir()] == ["again.onnx"]
    np.testing.assert_array_equal(again.weight("w"), weight)
    for each in (model, again):
        np.testing.assert_array_equal(Reference(each).run({"x": x})["y"], before)


def test_what_is_computed_of_small_external_tensors_leaves_them_readable(tmp_path: Path) -> None:
    model = load_model(with_external_data(tmp_path))
    scale = np.asarray(model.ir.graph.initializers["scale"].const_value)
    assert model.skeleton.graph.initializer[0].name == "scale"
    assert scale == 1.0
    assert save_model(model, tmp_path / "again.onnx").is_file()


def test_large_weights_are_saved_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.model.load.EXTERNAL_OVER", 512)
    model = load_model(norm_chain())
    path = save_model(model, tmp_path / "big.onnx")
    assert (tmp_path / "big.onnx.data").stat().st_size >= model.weight("w").nbytes
    x = np.ones((2, 16), dtype=np.float32)
    np.testing.assert_array_equal(
        Reference(load_model(path)).run({"x": x})["y"], Reference(model).run({"x": x})["y"]
    )


def test_an_unknown_node_name_gets_the_nearest_one() -> None:
    with pytest.raises(NothingSelectedError, match="did you mean `norm`"):
        load_model(norm_chain()).node("normm")


def test_an_old_opset_runs_and_is_refused_where_something_is_to_be_rounded() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="y")]
    model = load_model(graph_model(nodes, inputs={"x": [2]}, outputs={"y": [2]}, opset=8))
    feeds = {"x": np.ones(2, dtype=np.float32)}
    np.testing.assert_array_equal(Reference(model).run(feeds)["y"], feeds["x"])
    with pytest.raises(ModelError, match=r"opset 8 is too old.*version_converter"):
        Emulator(model).evaluate(Plan(Precision.FP16), feeds)


def test_a_graph_without_outputs_is_one_clear_error() -> None:
    proto = norm_chain()
    del proto.graph.output[:]
    with pytest.raises(
        ModelError, match=r"^m: the graph has no outputs, so there is nothing to judge \(name"
    ):
        load_model(proto, name="m")


SPARSE = {
    "flat places": ([2], [1, 5], (9,)),
    "a column of places": ([2, 1], [1, 5], (9,)),
    "rows and columns": ([2, 2], [0, 1, 1, 2], (3, 3)),
}


def with_sparse_weight(counts: list[int], places: list[int], shape: tuple[int, ...]) -> onnx.ModelProto:
    weight = helper.make_sparse_tensor(
        helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0]),
        helper.make_tensor("w_places", TensorProto.INT64, counts, places),
        list(shape),
    )
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"], "add")],
        "sparse",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        sparse_initializer=[weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("how", SPARSE)
def test_a_sparse_initializer_is_read_as_the_dense_tensor_that_it_stands_for(
    tmp_path: Path, how: str
) -> None:
    proto, shape = with_sparse_weight(*SPARSE[how]), SPARSE[how][2]
    onnx.checker.check_model(proto)
    model = load_model(proto)
    x = np.ones(shape, np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(Reference(model).run({"x": x})["y"], session.run(None, {"x": x})[0])
    kept = onnx.load(save_model(model, tmp_path / "m.onnx"))
    onnx.checker.check_model(kept)
    assert np.count_nonzero(numpy_helper.to_array(kept.graph.initializer[0])) == 2


@pytest.mark.parametrize(
    ("counts", "places", "shape"),
    [([2], [1, 9], (9,)), ([2], [-1, 5], (9,)), ([2, 2], [0, 1, 1, 3], (3, 3)), ([2], [0, 1], (1 << 40,))],
)
def test_a_sparse_initializer_that_is_none_is_refused(
    counts: list[int], places: list[int], shape: tuple[int, ...]
) -> None:
    with pytest.raises(ModelError, match="sparse tensor 'w' is malformed"):
        load_model(with_sparse_weight(counts, places, shape))


def noted(kind: str) -> onnx.ModelProto:
    """A model whose parts all have a doc string and metadata; its weight is small, over a megabyte, or a text."""
    size = 600 if kind == "large" else 8
    proto = graph_model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product", doc_string="a node")],
        inputs={"x": [2, size]},
        outputs={"y": [2, size]},
        weights={"w": np.ones((size, size), np.float32)},
    )
    graph = proto.graph
    if kind == "text":
        graph.initializer[0].CopyFrom(helper.make_tensor("w", TensorProto.STRING, [2], [b"a", b"b"]))
        graph.node[0].CopyFrom(helper.make_node("Identity", ["x"], ["y"], "product", doc_string="a node"))
        graph.node.append(helper.make_node("Identity", ["w"], ["z"], "text"))
        graph.output.append(helper.make_tensor_value_info("z", TensorProto.STRING, [2]))
    graph.initializer[0].doc_string = "a weight"
    for place, each in enumerate((proto, graph, graph.node[0], graph.initializer[0], graph.input[0])):
        each.metadata_props.add(key="origin", value=str(place))
    return proto


def notes(proto: onnx.ModelProto) -> list[object]:
    graph = proto.graph
    texts = [graph.node[0].doc_string, graph.initializer[0].doc_string]
    parts = (proto, graph, graph.node[0], graph.initializer[0], graph.input[0])
    return [*texts, *([(each.key, each.value) for each in part.metadata_props] for part in parts)]


@pytest.mark.parametrize("stored", ["within", "beside"])
@pytest.mark.parametrize("kind", ["small", "large", "text"])
@pytest.mark.parametrize("make", ["saved", "beside", "newer", "part"])
def test_doc_strings_and_metadata_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str, kind: str, make: str
) -> None:
    path = tmp_path / "m.onnx"
    external = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0}
    onnx.save(noted(kind), path, **(external if stored == "beside" else {}))
    model = load_model(path)
    if make == "newer":
        model = at_opset(model, 21)
    elif make == "part":
        model = extract(model, ["x"], [info.name for info in model.outputs])
    elif make == "beside":
        monkeypatch.setattr("harness.model.load.EXTERNAL_OVER", 0)
    saved = save_model(model, tmp_path / "out.onnx")
    assert notes(onnx.load(saved)) == notes(noted(kind))


def test_a_training_part_is_left_out_and_told(tmp_path: Path) -> None:
    proto = norm_chain()
    proto.training_info.add().algorithm.name = "descent"
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.warns(ModelWarning, match=r"m\.onnx: its training part \(training_info\) is not read"):
        load_model(tmp_path / "m.onnx")

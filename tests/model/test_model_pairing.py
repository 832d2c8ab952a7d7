"""Which tensors of two graphs stand for each other."""

from __future__ import annotations

import onnx
import pytest
from graphs import graph_model, norm_chain
from onnx import TensorProto, helper

from harness.errors import UsageError
from harness.model import PairedBy, load_model, pair_tensors


def renamed(proto: onnx.ModelProto, *, kept: set[str]) -> onnx.ModelProto:
    """`proto` with a new name for every tensor and node that is not in `kept`."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    for place, node in enumerate(copy.graph.node):
        node.name = f"node_{place}"
        for names in (node.input, node.output):
            names[:] = [name if name in kept else f"new_{name}" for name in names]
    for tensor in copy.graph.initializer:
        tensor.name = f"new_{tensor.name}"
    return copy


def test_tensors_of_one_name_are_paired_by_it() -> None:
    pairing = pair_tensors(load_model(norm_chain()), load_model(norm_chain(2.0)))
    assert pairing.tensors["sq"] == ("sq", PairedBy.NAME)
    assert set(pairing.tensors) == {"scaled", "sq", "mean", "root", "norm", "proj", "relu", "y"}


def test_renamed_tensors_are_paired_by_their_position() -> None:
    pairing = pair_tensors(load_model(renamed(norm_chain(), kept={"x", "y"})), load_model(norm_chain()))
    assert pairing.tensors["y"] == ("y", PairedBy.NAME)
    for name in ("scaled", "sq", "mean", "root", "norm", "proj", "relu"):
        assert pairing.tensors[f"new_{name}"] == (name, PairedBy.POSITION)


def test_what_casts_write_stands_for_what_they_read() -> None:
    proto = norm_chain()
    square = next(node for node in proto.graph.node if node.name == "sq")
    square.input[:] = ["low", "low"]
    proto.graph.node.insert(1, helper.make_node("Cast", ["half"], ["low"], name="back", to=TensorProto.FLOAT))
    proto.graph.node.insert(
        1, helper.make_node("Cast", ["scaled"], ["half"], name="down", to=TensorProto.FLOAT16)
    )
    pairing = pair_tensors(load_model(proto), load_model(norm_chain()))
    assert pairing.tensors["low"] == ("scaled", PairedBy.POSITION)
    assert pairing.tensors["half"] == ("scaled", PairedBy.POSITION)
    assert pairing.tensors["sq"] == ("sq", PairedBy.NAME)


def test_a_number_pairs_only_nodes_of_one_operator() -> None:
    def numbered(*ops: str) -> onnx.ModelProto:
        names = ["x", "7", "8", "y"]
        nodes = [
            helper.make_node(op, [read], [written], name=op)
            for op, read, written in zip(ops, names, names[1:], strict=False)
        ]
        return graph_model(nodes, inputs={"x": [4]}, outputs={"y": [4]})

    pairing = pair_tensors(
        load_model(numbered("Relu", "Exp", "Tanh")), load_model(numbered("Exp", "Relu", "Tanh"))
    )
    assert "7" not in pairing.tensors


def test_graphs_with_other_outputs_are_refused() -> None:
    def split(*outputs: str) -> onnx.ModelProto:
        nodes = [helper.make_node("Relu", ["x"], [name], name=name) for name in outputs]
        return graph_model(nodes, inputs={"x": [4]}, outputs={name: [4] for name in outputs})

    with pytest.raises(UsageError, match="outputs do not fit: c in model, a, b in model"):
        pair_tensors(load_model(split("a", "b")), load_model(split("c")))

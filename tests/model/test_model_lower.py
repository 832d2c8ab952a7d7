"""What lowering a graph costs, counted rather than timed."""

from __future__ import annotations

from collections.abc import Iterator

from graphs import graph_model
from onnx import helper

from harness.model import load_model, shadow
from harness.tensors import Precision


class Counted(list[str]):
    """A list that counts the items that are read from it."""

    read = 0

    def __iter__(self) -> Iterator[str]:
        for item in super().__iter__():
            self.read += 1
            yield item


def test_a_shadow_reads_the_names_of_its_nodes_once() -> None:
    count = 50
    nodes = [helper.make_node("Sigmoid", [f"t{i}"], [f"t{i + 1}"], name=f"n{i}") for i in range(count)]
    model = load_model(graph_model(nodes, inputs={"t0": [4]}, outputs={f"t{count}": [4]}))
    names = Counted(node.name for node in model.nodes)
    graph = shadow(model, Precision.FP16, names)
    assert len(graph.outputs) == 2 * count
    assert names.read == count, "reading them once a node is quadratic"

"""What is inside of nodes with bodies: the nodes of the branches of an If and the bodies of Loop and Scan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx

from harness.model import analysis
from harness.model.model import Model


@dataclass(frozen=True)
class InnerNode:
    """One node of a body that computes float32 tensors.

    Args:
        name: its own name, which another node may have, too.
        op: operator type.
        outputs: names of the float32 tensors that it writes.
    """

    name: str
    op: str
    outputs: tuple[str, ...]


def inner_nodes(model: Model, node: str) -> tuple[InnerNode, ...]:
    """The nodes in the bodies of `node`, at any depth, that compute float32 tensors; those that hold bodies are left
    out for what is in them. Empty for a node without bodies.

    Raises:
        NothingSelectedError: no node is named `node`.
    """
    model.check_nodes([node])
    proto = next(each for each in model.inferred.graph.node if each.name == node)
    return tuple(inside for body in analysis.bodies(proto) for inside in _inside(body))


def _inside(graph: onnx.GraphProto) -> Iterator[InnerNode]:
    dtypes = analysis.graph_dtypes(graph)
    for node in graph.node:
        bodies = list(analysis.bodies(node))
        for body in bodies:
            yield from _inside(body)
        floats = tuple(name for name in node.output if dtypes.get(name) == "float32")
        if floats and not bodies and node.op_type not in analysis.NEVER_LOWERED:
            yield InnerNode(node.name, node.op_type, floats)


def repeated_names(model: Model, names: Collection[str]) -> tuple[str, ...]:
    """Those of `names` that more than one node has, at whatever depth: no tool can tell such nodes apart by name."""
    counts = Counter(_all_names(model.skeleton.graph))
    return tuple(name for name in dict.fromkeys(names) if counts[name] > 1)


def _all_names(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.name
        for body in analysis.bodies(node):
            yield from _all_names(body)


def named_nodes(proto: onnx.ModelProto) -> frozenset[str]:
    """The names of all nodes of `proto`, those in bodies included."""
    return frozenset(_all_names(proto.graph))

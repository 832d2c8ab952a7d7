"""The nodes that choose by numbers, and by which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import helper

from harness.model import Model, NodeInfo

SELECTS = frozenset({"TopK", "ArgMax", "ArgMin", "NonZero", "NonMaxSuppression"})
COMPARES = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual"})


@dataclass(frozen=True)
class Chooser:
    """A node that chooses.

    Args:
        node: the node.
        tensor: the integers that it writes.
        scores: the float tensors that it chooses by.
        axis: the axis along which it does.
    """

    node: NodeInfo
    tensor: str
    scores: tuple[str, ...]
    axis: int


def choosers(model: Model) -> tuple[Chooser, ...]:
    """The nodes that choose by float numbers, in topological order."""
    return tuple(_choosers(model))


def _choosers(model: Model) -> Iterator[Chooser]:
    protos = model.skeleton.graph.node
    for node in model.nodes:
        if node.op not in SELECTS or node.domain:
            continue
        proto = protos[node.index]
        attributes = {each.name: helper.get_attribute_value(each) for each in proto.attribute}
        reads = list(proto.input[:2] if node.op == "NonMaxSuppression" else proto.input[:1])
        behind = model.producer(reads[0])
        if node.op == "NonZero" and behind is not None and behind.op in COMPARES:
            reads = list(protos[behind.index].input)
        scores = tuple(name for name in reads if model.dtypes.get(name) in ("float32", "float16", "bfloat16"))
        if scores:
            axis = attributes.get("axis", -1 if node.op == "TopK" else 0)
            yield Chooser(node, proto.output[-1], scores, axis)

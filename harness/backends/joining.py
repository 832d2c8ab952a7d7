"""The ONNX names of tensors that an engine calls by names of its own: debug tensors at the borders of kernels.

A kernel says which nodes it computes and which tensors it reads and writes. So what it writes for another kernel is
what its nodes write for nodes of that kernel, if only one tensor is that. Nothing is guessed: a tensor has no ONNX
name where two are possible, where a node is spread over kernels, or where it lies in memory in another order.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from harness.model import Model
from harness.worker.protocol import LayerInfo

#: What the inspector puts behind the name of a tensor inside a compiled graph, and the debug listener may leave out.
_GRAPH = re.compile(r"_myl\d+$")


def onnx_names(layers: Sequence[LayerInfo], model: Model) -> dict[str, str]:
    """The ONNX tensor of each engine tensor that has one, by the engine's name.

    Args:
        layers: of the engine, with the names of what they read and write.
        model: the model that it was built from; nodes that only a typed graph has do not count.
    """
    known = {node.name for node in model.nodes}
    outputs = {info.name for info in model.outputs}
    nodes_of = {layer.name: frozenset(layer.onnx_nodes) & known for layer in layers}
    spread = {node for node, count in Counter(n for ns in nodes_of.values() for n in ns).items() if count > 1}
    readers = _readers(model)
    found: dict[str, str] = {}
    for layer in layers:
        nodes = nodes_of[layer.name]
        written = [
            tensor
            for tensor in _written_by(nodes - spread, model)
            if tensor not in outputs and not nodes.issuperset(readers.get(tensor, ()))
        ]
        for name in layer.linear_outputs:
            if name in model.dtypes:
                continue
            reading = frozenset().union(*(nodes_of[other.name] for other in layers if name in other.inputs))
            possible = [tensor for tensor in written if not (reading - nodes).isdisjoint(readers[tensor])]
            if len(possible) == 1:
                found[name] = possible[0]
    written_by = Counter(found.values())
    joined = {name: tensor for name, tensor in found.items() if written_by[tensor] == 1}
    short = Counter(_GRAPH.sub("", name) for layer in layers for name in layer.outputs)
    for name, tensor in tuple(joined.items()):
        without = _GRAPH.sub("", name)
        if short[without] == 1 and without not in model.dtypes:
            joined[without] = tensor
    return joined


def as_shaped(value: np.ndarray, shape: Sequence[int | str | None] | None) -> np.ndarray | None:
    """`value` in this shape, if kernels only joined or parted axes that are neighbours; None if they did more."""
    if shape is None or not all(isinstance(size, int) for size in shape):
        return None
    wanted = tuple(int(size or 0) for size in shape)
    few, many = sorted((_edges(value.shape), _edges(wanted)), key=len)
    return value.reshape(wanted) if few <= many and max(few) == max(many) else None


def _edges(shape: Sequence[int]) -> set[int]:
    """How many elements the last axes have together: of one, of two, …"""
    return {math.prod(shape[place:]) for place in range(len(shape) + 1)}


def _written_by(nodes: Iterable[str], model: Model) -> list[str]:
    return [name for node in nodes for name in model.node(node).outputs if name]


def _readers(model: Model) -> Mapping[str, tuple[str, ...]]:
    readers: dict[str, tuple[str, ...]] = {}
    for node in model.nodes:
        for name in dict.fromkeys(node.inputs):
            readers[name] = (*readers.get(name, ()), node.name)
    return readers

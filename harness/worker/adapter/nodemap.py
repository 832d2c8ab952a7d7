"""Which layers of a network came from which ONNX node.

The ONNX parser makes several layers of many nodes (a Gemm is a product, a shuffle of its bias and a sum), and
names only some of them after the node. So a layer is found, in this order,

1. by name: the parser names a node's main layer after the node;
2. by metadata `[ONNX Layer: NODE]`, from 8.6 on;
3. by data flow: whatever lies between a node's inputs and its outputs, which have their ONNX names, is its own.
"""

import re
from dataclasses import dataclass
from typing import Dict, List, Sequence, Set, Tuple

from ..protocol import NodeHint
from .network import Graph

#: Entries are apart by U+001E or U+001F; a name may hold brackets itself.
_METADATA = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f]|\[ONNX Layer: |$)", re.DOTALL)


def names_in_metadata(metadata: str) -> Tuple[str, ...]:
    """The ONNX node names in the metadata of a layer, of a network or of an engine."""
    return tuple(dict.fromkeys(match.strip() for match in _METADATA.findall(metadata)))


@dataclass(frozen=True)
class NodeMap:
    """Layers by ONNX node, and back.

    Args:
        layers_of: node name → indices of its layers, in network order; empty for a node that left none (it was
            folded into a constant, or did nothing).
        nodes_of: layer name → node names.
    """

    layers_of: Dict[str, Tuple[int, ...]]
    nodes_of: Dict[str, Tuple[str, ...]]


def map_nodes(graph: Graph, nodes: Sequence[NodeHint], *, metadata: bool) -> NodeMap:
    """Find the layers of each node.

    Args:
        graph: the parsed network.
        nodes: the nodes of the ONNX graph.
        metadata: whether layers of this release have metadata.
    """
    known = {node.name for node in nodes}
    owners: Dict[int, Set[str]] = {}
    for layer in graph.layers:
        if layer.name in known:
            owners[layer.index] = {layer.name}
        elif metadata:
            named = known.intersection(names_in_metadata(layer.handle.metadata))
            if named:
                owners[layer.index] = named
    boundary = {name for node in nodes for name in node.outputs} | set(graph.inputs)
    for node in nodes:
        for index in _between(graph, node, boundary, owners):
            owners.setdefault(index, set()).add(node.name)
    layers_of: Dict[str, List[int]] = {node.name: [] for node in nodes}
    nodes_of: Dict[str, Tuple[str, ...]] = {}
    for layer in graph.layers:
        for name in owners.get(layer.index, ()):
            layers_of[name].append(layer.index)
        if layer.index in owners:
            nodes_of[layer.name] = tuple(sorted(owners[layer.index]))
    return NodeMap({name: tuple(found) for name, found in layers_of.items()}, nodes_of)


def _between(graph: Graph, node: NodeHint, boundary: Set[str], owners: Dict[int, Set[str]]) -> List[int]:
    """Layers without an owner upstream of the node's outputs, up to tensors and layers of other nodes."""
    found: Set[int] = set()
    seen: Set[str] = set()
    waiting = list(node.outputs)
    while waiting:
        name = waiting.pop()
        index = graph.producers.get(name)
        if name in seen or index is None:
            continue
        seen.add(name)
        if index not in owners:
            found.add(index)
        elif node.name not in owners[index]:
            continue
        waiting += [read for read in graph.layers[index].inputs if read not in boundary]
    return sorted(found)

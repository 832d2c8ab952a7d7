"""From an ONNX file to a TensorRT network, a plain view of that network, and which of its layers each node became.

The ONNX parser makes several layers of many nodes (a Gemm is a product, a shuffle of its bias and a sum), and
names only some of them after the node. So a layer is found, in this order,

1. by name: the parser names a node's main layer after the node;
2. by metadata `[ONNX Layer: NODE]`, from 8.6 on;
3. by data flow: whatever lies between a node's inputs and its outputs, which have their ONNX names, is its own.
"""

import os
import re
from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Set, Tuple

from ..protocol import Fault, NodeHint, RefusedNode
from . import words
from .log import Log
from .release import Release


@dataclass(frozen=True)
class Layer:
    """One layer of a network before the build. `handle` is the `trt.ILayer`."""

    index: int
    name: str
    kind: str
    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]
    handle: Any


class ParserRefusal(Fault):
    """The parser does not take the model: `refused` is what it said, by node."""

    def __init__(self, refused: Tuple[RefusedNode, ...], message: str, evidence: Sequence[str]) -> None:
        kind = "build_failed"
        if any(node.code.startswith("UNSUPPORTED") for node in refused):
            kind = "unsupported"
        elif any(node.code == "MEM_ALLOC_FAILED" or words.out_of_memory([node.message]) for node in refused):
            kind, refused = "out_of_memory", ()
        super().__init__(kind, message, evidence=evidence, nodes=[node.name for node in refused if node.name])
        self.refused = refused


class Graph:
    """The layers and tensors of a network, by index and by name.

    Args:
        network: a `trt.INetworkDefinition` that is not changed while this is used, but for marks.
    """

    def __init__(self, network: Any) -> None:
        self.layers: List[Layer] = []
        self.tensors: Dict[str, Any] = {}
        self.producers: Dict[str, int] = {}
        self.consumers: Dict[str, List[int]] = {}
        self.inputs: List[str] = []
        for index in range(network.num_inputs):
            self.inputs.append(self._add(network.get_input(index)))
        for index in range(network.num_layers):
            self._read(index, network.get_layer(index))

    def _read(self, index: int, handle: Any) -> None:
        # An omitted optional input is None.
        reads = [handle.get_input(i) for i in range(handle.num_inputs)]
        writes = [handle.get_output(i) for i in range(handle.num_outputs)]
        layer = Layer(
            index,
            handle.name,
            handle.type.name,
            tuple(self._add(tensor) for tensor in reads if tensor is not None),
            tuple(self._add(tensor) for tensor in writes if tensor is not None),
            handle,
        )
        self.layers.append(layer)
        for name in layer.inputs:
            self.consumers.setdefault(name, []).append(index)
        for name in layer.outputs:
            self.producers[name] = index

    def _add(self, tensor: Any) -> str:
        name = str(tensor.name)
        self.tensors.setdefault(name, tensor)
        return name


def network_flags(trt: Any, release: Release, typing: str) -> int:
    """The bits for `create_network`: explicit batch where that is still a choice, strong typing where asked.

    From 11 on every network has both, and neither is asked for.
    """
    flags = 0
    if release.offers("explicit_batch"):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    if typing == "strong" and release.offers("weak"):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return flags


def parse_network(
    trt: Any, release: Release, network: Any, logger: Any, path: str, nodes: Sequence[NodeHint], log: Log
) -> Any:
    """Parse an ONNX file into `network`. The parser returned owns the weights: keep it until the build is over.

    Raises:
        ParserRefusal: `unsupported` if the parser says that it does not support something, else `build_failed`.
    """
    start = log.mark()
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(path) and parser.num_errors == 0:
        return parser
    refused = tuple(_refused(parser.get_error(index), release, nodes) for index in range(parser.num_errors))
    messages = list(map(str, refused))
    first = messages[0] if messages else "is there an ONNX model in the file?"
    raise ParserRefusal(
        refused,
        "{} cannot parse {}: {}".format(release, os.path.basename(path), first),
        (*messages, *log.errors(start)),
    )


def _code(error: Any) -> str:
    """The name of its code. ErrorCode has a `name` of another kind in some releases: it is read off the text."""
    text = str(error.code())
    match = re.search(r"\.(\w+)", text)
    return match.group(1) if match else text


def _refused(error: Any, release: Release, nodes: Sequence[NodeHint]) -> RefusedNode:
    index = error.node()
    name = op = ""
    if release.offers("parser_node_names"):
        name, op = error.node_name(), error.node_operator()
    elif 0 <= index < len(nodes):
        name, op = nodes[index].name, nodes[index].op
    lines = words.telling(str(error.desc()).splitlines())
    return RefusedNode(index, name, op, _code(error), "\n".join(lines))


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
    """Find the layers of each node."""
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

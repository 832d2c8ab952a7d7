"""One session for every choice of pairs and scales: a Q/DQ model with switched roundings, whose scales are fed.

Each activation pair is `If(switch, dequantised, raw)` with its scale and zero point as inputs of the graph; one that
several nodes read has a switch for each of them, too. Weights are fed: raw, or quantised and dequantised outside of the
graph. So neither another scale, nor another granularity, nor another set of pairs costs a new session.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx
from onnx import TensorProto, helper

from harness.backends import GraphRunner, tensor_sizes
from harness.model import (
    MASK,
    Emitter,
    LoweredGraph,
    Model,
    WeightFeed,
    element_type,
    needed_nodes,
    outer_reads,
    owner,
)
from harness.quantization.arithmetic import clips, dequantized
from harness.quantization.types import PairKind, QdqPair, Reader, Scale
from harness.tensors import Precision

SCALE, ZERO = "harness::scale", "harness::zero"
BUDGET = 256 << 20
"""Bytes of tensors that are held at once."""


@dataclass(frozen=True, eq=False)
class Setting:
    """Which pairs quantise, and with which scales.

    Args:
        off: names of pairs that pass their tensor on as it is.
        floats: names of nodes that read everything in float.
        scales: other scales than those of the file, by name of the pair.
    """

    off: frozenset[str] = frozenset()
    floats: frozenset[str] = frozenset()
    scales: Mapping[str, Scale] = field(default_factory=dict)

    def quantizes(self, pair: QdqPair, readers: Sequence[Reader]) -> bool:
        """Whether the pair quantises for one of these readers, or what nothing reads."""
        used = not readers or any(each.node not in self.floats for each in readers)
        return used and pair.name not in self.off


class SwitchedModel:
    """A Q/DQ model that is run with any of its pairs, and any scales.

    Args:
        model: the model.
        pairs: its pairs, see `find_pairs`.
        weights: the float values of the weight pairs, see `float_weights`.
    """

    def __init__(self, model: Model, pairs: Sequence[QdqPair], weights: Mapping[str, np.ndarray]) -> None:
        self.model, self.pairs, self.weights = model, tuple(pairs), weights
        self.inferences = 0
        """How often a sample went through the model so far."""
        self._sessions: dict[tuple[str, ...], tuple[_Graph, GraphRunner]] = {}
        self._quantized: dict[tuple[str, int], tuple[Scale, np.ndarray]] = {}

    @cached_property
    def computed(self) -> tuple[str, ...]:
        """The float32 tensors that the nodes of the main graph compute, Q/DQ nodes left out, in their order."""
        return tuple(
            name
            for node in self.model.nodes
            if node.op not in ("QuantizeLinear", "DequantizeLinear")
            for name in node.outputs
            if self.model.dtypes.get(name) == "float32"
        )

    def run(
        self, feeds: Mapping[str, np.ndarray], setting: Setting, tensors: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """`tensors`, by default the model's outputs, by name.

        Raises:
            ModelError: ONNX Runtime does not accept the graph, or a node failed.
            InputDataError: the feeds do not fit.
        """
        wanted = tuple(info.name for info in self.model.outputs) if tensors is None else tuple(tensors)
        graph, runner = self._session(wanted, feeds)
        on = [
            switch
            for pair in self.pairs
            for switch, readers in graph.switches_of(pair)
            if setting.quantizes(pair, readers)
        ]
        self.inferences += 1
        return runner.run({**feeds, **self._fed(graph, setting)}, on, wanted)

    def _session(
        self, wanted: tuple[str, ...], feeds: Mapping[str, np.ndarray]
    ) -> tuple[_Graph, GraphRunner]:
        """One that has `wanted`: making it takes as long as many inferences, so of small models it has all tensors."""
        for tensors, session in self._sessions.items():
            if set(wanted) <= set(tensors):
                return session
        sizes = tensor_sizes(self.model, feeds)
        small = all(name in sizes for name in self.computed) and (
            sum(sizes[name] for name in self.computed) <= BUDGET
        )
        outputs = (info.name for info in self.model.outputs)
        tensors = tuple(dict.fromkeys((*wanted, *self.computed, *outputs))) if small else wanted
        graph = _Graph(self.model, self.pairs)
        runner = GraphRunner(self.model, graph.lowered(tensors, self.weights), Precision.FP32, {})
        self._sessions[tensors] = graph, runner
        return graph, runner

    def quantized_weight(self, pair: QdqPair, scale: Scale) -> np.ndarray:
        """The weight of a pair, quantised and dequantised."""
        key = (pair.name, id(scale))
        if key not in self._quantized:
            self._quantized[key] = (scale, dequantized(self.weights[pair.name], scale, pair.dtype))
        return self._quantized[key][1]

    def _fed(self, graph: _Graph, setting: Setting) -> dict[str, np.ndarray]:
        feeds: dict[str, np.ndarray] = {}
        for index, pair in enumerate(self.pairs):
            scale = setting.scales.get(pair.name, pair.scale)
            if pair.kind is PairKind.WEIGHT:
                for name, readers in graph.fed[pair.name]:
                    low = setting.quantizes(pair, readers)
                    feeds[name] = self.quantized_weight(pair, scale) if low else self.weights[pair.name]
            else:
                zero = np.zeros_like(scale.values) if scale.zero_point is None else scale.zero_point
                feeds[f"{SCALE}{index}"], feeds[f"{ZERO}{index}"] = scale.values, zero
        return feeds

    def close(self) -> None:
        """Free the sessions and the quantised weights."""
        self._sessions.clear()
        self._quantized.clear()


class _Graph:
    def __init__(self, model: Model, pairs: Sequence[QdqPair]) -> None:
        self.model, self.pairs = model, pairs
        self.emit = Emitter(prefix="harness::qdq")
        self.members: list[frozenset[str]] = []
        self.fed: dict[str, list[tuple[str, tuple[Reader, ...]]]] = {}
        self.renamed: dict[tuple[str, int], str] = {}
        self.inputs = {node.name: dict(enumerate(node.input)) for node in model.evaluated.graph.node}

    def switches_of(self, pair: QdqPair) -> Iterable[tuple[str, tuple[Reader, ...]]]:
        """The switches of an activation pair, and which readers each is for; that of the pair itself is the last."""
        if pair.kind is PairKind.ACTIVATION:
            if len({reader.node for reader in pair.readers}) > 1:
                for reader in pair.readers:
                    yield f"{pair.name}>{reader.node}:{reader.position}", (reader,)
            yield pair.name, pair.readers

    def lowered(self, wanted: tuple[str, ...], weights: Mapping[str, np.ndarray]) -> LoweredGraph:
        source = self.model.evaluated
        needed = needed_nodes(self.model, wanted)
        quantizers = {pair.quantizer: index for index, pair in enumerate(self.pairs) if pair.quantizer}
        dequantizers = {name: index for index, pair in enumerate(self.pairs) for name in pair.dequantizers}
        reads: dict[int, onnx.NodeProto] = {}
        inputs = self._weights(source, weights)
        for node in source.graph.node:
            if owner(node.name) not in needed:
                continue
            if node.name in quantizers:
                reads[quantizers[node.name]] = node
            elif node.name in dequantizers:
                index = dequantizers[node.name]
                if self.pairs[index].kind is PairKind.ACTIVATION:
                    inputs += self._activation(index, reads[index], node)
            else:
                new = onnx.NodeProto()
                new.CopyFrom(node)
                for position in range(len(new.input)):
                    new.input[position] = self.renamed.get((node.name, position), new.input[position])
                self.emit.nodes.append(new)
        written = {name for node in self.emit.nodes for name in node.output}
        outputs = {name: name if name in written else self.emit.add("Identity", name) for name in wanted}
        return self._assemble(inputs, outputs)

    def _weights(
        self, source: onnx.ModelProto, weights: Mapping[str, np.ndarray]
    ) -> list[onnx.ValueInfoProto]:
        """The inputs that take the dequantised weights, in place of the nodes that write them."""
        written = {
            node.name: node.output[0] for proto in (self.model.skeleton, source) for node in proto.graph.node
        }
        inputs = []
        for pair in self.pairs:
            self.fed[pair.name] = []
            for name in (written[each] for each in pair.dequantizers if pair.kind is PairKind.WEIGHT):
                inputs.append(
                    helper.make_tensor_value_info(name, TensorProto.FLOAT, weights[pair.name].shape)
                )
                readers = (
                    tuple(reader for reader in pair.readers if self._reads(reader, name)) or pair.readers
                )
                self.fed[pair.name].append((name, readers))
        return inputs

    def _reads(self, reader: Reader, name: str) -> bool:
        return self.inputs.get(reader.node, {}).get(reader.position) == name

    def _activation(
        self, index: int, quantizer: onnx.NodeProto, dequantizer: onnx.NodeProto
    ) -> list[onnx.ValueInfoProto]:
        """Emit one pair, switched; returns the inputs that feed its scale."""
        pair = self.pairs[index]
        raw, written = quantizer.input[0], dequantizer.output[0]
        scale, zero = f"{SCALE}{index}", f"{ZERO}{index}"
        axis = {} if pair.scale.axis is None else {"axis": pair.scale.axis}
        typed, low, steps = f"{written}::zero", f"{written}::low", f"{written}::steps"
        inner = [
            helper.make_node("Cast", [zero], [typed], f"{typed}/Cast", to=element_type(pair.dtype)),
            helper.make_node("QuantizeLinear", [raw, scale, typed], [steps], f"{steps}/Q", **axis),
            helper.make_node("DequantizeLinear", [steps, scale, typed], [low], f"{low}/DQ", **axis),
        ]
        keep = "Relu" if clips(pair.scale, pair.dtype) else "Identity"
        *several, _ = switches = list(self.switches_of(pair))
        self._select(frozenset(switch for switch, _ in switches), inner, low, raw, keep, written)
        for switch, (reader,) in several:
            if self._reads(reader, written):
                name, value = self.emit.fresh(), self.emit.fresh()
                copy = [helper.make_node("Identity", [written], [value], f"{value}/Identity")]
                self._select(frozenset({switch}), copy, value, raw, keep, name)
                self.renamed[reader.node, reader.position] = name
        if dequantizer.name != pair.dequantizers[0]:
            return []
        return [
            helper.make_tensor_value_info(scale, TensorProto.FLOAT, None),
            helper.make_tensor_value_info(zero, TensorProto.FLOAT, None),
        ]

    def _select(
        self, members: frozenset[str], nodes: list[onnx.NodeProto], low: str, raw: str, keep: str, output: str
    ) -> None:
        number = len(self.members)
        self.members.append(members)
        other = f"{output}/raw{number}"
        plain = [helper.make_node(keep, [raw], [other], f"{other}/{keep}")]
        branches = {
            "then_branch": helper.make_graph(nodes, low, [], [_float(low)]),
            "else_branch": helper.make_graph(plain, other, [], [_float(other)]),
        }
        self.emit.add("If", f"harness::switch{number}", output=output, **branches)

    def _assemble(self, inputs: list[onnx.ValueInfoProto], outputs: dict[str, str]) -> LoweredGraph:
        source = self.model.evaluated
        proto = onnx.ModelProto(ir_version=source.ir_version)
        proto.opset_import.extend(source.opset_import)
        proto.functions.extend(source.functions)
        graph = proto.graph
        graph.name = source.graph.name
        graph.input.extend(source.graph.input)
        count = len(self.members)
        if count:
            graph.input.append(helper.make_tensor_value_info(MASK, TensorProto.BOOL, [count]))
            names = [f"harness::switch{number}" for number in range(count)]
            ones = self.emit.constant("ones", np.ones(count, dtype=np.int64))
            graph.node.append(
                helper.make_node("Split", [MASK, ones], names, "harness::switches/Split", axis=0)
            )
        graph.node.extend(self.emit.nodes)
        graph.input.extend(inputs)
        read = outer_reads(graph) | {value.name for value in source.graph.input}
        graph.initializer.extend(tensor for tensor in source.graph.initializer if tensor.name in read)
        graph.initializer.extend(self.emit.constants.values())
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs.values())
        weights = tuple(WeightFeed(name, name, None) for name in self.model.weights)
        return LoweredGraph(proto, (), tuple(self.members), weights, outputs)


def _float(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)

"""The reference: ONNX Runtime on the CPU in FP32, and in double precision as far as it has double kernels.

In double precision every float32 tensor becomes float64. An operator without a double kernel (Conv, Erf, Resize, LSTM,
…) stays in FP32 between two Casts; its inputs are then rounded from other values than the reference's, and a plain Conv
also adds its channels in reverse order. So each node's rounding differs from that of the FP32 reference, one way or the
other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from harness.backends.partitioned import left_out
from harness.backends.runtime_words import GraphRefusedError, first_line
from harness.backends.session import GraphRunner, create_session, infer, mean_size
from harness.errors import HarnessError, ModelError
from harness.model import Model, bodies, graph_dtypes, is_widened, lower, needed_nodes, node_reads, owner
from harness.tensors import Precision


class Reference:
    """FP32 evaluation of a model. Sessions are kept by the tensors they return.

    Args:
        model: the model.
        own: whether the roundings that the model brings itself (its own float16 and bfloat16 tensors, its Q/DQ pairs)
            are kept, as they are in what candidates are compared with. Without them the model must have some.
    """

    name = "reference"

    def __init__(self, model: Model, *, own: bool = True) -> None:
        self.model = model
        self.own = own
        self._runners: dict[tuple[str, ...], GraphRunner] = {}
        self._weights: dict[str, np.ndarray] = {}

    def run(
        self, feeds: Mapping[str, np.ndarray], tensors: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """`tensors` (by default the model's outputs) by name, in the model's dtypes; bfloat16 comes as float32.

        Raises:
            ModelError: ONNX Runtime does not accept the model, or a node failed.
            InputDataError: the feeds do not fit.
        """
        wanted = tuple(tensors) if tensors is not None else tuple(info.name for info in self.model.outputs)
        if wanted not in self._runners:
            graph = lower(self.model, Precision.FP32, wanted, own=self.own)
            self._runners[wanted] = GraphRunner(self.model, graph, Precision.FP32, self._weights)
        return self._runners[wanted].run(feeds)

    @property
    def without_kernel(self) -> frozenset[str]:
        """The nodes that onnx.reference ran, as ONNX Runtime has no kernel for them."""
        return left_out(runner.session for runner in self._runners.values())

    def close(self) -> None:
        """Free the sessions."""
        self._runners.clear()
        self._weights.clear()


FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
SINGLE = "::single"
FP32_ONLY = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "AveragePool",
        "GlobalAveragePool",
        "Erf",
        "LSTM",
        "GRU",
        "RNN",
        "Resize",
        "Upsample",
        "Gelu",
    }
    | {"QuantizeLinear", "DequantizeLinear", "InstanceNormalization", "NonMaxSuppression", "Attention"}
)
_RETRIES = 40


@dataclass(frozen=True)
class DoubleRun:
    """Outputs in double precision.

    Args:
        tensors: by name; float64 where the model has float32.
        fp32_ops: operators that were computed in FP32 after all.
    """

    tensors: Mapping[str, np.ndarray]
    fp32_ops: tuple[str, ...]


class DoubleReference:
    """Evaluation of a model in double precision.

    Args:
        model: the model.
        tensors: what to return; by default the model's outputs.

    Raises:
        ModelError: ONNX Runtime does not take the graph in double precision.
    """

    def __init__(self, model: Model, tensors: Sequence[str] | None = None) -> None:
        self._model = model
        self._names = tuple(tensors) if tensors is not None else tuple(info.name for info in model.outputs)
        fp32_ops = FP32_ONLY
        for _ in range(_RETRIES):
            graph = _Widening(model, fp32_ops).graph(self._names)
            try:
                self._session = create_session(
                    graph.proto,
                    where=model.name,
                    operators=model.operators,
                    dtypes={} if model.operators else None,
                    elements=mean_size(model),
                )
            except GraphRefusedError as refusal:
                missing = refusal.missing
                if missing is None or missing.domain is not None or missing.op in fp32_ops:
                    raise
                fp32_ops |= {missing.op}
                continue
            self._graph = graph
            self.fp32_ops = tuple(sorted(graph.narrowed))
            return
        raise ModelError("too many operators have no double kernel", where=model.name)

    def run(self, feeds: Mapping[str, np.ndarray]) -> DoubleRun:
        """The tensors for one sample.

        Raises:
            ModelError: a node failed.
        """
        takes = {value.name for value in self._session.get_inputs()}
        values = {name: _widened(array) for name, array in feeds.items() if name in takes}
        for name in self._model.weights:
            if (fed := f"{name}{SINGLE}") in takes:
                values[fed] = self._model.weight(name)
            elif name in takes:
                values[name] = _widened(self._model.weight(name))
        try:
            arrays = infer(self._session, self._graph.outputs, values)
        except HarnessError:
            raise
        except Exception as error:
            text = f"ONNX Runtime failed in double precision: {first_line(error)}"
            raise ModelError(text, where=self._model.name) from error
        return DoubleRun(dict(zip(self._names, arrays, strict=True)), self.fp32_ops)


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype == np.float32 else array


@dataclass
class _Graph:
    proto: onnx.ModelProto
    outputs: tuple[str, ...]
    narrowed: frozenset[str]


@dataclass
class _Widening:
    """Rewrites a model to double precision, its subgraphs included."""

    model: Model
    fp32_ops: frozenset[str]
    narrowed: set[str] = field(default_factory=set)
    count: int = 0

    def graph(self, names: Sequence[str]) -> _Graph:
        proto = onnx.ModelProto()
        proto.CopyFrom(self.model.evaluated)
        graph = proto.graph
        needed = needed_nodes(self.model, names)
        kept = [node for node in graph.node if owner(node.name) in needed]
        del graph.node[:]
        graph.node.extend(kept)
        del graph.output[:], graph.value_info[:]
        reverses = self.reversible(graph)
        self.widen(graph, self.model.dtypes, reverses)
        self.feed_singles(graph)
        # An untouched input may be asked for: ONNX wants a node behind every output.
        outputs = tuple(f"double::{place}" for place in range(len(names)))
        for name, output in zip(names, outputs, strict=True):
            exists = self.model.dtypes.get(name) != "bfloat16"  # in NumPy
            attributes = {} if exists else {"to": FLOAT}
            op = "Identity" if exists else "Cast"
            graph.node.append(helper.make_node(op, [name], [output], name=output, **attributes))
            graph.output.append(onnx.ValueInfoProto(name=output))
        return _Graph(proto, outputs, frozenset(self.narrowed))

    def feed_singles(self, graph: onnx.GraphProto) -> None:
        """Feed weights in FP32, and cast each in front of the first node that reads it: together they would take twice
        their memory once more."""
        singles = {
            value.name: value
            for value in graph.input
            if value.name in self.model.weights and value.type.tensor_type.elem_type == DOUBLE
        }
        singles = {name: value for name, value in singles.items() if self.model.dtypes.get(name) == "float32"}
        nodes: list[onnx.NodeProto] = []
        cast: set[str] = set()
        for node in graph.node:
            for name in dict.fromkeys(node_reads(node)):
                if name in singles and name not in cast:
                    cast.add(name)
                    value = singles[name]
                    value.name, value.type.tensor_type.elem_type = f"{name}{SINGLE}", FLOAT
                    nodes.append(helper.make_node("Cast", [value.name], [name], name=value.name, to=DOUBLE))
            nodes.append(node)
        del graph.node[:]
        graph.node.extend(nodes)

    def reversible(self, graph: onnx.GraphProto) -> dict[str, int]:
        """The channels of each Conv of one group whose weight has a known shape."""
        shapes = self.model.shapes
        found = {}
        for node in graph.node:
            group = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
            shape = shapes.get(owner(node.input[1])) if node.op_type == "Conv" else None
            if shape and group == 1 and isinstance(shape[1], int):
                found[node.name] = shape[1]
        return found

    def widen(
        self, graph: onnx.GraphProto, dtypes: Mapping[str, str], reverses: Mapping[str, int] | None = None
    ) -> None:
        """Make every float32 of a graph float64, in place."""
        for value in [*graph.input, *graph.output, *graph.value_info]:
            if value.type.tensor_type.elem_type == FLOAT:
                value.type.tensor_type.elem_type = DOUBLE
        for tensor in graph.initializer:
            _widen_tensor(tensor)
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            for body in bodies(node):
                self.widen(body, {**dtypes, **graph_dtypes(body)})
            if node.op_type in self.fp32_ops or node.domain not in ("", "ai.onnx"):
                channels = (reverses or {}).get(node.name)
                nodes += self.narrow(node, dtypes, channels)
            else:
                for attribute in node.attribute:
                    _widen_attribute(node, attribute)
                nodes.append(node)
        del graph.node[:]
        graph.node.extend(nodes)

    def narrow(
        self, node: onnx.NodeProto, dtypes: Mapping[str, str], channels: int | None
    ) -> list[onnx.NodeProto]:
        """`node` in FP32 between Casts; a Conv with its channels reversed."""
        self.narrowed.add(node.op_type)
        before: list[onnx.NodeProto] = []
        after: list[onnx.NodeProto] = []
        for position, name in enumerate(node.input):
            if name and _is_float32(name, dtypes):
                node.input[position] = self.emit(before, "Cast", [name], to=FLOAT)
        if channels is not None:
            order = self.fresh()
            values = numpy_helper.from_array(np.arange(channels)[::-1].astype(np.int64), order)
            before.append(helper.make_node("Constant", [], [order], name=order, value=values))
            for position in (0, 1):
                node.input[position] = self.emit(before, "Gather", [node.input[position], order], axis=1)
        for position, name in enumerate(node.output):
            if name and _is_float32(name, dtypes):
                node.output[position] = self.fresh()
                after.append(
                    helper.make_node("Cast", [node.output[position]], [name], name=f"{name}::wide", to=DOUBLE)
                )
        return [*before, node, *after]

    def emit(self, nodes: list[onnx.NodeProto], op: str, inputs: Sequence[str], **attributes: object) -> str:
        output = self.fresh()
        nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def fresh(self) -> str:
        self.count += 1
        return f"double::narrow{self.count}"


def _is_float32(name: str, dtypes: Mapping[str, str]) -> bool:
    return dtypes.get(name) == "float32" or is_widened(name)


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == FLOAT:
        values = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _widen_attribute(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> None:
    """Attributes that name or hold float32: of Cast, Constant, ConstantOfShape, EyeLike and the random operators."""
    if attribute.name in ("to", "dtype") and attribute.i == FLOAT:
        attribute.i = DOUBLE
    elif attribute.type == onnx.AttributeProto.TENSOR:
        _widen_tensor(attribute.t)
    elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
        single = attribute.name == "value_float"
        values = np.array(attribute.f if single else list(attribute.floats), dtype=np.float64)
        attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))

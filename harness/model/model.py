"""The model as the rest of harness sees it: named nodes in order, typed tensors, weights kept apart."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from harness.case import Operators
from harness.errors import ModelError, NothingSelectedError
from harness.model import analysis, own_roundings
from harness.model.sizes import sized_nodes
from harness.text import suggestion

LARGE_WEIGHT = 64  # float32 initializers with more elements are fed at run time instead of embedded
LARGE_BYTES = 1 << 20  # and initializers of any dtype that can be fed, with more bytes


@dataclass(frozen=True)
class TensorInfo:
    """Name, dtype (`float32`, `int64`, …) and shape of a tensor.

    A dimension is an int, a name, or None; the shape is None where even the rank is unknown.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class NodeInfo:
    """One node of the main graph.

    Args:
        index: position in topological order.
        name: unique and never empty.
        op: operator type.
        domain: operator set domain; empty for ONNX itself.
        inputs: names of the tensors it reads, also those that only its subgraphs read; omitted ones left out.
        outputs: names of the tensors it writes.
        lowerable: whether lowering its precision means anything: it computes float32 tensors from run-time data,
            or for arithmetic on it from sizes that are known at run time only.
    """

    index: int
    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    lowerable: bool


def own_type(value: ir.Value) -> ir.TypeProtocol | None:
    """The type of a value as an object of its own, which can be given to another: `dtype` is written to in place."""
    return copy.deepcopy(value.type)


def _restore(data: bytes, name: str, sha256: str, path: Path | None, operators: Operators | None) -> Model:
    made = ir.from_proto(onnx.load_from_string(data))
    return Model(made, name=name, sha256=sha256, path=path, operators=operators)


class Model:
    """An ONNX model, immutable by convention: whoever changes a graph makes a new Model.

    Args:
        ir_model: the model; every node must have a unique name (`load_model` sees to it).
        name: what it is called in messages.
        sha256: hash of the file or of the serialized model, with its external data.
        path: the file it came from, if any.
        operators: operators of the user's own that it may hold.

    Attributes:
        named: the names that nodes have in the file, if that is known.
    """

    def __init__(
        self,
        ir_model: ir.Model,
        *,
        name: str,
        sha256: str,
        path: Path | None = None,
        operators: Operators | None = None,
    ) -> None:
        self.ir = ir_model
        self.named: frozenset[str] | None = None
        self.operators = operators
        self.name = name
        self.sha256 = sha256
        self.path = path
        self._read: dict[str, np.ndarray] = {}

    def __repr__(self) -> str:
        return f"<Model {self.name}: {len(self.nodes)} nodes, sha256 {self.sha256[:12]}>"

    def __reduce__(self) -> tuple[object, ...]:
        """How it is pickled on its way to another process: as the ONNX file that it would be, of at most 2 GiB."""
        data = ir.to_proto(self.ir).SerializeToString()
        return _restore, (data, self.name, self.sha256, self.path, self.operators)

    def clone(self) -> ir.Model:
        """A copy of the graph, to be changed. Tensors are shared, types are not: passes of onnx_ir write to them."""
        clone = self.ir.clone()
        for graph in clone.graphs():
            written = (value for node in graph for value in node.outputs)
            for value in (*graph.inputs, *graph.initializers.values(), *written):
                value.type = own_type(value)
        return clone

    @cached_property
    def opset(self) -> int:
        """The version of the ONNX operator set that the model imports."""
        return int(self.ir.opset_imports.get("", 0))

    @cached_property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """What must be fed: the graph's inputs that have no initializer."""
        graph = self.ir.graph
        return tuple(_info(value) for value in graph.inputs if value.name not in graph.initializers)

    @cached_property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """What the graph returns."""
        return tuple(
            TensorInfo(info.name, self.dtypes.get(info.name, info.dtype), info.shape)
            for info in map(_info, self.ir.graph.outputs)
        )

    @cached_property
    def weights(self) -> Mapping[str, ir.TensorProtocol]:
        """The initializers that are large enough to be fed rather than embedded."""
        return {
            name: value.const_value
            for name, value in self.ir.graph.initializers.items()
            if value.const_value is not None and _is_large(value.const_value)
        }

    def weight(self, name: str) -> np.ndarray:
        """The values of one of `weights`, read once for all sessions; a memory map where the data is external."""
        if name not in self._read:
            self._read[name] = np.ascontiguousarray(self.weights[name].numpy())
        return self._read[name]

    @cached_property
    def skeleton(self) -> onnx.ModelProto:
        """The model as a small protobuf in which `weights` are graph inputs without data. Do not change it."""
        return analysis.skeleton(self.ir, frozenset(self.weights))

    @cached_property
    def inferred(self) -> onnx.ModelProto:
        """`skeleton` with the shapes and dtypes that ONNX inference finds, in subgraphs too. Do not change it."""
        inferred = analysis.with_microscaled_dtypes(analysis.infer(self.skeleton))
        return analysis.assume_dtypes(inferred, self.operators.kinds) if self.operators else inferred

    @cached_property
    def evaluated(self) -> onnx.ModelProto:
        """`inferred` as ONNX Runtime runs it, with the model's own float16 and bfloat16 roundings as Casts. Do not
        change it."""
        return own_roundings.written_out(own_roundings.runnable(self.inferred, self.ir), self.dtypes)

    @cached_property
    def unrounded(self) -> onnx.ModelProto | None:
        """`inferred` without roundings of the model's own (see `own_roundings.left_out`); None if it has none."""
        return own_roundings.left_out(
            own_roundings.runnable(self.inferred, self.ir), self.dtypes, self.zero_points
        )

    @cached_property
    def own_tensors(self) -> Mapping[str, str]:
        """The float16 and bfloat16 tensors that nodes compute, and what each is called before it is rounded."""
        return own_roundings.before_rounding(self.inferred.graph, self.dtypes)

    @cached_property
    def zero_points(self) -> Mapping[str, np.ndarray]:
        """Values of the zero points of QuantizeLinear nodes that are constant."""
        constants = own_roundings.Constants(self.ir)
        quantizers = (node for node in self.skeleton.graph.node if node.op_type == "QuantizeLinear")
        names = {name for node in quantizers for name in node.input[2:3] if name}
        return {name: value for name in sorted(names) if (value := constants.get(name)) is not None}

    @cached_property
    def dtypes(self) -> Mapping[str, str]:
        """Dtype name of every tensor of the main graph that type inference knows."""
        return analysis.tensor_dtypes(self.inferred, self.operators.libraries if self.operators else ())

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int | str | None, ...]]:
        """Shape of every tensor of the main graph whose rank is known."""
        return analysis.graph_shapes(self.inferred.graph)

    @cached_property
    def product_nodes(self) -> frozenset[str]:
        """Names of the nodes that compute matrix products or convolutions, in their subgraphs too."""
        return frozenset(node.name for node in self.skeleton.graph.node if analysis.computes_products(node))

    @cached_property
    def drawing_nodes(self) -> tuple[str, ...]:
        """Names of the nodes that may draw random numbers, in their subgraphs too."""
        return tuple(node.name for node in self.skeleton.graph.node if analysis.draws_random(node))

    @cached_property
    def quantized(self) -> bool:
        """Whether the model holds Q/DQ nodes."""
        return analysis.quantizes(self.skeleton.graph)

    @cached_property
    def data_nodes(self) -> frozenset[str]:
        """Names of the nodes that compute from what is in the inputs, and not only from their sizes."""
        return analysis.data_nodes(self.skeleton, self.feed_names())

    @cached_property
    def nodes(self) -> tuple[NodeInfo, ...]:
        """The nodes of the main graph in topological order."""
        data = self.data_nodes
        sized = sized_nodes(self.inferred.graph, self.dtypes, self.shapes, data, self.feed_names())
        at_run_time = data | sized  # the others are folded
        found = []
        for index, node in enumerate(self.skeleton.graph.node):
            outputs = tuple(name for name in node.output if name)
            computes_float = any(self.dtypes.get(name) == "float32" for name in outputs)
            lowerable = (
                node.name in at_run_time and computes_float and node.op_type not in analysis.NEVER_LOWERED
            )
            reads = analysis.node_reads(node)
            found.append(NodeInfo(index, node.name, node.op_type, node.domain, reads, outputs, lowerable))
        return tuple(found)

    @cached_property
    def lowerable(self) -> tuple[NodeInfo, ...]:
        """The nodes whose precision can be lowered."""
        return tuple(node for node in self.nodes if node.lowerable)

    @cached_property
    def float_tensors(self) -> tuple[str, ...]:
        """The float32 tensors that lowerable nodes write, in topological order: what can be observed."""
        return tuple(
            name
            for node in self.lowerable
            for name in node.outputs
            if name and self.dtypes.get(name) == "float32"
        )

    @cached_property
    def ir_nodes(self) -> Mapping[str, ir.Node]:
        """The nodes of the main graph by name. Do not change them."""
        return {str(node.name): node for node in self.ir.graph}

    @cached_property
    def _by_name(self) -> Mapping[str, NodeInfo]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def _producers(self) -> Mapping[str, NodeInfo]:
        return {name: node for node in self.nodes for name in node.outputs if name}

    def node(self, name: str) -> NodeInfo:
        """The node called `name`.

        Raises:
            NothingSelectedError: there is none; the message names the nearest.
        """
        try:
            return self._by_name[name]
        except KeyError:
            hint = suggestion(name, self._by_name)
            raise NothingSelectedError(f"no node is named {name!r}", where=self.name, hint=hint) from None

    def producer(self, tensor: str) -> NodeInfo | None:
        """The node that writes `tensor`; None for inputs and initializers."""
        return self._producers.get(tensor)

    @cached_property
    def predecessors(self) -> Mapping[str, tuple[str, ...]]:
        """For every tensor that a node writes: the run-time tensors it was computed from in one step."""
        return {
            name: tuple(read for read in node.inputs if read in self._producers)
            for node in self.nodes
            for name in node.outputs
            if name
        }

    def check_nodes(self, names: Sequence[str]) -> None:
        """Raise NothingSelectedError for the first name that is no node of this model."""
        for name in names:
            self.node(name)

    def feed_names(self) -> tuple[str, ...]:
        """Names of `inputs`, in order."""
        return tuple(info.name for info in self.inputs)


def hash_proto(proto: onnx.ModelProto) -> str:
    """SHA-256 of a model's deterministic serialization.

    Raises:
        ModelError: the model is over 2 GB; save it with external data and load the file instead.
    """
    try:
        return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
    except ValueError as error:
        raise ModelError(
            "the model is over 2 GB in one protobuf", hint="save it with external data and give its path"
        ) from error


def _is_large(tensor: ir.TensorProtocol) -> bool:
    is_float = tensor.dtype == ir.DataType.FLOAT
    fed = tensor.dtype != ir.DataType.STRING and tensor.dtype.bitwidth >= 8
    return (is_float and tensor.size > LARGE_WEIGHT) or (fed and tensor.nbytes > LARGE_BYTES)


def _info(value: ir.Value) -> TensorInfo:
    shape: tuple[int | str | None, ...] | None = None
    if value.shape is not None:
        shape = tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)
    return TensorInfo(str(value.name), _dtype_name(value), shape)


def _dtype_name(value: ir.Value) -> str:
    dtype = value.dtype
    if dtype is None:
        return "float32"
    name = "string" if dtype == ir.DataType.STRING else dtype.numpy().name
    if isinstance(value.type, ir.SequenceType):
        return f"seq({name})"
    return f"optional({name})" if isinstance(value.type, ir.OptionalType) else name

"""A node as rules ask about it: dtypes, shapes, attributes, and what is constant, in the bodies of If and Loop, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, cached_property

import numpy as np
import onnx_ir as ir

from harness.compiler.facts import NodeFacts
from harness.model import PRODUCTS, Model, TensorInfo

_DRAWING = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial"}
)
_DRAWING |= {"Bernoulli"}
_LONGEST = 60  # letters of an attribute


class NodeView:
    """One node of a model.

    Args:
        node: the node, with inferred dtypes and shapes.
        index: position of the node of the main graph that it is, or is in a body of.
        graph: what is known of the graph.
    """

    def __init__(self, node: ir.Node, index: int, graph: GraphView) -> None:
        self.node, self.index, self.graph = node, index, graph

    @property
    def op(self) -> str:
        """The operator type."""
        return self.node.op_type

    @property
    def domain(self) -> str:
        """The operator set domain; empty for ONNX itself."""
        return "" if self.node.domain == "ai.onnx" else self.node.domain

    @property
    def opset(self) -> int:
        """The version of the operator set of ONNX."""
        return self.graph.opset

    def value(self, position: int) -> ir.Value | None:
        """The input at `position`; None if it is omitted."""
        return self.node.inputs[position] if position < len(self.node.inputs) else None

    def dtype(self, position: int) -> str:
        """The dtype of an input; empty if it is omitted or unknown."""
        return dtype_of(self.value(position))

    def output_dtype(self, position: int = 0) -> str:
        """The dtype of an output; empty if it is omitted or unknown."""
        return dtype_of(self.node.outputs[position]) if position < len(self.node.outputs) else ""

    def shape(self, position: int) -> tuple[int | None, ...] | None:
        """The shape of an input, None where a size is open; None if the rank is unknown."""
        return shape_of(self.value(position))

    def rank(self, position: int) -> int | None:
        """The rank of an input; None if it is unknown."""
        shape = self.shape(position)
        return None if shape is None else len(shape)

    def attribute(self, name: str) -> int | float | str | tuple[int | float | str, ...] | None:
        """A plain attribute; None if it is not set."""
        found = self.node.attributes.get(name)
        if found is None or found.type in _COMPOUND:
            return None
        value = found.value
        return tuple(value) if isinstance(value, list | tuple) else value

    def constant(self, position: int) -> np.ndarray | None:
        """The values of an input that is a constant; None if it is none, or as large as a weight."""
        value = self.value(position)
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        return None if tensor is None else tensor.numpy()

    def is_constant(self, position: int) -> bool:
        """Whether an input is a weight, a constant, or computed from such ones."""
        value = self.value(position)
        return value is not None and value in self.graph.fixed

    @property
    def used(self) -> tuple[int, ...]:
        """Positions of the outputs that somebody reads, or the model returns."""
        outputs = self.graph.returned
        return tuple(
            position
            for position, value in enumerate(self.node.outputs)
            if value.name and (value.uses() or value in outputs)
        )

    def facts(self) -> NodeFacts:
        """The node as a finding shows it."""
        return NodeFacts(
            self.index,
            str(self.node.name),
            self.op,
            self.domain,
            {
                name: text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
                for name, text in ((name, str(self.attribute(name))) for name in self.node.attributes)
                if text != "None"
            },
            tuple(_info(value) for value in self.node.inputs if value is not None),
            tuple(_info(value) for value in self.node.outputs if value.name),
        )


_COMPOUND = frozenset(
    {
        ir.AttributeType.GRAPH,
        ir.AttributeType.GRAPHS,
        ir.AttributeType.TENSOR,
        ir.AttributeType.TENSORS,
        ir.AttributeType.SPARSE_TENSOR,
        ir.AttributeType.TYPE_PROTO,
    }
)


class GraphView:
    """A model as rules ask about it.

    Args:
        model: the model.
        sizes: the shapes with which its inputs are asked about, as far as they are given.
    """

    def __init__(self, model: Model, sizes: Mapping[str, tuple[int, ...]] | None = None) -> None:
        self.sizes = dict(sizes or {})
        self._weights = frozenset(model.weights)
        self.ir = ir.from_proto(model.inferred)
        self.opset = model.opset

    @cached_property
    def nodes(self) -> tuple[NodeView, ...]:
        """The nodes in topological order, those of bodies behind the node that holds them."""
        return tuple(
            NodeView(inner, index, self)
            for index, node in enumerate(self.ir.graph)
            for inner in _with_bodies(node)
        )

    def node(self, name: str) -> NodeView | None:
        """The first node of that name, in a body, too; None if there is none."""
        return self._by_name.get(name)

    def facts(self, name: str | None) -> NodeFacts | None:
        """What is known of the node of that name; None if there is none."""
        view = self._by_name.get(name or "")
        return None if view is None else view.facts()

    @cached_property
    def _by_name(self) -> dict[str, NodeView]:
        return {str(view.node.name): view for view in reversed(self.nodes)}

    @property
    def has_products(self) -> bool:
        """Whether a node multiplies matrices or convolves in float32."""
        return any(view.op in PRODUCTS and view.dtype(0) == "float32" for view in self.nodes)

    @cached_property
    def returned(self) -> frozenset[ir.Value]:
        """What the graph and its bodies return."""
        return frozenset(value for graph in self.ir.graphs() for value in graph.outputs)

    @cached_property
    def fixed(self) -> frozenset[ir.Value]:
        """The values that are known when an engine is built: weights, and what is computed from nothing else."""
        found = {
            value
            for graph in self.ir.graphs()
            for value in (*graph.initializers.values(), *graph.inputs)
            if value.is_initializer() or value.name in self._weights
        }
        for view in self.nodes:
            node = view.node
            reads = [value for value in node.inputs if value is not None]
            static = node.op_type in ("Shape", "Size") and _is_static(reads[0]) if reads else False
            plain = not any(attribute.type in _COMPOUND - _TENSORS for attribute in node.attributes.values())
            if static or (plain and node.op_type not in _DRAWING and all(value in found for value in reads)):
                found.update(node.outputs)
        return frozenset(found)


_TENSORS = frozenset({ir.AttributeType.TENSOR, ir.AttributeType.TENSORS, ir.AttributeType.SPARSE_TENSOR})


def _with_bodies(node: ir.Node) -> Iterator[ir.Node]:
    yield node
    for attribute in node.attributes.values():
        graphs = [attribute.value] if attribute.type == ir.AttributeType.GRAPH else ()
        for graph in attribute.value if attribute.type == ir.AttributeType.GRAPHS else graphs:
            for inner in graph:
                yield from _with_bodies(inner)


def dtype_of(value: ir.Value | None) -> str:
    """The dtype of a value, in NumPy's name for it; empty if it is unknown, or no tensor."""
    if value is None or value.dtype is None or not isinstance(value.type, ir.TensorType):
        return ""
    return _name(value.dtype)


@cache
def _name(dtype: ir.DataType) -> str:
    return "string" if dtype == ir.DataType.STRING else str(dtype.numpy())


def shape_of(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """The shape of a value, None where a size is open; None if the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def _is_static(value: ir.Value) -> bool:
    shape = shape_of(value)
    return shape is not None and None not in shape


def _info(value: ir.Value) -> TensorInfo:
    shape = None
    if value.shape is not None:
        shape = tuple(size if isinstance(size, int) else size.value for size in value.shape)
    return TensorInfo(str(value.name), dtype_of(value), shape)

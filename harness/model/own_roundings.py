"""Roundings that a model brings itself: float16 and bfloat16 tensors, Q/DQ pairs, and weights stored quantised.

ONNX Runtime's CPU provider computes runs of float16 nodes in FP32 and removes the casts that it put between them, so
that a square which overflows float16 stays finite; bfloat16 it hardly computes at all. `written_out` makes what the
file says explicit: each such node computes in FP32 between Casts of the graph's own, which ONNX Runtime does not
remove, and writes its tensor rounded. `left_out` is the same model without any of these roundings.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from harness.model.analysis import bodies, graph_dtypes
from harness.tensors import is_float

OWN = "::own"
"""Marks the names of what is added; what stands before it is the name of the node, or of the tensor, behind it."""

KINDS: Mapping[str, int] = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
# They take every dtype as it is, or decide on the dtype themselves.
UNTOUCHED = frozenset(
    {"Cast", "CastLike", "Constant", "ConstantOfShape", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
    | {"Flatten", "Shape", "Size"}
)


def owner(name: str) -> str:
    """The node, or tensor, of the model that something called `name` in an explicit graph belongs to."""
    return name.partition(OWN)[0]


def is_widened(name: str) -> bool:
    """Whether `name` is a float32 tensor that stands for one of the model's own float16 or bfloat16 tensors."""
    return OWN in name


def before_rounding(graph: onnx.GraphProto, dtypes: Mapping[str, str]) -> dict[str, str]:
    """For each float16 or bfloat16 tensor that a node of the main graph computes: its name before it is rounded.

    Nodes that only pass values on, and those that hold subgraphs, are left out. The names are those of the graph that
    `written_out` makes.
    """
    found = {}
    for node in graph.node:
        for name in filter(None, node.output):
            if dtypes.get(name) not in KINDS:
                continue
            if _is_wrapped(node, dtypes):
                found[name] = name + OWN
            elif node.op_type == "Cast" and dtypes.get(node.input[0]) == "float32":
                found[name] = node.input[0]
    return found


def written_out(proto: onnx.ModelProto, dtypes: Mapping[str, str]) -> onnx.ModelProto:
    """`proto` with each rounding to float16 or bfloat16 as a Cast; itself if it has no such tensor.

    Args:
        proto: the model, with the dtypes of the tensors in its subgraphs.
        dtypes: dtype name of each tensor of the main graph.
    """
    if not has_own_types(proto.graph, dtypes):
        return proto
    made = copy.deepcopy(proto)
    _rewrite(made.graph, dtypes, rounded=True)
    return made


def left_out(
    proto: onnx.ModelProto, dtypes: Mapping[str, str], constants: Mapping[str, np.ndarray]
) -> onnx.ModelProto | None:
    """`proto` in FP32 where it is float16 or bfloat16, and without its Q/DQ pairs; None where there is nothing to do.

    A pair whose zero point is the smallest value of its type clips negative values, as exporters express ReLU: that
    much of it stays. A weight that is stored quantised stays as it is, too; so do subgraphs with types of their own.

    Args:
        proto: the model, with the dtypes of the tensors in its subgraphs.
        dtypes: dtype name of each tensor of the main graph.
        constants: values of the zero points, by name.
    """
    typed = has_own_types(proto.graph, dtypes)
    pairs = list(quantizer_pairs(proto.graph))
    if (not typed and not pairs) or _bodies_are_typed(proto.graph, dtypes):
        return None
    made = copy.deepcopy(proto)
    clipping = {dequantizer.name: _clips(quantizer, constants) for quantizer, dequantizer in pairs}
    for quantizer, dequantizer in quantizer_pairs(made.graph):
        dequantizer.op_type = "Relu" if clipping[dequantizer.name] else "Identity"
        del dequantizer.attribute[:], dequantizer.input[:]
        dequantizer.input.append(quantizer.input[0])
    if typed:
        _rewrite(made.graph, dtypes, rounded=False)
    return made


def quantizer_pairs(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Each DequantizeLinear of a graph that reads straight from a QuantizeLinear, behind that node."""
    quantizers = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in quantizers:
            yield quantizers[node.input[0]], node


def has_own_types(graph: onnx.GraphProto, dtypes: Mapping[str, str]) -> bool:
    """Whether a node of the graph, or of its subgraphs, reads or writes float16 or bfloat16."""
    for node in graph.node:
        if any(dtypes.get(name) in KINDS for name in (*node.input, *node.output)):
            return True
        if any(has_own_types(body, {**dtypes, **graph_dtypes(body)}) for body in bodies(node)):
            return True
    return False


def _bodies_are_typed(graph: onnx.GraphProto, dtypes: Mapping[str, str]) -> bool:
    inner = (body for node in graph.node for body in bodies(node))
    return any(has_own_types(body, {**dtypes, **graph_dtypes(body)}) for body in inner)


def _is_wrapped(node: onnx.NodeProto, dtypes: Mapping[str, str]) -> bool:
    """Whether a node reads or writes float16 or bfloat16 and computes, instead of only passing values on."""
    typed = any(dtypes.get(name) in KINDS for name in (*node.input, *node.output) if name)
    return typed and node.op_type not in UNTOUCHED and not any(True for _ in bodies(node))


def _rewrite(graph: onnx.GraphProto, dtypes: Mapping[str, str], *, rounded: bool) -> None:
    """Widen a graph in place; without `rounded` what it writes stays FP32."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for body in bodies(node):
            _rewrite(body, {**dtypes, **graph_dtypes(body)}, rounded=rounded)
        if _is_wrapped(node, dtypes):
            nodes += _wrapped(node, dtypes, rounded=rounded)
        else:
            if node.op_type == "Cast" and not rounded and dtypes.get(node.output[0]) in KINDS:
                del node.attribute[:]
                node.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _wrapped(node: onnx.NodeProto, dtypes: Mapping[str, str], *, rounded: bool) -> list[onnx.NodeProto]:
    """`node` in FP32 between Casts."""
    before: list[onnx.NodeProto] = []
    after: list[onnx.NodeProto] = []
    for position, name in enumerate(node.input):
        if dtypes.get(name) in KINDS:
            reader = node.name or next(filter(None, node.output))
            wide = f"{name}{OWN}{len(before)}:{reader}"
            label = f"{reader}{OWN}{len(before)}"
            before.append(helper.make_node("Cast", [name], [wide], name=label, to=TensorProto.FLOAT))
            node.input[position] = wide
    for position, name in enumerate(node.output):
        kind = KINDS.get(dtypes.get(name, ""))
        if not name or kind is None:
            continue
        node.output[position] = name + OWN
        label = f"{node.name or name}{OWN}{len(before) + len(after)}"
        op, given = ("Cast", {"to": kind}) if rounded else ("Identity", {})
        after.append(helper.make_node(op, [name + OWN], [name], name=label, **given))
    return [*before, node, *after]


def bounds(quantizer: onnx.NodeProto, zero: np.ndarray | None) -> tuple[float, float]:
    """The smallest and the largest value that a QuantizeLinear writes.

    Args:
        quantizer: the node.
        zero: its zero point; None where it has none.
    """
    kind = next((attribute.i for attribute in quantizer.attribute if attribute.name == "output_dtype"), 0)
    dtype = zero.dtype if zero is not None else np.dtype(ir.DataType(kind or TensorProto.UINT8).numpy())
    limits = ml_dtypes.finfo(dtype) if is_float(dtype) else ml_dtypes.iinfo(dtype)
    return float(limits.min), float(limits.max)


def _clips(quantizer: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> bool:
    """Whether nothing below 0 is kept: the zero point is the smallest value of its type."""
    name = quantizer.input[2] if len(quantizer.input) > 2 else ""
    if name and name not in constants:
        return False
    zero = constants.get(name)
    least = bounds(quantizer, zero)[0]
    return least == 0.0 if zero is None else bool((zero.astype(np.float64) == least).all())


def spread(quantizer: onnx.NodeProto, values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """A scale or a zero point of a QuantizeLinear in a shape that broadcasts to `like`, which the node reads.

    Args:
        quantizer: the node; its `axis` and `block_size` count.
        values: one value, one along the axis, or one a block along it.
        like: what is quantised.
    """
    numbers = {attribute.name: attribute.i for attribute in quantizer.attribute}
    return along(values, like.shape, numbers.get("axis", 1), numbers.get("block_size", 0))


_READ = frozenset({"DequantizeLinear", "Identity", "Cast", "Transpose", "Reshape"})


class Constants:
    """The constant tensors of the main graph of a model, by name, computed when they are asked for."""

    def __init__(self, model: ir.Model) -> None:
        written = (value for node in model.graph for value in node.outputs)
        self._values = {str(value.name): value for value in (*model.graph.initializers.values(), *written)}
        self._known: dict[str, np.ndarray | None] = {}

    def get(self, name: str) -> np.ndarray | None:
        """The value of `name`, in its own dtype; None where it is not constant."""
        if name not in self._known:
            value = self._values.get(name)
            self._known[name] = None if value is None else self._compute(value)
        return self._known[name]

    def _compute(self, value: ir.Value) -> np.ndarray | None:
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None:
            return np.asarray(tensor.numpy())
        node = value.producer()
        if node is None or node.op_type not in _READ:
            return None
        read = [None if each is None else self.get(str(each.name)) for each in node.inputs]
        first = read[0]
        if first is None or any(each is None for each in read[1:]):
            return None
        if node.op_type == "Cast":
            return np.asarray(first.astype(ir.DataType(node.attributes["to"].as_int()).numpy()))
        if node.op_type == "Transpose":
            return np.transpose(
                first, node.attributes["perm"].as_ints() if "perm" in node.attributes else None
            )
        if node.op_type == "Reshape":
            return first.reshape([int(size) for size in np.asarray(read[1])])
        return first if node.op_type == "Identity" else _dequantized(node, read)


def _dequantized(node: ir.Node, read: list[np.ndarray | None]) -> np.ndarray:
    stored, scale = np.asarray(read[0], np.float32), np.asarray(read[1], np.float32)
    zero = np.zeros_like(scale) if len(read) < 3 else np.asarray(read[2], np.float32)
    axis, block = node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)
    zero, scale = (along(each, stored.shape, axis, block) for each in (zero, scale))
    return np.asarray((stored - zero) * scale, np.float32)


def along(values: np.ndarray, shape: tuple[int, ...], axis: int, block_size: int) -> np.ndarray:
    """Scales or zero points in a shape that broadcasts to that of the tensor.

    Args:
        values: one value, one along `axis`, or one for each block along it.
        shape: of the tensor.
        axis: of the QuantizeLinear or DequantizeLinear.
        block_size: elements that share a value; 0: one.
    """
    if values.size == 1:
        return values.reshape(())
    if values.ndim == 1:
        return values.reshape([-1 if place == axis % len(shape) else 1 for place in range(len(shape))])
    return np.take(np.repeat(values, block_size or 1, axis=axis), np.arange(shape[axis]), axis=axis)


def runnable(proto: onnx.ModelProto, model: ir.Model) -> onnx.ModelProto:
    """`proto` with stored FP4 weights as float32: ONNX Runtime's CPU provider has no DequantizeLinear for FP4."""
    constants = Constants(model)
    float4 = int(onnx.TensorProto.FLOAT4E2M1)
    stored = {tensor.name for tensor in proto.graph.initializer if tensor.data_type == float4}
    if not stored:
        return proto
    made, kept = copy.deepcopy(proto), []
    for node in proto.graph.node:
        reads_stored = node.op_type == "DequantizeLinear" and node.input[0] in stored
        values = constants.get(node.output[0]) if reads_stored else None
        if values is None:  # also where its scale is computed: ONNX Runtime says what is wrong
            kept.append(node)
        else:
            made.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
    del made.graph.node[:]
    made.graph.node.extend(kept)
    return made

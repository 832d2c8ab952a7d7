"""Roundings that a model brings itself: float16 and bfloat16 tensors, and Q/DQ pairs.

ONNX Runtime's CPU provider computes runs of float16 nodes in FP32 and removes the casts that it put between them, so
that a square which overflows float16 stays finite; bfloat16 it hardly computes at all. `written_out` makes what the
file says explicit: each such node computes in FP32 between Casts of the graph's own, which ONNX Runtime does not
remove, and writes its tensor rounded. `left_out` is the same model without any of these roundings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

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
    made = onnx.ModelProto()
    made.CopyFrom(proto)
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
    made = onnx.ModelProto()
    made.CopyFrom(proto)
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
            before.append(_node("Cast", name, wide, f"{reader}{OWN}{len(before)}", to=TensorProto.FLOAT))
            node.input[position] = wide
    for position, name in enumerate(node.output):
        kind = KINDS.get(dtypes.get(name, ""))
        if not name or kind is None:
            continue
        node.output[position] = name + OWN
        label = f"{node.name or name}{OWN}{len(before) + len(after)}"
        after.append(
            _node("Cast", name + OWN, name, label, to=kind)
            if rounded
            else _node("Identity", name + OWN, name, label)
        )
    return [*before, node, *after]


def _node(op: str, read: str, written: str, name: str, **attributes: int) -> onnx.NodeProto:
    return helper.make_node(op, [read], [written], name=name, **attributes)


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
    axis, block = numbers.get("axis", 1), numbers.get("block_size", 0)
    if values.size == 1:
        return values.reshape(())
    if values.ndim == 1:
        return values.reshape([-1 if place == axis % like.ndim else 1 for place in range(like.ndim)])
    repeated = np.repeat(values, block or 1, axis=axis)
    return np.take(repeated, np.arange(like.shape[axis]), axis=axis)

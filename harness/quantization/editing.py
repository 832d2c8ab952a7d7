"""Q/DQ models made from others: with other scales, or with pairs taken out."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import count

import numpy as np
import onnx_ir as ir

from harness.model import Model, add_constant, own_type
from harness.quantization.arithmetic import FP4, rounded, steps, two_levels
from harness.quantization.types import QdqPair, Reader, Scale
from harness.tensors import dtype_of


def with_scales(
    model: Model, pairs: Sequence[QdqPair], scales: Mapping[str, Scale], weights: Mapping[str, np.ndarray]
) -> Model:
    """`model` with other scales for some of its pairs. What it stores quantised is quantised anew.

    Args:
        model: the model.
        pairs: its pairs.
        scales: the new ones, by name of the pair.
        weights: the float values of its weights, see `float_weights`.
    """
    copy = model.clone()
    nodes = {str(node.name): node for node in copy.graph}
    for pair in pairs:
        if pair.name not in scales:
            continue
        scale = scales[pair.name]
        names = [name for name in (pair.quantizer, *pair.dequantizers) if name]
        made = _constants(copy.graph, pair.name, scale, pair.dtype, nodes[names[0]])
        for name in names:
            node = nodes[name]
            node.resize_inputs(len(made) + 1)
            for position, constant in enumerate(made, start=1):
                node.replace_input_with(position, constant)
            _set_axis(node, scale)
        if not pair.quantizer:
            stored = rounded(steps(weights[pair.name], scale, pair.dtype), pair.dtype).astype(
                dtype_of(pair.dtype)
            )
            value = nodes[pair.dequantizers[0]].inputs[0]
            assert value is not None
            value.const_value = ir.Tensor(stored, name=value.name)
    return _finished(model, copy, ("scales", *sorted(scales)), scales)


def without(
    model: Model,
    pairs: Sequence[QdqPair],
    off: Collection[str],
    weights: Mapping[str, np.ndarray],
    *,
    floats: Collection[str] = (),
) -> Model:
    """`model` with pairs taken out: their readers read the tensor as it was, and a stored weight in float.

    Args:
        model: the model.
        pairs: its pairs.
        off: names of the pairs to take out.
        weights: the float values of its weights.
        floats: names of nodes that read everything in float; a pair that nothing reads any more goes, too.
    """
    copy = model.clone()
    nodes = {str(node.name): node for node in copy.graph}
    for pair in pairs:
        taken = [reader for reader in pair.readers if pair.name in off or reader.node in floats]
        if pair.name not in off and not taken:
            continue
        leader = nodes[pair.quantizer or pair.dequantizers[0]]
        source = leader.inputs[0] if pair.quantizer else _float_constant(copy.graph, pair, weights[pair.name])
        assert source is not None
        for name in pair.dequantizers:
            value = nodes[name].outputs[0]
            for reader, position in tuple(value.uses()):
                if pair.name in off or Reader(str(reader.name), position) in taken:
                    reader.replace_input_with(position, source)
            if value in copy.graph.outputs and pair.name in off:
                _keep_name(copy.graph, value, source)
        _remove_unread(copy.graph, [nodes[name] for name in pair.dequantizers])
        if pair.quantizer:
            _remove_unread(copy.graph, [leader])
    return _finished(model, copy, ("without", *sorted(off), "floats", *sorted(floats)), {})


def _keep_name(graph: ir.Graph, value: ir.Value, source: ir.Value) -> None:
    """An output of the graph that was dequantised is written by an Identity now."""
    name = str(value.name)
    value.name = f"{name}::dequantized"
    node = ir.node("Identity", [source], name=f"{name}::float")
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, own_type(value), value.shape
    graph.append(node)
    graph.outputs[list(graph.outputs).index(value)] = node.outputs[0]


def _remove_unread(graph: ir.Graph, nodes: Iterable[ir.Node]) -> None:
    for node in nodes:
        if not any(value.uses() or value in graph.outputs for value in node.outputs):
            graph.remove(node, safe=True)


def _float_constant(graph: ir.Graph, pair: QdqPair, values: np.ndarray) -> ir.Value:
    name = f"{pair.name}::float"
    return graph.initializers[name] if name in graph.initializers else add_constant(graph, name, values)


def _constants(
    graph: ir.Graph, name: str, scale: Scale, dtype: str, before: ir.Node | None = None
) -> tuple[ir.Value, ...]:
    """Scale and zero point as constants; of FP4 a scale that is FP8 itself, dequantised before a node, and no zero."""
    zero = np.zeros_like(scale.values) if scale.zero_point is None else scale.zero_point
    taken = graph.initializers
    name = next(each for each in (f"{name}{'_' * i}" for i in count()) if f"{each}_scale" not in taken)
    if dtype == FP4:
        assert before is not None
        whole, parts = two_levels(scale.values)
        kind = dtype_of("float8_e4m3fn")
        read = (
            add_constant(graph, f"{name}_scale", parts.astype(kind)),
            add_constant(graph, f"{name}_scale_of_scales", whole),
        )
        node = ir.node("DequantizeLinear", read, name=f"{name}_scale_DequantizeLinear")
        node.outputs[0].name = f"{name}_scale_DequantizeLinear_Output"
        node.outputs[0].dtype, node.outputs[0].shape = ir.DataType.FLOAT, ir.Shape(parts.shape)
        graph.insert_before(before, node)
        return (node.outputs[0],)
    return (
        add_constant(graph, f"{name}_scale", scale.values.astype(np.float32)),
        add_constant(graph, f"{name}_zero_point", zero.astype(dtype_of(dtype))),
    )


def _set_axis(node: ir.Node, scale: Scale) -> None:
    if scale.axis is not None:
        node.attributes["axis"] = ir.AttrInt64("axis", scale.axis)
    if scale.block_size:
        node.attributes["block_size"] = ir.AttrInt64("block_size", scale.block_size)


def insert_pair(
    graph: ir.Graph, value: ir.Value, readers: Sequence[tuple[ir.Node, int]], scale: Scale, dtype: str
) -> None:
    """Put a QuantizeLinear and a DequantizeLinear between `value` and some of its readers."""
    name = str(value.name)
    constants = _constants(graph, name, scale, dtype)
    nodes: list[ir.Node] = []
    for op in ("QuantizeLinear", "DequantizeLinear"):
        node = ir.node(op, [nodes[-1].outputs[0] if nodes else value, *constants], name=f"{name}_{op}")
        node.outputs[0].name = f"{name}_{op}_Output"
        _set_axis(node, scale)
        nodes.append(node)
    nodes[0].outputs[0].dtype = ir.DataType.from_numpy(dtype_of(dtype))
    nodes[1].outputs[0].dtype = ir.DataType.FLOAT
    for node in nodes:
        node.outputs[0].shape = value.shape
    place = {node: index for index, node in enumerate(graph)}
    graph.insert_before(min((node for node, _ in readers), key=place.__getitem__), nodes)
    for reader, position in readers:
        reader.replace_input_with(position, nodes[1].outputs[0])


def insert_stored(
    graph: ir.Graph, value: ir.Value, readers: Sequence[tuple[ir.Node, int]], scale: Scale, dtype: str
) -> None:
    """Store a weight quantised, with a DequantizeLinear behind it."""
    assert value.const_value is not None
    name = str(value.name)
    stored = rounded(steps(np.asarray(value.const_value.numpy()), scale, dtype), dtype).astype(
        dtype_of(dtype)
    )
    quantized = add_constant(graph, f"{name}_quantized", stored)
    scales = _constants(graph, name, scale, dtype, readers[0][0])[0]
    node = ir.node("DequantizeLinear", [quantized, scales], name=f"{name}_DequantizeLinear")
    node.outputs[0].name = f"{name}_DequantizeLinear_Output"
    node.outputs[0].dtype, node.outputs[0].shape = ir.DataType.FLOAT, value.shape
    _set_axis(node, scale)
    graph.insert_before(readers[0][0], node)
    for reader, position in readers:
        reader.replace_input_with(position, node.outputs[0])


def _finished(model: Model, made: ir.Model, key: Sequence[str], scales: Mapping[str, Scale]) -> Model:
    graph = made.graph
    _remove_unread(graph, [node for node in graph if node.op_type == "DequantizeLinear"])  # scales, too
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in graph.outputs and value not in graph.inputs:
            del graph.initializers[name]
    digest = hashlib.sha256(" ".join((model.sha256, *key)).encode())
    for name in sorted(scales):
        digest.update(scales[name].values.tobytes())
    return Model(made, name=model.name, sha256=digest.hexdigest())

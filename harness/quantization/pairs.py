"""The Q/DQ pairs of a model, and the float values of what it stores quantised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from harness.model import Constants, Model
from harness.quantization.arithmetic import spread
from harness.quantization.types import PairKind, QdqPair, Reader, Scale
from harness.tensors import dtype_name

_UNITS = ("int8", "uint8", "float8_e4m3fn", "float8_e5m2", "int4", "uint4", "float4_e2m1fn")
"""int32 is for biases: their scale is that of the product, and they cost nothing."""


def find_pairs(model: Model) -> tuple[QdqPair, ...]:
    """The Q/DQ pairs of the main graph, in topological order. A pair with a scale that is computed is left out."""
    constants = Constants(model.ir)
    found: list[QdqPair] = []
    taken: set[str] = set()
    for node in model.ir.graph:
        pair = None
        if node.op_type == "QuantizeLinear":
            pair = _pair(constants, node, node.outputs[0], _dequantizers(node.outputs[0]))
        elif node.op_type == "DequantizeLinear" and node.inputs[0] is not None:
            value = node.inputs[0]
            if value.producer() is None or ir.convenience.get_const_tensor(value) is not None:
                others = _dequantizers(value)
                pair = _pair(constants, None, value, others) if node is others[0] else None
        if pair is not None:
            if pair.name in taken:
                pair = replace(pair, name=f"{pair.name}:{pair.quantizer or pair.dequantizers[0]}")
            taken.add(pair.name)
            found.append(pair)
    return tuple(found)


def _dequantizers(value: ir.Value) -> list[ir.Node]:
    return [node for node, place in value.uses() if node.op_type == "DequantizeLinear" and place == 0]


def _pair(
    constants: Constants, quantizer: ir.Node | None, value: ir.Value, dequantizers: Sequence[ir.Node]
) -> QdqPair | None:
    if not dequantizers or (quantizer is not None and len(dequantizers) < len(value.uses())):
        return None  # something computes with the integers
    leader = quantizer or dequantizers[0]
    read = [None if each is None else constants.get(str(each.name)) for each in leader.inputs[1:]]
    if not read or read[0] is None or (len(read) > 1 and leader.inputs[2] is not None and read[1] is None):
        return None
    zero = read[1] if len(read) > 1 else None
    stored = constants.get(str(value.name)) if quantizer is None else None
    kind = zero.dtype if zero is not None else stored.dtype if stored is not None else _declared(leader)
    dtype = dtype_name(np.dtype(kind))
    if dtype not in _UNITS:
        return None
    source = quantizer.inputs[0] if quantizer is not None else value
    assert source is not None
    constant = quantizer is None or constants.get(str(source.name)) is not None
    uses = [use for node in dequantizers for use in node.outputs[0].uses()]
    if uses and all(reader.op_type == "DequantizeLinear" and place == 1 for reader, place in uses):
        return None  # a scale that is quantised itself
    readers = tuple(
        Reader(str(reader.name), place) for node in dequantizers for reader, place in node.outputs[0].uses()
    )
    return QdqPair(
        name=str(source.name),
        tensor=str(source.name),
        kind=PairKind.WEIGHT if constant else PairKind.ACTIVATION,
        dtype=dtype,
        scale=scale_of(leader, read[0], zero),
        quantizer="" if quantizer is None else str(quantizer.name),
        dequantizers=tuple(str(node.name) for node in dequantizers),
        readers=readers,
        channel_axis=_channel_axis(dequantizers) if constant else None,
    )


def scale_of(node: ir.Node, values: np.ndarray, zero_point: np.ndarray | None) -> Scale:
    """The scale of a QuantizeLinear or DequantizeLinear that reads these values."""
    axis = node.attributes.get_int("axis", 1)
    block = node.attributes.get_int("block_size", 0)
    zero = None if zero_point is None else np.asarray(zero_point, np.float32)
    return Scale(
        np.asarray(values, np.float32),
        zero if zero is not None and zero.any() else None,
        axis if values.size > 1 else None,
        block,
    )


def _declared(node: ir.Node) -> np.dtype:
    """The type that a QuantizeLinear without a zero point writes."""
    kind = node.attributes.get_int("output_dtype", 0)
    return np.dtype(ir.DataType(kind or ir.DataType.UINT8).numpy())


def _channel_axis(dequantizers: Sequence[ir.Node]) -> int | None:
    for node in dequantizers:
        for reader, place in node.outputs[0].uses():
            axis = channel_axis(reader, place)
            if axis is not None:
                return axis
    return None


def channel_axis(node: ir.Node, position: int) -> int | None:
    """The axis of the output channels in the weight that `node` reads at `position`; None if it reads none there."""
    if position != 1:
        return None
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return -1 if node.op_type == "MatMul" else 0 if node.op_type == "Transpose" else None


def float_weights(
    model: Model, pairs: Sequence[QdqPair], reference: Model | None = None
) -> Mapping[str, np.ndarray]:
    """The float32 value of each weight pair, by the pair's name.

    What the file stores quantised comes from `reference`: the constant of the same name, or the one that the node of
    the same name reads at the same place. Where it has none, it is the dequantised value, and the pair costs nothing.
    """
    constants = Constants(model.ir)
    others = None if reference is None else Constants(reference.ir)
    nodes = {} if reference is None else {str(node.name): node for node in reference.ir.graph}
    found = {}
    for pair in pairs:
        if pair.kind is not PairKind.WEIGHT:
            continue
        values = constants.get(pair.tensor)
        assert values is not None
        raw = None if pair.quantizer else _counterpart(pair, values.shape, others, nodes)
        if raw is None:
            raw, scale = values.astype(np.float32), pair.scale
            if not pair.quantizer:
                zero = 0.0 if scale.zero_point is None else spread(scale.zero_point, scale, raw.shape)
                raw = np.asarray((raw - zero) * spread(scale.values, scale, raw.shape), dtype=np.float32)
        found[pair.name] = np.ascontiguousarray(raw)
    return found


def _counterpart(
    pair: QdqPair,
    shape: tuple[int, ...],
    constants: Constants | None,
    nodes: Mapping[str, ir.Node],
) -> np.ndarray | None:
    names = [pair.tensor, pair.tensor.removesuffix("_quantized")]
    for reader in pair.readers:
        node = nodes.get(reader.node)
        value = (
            node.inputs[reader.position] if node is not None and reader.position < len(node.inputs) else None
        )
        if value is not None:
            names.append(str(value.name))
    for name in names:
        values = None if constants is None else constants.get(name)
        if values is not None and values.shape == shape and values.dtype.kind == "f":
            return values.astype(np.float32, copy=False)
    return None

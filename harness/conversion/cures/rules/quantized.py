"""Integer operators and asymmetric quantisation: in floats that hold the integers exactly, or symmetric.

Sums of products of 8-bit integers are exact in FP32 up to 2²⁴; the proof says where that does not do.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from harness.conversion.cures.building import Inapplicable, Ops, along, constant_of, given, rank, read

FLOAT, INT32, INT8, UINT8 = ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT8, ir.DataType.UINT8


def matmul_integer(ops: Ops, node: ir.Node) -> ir.Value:
    """The product of the shifted numbers in FP32."""
    left = _shifted(ops, node, 0, 2, axis=-2)
    right = _shifted(ops, node, 1, 3, axis=-1)
    return ops.Cast(ops.MatMul(left, right), to=int(INT32))


def conv_integer(ops: Ops, node: ir.Node) -> ir.Value:
    """The convolution of the shifted numbers in FP32."""
    data, weight = _shifted(ops, node, 0, 2, axis=1), _shifted(ops, node, 1, 3, axis=0)
    return ops.Cast(ops.Conv(data, weight, **dict(node.attributes)), to=int(INT32))


def qlinear_matmul(ops: Ops, node: ir.Node) -> ir.Value:
    """The product of the shifted numbers in FP32, scaled, rounded and shifted."""
    product = ops.MatMul(_shifted(ops, node, 0, 2, axis=-2), _shifted(ops, node, 3, 5, axis=-1))
    scale = ops.Div(ops.Mul(_scale(ops, node, 1, -2), _scale(ops, node, 4, -1)), _scale(ops, node, 6, -2))
    return _rounded(ops, ops.Mul(product, scale), ops.Cast(read(node, 7), to=int(FLOAT)), read(node, 7))


def qlinear_conv(ops: Ops, node: ir.Node) -> ir.Value:
    """The convolution of the shifted numbers in FP32, scaled, rounded and shifted."""
    data, weight = _shifted(ops, node, 0, 2, axis=1), _shifted(ops, node, 3, 5, axis=0)
    bias = given(node, 8)
    inputs = [data, weight] if bias is None else [data, weight, ops.Cast(bias, to=int(FLOAT))]
    result = ops.Conv(*inputs, **dict(node.attributes))
    weight_scale = _scale(ops, node, 4, None)
    if (weights := constant_of(node, 4)) is None or weights.size > 1:
        weight_scale = ops.reshape(weight_scale, [1, -1, *[1] * (rank(read(node, 0)) - 2)])
    scale = ops.Div(ops.Mul(_scale(ops, node, 1, None), weight_scale), _scale(ops, node, 6, None))
    return _rounded(ops, ops.Mul(result, scale), ops.Cast(read(node, 7), to=int(FLOAT)), read(node, 7))


def dynamic_quantize(ops: Ops, node: ir.Node) -> list[ir.Value]:
    """Range, scale and zero point as the operator's specification writes them; of zeros alone the scale is 1."""
    data = read(node, 0)
    zero, steps = ops.like(0, data), ops.like(255, data)
    axes = range(rank(data))
    low = ops.Min(ops.reduce("Min", data, *axes), zero)
    high = ops.Max(ops.reduce("Max", data, *axes), zero)
    span = ops.Sub(high, low)
    scale = ops.Where(ops.Equal(span, zero), ops.like(1, data), ops.Div(span, steps))
    zero_point = ops.Clip(ops.Round(ops.Div(ops.Neg(low), scale)), zero, steps)
    quantized = ops.Clip(ops.Add(ops.Round(ops.Div(data, scale)), zero_point), zero, steps)
    return [ops.Cast(quantized, to=int(UINT8)), scale, ops.Cast(zero_point, to=int(UINT8))]


def stored_bias(ops: Ops, node: ir.Node) -> ir.Value | None:
    """A constant of INT32 in the floats that it stands for."""
    values, scales, shifts = (constant_of(node, index) for index in range(3))
    if values is None or scales is None or values.dtype != np.int32:
        return None
    axis = node.attributes.get_int("axis", 1)
    shape = along(axis % max(values.ndim, 1), values.ndim)
    steps, zero = (
        each.reshape(shape if each.size > 1 else ())
        for each in (scales, np.zeros((), np.int32) if shifts is None else shifts)
    )
    return ops.constant((values - zero).astype(steps.dtype) * steps)


def narrowed(ops: Ops, node: ir.Node) -> ir.Value | None:
    """Whole numbers that are cast to 8 bits and back, and fit: an engine has no 8-bit integers in between."""
    inner = read(node, 0).producer()
    clip = None if inner is None or inner.op_type != "Cast" else read(inner, 0).producer()
    if inner is None or clip is None or clip.op_type != "Clip":
        return None
    low, high = constant_of(clip, 1), constant_of(clip, 2)
    between, to = (ir.DataType(each.attributes.get_int("to", 0)) for each in (inner, node))
    if between not in (UINT8, INT8) or low is None or high is None or to.numpy() != low.dtype:
        return None  # nodes that were just written have no dtypes yet, and constants have
    limits = np.iinfo(between.numpy())
    return read(inner, 0) if limits.min <= low and high <= limits.max and _is_whole(read(clip, 0)) else None


def _is_whole(value: ir.Value) -> bool:
    """Whether it was rounded, and whole numbers added since."""
    node = value.producer()
    if node is None:
        return False
    if node.op_type in ("Add", "Sub"):
        return all(each is not None and _is_whole(each) for each in node.inputs)
    return node.op_type == "Round" or (node.op_type == "Clip" and _is_whole(read(node, 0)))


def quantize(ops: Ops, node: ir.Node) -> ir.Value | None:
    """Scaled, rounded, shifted and clipped in floats."""
    if not _is_asymmetric(node):
        return None
    data, zero_point = read(node, 0), given(node, 2)
    dtype = node.outputs[0].dtype
    if dtype not in (UINT8, INT8):
        raise Inapplicable(f"{dtype} cannot be at the border of an engine")
    scaled = ops.Round(ops.Div(data, _along(ops, node, 1, data)))
    return _clipped(ops, scaled, None if zero_point is None else _along(ops, node, 2, data), dtype, data)


def dequantize(ops: Ops, node: ir.Node) -> ir.Value | None:
    """Shifted and scaled in floats."""
    if not _is_asymmetric(node):
        return None
    data, scale = read(node, 0), read(node, 1)
    if data.dtype not in (UINT8, INT8):
        raise Inapplicable(f"{data.dtype} cannot be at the border of an engine")
    wide = ops.Cast(data, to=int(scale.dtype or FLOAT))
    if given(node, 2) is not None:
        wide = ops.Sub(wide, _along(ops, node, 2, scale, like=data))
    return ops.Mul(wide, _along(ops, node, 1, scale, like=data))


def pair(ops: Ops, node: ir.Node, **_: ir.Value) -> ir.Value | None:
    """A pair with zero point 128 becomes int8 with 0, which is the same numbers; any other stays within floats."""
    quantizer = read(node, 0).producer()
    if quantizer is None or not _is_asymmetric(node) or node.inputs[1:3] != quantizer.inputs[1:3]:
        return None
    data, scale = read(quantizer, 0), read(quantizer, 1)
    zero_points = constant_of(node, 2)
    if zero_points is None:
        return None
    attributes = dict(node.attributes)
    if np.all(zero_points == 128):
        symmetric = ops.constant(np.zeros_like(zero_points, np.int8))
        quantized = ops.QuantizeLinear(data, scale, symmetric, **attributes)
        return ops.DequantizeLinear(quantized, scale, symmetric, **attributes)
    scales, shifts = _along(ops, quantizer, 1, data), _along(ops, quantizer, 2, data)
    limits = np.iinfo(zero_points.dtype)
    low, high = (ops.like(limit, data) for limit in (limits.min, limits.max))
    shifted = ops.Clip(ops.Add(ops.Round(ops.Div(data, scales)), shifts), low, high)
    return ops.Mul(ops.Sub(shifted, shifts), scales)


def _is_asymmetric(node: ir.Node) -> bool:
    """Whether its numbers are unsigned, which a release takes for signed ones, or its zero point is no constant 0."""
    dtype = node.outputs[0].dtype if node.op_type == "QuantizeLinear" else read(node, 0).dtype
    if dtype == UINT8:
        return True
    if given(node, 2) is None:
        return False
    zero_points = constant_of(node, 2)
    return zero_points is None or bool(np.any(zero_points != 0))


def _along(ops: Ops, node: ir.Node, index: int, dtype_of: ir.Value, like: ir.Value | None = None) -> ir.Value:
    """A scale or zero point as floats that broadcast over the data: of the tensor, along its axis, or in blocks."""
    data, value = dtype_of if like is None else like, read(node, index)
    wide = ops.Cast(value, to=int(dtype_of.dtype or FLOAT))
    parts = ops.dims(value)
    if all(size == 1 for size in parts):
        return ops.reshape(wide, []) if parts else wide
    axis = node.attributes.get_int("axis", 1) % rank(data)
    block = node.attributes.get_int("block_size", 0)
    if not block:
        return ops.reshape(wide, along(axis, rank(data)))
    length = ops.dim(data, axis)
    if not isinstance(length, int):
        raise Inapplicable("the axis of its blocks has a size that is known at run time only")
    before, after = parts[:axis], parts[axis + 1 :]
    repeated = ops.Expand(ops.unsqueeze(wide, axis + 1), ops.vector([*before, parts[axis], block, *after]))
    joined = ops.reshape(repeated, [*before, ops.times([parts[axis], block]), *after])
    return ops.slice(joined, axis, 0, length)


def _shifted(ops: Ops, node: ir.Node, index: int, zero_point: int, axis: int) -> ir.Value:
    """An integer input in FP32, less its zero point, which may differ along `axis`."""
    wide = ops.Cast(read(node, index), to=int(FLOAT))
    shift = given(node, zero_point)
    if shift is None:
        return wide
    return ops.Sub(wide, ops.Cast(_spread(ops, node, zero_point, shift, index, axis), to=int(FLOAT)))


def _spread(ops: Ops, node: ir.Node, index: int, value: ir.Value, data: int, axis: int) -> ir.Value:
    values = constant_of(node, index)
    if values is not None and values.size == 1:
        return ops.constant(values.reshape(()))
    if rank(value) != 1:
        return value
    axes = rank(read(node, data))
    return ops.reshape(value, along(axis % axes, axes))


def _scale(ops: Ops, node: ir.Node, index: int, axis: int | None) -> ir.Value:
    """A scale in FP32; a vector of them along `axis` of a product."""
    value = ops.Cast(read(node, index), to=int(FLOAT))
    values = constant_of(node, index)
    if values is not None and values.size == 1:
        return ops.reshape(value, [])
    return ops.unsqueeze(value, -1) if axis == -2 and rank(read(node, index)) == 1 else value


def _rounded(ops: Ops, scaled: ir.Value, shift: ir.Value, like: ir.Value) -> ir.Value:
    dtype = like.dtype or UINT8
    limits = np.iinfo(dtype.numpy())
    low, high = (ops.constant(np.array(limit, np.float32)) for limit in (limits.min, limits.max))
    return ops.Cast(ops.Clip(ops.Add(ops.Round(scaled), shift), low, high), to=int(dtype))


def _clipped(
    ops: Ops, scaled: ir.Value, shift: ir.Value | None, dtype: ir.DataType, like: ir.Value
) -> ir.Value:
    limits = np.iinfo(dtype.numpy())
    shifted = scaled if shift is None else ops.Add(scaled, shift)
    return ops.Cast(ops.Clip(shifted, ops.like(limits.min, like), ops.like(limits.max, like)), to=int(dtype))

"""Modes of Resize that are refused: what each output pixel takes from the input, as a product or a selection."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from harness.conversion.cures.building import (
    Inapplicable,
    Ops,
    along,
    attributes_but,
    constant_of,
    given,
    needed_constant,
    rank,
    read,
    sizes,
)

_TAKEN = ("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel", "tf_half_pixel_for_nn")


@dataclass(frozen=True)
class Axis:
    """What becomes of one axis: `matrix[i, o]` is what output o takes of input i; `outside`: what lies beyond."""

    matrix: np.ndarray
    outside: np.ndarray


def resize(ops: Ops, node: ir.Node) -> ir.Value | None:
    """Axis by axis a product with the weights that the operator's own definition gives, or a Gather of one input."""
    policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
    mode = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    antialias = node.attributes.get_int("antialias", 0)
    if policy != "stretch":
        return _kept_ratio(ops, node, policy)
    if mode in _TAKEN and not antialias:
        return None
    data = read(node, 0)
    axes = [axis % rank(data) for axis in node.attributes.get_ints("axes") or range(rank(data))]
    found = {axis: _response(node, axis, axes.index(axis)) for axis in axes}
    result, beyond = data, None
    for axis, response in found.items():
        if np.array_equal(response.matrix, np.eye(*response.matrix.shape)) and not response.outside.any():
            continue
        result = _apply(ops, result, axis, response, rank(data))
        if response.outside.any():
            here = response.outside.reshape(along(axis, rank(data)))
            beyond = here if beyond is None else np.logical_or(beyond, here)
    if beyond is None:
        return result
    value = ops.like(node.attributes.get_float("extrapolation_value", 0.0), data)
    return ops.Where(ops.constant(beyond), value, result)


def computed_scales(ops: Ops, node: ir.Node) -> ir.Value | None:
    """Sizes instead of scales that were computed as sizes over the shape of the input, behind leading ones."""
    data, scales = read(node, 0), given(node, 2)
    divided = None if scales is None else scales.producer()
    kept = 0
    if divided is not None and divided.op_type == "Concat" and len(divided.inputs) == 2:
        ones = constant_of(divided, 0)
        if ones is None or not np.all(ones == 1):
            return None
        kept, divided = ones.size, read(divided, 1).producer()
    if divided is None or divided.op_type != "Div" or not _reads_shape(read(divided, 1), data):
        return None
    wanted = read(divided, 0)
    if wanted.dtype is None:
        raise Inapplicable("the dtype of its sizes is unknown")
    parts = [ops.cast(ops.Round(wanted) if wanted.dtype.is_floating_point() else wanted, ir.DataType.INT64)]
    if kept:
        parts.insert(0, ops.slice(ops.Shape(data), 0, 0, kept))
    return ops.Resize(
        data, None, None, parts[0] if not kept else ops.Concat(*parts, axis=0), **dict(node.attributes)
    )


def _reads_shape(value: ir.Value, data: ir.Value) -> bool:
    """Whether `value` is the shape of `data`, or the end of it."""
    node = value.producer()
    if node is None:
        return False
    if node.op_type == "Shape":
        return node.inputs[0] is data
    return node.op_type in ("Cast", "Slice") and _reads_shape(read(node, 0), data)


def _apply(ops: Ops, value: ir.Value, axis: int, response: Axis, axes: int) -> ir.Value:
    matrix = response.matrix
    if np.all((matrix == 0) | (matrix == 1)) and np.all(matrix.sum(0) <= 1):
        return ops.Gather(value, ops.constant(matrix.argmax(0)), axis=axis)
    last = list(range(axes))
    last[axis], last[-1] = last[-1], last[axis]
    dtype = value.dtype or ir.DataType.FLOAT
    weights = ops.constant(matrix.astype(np.float32), dtype)
    if axis == axes - 1:
        return ops.MatMul(value, weights)
    return ops.Transpose(ops.MatMul(ops.Transpose(value, perm=last), weights), perm=last)


def _response(node: ir.Node, axis: int, position: int) -> Axis:
    """What the operator makes of single ones along one axis: its weights, by ONNX's reference implementation."""
    from onnx.reference import ReferenceEvaluator

    length = sizes(read(node, 0))[axis]
    scales, wanted, roi = constant_of(node, 2), constant_of(node, 3), constant_of(node, 1)
    scale = float(scales[position]) if scales is not None and scales.size else None
    if length is None:
        if scale == 1:
            return Axis(np.eye(1), np.zeros(1))
        if wanted is None and scale is None:
            raise Inapplicable("neither its scales nor its sizes are constant")
        raise Inapplicable(f"axis {axis} has a size that is known at run time only")
    inputs = [onnx.helper.make_tensor("roi", 1, [0], []), onnx.helper.make_tensor("scales", 1, [0], [])]
    if roi is not None and roi.size:
        ends = [0.0, roi[position], 1.0, roi[position + roi.size // 2]]
        inputs[0] = onnx.helper.make_tensor("roi", 1, [4], list(map(float, ends)))
    if scale is not None:
        inputs[1] = onnx.helper.make_tensor("scales", 1, [2], [1.0, scale])
    else:
        size = int(needed_constant(node, 3)[position])
        inputs.append(onnx.helper.make_tensor("sizes", 7, [2], [length, size]))
    kept = {name: value.value for name, value in attributes_but(node, "axes").items()}
    single = onnx.helper.make_node("Resize", ["x", *(tensor.name for tensor in inputs)], ["y"], **kept)
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [None, None]) for name in "xy")
    proto = onnx.helper.make_model(
        onnx.helper.make_graph([single], "axis", [x], [y], inputs),
        opset_imports=[onnx.helper.make_opsetid("", 19)],
    )
    run = ReferenceEvaluator(proto).run
    matrix = np.asarray(run(None, {"x": np.eye(length, dtype=np.float32)})[0], np.float64)
    outside = np.zeros(matrix.shape[1], bool)
    value = node.attributes.get_float("extrapolation_value", 0.0)
    if node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        # Only places that a constant does not reach are outside of the picture.
        ones = np.asarray(run(None, {"x": np.full((length, length), value + 1, np.float32)})[0])
        outside = np.isclose(ones[0], value)
        matrix[:, outside] = 0
    return Axis(matrix, outside)


def _kept_ratio(ops: Ops, node: ir.Node, policy: str) -> ir.Value:
    """The sizes that the policy comes to."""
    data, wanted = read(node, 0), needed_constant(node, 3)
    axes = [axis % rank(data) for axis in node.attributes.get_ints("axes") or range(rank(data))]
    lengths = [sizes(data)[axis] for axis in axes]
    if None in lengths:
        raise Inapplicable("the sizes of its input are known at run time only")
    ratios = [int(size) / (length or 1) for size, length in zip(wanted, lengths, strict=True)]
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    shape = ops.dims(data)
    for axis, length in zip(axes, lengths, strict=True):
        shape[axis] = math.floor(ratio * (length or 1) + 0.5)
    kept = attributes_but(node, "axes", "keep_aspect_ratio_policy")
    return ops.Resize(data, None, None, ops.vector(shape), **kept)

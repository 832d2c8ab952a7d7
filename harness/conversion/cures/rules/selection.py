"""Operators that select: by a constant, or more than a release selects at once."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from harness.conversion.cures.building import Inapplicable, Ops, constant_of, needed_constant, rank, read

#: The K that TensorRT takes at most.
LARGEST_K = 3840


def compress(ops: Ops, node: ir.Node) -> ir.Value:
    """A Gather of what the condition keeps."""
    value, kept = read(node, 0), np.flatnonzero(needed_constant(node, 1))
    axis = node.attributes.get("axis")
    if axis is None:
        return ops.Gather(ops.reshape(value, [-1]), ops.constant(kept), axis=0)
    return ops.Gather(value, ops.constant(kept), axis=axis.as_int())


def top_k(ops: Ops, node: ir.Node) -> list[ir.Value] | None:
    """The first of them, then the first of the rest, and so on: what was taken is set to the other end."""
    value, count = read(node, 0), constant_of(node, 1)
    if count is None or int(count.reshape(-1)[0]) <= LARGEST_K or len(node.outputs) < 2:
        return None
    if value.dtype is None or not value.dtype.is_floating_point():
        raise Inapplicable("its values are no floats")
    axis = node.attributes.get_int("axis", -1) % rank(value)
    largest, left = node.attributes.get_int("largest", 1), int(count.reshape(-1)[0])
    taken = ops.like(-math.inf if largest else math.inf, value)
    found: list[tuple[ir.Value, ir.Value]] = []
    while left:
        part = min(left, LARGEST_K)
        values, indices = ops.outputs("TopK", 2, value, ops.ints(part), axis=axis, largest=largest, sorted=1)
        found.append((values, indices))
        left -= part
        if left:
            shape = ops.dims(read(node, 0))
            shape[axis] = part
            value = ops.ScatterElements(value, indices, ops.Expand(taken, ops.vector(shape)), axis=axis)
    return [ops.Concat(*parts, axis=axis) for parts in zip(*found, strict=True)]


def extract_features(ops: Ops, node: ir.Node) -> ir.Value:
    """A Gather along the last axis; one axis is a row."""
    value, places = read(node, 0), ops.reshape(read(node, 1), [-1])
    gathered = ops.Gather(value, places, axis=-1)
    return ops.unsqueeze(gathered, 0) if rank(value) == 1 else gathered


def binarize(ops: Ops, node: ir.Node) -> ir.Value:
    """Whether each value is above the threshold, as a number."""
    value = read(node, 0)
    above = ops.Greater(value, ops.like(node.attributes.get_float("threshold", 0.0), value))
    return ops.Cast(above, to=int(value.dtype or ir.DataType.FLOAT))

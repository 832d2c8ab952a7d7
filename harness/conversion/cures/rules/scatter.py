"""Scattered writes that add up, and those into a cache: as masks over the rows that are written to."""

from __future__ import annotations

import math
from itertools import repeat

import numpy as np
import onnx_ir as ir

from harness.conversion.cures.building import Inapplicable, Ops, Size, given, known_sizes, rank, read, sizes

#: Elements of a mask beyond which a product does the sums instead.
LARGEST_MASK = 1 << 24
_COMBINE = {"add": "Add", "mul": "Mul", "max": "Max", "min": "Min"}
_REDUCE = {"add": "Sum", "mul": "Prod", "max": "Max", "min": "Min"}


def scatter_nd(ops: Ops, node: ir.Node) -> ir.Value | None:
    """Row by row of `data`: which updates write to it, combined by one reduction over the updates."""
    reduction = _reduction(node)
    if reduction is None:
        return None
    data, indices, updates = (read(node, index) for index in range(3))
    depth = known_sizes(indices, rank(indices) - 1)[0]
    shape = ops.dims(data)
    rows, columns = ops.times(shape[:depth]), ops.times(shape[depth:])
    writes = ops.times(ops.dims(indices)[:-1])
    row = ops.reshape(_linear(ops, indices, shape[:depth]), [1, writes])
    hit = ops.Equal(ops.reshape(ops.upto(rows), [rows, 1]), row)
    flat, written = ops.reshape(data, [rows, columns]), ops.reshape(updates, [writes, columns])
    if reduction == "add" and _is_large(data, updates, depth):
        combined = ops.MatMul(ops.Cast(hit, to=int(_dtype(data))), written)
    else:
        masked = ops.Where(ops.unsqueeze(hit, 2), ops.unsqueeze(written, 0), _neutral(ops, reduction, data))
        combined = ops.reduce(_REDUCE[reduction], masked, 1)
    result = ops.op(_COMBINE[reduction], flat, combined)
    return ops.reshape(result, shape)


def scatter_elements(ops: Ops, node: ir.Node) -> ir.Value | None:
    """Place by place along the axis: which updates write to it, combined by one reduction over the updates."""
    reduction = _reduction(node)
    if reduction is None:
        return None
    data, indices, updates = (read(node, index) for index in range(3))
    axis = node.attributes.get_int("axis", 0) % rank(data)
    if not all(map(_same_size, range(rank(data)), repeat(axis), repeat(data), repeat(indices))):
        raise Inapplicable("the indices do not span the other axes of the data")
    size = ops.dim(data, axis)
    ones = [1] * (rank(data) + 1)
    places = ops.reshape(ops.upto(size), [*ones[:axis], size, *ones[axis + 1 :]])
    positive = _wrapped(ops, ops.cast(indices, ir.DataType.INT64), size)
    hit = ops.Equal(ops.unsqueeze(positive, axis), places)
    masked = ops.Where(hit, ops.unsqueeze(updates, axis), _neutral(ops, reduction, data))
    return ops.op(_COMBINE[reduction], data, ops.reduce(_REDUCE[reduction], masked, axis + 1))


def _same_size(position: int, axis: int, data: ir.Value, indices: ir.Value) -> bool:
    """Whether both have one size at a position other than `axis`: a number, or a size of one name."""
    if position == axis:
        return True
    assert data.shape is not None
    assert indices.shape is not None
    own, other = data.shape[position], indices.shape[position]
    return own == other and (isinstance(own, int) or own.value is not None)


def tensor_scatter(ops: Ops, node: ir.Node) -> ir.Value | None:
    """A cache written at an offset of its own for each sequence: ScatterElements at counted places."""
    past, update, offsets = read(node, 0), read(node, 1), given(node, 2)
    axis = node.attributes.get_int("axis", -2) % rank(past)
    circular = node.attributes.get_string("mode", "linear") == "circular"
    if not circular and rank(past) == 4:
        return None
    length = ops.dim(update, axis)
    along: list[Size] = [length if each == axis else 1 for each in range(rank(past))]
    places = ops.reshape(ops.upto(length), along)
    if offsets is not None:
        first: list[Size] = [-1, *[1] * (rank(past) - 1)]
        places = ops.Add(places, ops.reshape(offsets, first))
    if circular:
        places = ops.Mod(places, ops.vector([ops.dim(past, axis)]))
    everywhere = ops.Expand(places, ops.vector(ops.dims(update)))
    return ops.ScatterElements(past, everywhere, update, axis=axis)


def _reduction(node: ir.Node) -> str | None:
    reduction = node.attributes.get_string("reduction", "none")
    return reduction if reduction in _COMBINE else None


def _dtype(value: ir.Value) -> ir.DataType:
    if value.dtype is None:
        raise Inapplicable(f"the dtype of {value.name} is unknown")
    return value.dtype


def _neutral(ops: Ops, reduction: str, data: ir.Value) -> ir.Value:
    dtype = _dtype(data)
    if reduction in ("add", "mul"):
        return ops.like(0 if reduction == "add" else 1, data)
    sign = -1 if reduction == "max" else 1
    if dtype.is_floating_point():
        return ops.like(sign * math.inf, data)
    limits = np.iinfo(dtype.numpy())
    return ops.like(limits.min if reduction == "max" else limits.max, data)


def _wrapped(ops: Ops, indices: ir.Value, size: Size) -> ir.Value:
    """Indices from the end counted from the start."""
    return ops.Where(ops.Less(indices, ops.ints(0)), ops.Add(indices, ops.vector([size])), indices)


def _linear(ops: Ops, indices: ir.Value, shape: list[Size]) -> ir.Value:
    """The row of each index into the axes of `shape`, flattened."""
    strides = [ops.times(shape[axis + 1 :]) for axis in range(len(shape))]
    positive = ops.Where(ops.Less(indices, ops.ints(0)), ops.Add(indices, ops.vector(shape)), indices)
    return ops.reduce("Sum", ops.Mul(positive, ops.vector(strides)), -1)


def _is_large(data: ir.Value, updates: ir.Value, depth: int) -> bool:
    rows, written = sizes(data)[:depth], sizes(updates)
    return math.prod(size or 64 for size in (*rows, *written)) > LARGEST_MASK

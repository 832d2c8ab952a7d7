"""Pools that are refused: dilated ones, those that say where the largest was, those of another norm."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from harness.conversion.cures.building import (
    LAST,
    Inapplicable,
    Ops,
    Size,
    along,
    attributes_but,
    given,
    known_sizes,
    rank,
    read,
    sizes,
    steps_of,
)

#: Windows with more places than that are left alone: each place is a node.
LARGEST_WINDOW = 128


@dataclass(frozen=True)
class Window:
    """Where a pool looks, by spatial axis; `extra` is what rounding up adds at the end of the padded axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    extra: tuple[int, ...]

    @property
    def places(self) -> list[tuple[int, ...]]:
        """Every place of the window, the last axis fastest."""
        return list(itertools.product(*map(range, self.kernel)))

    @property
    def is_dilated(self) -> bool:
        """Whether there are gaps between its places."""
        return any(dilation > 1 for dilation in self.dilations)


def max_pool(ops: Ops, node: ir.Node) -> list[ir.Value] | ir.Value | None:
    """The largest of shifted slices; where it was, from the slices that equal it."""
    window = _window(node)
    asks_where = len(node.outputs) > 1 and bool(node.outputs[1].uses() or node.outputs[1].is_graph_output())
    data = read(node, 0)
    if not window.is_dilated and not asks_where:
        if data.dtype in (ir.DataType.UINT8, ir.DataType.INT8) and len(node.outputs) == 1:
            pooled = ops.op("MaxPool", ops.cast(data, ir.DataType.FLOAT), **dict(node.attributes))
            return ops.cast(pooled, data.dtype)
        return None
    if data.dtype is None or not data.dtype.is_floating_point():
        raise Inapplicable("its values are no floats")
    taps = _taps(ops, data, window, -math.inf)
    largest = taps[0] if len(taps) == 1 else ops.Max(*taps)
    if len(node.outputs) == 1:
        return largest
    if not asks_where:
        return [largest, ops.Cast(largest, to=int(ir.DataType.INT64))]
    columns_first = bool(node.attributes.get_int("storage_order", 0))
    return [largest, _where(ops, data, window, taps, largest, columns_first)]


def written_out_ceil(ops: Ops, node: ir.Node) -> ir.Value | None:
    """The same windows without ceil_mode, by padding at the end, where it adds one that ONNX leaves out."""
    if not node.attributes.get_int("ceil_mode", 0) or any(output.uses() for output in node.outputs[1:]):
        return None
    window, lengths = _window(node), known_sizes(read(node, 0), 2)
    spans = [(side - 1) * gap + 1 for side, gap in zip(window.kernel, window.dilations, strict=True)]
    for length, begin, end, step, span in zip(
        lengths, window.begins, window.ends, window.strides, spans, strict=True
    ):
        if math.ceil((length + begin + end - span) / step) * step >= length + begin:
            break
    else:
        return None
    ends = [end + extra for end, extra in zip(window.ends, window.extra, strict=True)]
    kept = attributes_but(node, "ceil_mode", "pads", "auto_pad")
    return ops.MaxPool(read(node, 0), **kept, ceil_mode=0, pads=[*window.begins, *ends])


def average_pool(ops: Ops, node: ir.Node) -> ir.Value | None:
    """The sum of shifted slices, over how many of them lie inside."""
    window = _window(node)
    if not window.is_dilated:
        return None
    data = read(node, 0)
    total = ops.Sum(*_taps(ops, data, window, 0.0))
    ones = np.ones([1, 1, *known_sizes(data, 2)], data.dtype.numpy() if data.dtype else np.float32)
    inside = 1.0 if node.attributes.get_int("count_include_pad", 0) else 0.0
    counts = ops.Sum(*_taps(ops, ops.constant(ones, data.dtype), window, inside, shape=ones.shape))
    return ops.Div(total, counts)


def lp_pool(ops: Ops, node: ir.Node) -> ir.Value | None:
    """The sum of powers of shifted slices, and its root."""
    window, power = _window(node), node.attributes.get_int("p", 2)
    if not window.is_dilated and power in (1, 2):
        return None
    data = read(node, 0)
    powers = ops.Pow(ops.Abs(data), ops.like(power, data))
    total = ops.Sum(*_taps(ops, powers, window, 0.0, shape=sizes(data), like=data))
    return ops.Pow(total, ops.like(1 / power, data))


def max_unpool(ops: Ops, node: ir.Node) -> ir.Value | None:
    """Zeros with the values scattered into them."""
    data, indices, wanted = read(node, 0), read(node, 1), given(node, 2)
    kernel = node.attributes.get_ints("kernel_shape") or ()
    strides, _, pads = steps_of(node, len(kernel))
    shape: list[Size] = [ops.dim(data, 0), ops.dim(data, 1)]
    for axis, size in enumerate(known_sizes(data, 2)):
        shape.append((size - 1) * strides[axis] + kernel[axis] - pads[axis] - pads[len(kernel) + axis])
    zeros = ops.Expand(ops.like(0, data), ops.vector([ops.times(shape)]))
    flat = ops.ScatterElements(zeros, ops.reshape(indices, [-1]), ops.reshape(data, [-1]), axis=0)
    unpooled = ops.reshape(flat, shape)
    if wanted is None:
        return unpooled
    missing = ops.Sub(ops.cast(wanted, ir.DataType.INT64), ops.vector(shape))
    return ops.Pad(unpooled, ops.Concat(ops.constant(np.zeros(len(shape), np.int64)), missing, axis=0))


def _window(node: ir.Node) -> Window:
    kernel = tuple(node.attributes.get_ints("kernel_shape") or ())
    axes = len(kernel)
    strides, dilations, pads = steps_of(node, axes)
    if math.prod(kernel) > LARGEST_WINDOW:
        raise Inapplicable(f"its window has {math.prod(kernel)} places")
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        lengths = known_sizes(read(node, 0), 2)
        for axis, length in enumerate(lengths):
            total = max((math.ceil(length / strides[axis]) - 1) * strides[axis] + spans[axis] - length, 0)
            small, large = total // 2, total - total // 2
            pads[axis], pads[axes + axis] = (small, large) if auto == "SAME_UPPER" else (large, small)
    begins, ends = tuple(pads[:axes]), tuple(pads[axes:])
    extra = [0] * axes
    if node.attributes.get_int("ceil_mode", 0):
        for axis, length in enumerate(known_sizes(read(node, 0), 2)):
            padded = length + begins[axis] + ends[axis]
            windows = math.ceil((padded - spans[axis]) / strides[axis]) + 1
            if (windows - 1) * strides[axis] >= length + begins[axis]:
                windows -= 1  # one that would start behind the data is left out
            extra[axis] = max((windows - 1) * strides[axis] + spans[axis] - padded, 0)
    return Window(kernel, tuple(strides), tuple(dilations), begins, ends, tuple(extra))


def _taps(
    ops: Ops,
    data: ir.Value,
    window: Window,
    fill: float,
    shape: Sequence[int | None] | None = None,
    like: ir.Value | None = None,
) -> list[ir.Value]:
    """What every place of the window sees, window by window; padding is `fill`, what rounding up adds is neutral."""
    axes = len(window.kernel)
    like = data if like is None else like
    padded = data
    neutral = fill if math.isinf(fill) else 0.0
    for begins, ends, value in ((window.begins, window.ends, fill), ((0,) * axes, window.extra, neutral)):
        if any(begins) or any(ends):
            amounts = [0, 0, *begins, 0, 0, *ends]
            padded = ops.Pad(padded, ops.ints(*amounts), ops.like(value, like))
    positions = ops.ints(*range(2, 2 + axes))
    found = []
    for place in window.places:
        starts = [offset * dilation for offset, dilation in zip(place, window.dilations, strict=True)]
        left = [
            (size - 1) * dilation - start
            for size, dilation, start in zip(window.kernel, window.dilations, starts, strict=True)
        ]
        ends_at = [-rest if rest else LAST for rest in left]
        found.append(
            ops.Slice(padded, ops.ints(*starts), ops.ints(*ends_at), positions, ops.ints(*window.strides))
        )
    return found


def _where(
    ops: Ops, data: ir.Value, window: Window, taps: list[ir.Value], largest: ir.Value, columns_first: bool
) -> ir.Value:
    """The index into the flattened data of the place that is the largest, the first of several in rows."""
    lengths = known_sizes(data, 2)
    order = list(reversed(range(len(lengths)))) if columns_first else list(range(len(lengths)))
    strides = {axis: math.prod(lengths[other] for other in order[at + 1 :]) for at, axis in enumerate(order)}
    counts = [
        (length + window.begins[axis] + window.ends[axis] + window.extra[axis]
         - (window.kernel[axis] - 1) * window.dilations[axis] - 1) // window.strides[axis] + 1
        for axis, length in enumerate(lengths)
    ]  # fmt: skip
    unset = ops.constant(np.array(np.iinfo(np.int32).max, np.int64))
    first = unset
    for place, tap in reversed(list(zip(window.places, taps, strict=True))):
        table = np.zeros([1, 1, *counts], np.int64)
        for axis, offset in enumerate(place):
            at = np.arange(counts[axis]) * window.strides[axis] - window.begins[axis]
            at += offset * window.dilations[axis]
            table += (at * strides[axis]).reshape(along(axis + 2, table.ndim))
        first = ops.Where(ops.Equal(tap, largest), ops.constant(table), first)
    planes = ops.times([ops.dim(data, 0), ops.dim(data, 1)])
    bases = ops.Mul(ops.upto(planes), ops.ints(math.prod(lengths)))
    ones: list[Size] = [1] * (rank(data) - 2)
    return ops.Add(first, ops.reshape(bases, [ops.dim(data, 0), ops.dim(data, 1), *ones]))

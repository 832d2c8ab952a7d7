"""Sampling at places that are computed: deformable convolutions, regions of interest, columns put back."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx_ir as ir

from harness.conversion.cures.building import (
    Inapplicable,
    Ops,
    Size,
    given,
    known_sizes,
    needed_constant,
    read,
    steps_of,
)


def deform_conv(ops: Ops, node: ir.Node) -> ir.Value:
    """A GridSample for each place of the kernel, and a product with the weights."""
    data, weight, offset = (read(node, index) for index in range(3))
    bias, mask = given(node, 3), given(node, 4)
    height, width = known_sizes(data, 2)
    filters, depth, *kernel = known_sizes(weight)
    groups = node.attributes.get_int("group", 1)
    offsets = node.attributes.get_int("offset_group", 1)
    if len(kernel) != 2 or min(height, width) < 2:
        raise Inapplicable("it is not two-dimensional")
    out = known_sizes(offset, 2)
    batch = ops.dim(data, 0)
    taps = []
    for place in itertools.product(*map(range, kernel)):
        at = place[0] * kernel[1] + place[1]
        parts = [
            _deformed(
                ops, node, data, offset, mask, place, at + group * math.prod(kernel), group, offsets, out
            )
            for group in range(offsets)
        ]
        sampled = parts[0] if offsets == 1 else ops.Concat(*parts, axis=1)
        taps.append(ops.reshape(sampled, [batch, groups, depth, 1, math.prod(out)]))
    columns = ops.reshape(
        taps[0] if len(taps) == 1 else ops.Concat(*taps, axis=3),
        [batch, groups, depth * len(taps), math.prod(out)],
    )
    rows = ops.reshape(weight, [1, groups, filters // groups, depth * len(taps)])
    result = ops.reshape(ops.MatMul(rows, columns), [batch, filters, *out])
    return result if bias is None else ops.Add(result, ops.reshape(bias, [1, filters, 1, 1]))


def _deformed(
    ops: Ops,
    node: ir.Node,
    data: ir.Value,
    offset: ir.Value,
    mask: ir.Value | None,
    place: tuple[int, ...],
    at: int,
    group: int,
    groups: int,
    out: list[int],
) -> ir.Value:
    """What one place of the kernel sees of one group of channels."""
    strides, dilations, pads = steps_of(node, 2)
    lengths = known_sizes(data, 2)
    grid = []
    for axis in (1, 0):  # GridSample wants x before y
        base = (
            np.arange(out[axis], dtype=np.float32) * strides[axis]
            - pads[axis]
            + place[axis] * dilations[axis]
        )
        base = base.reshape([1, -1, 1, 1] if axis == 0 else [1, 1, -1, 1])
        moved = ops.unsqueeze(ops.pick(offset, 1, 2 * at + axis), 3)
        pixels = ops.Add(moved, ops.constant(base, data.dtype))
        scaled = ops.Mul(pixels, ops.like(2 / (lengths[axis] - 1), data))
        grid.append(ops.Sub(scaled, ops.like(1, data)))
    part = data
    if groups > 1:
        size = known_sizes(data, 1)[0] // groups
        part = ops.slice(data, 1, group * size, (group + 1) * size)
    mode = "bilinear" if ops.opset < 20 else "linear"
    sampled = ops.GridSample(
        part, ops.Concat(*grid, axis=3), mode=mode, padding_mode="zeros", align_corners=1
    )
    return sampled if mask is None else ops.Mul(sampled, ops.unsqueeze(ops.pick(mask, 1, at), 1))


def roi_align(ops: Ops, node: ir.Node) -> ir.Value:
    """Two products with the weights that each region gives to rows and to columns."""
    data, rois, batch = (read(node, index) for index in range(3))
    samples = node.attributes.get_int("sampling_ratio", 0)
    if node.attributes.get_string("mode", "avg") != "avg" or samples < 1:
        raise Inapplicable("it takes the largest sample, or as many samples as the region is large")
    default = "half_pixel" if ops.opset >= 16 else "output_half_pixel"
    half = node.attributes.get_string("coordinate_transformation_mode", default) == "half_pixel"
    scale = node.attributes.get_float("spatial_scale", 1.0)
    height, width = known_sizes(data, 2)
    scaled = ops.Mul(rois, ops.like(scale, data))
    if half:
        scaled = ops.Sub(scaled, ops.like(0.5, data))
    edges = [ops.slice(scaled, 1, index, index + 1) for index in range(4)]
    out = [node.attributes.get_int(name, 1) for name in ("output_height", "output_width")]
    rows = _weights(ops, data, edges[1], edges[3], out[0], samples, height, half)
    columns = _weights(ops, data, edges[0], edges[2], out[1], samples, width, half)
    picked = ops.Gather(data, batch, axis=0)
    left = ops.MatMul(ops.unsqueeze(rows, 1), picked)
    return ops.MatMul(left, ops.unsqueeze(ops.Transpose(columns, perm=[0, 2, 1]), 1))


def _weights(
    ops: Ops,
    data: ir.Value,
    low: ir.Value,
    high: ir.Value,
    out: int,
    samples: int,
    length: int,
    half: bool,
) -> ir.Value:
    """What each region's output takes of each place of an axis: `[regions, out, length]`."""

    def number(value: float) -> ir.Value:
        return ops.like(value, data)

    span = ops.Sub(high, low)
    if not half:
        span = ops.Max(span, number(1))
    inside = ((np.arange(out)[:, None] + (np.arange(samples)[None] + 0.5) / samples) / out).reshape(1, -1)
    places = ops.Add(low, ops.Mul(span, ops.constant(inside, data.dtype)))
    seen = ops.Not(ops.Or(ops.Less(places, number(-1)), ops.Greater(places, number(length))))
    clipped = ops.unsqueeze(ops.Clip(places, number(0), number(length - 1)), 2)
    away = ops.Abs(ops.Sub(clipped, ops.constant(np.arange(length).reshape(1, 1, -1), data.dtype)))
    weights = ops.Max(ops.Sub(number(1), away), number(0))
    weights = ops.Mul(weights, ops.unsqueeze(ops.Cast(seen, to=int(data.dtype or ir.DataType.FLOAT)), 2))
    return ops.reduce("Mean", ops.reshape(weights, [-1, out, samples, length]), 2)


def columns_to_image(ops: Ops, node: ir.Node) -> ir.Value:
    """A transposed convolution whose weights put each column where it came from."""
    data = read(node, 0)
    image = [int(size) for size in needed_constant(node, 1)]
    block = [int(size) for size in needed_constant(node, 2)]
    axes, places = len(block), math.prod(block)
    channels = known_sizes(data, 1)[0] // places
    strides, dilations, pads = steps_of(node, axes)
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(block, dilations, strict=True)]
    padded = [size + pads[axis] + pads[axes + axis] for axis, size in enumerate(image)]
    counts = [(size - span) // stride + 1 for size, span, stride in zip(padded, spans, strides, strict=True)]
    missing = [
        size - ((count - 1) * stride + span)
        for size, count, stride, span in zip(padded, counts, strides, spans, strict=True)
    ]
    weights = np.zeros([channels * places, 1, places], np.float32)
    weights[np.arange(channels * places), 0, np.arange(channels * places) % places] = 1
    shape: list[Size] = [ops.dim(data, 0), channels * places, *counts]
    return ops.ConvTranspose(
        ops.reshape(data, shape),
        ops.constant(_grouped(weights, channels, block), data.dtype),
        strides=strides,
        dilations=dilations,
        pads=pads,
        output_padding=missing,
    )


def _grouped(weights: np.ndarray, channels: int, block: list[int]) -> np.ndarray:
    """The weights of every channel for itself, the others 0: groups of a transposed convolution are refused more."""
    places = math.prod(block)
    full = np.zeros([channels * places, channels, places], np.float32)
    for channel in range(channels):
        rows = slice(channel * places, (channel + 1) * places)
        full[rows, channel] = weights[rows, 0]
    return full.reshape(channels * places, channels, *block)

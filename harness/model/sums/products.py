"""Products that are added up in FP16, as ONNX nodes: exact sums of 16, each added to an accumulator that is rounded.

A Scan runs over the blocks, so that one block of an operand is a view and no more than the accumulator is kept. The sum
of a block is FP32, which holds 16 products of FP16 values but for the last bit: of the elements of a product of 1,024
Gaussian terms 0.25 % come out one step of FP16 from what exact sums would give, where a rounding was nearly a tie.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from harness.model.rounding import Emitter
from harness.model.sums.summation import (
    DEPTH,
    EIGHT,
    TILE,
    Order,
    Shape,
    Summation,
    parts_of,
    window_numbers,
    window_pads,
)

Round = Callable[[Emitter, str], str]
RUNTIME_DOMAIN = "com.microsoft"
"""The domain of ONNX Runtime's own operators, of which FusedConv adds a convolution to what it is given."""


def emit_sum(emit: Emitter, node: onnx.NodeProto, how: Summation, opset: int, round: Round) -> str:
    """Emit a MatMul, Gemm or Conv that is added up as `how` says; its result is of FP32 type.

    Args:
        emit: where to.
        node: the node, with the names that it reads.
        how: the product is added up.
        opset: of the graph.
        round: emits a rounding to the precision.
    """
    return _Sum(emit, node, how, opset, round).emitted()


def round_to_fp16(emit: Emitter, name: str) -> str:
    """`name` as FP16 holds it."""
    return emit.cast(emit.cast(name, TensorProto.FLOAT16), TensorProto.FLOAT)


class _Sum:
    def __init__(self, emit: Emitter, node: onnx.NodeProto, how: Summation, opset: int, round: Round) -> None:
        self.emit, self.node, self.how, self.opset, self.round = emit, node, how, opset, round
        self.attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}

    def emitted(self) -> str:
        left, right = (self.unscaled(name, place) for place, name in enumerate(self.node.input[:2]))
        if self.node.op_type == "Conv":
            made = self.convolution(left, right)
        else:
            made = self.matrices(left, right, *self.how.reads)
        made = self.shaped(made, self.how.writes)
        if self.how.scaled is not None:
            made = self.emit.add("Mul", made, self.factor(self.how.scale))
        bias = self.node.input[2] if len(self.node.input) > 2 else ""
        if self.node.op_type == "Gemm":
            made = self.scaled(made, "alpha")
            bias = self.scaled(bias, "beta") if bias else bias
        elif bias:
            bias = self.shaped(bias, (-1, *[1] * (len(self.how.writes) - 2)))
        return self.emit.add("Add", made, bias) if bias else made

    def scaled(self, name: str, attribute: str) -> str:
        factor = float(self.attributes.get(attribute, 1.0))
        return name if factor == 1.0 else self.emit.add("Mul", name, self.factor(factor))

    def factor(self, value: float) -> str:
        return self.emit.constant(f"factor{value!r}", np.array(value, np.float32))

    def unscaled(self, name: str, place: int) -> str:
        """An input as it was before it was scaled, to the last bit: FP32 holds more digits than what was rounded."""
        if place != self.how.scaled:
            return name
        return self.round(self.emit, self.emit.add("Mul", name, self.factor(1.0 / self.how.scale)))

    def matrices(self, left: str, right: str, rows: Shape, columns: Shape) -> str:
        for side in ("transA", "transB") if self.node.op_type == "Gemm" else ():
            if self.attributes.get(side) and side == "transA":
                left, rows = self.emit.move("Transpose", left, [1, 0]), rows[::-1]
            elif self.attributes.get(side):
                right, columns = self.emit.move("Transpose", right, [1, 0]), columns[::-1]
        rows = rows if len(rows) > 1 else (1, *rows)
        if len(columns) == 2:  # one product, whatever the rows are called
            rows = (math.prod(rows[:-1]), rows[-1])
        if self.how.rounds_products:
            return self.one_row(left, right, (*(rows[:-2] if len(columns) > 2 else ()), rows[-1], 1))
        terms, parts = rows[-1], self.how.parts
        longest = max(end - start for start, end in parts_of(terms, parts)) if parts > 1 else terms
        blocks = math.ceil(longest / DEPTH)
        around = self.how.writes[:-2] if len(columns) > 2 else ()
        batch, (height, width) = math.prod(around), (rows[-2], columns[-1])
        left = self.apart(self.batched(left, rows, around), (batch, height, terms), 2)
        right = self.apart(self.batched(right, columns, around), (batch, terms, width), 1)
        left = self.turned(
            left,
            (batch, height, parts, blocks, DEPTH),
            (3, 2, 0, 1, 4),
            (blocks, parts * batch * height, DEPTH, 1),
        )
        right = self.turned(
            right,
            (batch, parts, blocks, DEPTH, width),
            (2, 1, 0, 3, 4),
            (blocks, 1, parts * batch * DEPTH, width),
        )
        sums = self.scanned(left, right, (1, parts * batch * height, width), parts * batch)
        return self.joined(self.shaped(sums, (parts, batch * height, width)))

    def batched(self, name: str, shape: Shape, around: Shape) -> str:
        """A matrix for each place of the batch `around`, along one axis."""
        if math.prod(shape[:-2]) != math.prod(around):
            name = self.emit.add("Expand", name, self.emit.integers((*around, *shape[-2:])))
        return self.shaped(name, (math.prod(around), *shape[-2:]))

    def one_row(self, left: str, right: str, turned: Shape) -> str:
        """One row of each of a batch, seen as columns of the shape `turned`, times a matrix."""
        terms = turned[-2]
        products = self.emit.add("Mul", self.shaped(left, turned), right)
        ones = self.emit.constant(f"ones{terms}", np.ones((1, terms), np.float32))
        return self.emit.add("MatMul", ones, self.round(self.emit, products))

    def apart(self, name: str, shape: Shape, axis: int) -> str:
        """`name` with parts of equal length along the axis of terms: zeros behind the shorter ones change no sum."""
        before, terms, after, rank = shape[:axis], shape[axis], shape[axis + 1 :], len(shape)
        if self.how.parts == 1:
            return self.padded(name, axis, rank, -terms % DEPTH)
        tiles = math.ceil(terms / TILE)
        short, longer = divmod(tiles, self.how.parts)
        name = self.padded(name, axis, rank, TILE * (tiles + (longer > 0)) - terms)
        if not longer:
            return name
        starts = [short * part + min(part, longer) for part in range(self.how.parts + 1)]
        places = [
            tile if tile < end else tiles
            for start, end in itertools.pairwise(starts)
            for tile in range(start, start + short + 1)
        ]
        name = self.shaped(name, (*before, tiles + 1, TILE, *after))
        name = self.emit.move("Gather", name, (axis, *places))
        return self.shaped(name, (*before, len(places) * TILE, *after))

    def joined(self, sums: str) -> str:
        """The sums of the parts, added in FP16: those beyond a power of two to the first, then half to half."""
        count = self.how.parts
        beyond = count - (1 << count.bit_length() - 1)
        if beyond:
            first = self.sum_of(sums, (0, beyond), (count - beyond, count))
            kept = self.part(sums, 0, beyond, count - beyond)
            sums, count = self.emit.add("Concat", first, kept, axis=0), count - beyond
        while count > 1:
            count //= 2
            sums = self.sum_of(sums, (0, count), (count, 2 * count))
        return sums

    def sum_of(self, sums: str, *places: tuple[int, int]) -> str:
        added = self.emit.add("Add", *(self.part(sums, 0, start, end) for start, end in places))
        return round_to_fp16(self.emit, added)

    def convolution(self, image: str, filters: str) -> str:
        (batch, channels, *sizes), weights = self.how.reads
        groups, width, count = int(self.attributes.get("group", 1)), weights[1], math.prod(weights[2:])
        each = weights[0] // groups
        tile, depth = self.how.order.tile(width), DEPTH
        if (
            self.how.order is not Order.WOVEN and width < tile <= DEPTH
        ):  # without what is filled up with zeros
            tile, depth = width, width * (DEPTH // tile)
        tiles, axes, pixels = math.ceil(width / tile), len(sizes), math.prod(self.how.writes[2:])
        lacking, terms = -width % tile, tiles * count * tile
        left_over = -terms % (TILE if self.how.order is Order.WOVEN else depth)
        blocks = (terms + left_over) // depth
        image = self.shaped(image, (batch, groups, channels // groups, *sizes))
        pads = window_pads(self.attributes, sizes, weights[2:])
        image = self.pad(image, [0, 0, 0, *pads[:axes]], [0, 0, lacking, *pads[axes:]])
        padded = [size + pads[axis] + pads[axis + axes] for axis, size in enumerate(sizes)]
        windows = self.windows(image, padded, (batch, groups, tiles, tile))
        windows = self.padded(self.shaped(windows, (batch, groups, terms, pixels)), 2, 4, left_over)
        windows = self.woven(windows, (batch, groups), terms + left_over, (pixels,))
        windows = self.turned(
            windows,
            (batch, groups, blocks, depth, pixels),
            (2, 0, 1, 3, 4),
            (blocks, batch, groups * depth, pixels),
        )
        filters = self.padded(self.shaped(filters, (groups, each, width, count)), 2, 4, lacking)
        filters = self.turned(
            filters, (groups, each, tiles, tile, count), (0, 1, 2, 4, 3), (groups, each, terms)
        )
        filters = self.woven(self.padded(filters, 2, 3, left_over), (groups, each), terms + left_over, ())
        filters = self.turned(
            filters,
            (groups, each, blocks, depth),
            (2, 0, 1, 3),
            (blocks, groups * each, depth, 1),
        )
        return self.scanned(filters, windows, (batch, groups * each, pixels), groups)

    def woven(self, name: str, before: Shape, terms: int, after: Shape) -> str:
        """`name` with the terms of each TILE in the order that they are woven in."""
        if self.how.order is not Order.WOVEN:
            return name
        lead = len(before)
        shape = (*before, terms // TILE, TILE // EIGHT, EIGHT, *after)
        order = (*range(lead + 1), lead + 2, lead + 1, *range(lead + 3, len(shape)))
        return self.turned(name, shape, order, (*before, terms, *after))

    def windows(self, image: str, sizes: Sequence[int], lead: tuple[int, int, int, int]) -> str:
        """What each place of the window sees, as (batch, groups, tiles, places, channels of a tile, pixels).

        Args:
            image: padded, with its channels filled up to whole tiles.
            sizes: of its axes.
            lead: its batch, groups, tiles, and channels of a tile.
        """
        kernel, pixels = self.how.reads[1][2:], self.how.writes[2:]
        shape = (*lead[:3], math.prod(kernel), lead[3], math.prod(pixels))
        if list(kernel) == window_numbers(self.attributes, "strides", len(kernel)) and all(
            place * count == size for place, count, size in zip(kernel, pixels, sizes, strict=True)
        ):  # side by side: each value is seen once
            pairs = [each for axis in zip(pixels, kernel, strict=True) for each in axis]
            seen = range(4, 4 + len(pairs), 2)
            order = (0, 1, 2, *(axis + 1 for axis in seen), 3, *seen)
            return self.turned(image, (*lead, *pairs), order, shape)
        apart = [self.shaped(tap, (*shape[:3], 1, *shape[4:])) for tap in self.taps(image, sizes)]
        return apart[0] if len(apart) == 1 else self.emit.add("Concat", *apart, axis=3)

    def taps(self, image: str, sizes: Sequence[int]) -> list[str]:
        """What each place of the window sees: an image of the size of the result. The last axis is cut first, once for
        all places that have it in common: there values lie apart, and rows do not. One place is cut by rows first."""
        kernel, axes = self.how.reads[1][2:], len(sizes)
        strides, dilations = (
            window_numbers(self.attributes, name, axes) for name in ("strides", "dilations")
        )
        cut: dict[tuple[int, ...], str] = {(): image}
        for axis in range(axes) if math.prod(kernel) == 1 else reversed(range(axes)):
            start_of, stride, count = dilations[axis], strides[axis], self.how.writes[axis + 2]
            longer: dict[tuple[int, ...], str] = {}
            for place, (behind, name) in itertools.product(range(kernel[axis]), cut.items()):
                start = start_of * place
                end = start + (count - 1) * stride + 1
                if (start, end, stride) != (0, sizes[axis], 1):
                    name = self.part(name, axis + 3, start, end, stride)
                longer[place, *behind] = name
            cut = longer
        return [cut[place] for place in np.ndindex(*kernel)]

    def turned(self, name: str, shape: Shape, order: Shape, becomes: Shape) -> str:
        """`name` seen as `shape`, its axes in another order, seen as `becomes`.

        Axes of one element are left out: without them ONNX Runtime copies whole rows, or nothing need be copied at all.
        """
        wide = [axis for axis in range(len(shape)) if shape[axis] > 1]
        moved = [wide.index(axis) for axis in order if shape[axis] > 1]
        if moved != sorted(moved):
            name = self.shaped(name, [shape[axis] for axis in wide])
            name = self.emit.move("Transpose", name, moved)
        return self.shaped(name, becomes)

    def scanned(self, filters: str, windows: str, shape: Shape, groups: int) -> str:
        """The blocks of both sides multiplied and added up: each is a convolution of one tap that adds to the sum.

        Args:
            filters: (blocks, filters of all groups, terms of a block, 1).
            windows: (blocks, batch, terms of a block of each group, pixels).
            shape: (batch, filters of all groups, pixels).
            groups: how many there are.
        """
        zero = helper.make_tensor("zero", TensorProto.FLOAT16, [1], [0.0])
        start = self.emit.add("ConstantOfShape", self.emit.integers(shape), value=zero)
        prefix = self.emit.fresh()
        body = Emitter(prefix=f"{prefix}/block")
        names = [f"{prefix}/{name}" for name in ("sum", "filters", "windows")]
        added, options = body.fresh(), {"group": groups, "kernel_shape": [1]}
        given = [names[2], names[1], "", body.cast(names[0], TensorProto.FLOAT)]
        body.nodes.append(
            helper.make_node("FusedConv", given, [added], added, domain=RUNTIME_DOMAIN, **options)
        )
        done = body.cast(added, TensorProto.FLOAT16)
        half, single = TensorProto.FLOAT16, TensorProto.FLOAT
        kinds = zip((*names, done), (half, single, single, half), strict=True)
        values = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds]
        graph = helper.make_graph(body.nodes, prefix, values[:3], values[3:])
        summed = self.emit.add("Scan", start, filters, windows, body=graph, num_scan_inputs=2)
        return self.emit.cast(summed, single)

    def shaped(self, name: str, shape: Sequence[int]) -> str:
        return self.emit.move("Reshape", name, shape)

    def padded(self, name: str, axis: int, rank: int, count: int) -> str:
        return self.pad(name, [0] * rank, [count * (place == axis) for place in range(rank)])

    def pad(self, name: str, before: Sequence[int], after: Sequence[int]) -> str:
        if not any((*before, *after)):
            return name
        if name in self.emit.feeds:
            return self.emit.move("Pad", name, after)
        if self.opset < 11:
            return self.emit.add("Pad", name, pads=[*before, *after])
        return self.emit.add("Pad", name, self.emit.integers([*before, *after]))

    def part(self, name: str, axis: int, start: int, end: int, stride: int = 1) -> str:
        return self.emit.part(name, axis, start, end, stride, opset=self.opset)

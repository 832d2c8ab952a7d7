"""Which products are added up in FP16, and in how many parts: measured on engines, and looked up here.

`rules.json` beside this module is written by `python -m benchmarks.kernel_rules`, which says how. Every product
of its sweep came out of three releases of TensorRT for RTX bit by bit as these rules say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from harness.model.model import Model, NodeInfo
from harness.model.sums.recurrent import RECURRENT, OneRow
from harness.model.sums.summation import (
    DEPTH,
    TILE,
    Order,
    Shape,
    Summation,
    window_numbers,
    window_pads,
)
from harness.tensors import from_json
from harness.worker.protocol import TENSORRT_RTX

Shapes = Mapping[str, tuple[int | str | None, ...]]
SUMMED = frozenset({"MatMul", "Gemm", "Conv"}) | RECURRENT

ALWAYS_ROUNDED, ROUNDED_TERMS, ROUNDED_COLUMNS, ROUNDED_WEIGHTS = 256, 4096, 512, 1 << 17
"""One row times fewer terms than the first, whatever the columns, or up to so many terms by fewer columns, those of a
whole batch, is generated code that rounds each product of two numbers and adds in FP32. So is one row alone times so
many weights. Other rows are added up in FP32."""

NARROW, WIDE = 8, 64
"""TensorRT for RTX reads up to so many channels of an image two taps at once, unless a convolution has so many filters;
up to half as many four taps at once, if it has no more filters than that many channels."""

APART_SINCE = (1, 6)
"""The release of TensorRT for RTX since which recurrent layers of two directions multiply what they read by itself."""

SPLIT_TERMS, SHORTEST, FEW_ROWS = 768, 256, 16
"""With fewer terms no product was split, and no part was shorter; up to so many rows are one tile."""


def stands_in(product: str, release: str) -> str | None:
    """The release whose rules are taken for one that was not measured, in short; None where it was.

    That is the last one before it of the same product, or the first of all.

    Args:
        product: `TensorRT` or `TensorRT for RTX`.
        release: its version.
    """
    measured = {_short(each): each for each in _rules().releases.get(product, ())}
    wanted = _short(release)
    if wanted in measured or not measured:
        return None
    older = [each for each in measured if each < wanted]
    major, minor = max(older) if older else min(measured)
    return f"{major}.{minor}"


def _short(release: str) -> tuple[int, int]:
    major, minor = release.split(".")[:2]
    return int(major), int(minor)


@dataclass(frozen=True)
class _Rules:
    """What was measured, by product.

    Args:
        releases: versions.
        parts: batch, rows, terms and columns of a matrix product, its parts, and whether another input was added.
        orders: by the release since which it is so: groups of a convolution, channels that each reads and writes, taps
            of the window, and the order.
    """

    releases: Mapping[str, tuple[str, ...]]
    parts: Mapping[str, tuple[tuple[int, int, int, int, int, bool], ...]]
    orders: Mapping[str, Mapping[str, tuple[tuple[int, int, int, int, str], ...]]]


@cache
def _rules() -> _Rules:
    return from_json(_Rules, json.loads(Path(__file__).with_name("rules.json").read_text()))


@cache
def measured_parts(product: str) -> tuple[tuple[tuple[int, int, int, int], int, bool], ...]:
    """(batch, rows, terms, columns) of each matrix product that was measured, into how many parts it was split, and
    whether another input was added to it."""
    return tuple((row[:4], *row[4:]) for row in _rules().parts[product])


@cache
def splits_of(
    batch: int, rows: int, terms: int, columns: int, *, residual: bool = False, product: str = TENSORRT_RTX
) -> int:
    """Into how many parts the terms of a matrix product are split: as many as in the nearest one that was measured.

    Multiples of three have kernels of their own, and are nearer to each other than their sizes say; so are products to
    which another input is added, as in a residual stream, with which they are fused.
    """
    if terms < SPLIT_TERMS:
        return 1
    wanted = [math.log2(size) for size in (batch, max(rows, FEW_ROWS), terms, columns)]
    threes = rows % 3 == 0, columns % 3 == 0

    def distance(row: tuple[tuple[int, int, int, int], int, bool]) -> float:
        size, _, added = row
        sizes = (size[0], max(size[1], FEW_ROWS), *size[2:])
        apart = sum((math.log2(each) - log) ** 2 for each, log in zip(sizes, wanted, strict=True))
        other = (size[1] % 3 == 0) != threes[0], (size[3] % 3 == 0) != threes[1]
        return apart + 2.0 * sum(other) + 0.5 * (added != residual)

    _, parts, _ = min(measured_parts(product), key=distance)
    return max(1, min(parts, terms // SHORTEST))


@cache
def order_of(groups: int, reads: int, writes: int, taps: int, *, product: str, release: str = "") -> Order:
    """In which order a convolution adds up its terms: as the nearest one that was measured.

    Args:
        groups: of channels.
        reads: channels of the image in each.
        writes: filters of each.
        taps: places of the window.
        product: `TensorRT for RTX` or `TensorRT`.
        release: its version; empty: the newest that was measured.
    """
    if product == TENSORRT_RTX and groups == 1 and reads <= NARROW and writes < WIDE:
        return Order.WOVEN if reads <= NARROW // 2 and writes <= NARROW else Order.TILES_8
    measured = {_short(since): rows for since, rows in _rules().orders.get(product, {}).items()}
    if not measured:
        return Order.TILES_32
    before = [since for since in measured if not release or since <= _short(release)]
    wanted = groups, reads, writes

    def distance(row: tuple[int, int, int, int, str]) -> float:
        *sizes, window, _ = row
        logs = [math.log2(size / size_wanted) ** 2 for size, size_wanted in zip(sizes, wanted, strict=True)]
        other = [(sizes[0] > 1) != (groups > 1), (window > 1) != (taps > 1)]
        other += [(sizes[1] > limit) != (reads > limit) for limit in (1, TILE)]
        return 8.0 * sum(other) + logs[0] / 4 + logs[1] + logs[2] / 16

    return Order(min(measured[max(before) if before else min(measured)], key=distance)[-1])


def fp16_sums(
    model: Model, shapes: Shapes, product: str = TENSORRT_RTX, release: str = ""
) -> dict[str, Summation]:
    """How each product of the main graph is added up by kernels that compute in FP16.

    Left out is what they add up in FP32: one row of many terms or columns, a convolution of few channels a group or
    transposed, and what lies in bodies; and a product whose shapes are not known.

    Args:
        model: the model.
        shapes: of its tensors, for the inputs at hand.
        product: `TensorRT for RTX` or `TensorRT`, which splits few products and generates no code for one row.
        release: its version; empty: the newest that was measured.
    """
    found, added = {}, _added_to(model)
    for node in model.lowerable:
        if node.op in SUMMED and not node.domain:
            how = _summation(model, node, shapes, product, release, residual=node.name in added)
            if how is not None:
                found[node.name] = how
    return found


def _added_to(model: Model) -> frozenset[str]:
    """The products to which another input is added, maybe behind a constant."""
    made = {node.outputs[0]: node.name for node in model.nodes if node.op in SUMMED}
    found = set()
    for node in model.nodes:
        if node.op != "Add":
            continue
        left = [
            name
            for name in node.inputs
            if name not in model.weights and name not in model.ir.graph.initializers
        ]
        source = next((made[name] for name in left if name in made), None)
        if source is not None and len(left) == 2:
            found.add(source)
        elif source is not None:
            made[node.outputs[0]] = source
    return frozenset(found)


def _summation(
    model: Model, node: NodeInfo, shapes: Shapes, product: str, release: str, *, residual: bool
) -> Summation | None:
    inner = model.ir_nodes[node.name]
    read = [str(value.name) for value in inner.inputs[:2] if value is not None]
    left, right = (_known(shapes.get(name)) for name in read)
    if left is None or right is None or len(right) < 2 or not math.prod((*left, *right)):
        return None
    attributes = {name: each.value for name, each in inner.attributes.items()}
    if node.op in RECURRENT:
        how = _one_row(node.op, left, right, attributes, release) if left[1] == 1 else None
        rounds = how is not None and (how.read or how.state or how.new)
        return Summation((left, right), (), rounds_products=rounds, recurrent=True, one_row=how)
    if node.op == "Conv":
        groups, taps = int(attributes.get("group", 1)), math.prod(right[2:])
        order = order_of(groups, right[1], right[0] // groups, taps, product=product, release=release)
        if len(left) < 3 or order is Order.FP32 or (taps == 1 and right[1] <= DEPTH):
            return None
        return Summation((left, right), _convolved(left, right, attributes), order=order)
    gemm = node.op == "Gemm"
    rows, terms = (
        left[::-1] if gemm and attributes.get("transA") else (left[-2] if len(left) > 1 else 1, left[-1])
    )
    columns = right[-2 if gemm and attributes.get("transB") else -1]
    around = np.broadcast_shapes(left[:-2], right[:-2])
    out = (*around, *((rows,) if len(left) > 1 else ()), columns)
    if len(right) == 2:
        rows, around = math.prod(left) // terms, ()
    if rows == 1:
        plain = product == TENSORRT_RTX and rounds_products(terms, columns, math.prod(around))
        plain = plain and not (attributes.get("transA") or attributes.get("transB"))
        return Summation((left, right), out, rounds_products=True) if plain else None
    if terms <= DEPTH:
        return None
    parts = splits_of(math.prod(around), rows, terms, columns, residual=residual, product=product)
    return Summation((left, right), out, parts)


def _one_row(op: str, read: Shape, weights: Shape, attributes: Mapping[str, object], release: str) -> OneRow:
    """Which products of a recurrent layer of one row are generated code.

    With two directions what is read times its weights is not, since APART_SINCE.
    """
    directions, gates, width = weights
    hidden = int(attributes["hidden_size"])  # type: ignore[call-overload]
    alone = directions == 1 or bool(release and _short(release) < APART_SINCE)
    columns = gates
    if op == "GRU" and not attributes.get("linear_before_reset"):
        columns = 2 * hidden

    def generated(terms: int, columns: int) -> bool:
        return rounds_products(terms, columns, directions)

    reads, state = alone and generated(width, gates), generated(hidden, columns)
    new = op == "GRU" and columns != gates and generated(hidden, hidden)
    return OneRow(reads, state, new, together=reads and state and op != "GRU")


def rounds_products(terms: int, columns: int, batch: int = 1) -> bool:
    """Whether one row times `columns` of `terms` is generated code that rounds each product of two numbers.

    Args:
        terms: so many products are added up.
        columns: of the result.
        batch: so many rows there are, each with columns of its own.
    """
    few = terms <= ROUNDED_TERMS and batch * columns < ROUNDED_COLUMNS
    return terms < ALWAYS_ROUNDED or few or (batch == 1 and terms * columns <= ROUNDED_WEIGHTS)


def _convolved(image: Shape, filters: Shape, attributes: Mapping[str, object]) -> Shape:
    """The shape of what a convolution writes."""
    axes = len(filters) - 2
    strides, dilations = (window_numbers(attributes, name, axes) for name in ("strides", "dilations"))
    pads = window_pads(attributes, image[2:], filters[2:])
    sizes = (
        (size + pads[axis] + pads[axis + axes] - dilations[axis] * (filters[axis + 2] - 1) - 1)
        // strides[axis]
        + 1
        for axis, size in enumerate(image[2:])
    )
    return image[0], filters[0], *sizes


def _known(shape: tuple[int | str | None, ...] | None) -> Shape | None:
    if shape is None or not all(isinstance(size, int) for size in shape):
        return None
    return tuple(int(size or 0) for size in shape)

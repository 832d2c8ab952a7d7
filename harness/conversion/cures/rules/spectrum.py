"""Fourier transforms and counts of n-grams."""

from __future__ import annotations

from functools import reduce

import numpy as np
import onnx_ir as ir

from harness.conversion.cures.building import (
    Inapplicable,
    Ops,
    given,
    known_sizes,
    needed_constant,
    rank,
    read,
    sizes,
)


def fourier(ops: Ops, node: ir.Node) -> ir.Value:
    """Products with the cosines and sines of the transform."""
    data = read(node, 0)
    axes = rank(data)
    axis = node.attributes.get_int("axis", 1 if ops.opset < 20 else -2)
    if given(node, 2) is not None:
        axis = int(needed_constant(node, 2).reshape(-1)[0])
    axis %= axes
    length = known_sizes(data, axis)[0]
    parts = sizes(data)[-1]
    inverse, onesided = (node.attributes.get_int(name, 0) for name in ("inverse", "onesided"))
    points = length
    if given(node, 1) is not None:
        points = int(needed_constant(node, 1).reshape(-1)[0])
    elif inverse and onesided:
        points = 2 * (length - 1)
    real, imaginary = _matrices(length, points, bool(inverse), bool(onesided))
    order = [each for each in range(axes - 1) if each != axis] + [axis]
    back = [order.index(each) for each in range(axes - 1)]

    def product(part: ir.Value, matrix: np.ndarray) -> ir.Value:
        return ops.MatMul(ops.Transpose(part, perm=order), ops.constant(matrix, data.dtype))

    first = ops.pick(data, -1, 0)
    results = [product(first, real), product(first, imaginary)]
    if parts == 2:
        second = ops.pick(data, -1, 1)
        results = [
            ops.Sub(results[0], product(second, imaginary)),
            ops.Add(results[1], product(second, real)),
        ]
    elif parts != 1:
        raise Inapplicable("it is not known whether its values are complex")
    if inverse and onesided:
        results = results[:1]
    return ops.Concat(*(ops.unsqueeze(ops.Transpose(each, perm=back), -1) for each in results), axis=-1)


def _matrices(length: int, points: int, inverse: bool, onesided: bool) -> tuple[np.ndarray, np.ndarray]:
    """Real and imaginary part of what each point of the transform takes of each place; a shorter signal is padded."""
    sign = 1 if inverse else -1
    if inverse and onesided:  # a real signal, from half of its spectrum
        used = min(length, points // 2 + 1)
        at = np.arange(used)[:, None] * np.arange(points)[None] / points
        twice = np.where((np.arange(used) == 0) | (2 * np.arange(used) == points), 1.0, 2.0)[:, None]
        wave = twice * np.exp(2j * np.pi * at) / points
    else:
        used = min(length, points)
        wanted = points // 2 + 1 if onesided else points
        wave = np.exp(sign * 2j * np.pi * np.arange(used)[:, None] * np.arange(wanted)[None] / points)
        wave = wave / points if inverse else wave
    full = np.zeros((length, wave.shape[1]), np.complex128)
    full[:used] = wave
    return full.real, full.imag


def count_ngrams(ops: Ops, node: ir.Node) -> ir.Value:
    """How often each n-gram of the pool stands in each row, at every distance that may be skipped."""
    data = read(node, 0)
    pool = node.attributes.get_ints("pool_int64s", [])
    if not pool:
        raise Inapplicable("its pool holds strings")
    starts = list(node.attributes.get_ints("ngram_counts", []))
    shortest, longest = (node.attributes.get_int(f"{name}_gram_length", 1) for name in ("min", "max"))
    skips = node.attributes.get_int("max_skip_count", 0)
    length = known_sizes(data, rank(data) - 1)[0]
    ngrams = _ngrams(list(pool), starts)
    rows = ops.cast(data, ir.DataType.INT64)
    counts = []
    for ngram in ngrams:
        size, total = len(ngram), None
        for skip in range(skips + 1) if shortest <= size <= longest else ():
            reach = (size - 1) * (skip + 1)
            if length <= reach or (size == 1 and skip):
                continue
            starts_at = (position * (skip + 1) for position in range(size))
            seen = [ops.slice(rows, -1, start, length - reach + start) for start in starts_at]
            hits = reduce(ops.And, map(ops.Equal, seen, map(ops.ints, ngram)))
            found = ops.reduce("Sum", ops.Cast(hits, to=int(ir.DataType.FLOAT)), -1, keepdims=True)
            total = found if total is None else ops.Add(total, found)
        counts.append(total)
    return _columns(ops, node, rows, counts)


def _ngrams(pool: list[int], starts: list[int]) -> list[tuple[int, ...]]:
    found = []
    for size, (start, end) in enumerate(zip(starts, [*starts[1:], len(pool)], strict=True), 1):
        found += [tuple(pool[at : at + size]) for at in range(start, end, size)]
    return found


def _columns(ops: Ops, node: ir.Node, rows: ir.Value, counts: list[ir.Value | None]) -> ir.Value:
    """The counts in the columns that the operator gives them, weighted as it says."""
    places = list(node.attributes.get_ints("ngram_indexes", []))
    weights = node.attributes.get_floats("weights") or [1.0] * len(counts)
    mode = node.attributes.get_string("mode", "TF")
    none = ops.Mul(
        ops.Cast(ops.slice(rows, -1, 0, 1), to=int(ir.DataType.FLOAT)), ops.constant(0, ir.DataType.FLOAT)
    )
    columns: list[ir.Value] = [none] * (max(places) + 1)
    for place, count, weight in zip(places, counts, weights, strict=True):
        if count is None:
            continue
        if mode != "TF":
            count = ops.Min(count, ops.constant(1, ir.DataType.FLOAT))
        columns[place] = count if mode == "TF" else ops.Mul(count, ops.constant(weight, ir.DataType.FLOAT))
    return ops.Concat(*columns, axis=-1)

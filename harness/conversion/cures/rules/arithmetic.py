"""Operators of arithmetic that are refused in some form, by those that are not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from harness.conversion.cures.building import (
    Inapplicable,
    Ops,
    Size,
    attributes_but,
    given,
    known_sizes,
    needed_constant,
    rank,
    read,
)


def floored_mod(ops: Ops, node: ir.Node) -> ir.Value | None:
    """The remainder of C, with the sign of the divisor."""
    value, divisor = read(node, 0), read(node, 1)
    if node.attributes.get_int("fmod", 0) or value.dtype is None or not value.dtype.is_floating_point():
        return None
    zero = ops.like(0, value)
    remainder = ops.Mod(value, divisor, fmod=1)
    other_sign = ops.Xor(ops.Less(remainder, zero), ops.Less(divisor, zero))
    wrong = ops.And(other_sign, ops.Not(ops.Equal(remainder, zero)))
    return ops.Where(wrong, ops.Add(remainder, divisor), remainder)


def determinant(ops: Ops, node: ir.Node) -> ir.Value | None:
    """Written out for matrices of 1 × 1, 2 × 2 and 3 × 3."""
    value = read(node, 0)
    size = known_sizes(value, rank(value) - 1)[0]
    if size > 3:
        raise Inapplicable(f"its matrices are {size} × {size}")
    rows = [ops.pick(value, -2, row) for row in range(size)]
    cells = [[ops.pick(row, -1, column) for column in range(size)] for row in rows]

    def minor(rows: range, columns: tuple[int, ...]) -> ir.Value:
        row, rest = rows[0], rows[1:]
        if not rest:
            return cells[row][columns[0]]
        total: ir.Value | None = None
        for at, column in enumerate(columns):
            others = tuple(each for each in columns if each != column)
            term = ops.Mul(cells[row][column], minor(rest, others))
            total = term if total is None else ops.op("Sub" if at % 2 else "Add", total, term)
        assert total is not None
        return total

    return minor(range(size), tuple(range(size)))


def cumulative_product(ops: Ops, node: ir.Node) -> ir.Value:
    """Products of what a triangle lets through."""
    value = read(node, 0)
    axis = int(needed_constant(node, 1).reshape(-1)[0]) % rank(value)
    size = ops.dim(value, axis)
    after: list[Size] = [1] * (rank(value) - axis - 1)
    row, column = (ops.reshape(ops.upto(size), [*shape, *after]) for shape in ([size, 1], [1, size]))
    if node.attributes.get_int("reverse", 0):
        row, column = column, row
    mask = ops.Less(column, row)
    if not node.attributes.get_int("exclusive", 0):
        mask = ops.Or(mask, ops.Equal(column, row))
    through = ops.Where(mask, ops.unsqueeze(value, axis), ops.like(1, value))
    return ops.reduce("Prod", through, axis + 1)


def celu(ops: Ops, node: ir.Node) -> ir.Value | None:
    """Alpha times Elu of x over alpha."""
    value = read(node, 0)
    if value.dtype == ir.DataType.FLOAT:
        return None
    alpha = ops.like(node.attributes.get_float("alpha", 1.0), value)
    return ops.Mul(ops.Elu(ops.Div(value, alpha), alpha=1.0), alpha)


def vector_product(ops: Ops, node: ir.Node) -> ir.Value | None:
    """The vector as a matrix of one row."""
    left, right = read(node, 0), read(node, 1)
    if rank(left) != 1 or rank(right) < 3:
        return None
    return ops.squeeze(ops.MatMul(ops.unsqueeze(left, 0), right), -2)


def trained_normalization(ops: Ops, node: ir.Node) -> list[ir.Value] | ir.Value | None:
    """Mean and variance of the batch, and what they add to the running ones."""
    if not node.attributes.get_int("training_mode", 0):
        return None
    value, scale, bias, mean, variance = (read(node, index) for index in range(5))
    axes = [axis for axis in range(rank(value)) if axis != 1]
    one_channel = [1, -1, *[1] * (rank(value) - 2)]
    own_mean = ops.reduce("Mean", value, *axes, keepdims=True)
    centred = ops.Sub(value, own_mean)
    own_variance = ops.reduce("Mean", ops.Mul(centred, centred), *axes, keepdims=True)
    epsilon = ops.like(node.attributes.get_float("epsilon", 1e-5), value)
    unit = ops.Div(centred, ops.Sqrt(ops.Add(own_variance, epsilon)))
    result = ops.Add(ops.Mul(unit, ops.reshape(scale, one_channel)), ops.reshape(bias, one_channel))
    if len(node.outputs) == 1:
        return result
    momentum = node.attributes.get_float("momentum", 0.9)

    def running(old: ir.Value, new: ir.Value) -> ir.Value:
        kept = ops.Mul(old, ops.like(momentum, old))
        return ops.Add(kept, ops.Mul(ops.reshape(new, [-1]), ops.like(1 - momentum, old)))

    both = [running(mean, own_mean), running(variance, own_variance)]
    return [result, *both[: len(node.outputs) - 1]]


def dropout(ops: Ops, node: ir.Node) -> list[ir.Value] | ir.Value | None:
    """What a Dropout passes on that drops nothing."""
    value, ratio, training = read(node, 0), given(node, 1), given(node, 2)
    if training is None:
        return None
    drops = bool(needed_constant(node, 2)) and (ratio is None or float(needed_constant(node, 1)) > 0)
    if drops:
        raise Inapplicable("it drops values at random")
    passed = ops.Identity(value)
    if len(node.outputs) == 1:
        return passed
    everywhere = ops.Expand(ops.constant(np.array(True)), ops.vector(ops.dims(value)))
    return [passed, everywhere]


def present(ops: Ops, node: ir.Node) -> ir.Value | None:
    """What is known of a tensor that may be left out: it is there, or it is not."""
    value = given(node, 0)
    if value is not None and not isinstance(value.type, ir.TensorType):
        return None
    if node.op_type == "OptionalGetElement":
        return None if value is None else ops.Identity(value)
    return ops.constant(np.array(value is not None))


def explicit_upper(ops: Ops, node: ir.Node) -> ir.Value | None:
    """A Trilu that says that it keeps the upper triangle."""
    if "upper" in node.attributes:
        return None
    return ops.Trilu(*node.inputs, upper=1)


def batch_first(ops: Ops, node: ir.Node) -> list[ir.Value] | None:
    """A recurrent layer with the steps in front, its inputs and outputs transposed."""
    if not node.attributes.get_int("layout", 0):
        return None
    inputs = list(node.inputs)
    for position in (0, 5, 6):  # the data and the first states
        if position < len(inputs) and inputs[position] is not None:
            inputs[position] = ops.Transpose(inputs[position], perm=[1, 0, 2])
    found = ops.outputs(node.op_type, len(node.outputs), *inputs, **attributes_but(node, "layout"))
    orders = ([2, 0, 1, 3], [1, 0, 2], [1, 0, 2])
    return [ops.Transpose(value, perm=order) for value, order in zip(found, orders, strict=False)]

"""Bitwise operators and shifts, in sums of powers of two; arithmetic on 8-bit integers and booleans, in 32 bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from harness.conversion.cures.building import Inapplicable, Ops, given, read

WIDENED = ("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min")
COMPARED = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_BYTES = (ir.DataType.UINT8, ir.DataType.INT8)
_WIDE = {8: ir.DataType.INT32, 32: ir.DataType.INT32, 64: ir.DataType.INT64}


def bitwise(combine: str) -> Callable[[Ops, ir.Node], ir.Value]:
    """`combine` (`And`, `Or`, `Xor`) bit by bit: the sign by itself, the others as digits."""

    def build(ops: Ops, node: ir.Node) -> ir.Value:
        bits, signed, wide = _kind(node)
        digits = bits - 1 if signed else bits
        powers = ops.constant(2 ** np.arange(digits, dtype=wide.numpy()), wide)
        signs, rows = zip(
            *(_digits(ops, read(node, index), digits, powers, wide) for index in (0, 1)), strict=True
        )
        if combine == "And":
            digit = ops.Mul(*rows)
        elif combine == "Or":
            digit = ops.Max(*rows)
        else:
            digit = ops.Abs(ops.Sub(*rows))
        total = ops.reduce("Sum", ops.Mul(digit, powers), -1)
        if signed:
            zero, lowest = (ops.constant(np.array(number), wide) for number in (0, -(2**digits)))
            total = ops.Add(total, ops.Where(ops.op(combine, *signs), lowest, zero))
        return ops.Cast(total, to=int(read(node, 0).dtype or wide))

    return build


def bitwise_not(ops: Ops, node: ir.Node) -> ir.Value:
    """−1 − x of signed numbers, the largest − x of others."""
    bits, signed, wide = _kind(node)
    largest = -1 if signed else 2**bits - 1
    value = read(node, 0)
    return ops.Cast(
        ops.Sub(ops.constant(np.array(largest), wide), ops.Cast(value, to=int(wide))),
        to=int(value.dtype or wide),
    )


def shift(ops: Ops, node: ir.Node) -> ir.Value:
    """A product with a power of two, wrapped, or a floored quotient; 0 or the sign from the width on."""
    bits, signed, wide = _kind(node)
    left = node.attributes.get_string("direction", "") == "LEFT"
    value, amount = (ops.Cast(read(node, index), to=int(wide)) for index in (0, 1))
    number = _numbers(ops, wide)
    outside = ops.Or(ops.Less(amount, number(0)), ops.Greater(amount, number(bits - 1)))
    negative = ops.Less(value, number(0))
    top = bits - 1 if signed else bits
    powers = 2 ** np.arange(min(top, wide.itemsize * 8 - 1), dtype=wide.numpy())
    safe = ops.Clip(amount, number(0), number(len(powers) - 1))
    power = ops.Gather(ops.constant(powers, wide), safe)
    if left:
        shifted = _wrapped_product(ops, value, power, amount, safe, bits, signed, wide)
        beyond: ir.Value = number(0)
    else:
        floored = ops.Sub(ops.Div(ops.Add(value, number(1)), power), number(1))
        shifted = ops.Where(negative, floored, ops.Div(value, power))
        beyond = ops.Where(negative, number(-1), number(0))
        if len(powers) <= bits - 1:
            shifted = ops.Where(ops.Greater(amount, safe), beyond, shifted)
    return ops.Cast(ops.Where(outside, beyond, shifted), to=int(read(node, 0).dtype or wide))


def _wrapped_product(
    ops: Ops,
    value: ir.Value,
    power: ir.Value,
    amount: ir.Value,
    safe: ir.Value,
    bits: int,
    signed: bool,
    wide: ir.DataType,
) -> ir.Value:
    """`value * power` modulo 2^bits, and back into the signed range; the integer products wrap by themselves."""
    number = _numbers(ops, wide)
    doubled = ops.Add(power, power)
    product = ops.Mul(value, ops.Where(ops.Greater(amount, safe), doubled, power))
    if bits == wide.itemsize * 8:
        return product
    inside = ops.Mod(product, number(2**bits))
    if not signed:
        return inside
    return ops.Where(
        ops.Greater(inside, number(2 ** (bits - 1) - 1)), ops.Sub(inside, number(2**bits)), inside
    )


def _numbers(ops: Ops, wide: ir.DataType) -> Callable[[int], ir.Value]:
    return lambda number: ops.constant(np.array(number), wide)


def _digits(
    ops: Ops, value: ir.Value, digits: int, powers: ir.Value, wide: ir.DataType
) -> tuple[ir.Value, ir.Value]:
    """Whether each number is negative, and its lower digits in two's complement along a new last axis."""
    cast = ops.Cast(value, to=int(wide))
    negative = ops.Less(cast, ops.constant(np.array(0), wide))
    lowest = ops.constant(np.array(-(2**digits)), wide) if digits % 8 else ops.constant(np.array(0), wide)
    positive = ops.Where(negative, ops.Sub(cast, lowest), cast)
    quotients = ops.Div(ops.unsqueeze(positive, -1), powers)
    return negative, ops.Mod(quotients, ops.constant(np.array(2), wide))


def _kind(node: ir.Node) -> tuple[int, bool, ir.DataType]:
    """Bits of the numbers, whether they are signed, and a dtype to compute in."""
    dtype = read(node, 0).dtype
    if dtype not in (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32, ir.DataType.INT64):
        raise Inapplicable(f"numbers of {dtype} cannot be at the border of an engine")
    bits = dtype.itemsize * 8
    return int(bits), dtype.is_signed(), _WIDE[int(bits)]


def arithmetic(ops: Ops, node: ir.Node) -> ir.Value | None:
    """The operator in int32, wrapped as 8 bits wrap."""
    dtype = read(node, 0).dtype
    if dtype not in _BYTES or (dtype == ir.DataType.INT8 and node.op_type != "Mod"):
        return None
    wide = [ops.Cast(value, to=int(ir.DataType.INT32)) for value in node.inputs if value is not None]
    result = ops.op(node.op_type, *wide, **dict(node.attributes))
    if node.op_type in ("Add", "Sub", "Mul"):
        result = ops.Mod(result, ops.constant(np.array(256, np.int32)))
    return ops.Cast(result, to=int(dtype))


def comparison(ops: Ops, node: ir.Node) -> ir.Value | None:
    """The operator in int32."""
    if read(node, 0).dtype != ir.DataType.UINT8:
        return None
    wide = [ops.Cast(value, to=int(ir.DataType.INT32)) for value in node.inputs if value is not None]
    compared: ir.Value = ops.op(node.op_type, *wide)
    return compared


def clip(ops: Ops, node: ir.Node) -> ir.Value | None:
    """Max and Min in int32."""
    value = read(node, 0)
    if value.dtype not in _BYTES:
        return None
    clipped = ops.Cast(value, to=int(ir.DataType.INT32))
    for index, operator in ((1, "Max"), (2, "Min")):
        limit = given(node, index)
        if limit is not None:
            clipped = ops.op(operator, clipped, ops.Cast(limit, to=int(ir.DataType.INT32)))
    return ops.Cast(clipped, to=int(value.dtype))


def reduce_bool(ops: Ops, node: ir.Node) -> ir.Value | None:
    """The largest or smallest of booleans, in int32."""
    value = read(node, 0)
    if value.dtype != ir.DataType.BOOL:
        return None
    wide = ops.Cast(value, to=int(ir.DataType.INT32))
    reduced = ops.op(node.op_type, wide, *node.inputs[1:], **dict(node.attributes))
    if node.op_type == "ReduceMax":  # of nothing: the lowest int32, which is false
        return ops.Greater(reduced, ops.constant(np.array(0, np.int32)))
    return ops.Cast(reduced, to=int(ir.DataType.BOOL))


def same_byte(ops: Ops, node: ir.Node) -> ir.Value | None:
    """The bits of a signed byte as an unsigned one, or the other way, by the number that they stand for."""
    value, to = read(node, 0), ir.DataType(node.attributes.get_int("to", 0))
    bytes_ = (*_BYTES, ir.DataType.BOOL)
    if value.dtype not in bytes_ or to not in _BYTES:
        return None
    number = ops.Cast(value, to=int(ir.DataType.INT32))
    wrapped = ops.Mod(number, ops.constant(np.array(256, np.int32)))
    if to == ir.DataType.INT8:
        most, turn = (ops.constant(np.array(each, np.int32)) for each in (127, 256))
        wrapped = ops.Where(ops.Greater(wrapped, most), ops.Sub(wrapped, turn), wrapped)
    return ops.Cast(wrapped, to=int(to))

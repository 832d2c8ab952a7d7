"""Rounding to a precision: as ONNX nodes inside a graph, and as arrays outside of one.

FP16 and BF16 use ONNX's Cast to the type and back, where the opset has that type; otherwise, and for FP8 and TF32,
Veltkamp's splitting: with `c = (2**s + 1) * x`, `c - (c - x)` is `x` rounded to
nearest with `s` bits fewer (T. J. Dekker, "A floating-point technique for extending the available precision",
Numerische Mathematik 18, 1971). It passes values beyond 2**100 on unrounded and does not know subnormals. Values
beyond the range of a type become infinities.

Tensor cores ignore the last 13 bits of what they are given as TF32. Some kernels round to nearest before, others leave
it at that: `toward_zero`. That errs twice as much, and always to the same side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from harness.tensors import Precision, round_to_float16

SIGNIFICAND_BITS = {Precision.TF32: 11, Precision.BF16: 8}
VELTKAMP_LIMIT = (
    2.0**100
)  # beyond it the splitting itself would overflow; such values are passed on as they are
_BLOCK = 1 << 15  # elements that stay in the cache of a core with what is computed from them
FP8_OVERFLOW = 464.0  # halfway between the largest E4M3 value and what would be the next one
CAST_TYPE = {
    Precision.FP16: (TensorProto.FLOAT16, 9),
    Precision.BF16: (TensorProto.BFLOAT16, 13),
}


def round_array(values: np.ndarray, precision: Precision, *, toward_zero: bool = False) -> np.ndarray:
    """Float32 `values` rounded to nearest even at `precision`, as float32; overflow becomes infinity.

    Only TF32 can be rounded `toward_zero`.
    """
    values = np.asarray(values, dtype=np.float32)
    if toward_zero:
        cut = values.view(np.uint32) & np.uint32(-(1 << 24 - SIGNIFICAND_BITS[precision]) & 0xFFFFFFFF)
        return np.where(np.isnan(values), values, cut.view(np.float32))
    if precision in (Precision.FP32, Precision.INT8):
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        if precision is Precision.FP16:
            return round_to_float16(values)
        if precision is Precision.BF16:
            return values.astype(ml_dtypes.bfloat16).astype(np.float32)
        if precision is Precision.FP8:
            rounded = values.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
            over = np.abs(values) >= FP8_OVERFLOW
            return np.where(over & ~np.isnan(values), np.copysign(np.float32(np.inf), values), rounded)
        return _veltkamp_array(values, SIGNIFICAND_BITS[precision])


def _veltkamp_array(values: np.ndarray, bits: int) -> np.ndarray:
    factor = np.float32(2 ** (24 - bits) + 1)
    flat, result = values.reshape(-1), np.empty(values.size, np.float32)
    for start in range(0, flat.size, _BLOCK):
        part, split = flat[start : start + _BLOCK], result[start : start + _BLOCK]
        scaled = factor * part
        np.subtract(scaled, part, out=split)
        np.subtract(scaled, split, out=split)
        np.copyto(split, part, where=~(np.abs(part, out=scaled) < np.float32(VELTKAMP_LIMIT)))
    return result.reshape(values.shape)


@cache
def _cast_template(kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [], [], to=kind)


Steps = tuple[tuple[str, tuple[int, ...]], ...]
"""Operators that move the elements of weights: Reshape with a shape, Transpose with an order of axes, Pad with how many
zeros come behind each, Gather with an axis and places. The last one is a Reshape."""


@dataclass(frozen=True)
class WeightFeed:
    """A graph input of a lowered graph that takes a weight: raw, or rounded, to nearest or `toward_zero`, when `reader`
    is lowered; a product that reads `tf32` takes it in TF32 where it is raw, which then is what goes `toward_zero`.
    Where the lowered reader alone reads it, its elements may be moved by `steps`, and it is always rounded."""

    feed: str
    weight: str
    reader: str | None
    toward_zero: bool = False
    tf32: bool = False
    steps: Steps = ()

    def moved(self, values: np.ndarray) -> np.ndarray:
        """The values of the weight, each where it is fed."""
        for op, numbers in self.steps:
            if op == "Reshape":
                values = values.reshape(numbers)
            elif op == "Transpose":
                values = values.transpose(numbers)
            elif op == "Pad":
                values = np.pad(values, [(0, count) for count in numbers])
            else:
                values = values.take(numbers[1:], axis=numbers[0])
        return np.ascontiguousarray(values)


@dataclass
class Emitter:
    """Collects the nodes and constants of one graph under construction; names never clash with the model's.

    `feeds` are the graph inputs that take weights, as many as are read.
    """

    prefix: str = "harness"
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    feeds: dict[str, WeightFeed] = field(default_factory=dict)
    count: int = 0

    def within(self, prefix: str) -> Emitter:
        """One for a body, with the constants and feeds of the main graph."""
        return Emitter(prefix, constants=self.constants, feeds=self.feeds)

    def fresh(self) -> str:
        """A tensor name that nothing else has."""
        self.count += 1
        return f"{self.prefix}::{self.count}"

    def add(
        self,
        op: str,
        *inputs: str,
        output: str | None = None,
        **attributes: int | Sequence[int] | onnx.GraphProto,
    ) -> str:
        """Append a node of the standard domain and return the name of its output."""
        output = output or self.fresh()
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"{output}/{op}", **attributes))
        return output

    def cast(self, name: str, kind: int) -> str:
        """As `add("Cast", name, to=kind)` at a third of its cost: most nodes of a lowered graph are Casts."""
        output = self.fresh()
        node = onnx.NodeProto()
        node.CopyFrom(_cast_template(kind))
        node.name = f"{output}/Cast"
        node.input.append(name)
        node.output.append(output)
        self.nodes.append(node)
        return output

    def move(self, op: str, name: str, numbers: Sequence[int]) -> str:
        """As `add` for the operators of Steps but Pad; weights are fed as they become instead, and moved only once."""
        if name in self.feeds:
            old, new = self.feeds[name], self.fresh()
            self.feeds[new] = replace(old, feed=new, steps=(*old.steps, (op, tuple(numbers))))
            return new
        if op == "Transpose":
            return self.add(op, name, perm=numbers)
        if op == "Reshape":
            return self.add(op, name, self.integers(numbers))
        return self.add(op, name, self.integers(numbers[1:]), axis=numbers[0])

    def constant(self, name: str, value: np.ndarray) -> str:
        """A constant of the main graph, made once."""
        key = f"{self.prefix}::{name}"
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(value, key)
        return key

    def integers(self, values: Sequence[int]) -> str:
        """A constant of int64, made once."""
        return self.constant("integers" + "_".join(map(str, values)), np.array(values, np.int64))

    def part(self, name: str, axis: int, start: int, end: int, stride: int = 1, *, opset: int) -> str:
        """Append what cuts a part out of a tensor along an axis, and return its name."""
        if opset >= 10:
            return self.add("Slice", name, *(self.integers([value]) for value in (start, end, axis, stride)))
        if stride == 1:
            return self.add("Slice", name, starts=[start], ends=[end], axes=[axis])
        kept = self.constant(f"range{start}_{end}_{stride}", np.arange(start, end, stride))
        return self.add("Gather", name, kept, axis=axis)


def rounder(precision: Precision, opset: int, *, toward_zero: bool = False) -> Callable[[Emitter, str], str]:
    """A function that emits the rounding of a tensor to `precision` and returns the rounded tensor's name.

    Only TF32 can be rounded `toward_zero`.
    """
    if toward_zero:
        return lambda emit, name: _toward_zero(emit, name, SIGNIFICAND_BITS[precision])
    if precision in CAST_TYPE and opset >= CAST_TYPE[precision][1]:
        kind = CAST_TYPE[precision][0]
        return lambda emit, name: _cast(emit, name, kind)
    if precision in SIGNIFICAND_BITS:
        return lambda emit, name: _veltkamp(emit, name, SIGNIFICAND_BITS[precision])
    return _fp8


def _cast(emit: Emitter, name: str, kind: int) -> str:
    return emit.cast(emit.cast(name, kind), TensorProto.FLOAT)


def _scalar(emit: Emitter, name: str, value: float) -> str:
    return emit.constant(name, np.array(value, dtype=np.float32))


def _within(emit: Emitter, name: str, limit: str) -> str:
    return emit.add("Less", emit.add("Abs", name), limit)


def _veltkamp(emit: Emitter, name: str, bits: int) -> str:
    split = _split(emit, name, bits)
    return emit.add(
        "Where", _within(emit, name, _scalar(emit, "veltkamp_limit", VELTKAMP_LIMIT)), split, name
    )


def _split(emit: Emitter, name: str, bits: int) -> str:
    scaled = emit.add("Mul", name, _scalar(emit, f"veltkamp{bits}", 2 ** (24 - bits) + 1))
    return emit.add("Sub", scaled, emit.add("Sub", scaled, name))


def _fp8(emit: Emitter, name: str) -> str:
    """E4M3: four significant bits for normal values, multiples of 2**-9 below 2**-6, infinite from 464 on.

    A number is rounded to multiples of 2**-9 where 1.5 · 2**14 is added and taken away again. ONNX Runtime's Cast to
    the type converts one value after the other and takes twice as long, so it is not used where the opset has it.
    """
    shift = _scalar(emit, "fp8_shift", 1.5 * 2.0**14)
    fixed = emit.add("Sub", emit.add("Add", name, shift), shift)
    size = emit.add("Abs", name)
    small = emit.add("Less", size, _scalar(emit, "fp8_normal", 2.0**-6))
    rounded = emit.add("Where", small, fixed, _split(emit, name, 4))
    infinite = emit.add("Mul", name, _scalar(emit, "infinity", np.inf))
    fits = emit.add("Less", size, _scalar(emit, "fp8_overflow", FP8_OVERFLOW))
    return emit.add("Where", fits, rounded, infinite)


def _toward_zero(emit: Emitter, name: str, bits: int) -> str:
    """What is rounded to nearest, and one step back where that was away from zero.

    That step is at least half and less than one of what 2**-bits of the value is, so that it rounds to one.
    """
    nearest = _veltkamp(emit, name, bits)
    less = emit.add("Mul", nearest, _scalar(emit, f"below_one{bits}", 1 - 2.0**-bits))
    away = emit.add("Less", emit.add("Abs", name), emit.add("Abs", nearest))
    return emit.add("Where", away, _veltkamp(emit, less, bits), nearest)

"""Values for an input: seeded draws and constants, in every dtype that a tensor can have."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from harness.case.inputs import (
    ConstantFill,
    IntegersFill,
    MaskFill,
    NormalFill,
    PositionsFill,
    Shape,
    UniformFill,
)
from harness.errors import InputDataError
from harness.tensors import is_float

DrawnFill = UniformFill | NormalFill | IntegersFill | PositionsFill | MaskFill | ConstantFill


def generator(seed: int, sample: int, name: str) -> np.random.Generator:
    """The generator for one input in one sample, independent of every other input and sample."""
    digest = hashlib.sha256(name.encode()).digest()
    words = np.frombuffer(digest, dtype="<u4").tolist()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, sample, *words])))


def default_fill(dtype: np.dtype) -> DrawnFill:
    """What fills an input whose case says nothing of it."""
    if is_float(dtype):
        return NormalFill()
    if dtype.kind in "iu" and dtype.itemsize == 1:
        limits = np.iinfo(dtype)
        return IntegersFill(low=int(limits.min), high=int(limits.max) + 1)
    return IntegersFill(low=0, high=2)


def generate(fill: DrawnFill, shape: Shape, dtype: np.dtype, random: np.random.Generator) -> np.ndarray:
    """An array of `shape` and `dtype`, filled as `fill` says.

    Raises:
        InputDataError: the values do not fit the dtype.
    """
    if isinstance(fill, ConstantFill):
        return _constant(fill.value, shape, dtype)
    if isinstance(fill, IntegersFill):
        return _integers(fill, shape, dtype, random)
    if isinstance(fill, PositionsFill):
        return _positions(fill, shape, dtype)
    if isinstance(fill, MaskFill):
        return _mask(fill, shape, dtype)
    if not is_float(dtype):
        raise InputDataError(f"`{fill.kind}` fills floats, this input is {dtype.name}", hint="use `integers`")
    return _floats(fill, shape, dtype, random)


def _floats(
    fill: UniformFill | NormalFill, shape: Shape, dtype: np.dtype, random: np.random.Generator
) -> np.ndarray:
    # Narrow floats are drawn in float32 and rounded, so that a model and its FP16 sibling see the same data.
    wide: Any = np.float64 if dtype == np.float64 else np.float32
    drawn = np.empty(shape, wide)
    if isinstance(fill, NormalFill):
        random.standard_normal(dtype=wide, out=drawn)
        scale, offset = fill.std, fill.mean
    else:
        random.random(dtype=wide, out=drawn)
        scale, offset = fill.high - fill.low, fill.low
    with np.errstate(over="ignore"):
        np.multiply(drawn, scale, out=drawn)
        np.add(drawn, offset, out=drawn)
    if not np.isfinite(drawn).all():
        raise InputDataError(f"`{fill.kind}` draws values beyond {np.dtype(wide).name}")
    return _cast(drawn, dtype)


def _integers(fill: IntegersFill, shape: Shape, dtype: np.dtype, random: np.random.Generator) -> np.ndarray:
    low, high = fill.low, fill.high - 1
    smallest, largest = _limits(np.dtype(np.int64) if is_float(dtype) else dtype)
    if low < smallest or high > largest:
        raise InputDataError(f"whole numbers from {low} to {high} do not fit {dtype.name}")
    wide = np.uint64 if dtype == np.uint64 else np.int64
    drawn = np.asarray(random.integers(low, high, shape, wide, endpoint=True))
    return _cast(drawn.astype(np.float64), dtype) if is_float(dtype) else drawn.astype(dtype)


def _positions(fill: PositionsFill, shape: Shape, dtype: np.dtype) -> np.ndarray:
    row = np.arange(shape[-1] if shape else 1) % (fill.high or np.iinfo(np.int64).max)
    largest = int(row.max(initial=0))
    if not is_float(dtype) and largest > _limits(dtype)[1]:
        raise InputDataError(f"positions up to {largest} do not fit {dtype.name}")
    return np.broadcast_to(row if shape else row[0], shape).astype(dtype)


def _mask(fill: MaskFill, shape: Shape, dtype: np.dtype) -> np.ndarray:
    mask = np.ones(shape, dtype)
    if shape and mask.size:
        kept = max(shape[-1] - max(round(fill.padded * shape[-1]), bool(fill.padded)), 1)
        (mask[-1] if len(shape) > 1 else mask)[..., kept:] = 0
    return (1 - mask.astype(np.int8)).astype(dtype) if fill.inverted else mask


def _constant(value: bool | int | float, shape: Shape, dtype: np.dtype) -> np.ndarray:
    if is_float(dtype):
        return _cast(np.full(shape, value, np.float64), dtype)
    smallest, largest = _limits(dtype)
    if not (float(value).is_integer() and smallest <= value <= largest):
        raise InputDataError(f"the constant {value} does not fit {dtype.name}")
    return np.full(shape, int(value)).astype(dtype)


def _limits(dtype: np.dtype) -> tuple[int, int]:
    """The smallest and the largest value of whole numbers or booleans."""
    if dtype.kind == "b":
        return 0, 1
    import ml_dtypes

    return int(ml_dtypes.iinfo(dtype).min), int(ml_dtypes.iinfo(dtype).max)


def _cast(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(dtype)
    overflowed = np.isfinite(values) & ~np.isfinite(cast)
    if overflowed.any():
        worst = values[overflowed].flat[0]
        raise InputDataError(f"the value {worst:g} overflows {dtype.name}", hint="fill with smaller values")
    return cast

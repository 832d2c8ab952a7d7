"""The dtypes of ONNX tensors by name, those that NumPy lacks (bfloat16, float8, int4) included."""

from __future__ import annotations

import difflib

import numpy as np

from harness.errors import InputDataError

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_NUMPY_NAMES = ("bool", *_INTEGERS, "float16", "float32", "float64")
_EXTENSION_NAMES = (
    "bfloat16",
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    "float4_e2m1fn",
    *("int4", "uint4", "int2", "uint2"),
)
_EXTENSION_FLOATS = frozenset(name for name in _EXTENSION_NAMES if "float" in name)
_EXTENSION_INTEGERS = frozenset(_EXTENSION_NAMES) - _EXTENSION_FLOATS


def dtype_of(name: str) -> np.dtype:
    """The NumPy dtype called `name`: `float32`, `bfloat16`, `float8_e4m3fn`, `int4`, …

    Raises:
        InputDataError: no tensor dtype has this name.
    """
    if name in _NUMPY_NAMES:
        return np.dtype(name)
    if name in _EXTENSION_NAMES:
        import ml_dtypes

        scalar = getattr(ml_dtypes, name, None)
        if scalar is not None:
            dtype: np.dtype = np.dtype(scalar)
            return dtype
    known = (*_NUMPY_NAMES, *_EXTENSION_NAMES)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(known)}"
    raise InputDataError(f"{name!r} is not a tensor dtype", hint=hint)


def dtype_name(dtype: np.dtype) -> str:
    """The name of `dtype`, the same on every byte order. The inverse of `dtype_of`.

    Raises:
        InputDataError: tensors of this dtype (objects, strings, dates, records) cannot be kept.
    """
    if dtype.name in _NUMPY_NAMES or dtype.name in _EXTENSION_NAMES:
        return dtype.name
    raise InputDataError(f"tensors of dtype {dtype.name!r} cannot be compared or stored")


def is_extension(dtype: np.dtype) -> bool:
    """Whether `dtype` is one that NumPy itself lacks."""
    return dtype.name in _EXTENSION_NAMES


def is_float(dtype: np.dtype) -> bool:
    """Whether `dtype` is a real floating-point type, bfloat16 and the float8 types included."""
    return dtype.kind == "f" or dtype.name in _EXTENSION_FLOATS


def is_integer(dtype: np.dtype) -> bool:
    """Whether `dtype` is an integer type, int4 and uint4 included; bool is not."""
    return dtype.kind in "iu" or dtype.name in _EXTENSION_INTEGERS

"""Float32 and float16, into each other: what NumPy's casts give, bit for bit, in a third of the time.

NumPy converts one element after the other on most processors. Here a magnitude is rounded by adding and subtracting
2^(e + 13), where the last place is that of a float16 with the exponent e; below 2^-14 the last place stays 2^-24. Then
the two dtypes differ by a factor of 2^112, and by where their bits lie.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_BLOCK = 1 << 15  # elements that stay in the cache of a core with what is computed from them
_FEW = 1 << 11  # up to so many elements NumPy is as fast
_SIGN, _MAGNITUDE, _EXPONENT, _SHIFT = map(np.uint32, (0x80000000, 0x7FFFFFFF, 0x7F800000, 13 << 23))
_LEAST, _OVERFLOW = (np.float32(value).view(np.uint32) for value in (2.0**-14, 2.0**16))
_SIGN_16, _MAGNITUDE_16, _EXPONENT_16 = map(np.uint16, (0x8000, 0x7FFF, 0x7C00))
_UP, _DOWN = np.float32(2.0**112), np.float32(2.0**-112)
_FRACTION, _HALF = np.uint32(13), np.uint32(16)  # bits


def round_to_float16(values: Array) -> Array:
    """Float32 `values` rounded to float16 and back: to nearest even, and to infinity beyond its range."""
    if values.size <= _FEW:
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    flat = np.ascontiguousarray(values).reshape(-1)
    rounded = np.empty_like(flat)
    scratch = np.empty(_BLOCK, np.uint32)
    for start in range(0, flat.size, _BLOCK):
        bits = flat[start : start + _BLOCK].view(np.uint32)
        out = rounded[start : start + _BLOCK].view(np.uint32)
        _round_magnitudes(bits, out, scratch[: out.size])
        np.bitwise_or(out, bits & _SIGN, out=out)
    return rounded.reshape(values.shape)


def to_float16(values: Array) -> Array:
    """`values.astype(np.float16)`."""
    if values.dtype != np.float32 or values.size <= _FEW:
        return values.astype(np.float16)
    flat = np.ascontiguousarray(values).reshape(-1)
    codes = np.empty(flat.size, np.uint16)
    room, scratch = np.empty(_BLOCK, np.uint32), np.empty(_BLOCK, np.uint32)
    for start in range(0, flat.size, _BLOCK):
        bits, out = flat[start : start + _BLOCK].view(np.uint32), codes[start : start + _BLOCK]
        work, signs = room[: out.size], scratch[: out.size]
        _round_magnitudes(bits, work, signs)
        np.multiply(work.view(np.float32), _DOWN, out=work.view(np.float32))
        np.right_shift(work, _FRACTION, out=work)
        np.bitwise_and(work, _MAGNITUDE_16, out=work)  # what is too large stands for infinity and NaN
        np.right_shift(bits, _HALF, out=signs)
        np.bitwise_and(signs, _SIGN_16, out=signs)
        np.bitwise_or(work, signs, out=out, casting="unsafe")
    return codes.view(np.float16).reshape(values.shape)


def to_float32(values: Array) -> Array:
    """`values.astype(np.float32)`."""
    if values.dtype != np.float16 or values.size <= _FEW:
        return values.astype(np.float32)
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint16)
    widened = np.empty(flat.size, np.float32)
    for start in range(0, flat.size, _BLOCK):
        codes, out = flat[start : start + _BLOCK], widened[start : start + _BLOCK]
        magnitudes, bits = codes & _MAGNITUDE_16, out.view(np.uint32)
        np.copyto(bits, magnitudes)
        np.left_shift(bits, _FRACTION, out=bits)
        np.multiply(out, _UP, out=out)
        if np.maximum.reduce(magnitudes) >= _EXPONENT_16:  # infinity or NaN
            np.bitwise_or(bits, _EXPONENT, out=bits, where=magnitudes >= _EXPONENT_16)
        np.bitwise_or(bits, np.left_shift(codes & _SIGN_16, _HALF, dtype=np.uint32), out=bits)
    return widened.reshape(values.shape)


def _round_magnitudes(bits: Array, out: Array, scratch: Array) -> None:
    """Round float32, given as its bits, into `out`, without signs."""
    np.bitwise_and(bits, _MAGNITUDE, out=out)
    np.maximum(out, _LEAST, out=scratch)
    np.minimum(scratch, _OVERFLOW, out=scratch)
    np.bitwise_and(scratch, _EXPONENT, out=scratch)
    np.add(scratch, _SHIFT, out=scratch)
    magnitudes, large = out.view(np.float32), scratch.view(np.float32)
    with np.errstate(invalid="ignore"):
        np.add(magnitudes, large, out=magnitudes)
        np.subtract(magnitudes, large, out=magnitudes)
    if np.maximum.reduce(out) >= _OVERFLOW:  # or infinity or NaN
        np.copyto(out, _EXPONENT, where=(out >= _OVERFLOW) & (out < _EXPONENT))

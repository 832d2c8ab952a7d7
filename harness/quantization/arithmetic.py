"""Quantising and dequantising arrays as QuantizeLinear and DequantizeLinear do, in any granularity."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from harness.model import along
from harness.quantization.types import Scale
from harness.tensors import dtype_of, is_float

FP4 = "float4_e2m1fn"
THINNED = 1 << 16
"""About so many values of a weight say what its error is."""
BLOCK = 1 << 17
"""So many elements are looked at together: their intermediate results stay in the processor's cache."""


def limits(dtype: str) -> tuple[float, float]:
    """The smallest and the largest value of a quantised type."""
    kind = dtype_of(dtype)
    found = ml_dtypes.finfo(kind) if is_float(kind) else ml_dtypes.iinfo(kind)
    return float(found.min), float(found.max)


def largest_of(dtype: str) -> float:
    """What a symmetric scale divides the largest magnitude by: 127, 448, 7 or 6."""
    return limits(dtype)[1]


def clips(scale: Scale, dtype: str) -> bool:
    """Whether a pair keeps nothing below 0, as where exporters leave out the ReLU in front of one."""
    least = limits(dtype)[0]
    return least == 0.0 if scale.zero_point is None else bool((scale.zero_point == least).all())


def two_levels(scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales of blocks of FP4 as NVFP4 has them: one in FP32 for all, and for each block what FP8 holds over it."""
    whole = np.array(np.abs(scales).max(initial=0.0) / 448.0 or 1.0, np.float32)
    return whole, rounded(scales / whole, "float8_e4m3fn")


def spread(values: np.ndarray, scale: Scale, shape: tuple[int, ...]) -> np.ndarray:
    """`values`, in the shape of `scale.values`, in one that broadcasts to `shape`."""
    return along(values, shape, scale.axis or 0, scale.block_size)


def steps(values: np.ndarray, scale: Scale, dtype: str) -> np.ndarray:
    """`values` over their scale, plus the zero point, neither rounded nor clipped."""
    with np.errstate(all="ignore"):
        found = values / spread(scale.values, scale, values.shape)
        if scale.zero_point is not None:
            found = found + spread(scale.zero_point, scale, values.shape)
    return np.asarray(found, dtype=np.float32)


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Steps as the type holds them: to nearest even, saturating; float32. NaN of an integer type is 0."""
    least, most = limits(dtype)
    kind = dtype_of(dtype)
    with np.errstate(all="ignore"):
        if is_float(kind):
            return np.asarray(np.clip(values, least, most).astype(kind), dtype=np.float32)
        found = np.empty(values.shape, np.float32)
        np.rint(values, out=found)
        np.clip(found, least, most, out=found)
        if np.isnan(found.min(initial=0.0)):
            np.nan_to_num(found, copy=False)
        return found


def dequantized(values: np.ndarray, scale: Scale, dtype: str) -> np.ndarray:
    """`values`, float32, quantised and dequantised."""
    if values.size > BLOCK and scale.per_tensor:
        back = np.empty(values.size, np.float32)
        for start in range(0, values.size, BLOCK):
            part = slice(start, start + BLOCK)
            back[part] = dequantized(values.reshape(-1)[part], scale, dtype)
        return back.reshape(values.shape)
    found = rounded(steps(values, scale, dtype), dtype)
    with np.errstate(all="ignore"):
        if scale.zero_point is not None:
            found -= spread(scale.zero_point, scale, values.shape)
        found *= spread(scale.values, scale, values.shape)
    return found


def thinned(values: np.ndarray, scale: Scale, axis: int | None) -> tuple[np.ndarray, Scale]:
    """About THINNED values, evenly from the longest axis but that of the channels, with their scales."""
    axes = [place for place in range(values.ndim) if axis is None or place != axis % values.ndim]
    if scale.block_size or not axes or values.size < 2 * THINNED:
        return values, scale
    longest = max(axes, key=values.shape.__getitem__)
    lines = (slice(None),) * longest + (slice(None, None, values.size // THINNED),)
    if scale.axis is not None and scale.axis % values.ndim == longest:
        zero = None if scale.zero_point is None else scale.zero_point[lines[-1]]
        scale = Scale(scale.values[lines[-1]], zero, scale.axis)
    return values[lines], scale


def nrmse(candidate: np.ndarray, reference: np.ndarray) -> float:
    """RMS of the difference over the RMS of `reference`; inf where something is not finite."""
    with np.errstate(all="ignore"):
        return ratio(squares(np.subtract(candidate, reference)), squares(reference))


def squares(values: np.ndarray) -> float:
    """The sum of squares, in double precision. Not by BLAS, whose threads cost more than they do here."""
    flat = values.reshape(-1)
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64))


def ratio(error: float, signal: float) -> float:
    """Root of `error` over `signal`, both sums of squares; 0 of 0 is 0."""
    if not np.isfinite(error):
        return float("inf")
    return float(np.sqrt(error / signal)) if signal else (float("inf") if error else 0.0)

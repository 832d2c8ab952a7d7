"""Quantising and dequantising arrays as QuantizeLinear and DequantizeLinear do, in any granularity."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from harness.model import along
from harness.quantization.types import Scale
from harness.tensors import dtype_of, is_float

FP4 = "float4_e2m1fn"


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
        found = np.asarray(np.clip(np.rint(values), least, most), dtype=np.float32)
        missing = np.isnan(found)
        return np.where(missing, np.float32(0), found) if missing.any() else found


def dequantized(values: np.ndarray, scale: Scale, dtype: str) -> np.ndarray:
    """`values`, float32, quantised and dequantised."""
    found = rounded(steps(values, scale, dtype), dtype)
    with np.errstate(all="ignore"):
        if scale.zero_point is not None:
            found = found - spread(scale.zero_point, scale, values.shape)
        return np.asarray(found * spread(scale.values, scale, values.shape), dtype=np.float32)


def nrmse(candidate: np.ndarray, reference: np.ndarray) -> float:
    """RMS of the difference over the RMS of `reference`; inf where something is not finite."""
    with np.errstate(all="ignore"):
        return ratio(_squares(np.subtract(candidate, reference)), _squares(reference))


def _squares(values: np.ndarray) -> float:
    """The sum of squares, in double precision."""
    wide = np.asarray(values, dtype=np.float64).reshape(-1)
    return float(wide @ wide)


def ratio(error: float, signal: float) -> float:
    """Root of `error` over `signal`, both sums of squares; 0 of 0 is 0."""
    if not np.isfinite(error):
        return float("inf")
    return float(np.sqrt(error / signal)) if signal else (float("inf") if error else 0.0)

"""Operators of TensorRT's own domain for blocks in MXFP8, as ModelOpt's exports have them, in NumPy.

A block of 32 numbers has one scale, a power of two that is stored as its exponent plus 127 in 8 bits (E8M0), and the
numbers over it in FP8 (E4M3): https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype
from onnx.reference.op_run import OpRun

BLOCK = 32
_BIAS = 127
_LARGEST = float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)


class TRT_MXFP8DequantizeLinear(OpRun):  # type: ignore[misc]  # noqa: N801 - the operator's name
    """Numbers in FP8 times the scales of their blocks, in the type of `output_dtype`."""

    op_domain = "trt"

    def _run(
        self,
        x: np.ndarray,
        scale: np.ndarray,
        axis: int = -1,
        block_size: int = BLOCK,
        output_dtype: int = TensorProto.FLOAT,
    ) -> tuple[np.ndarray]:
        exponents = scale.view(np.uint8).astype(np.int32) - _BIAS
        wide = np.repeat(np.ldexp(np.float32(1), exponents), block_size, axis)
        wide = np.take(wide, range(x.shape[axis]), axis)  # the last block may be shorter
        return ((x.astype(np.float32) * wide).astype(tensor_dtype_to_np_dtype(output_dtype)),)


class TRT_MXFP8DynamicQuantize(OpRun):  # type: ignore[misc]  # noqa: N801 - the operator's name
    """Numbers in FP8 and the scales of their blocks: the least power of two with which the largest number fits."""

    op_domain = "trt"

    def _run(
        self,
        x: np.ndarray,
        axis: int = -1,
        block_size: int = BLOCK,
        output_dtype: int = TensorProto.FLOAT8E4M3FN,
    ) -> tuple[np.ndarray, np.ndarray]:
        values, length = np.moveaxis(x.astype(np.float32), axis, -1), x.shape[axis]
        padded = np.pad(values, [(0, 0)] * (x.ndim - 1) + [(0, -length % block_size)])
        blocks = padded.reshape(*padded.shape[:-1], -1, block_size)
        with np.errstate(divide="ignore", invalid="ignore"):
            exponents = np.ceil(np.log2(np.abs(blocks).max(-1) / _LARGEST))
        exponents = np.clip(np.nan_to_num(exponents, neginf=-_BIAS), -_BIAS, _BIAS).astype(np.int32)
        scaled = np.ldexp(blocks, -exponents[..., None]).reshape(padded.shape)[..., :length]
        stored = np.clip(scaled, -_LARGEST, _LARGEST).astype(tensor_dtype_to_np_dtype(output_dtype))
        scales = (exponents + _BIAS).astype(np.uint8)
        return np.moveaxis(stored, -1, axis), np.moveaxis(scales, -1, axis)


TRT_OPERATORS: tuple[type[OpRun], ...] = (TRT_MXFP8DequantizeLinear, TRT_MXFP8DynamicQuantize)

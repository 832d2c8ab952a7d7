"""Float32 and float16, into each other: what NumPy's casts give, bit for bit.

NumPy converts one element after the other on most processors. The kernels of ONNX Runtime use the processor's own
instructions, and take a thirtieth of the time.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnxruntime

Array = np.ndarray[Any, np.dtype[Any]]

_BLOCK = 1 << 16  # elements that stay in the cache of a core with what is computed from them
_FEW = 1 << 11  # up to so many elements NumPy is as fast


def round_to_float16(values: Array) -> Array:
    """Float32 `values` rounded to float16 and back: to nearest even, and to infinity beyond its range."""
    if values.size <= _FEW:
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    return _cast(values, "float16", "float32")


def to_float16(values: Array) -> Array:
    """`values.astype(np.float16)`."""
    if values.dtype != np.float32 or values.size <= _FEW:
        return values.astype(np.float16)
    return _cast(values, "float16")


def to_float32(values: Array) -> Array:
    """`values.astype(np.float32)`."""
    if values.dtype != np.float16 or values.size <= _FEW:
        return values.astype(np.float32)
    return _cast(values, "float32")


def _cast(values: Array, *to: str) -> Array:
    session, flat = _session(values.dtype.name, to), np.ascontiguousarray(values).reshape(-1)
    if flat.size <= _BLOCK:
        found: Array = session.run(None, {"x0": flat})[0]
        return found.reshape(values.shape)
    result = np.empty(flat.size, to[-1])
    for start in range(0, flat.size, _BLOCK):
        result[start : start + _BLOCK] = session.run(None, {"x0": flat[start : start + _BLOCK]})[0]
    return result.reshape(values.shape)


@cache
def _session(dtype: str, to: tuple[str, ...]) -> onnxruntime.InferenceSession:
    """A session that casts a vector of `dtype` to each dtype of `to` in turn, in the thread that runs it."""
    import onnxruntime
    from onnx import TensorProto, parser

    spelled = {"float16": "float16", "float32": "float"}
    codes = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT}
    steps = [f"x{place + 1} = Cast <to = {codes[each]}> (x{place})" for place, each in enumerate(to)]
    signature = f"({spelled[dtype]}[n] x0) => ({spelled[to[-1]]}[n] x{len(to)})"
    model = parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 13]> cast {signature} {{ {" ".join(steps)} }}'
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

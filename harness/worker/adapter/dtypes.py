"""Data types: TensorRT's names for them, and ours. Their integer values move between releases."""

from typing import Any

import numpy as np

from ..protocol import STORAGE, Fault, Tensor

#: TensorRT's name → ours. Types of 4 bits and E8M0 have no tensor on the host.
NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8_e4m3fn",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}
#: What a precision applies to.
FLOATS = ("FLOAT", "HALF", "BF16")


def name_of(dtype: Any, tensor: str) -> str:
    """Our name of a `trt.DataType`.

    Raises:
        Fault: `unsupported`: it cannot be brought to the host.
    """
    if dtype.name not in NAMES:
        raise Fault(
            "unsupported",
            "tensor {!r} is {}, which cannot be read on the host: observe the tensor after its "
            "DequantizeLinear".format(tensor, dtype.name),
        )
    return NAMES[dtype.name]


def is_float(dtype: Any) -> bool:
    """Whether a precision applies to tensors of this `trt.DataType`."""
    return dtype.name in FLOATS


def of_name(trt: Any, name: str) -> Any:
    """The `trt.DataType` that a float mark is given."""
    if name == "float32":
        return trt.DataType.FLOAT
    if name == "float16":
        return trt.DataType.HALF
    if name == "bfloat16":
        return trt.DataType.BF16
    raise Fault("bad_request", "a mark cannot be given the dtype {!r}".format(name))


def fit(tensor: Tensor, wanted: str, name: str) -> "np.ndarray[Any, Any]":
    """`tensor` as a contiguous array in the storage dtype of `wanted`, no value changed but by rounding floats.

    TensorRT 8 has no int64 and no release has float64: both are narrowed, as its ONNX parser does.

    Raises:
        Fault: `bad_request`: another kind of dtype, or an integer that does not fit.
    """
    if tensor.dtype == wanted:
        return np.ascontiguousarray(tensor.array).reshape(tensor.array.shape)
    narrowed = {("int64", "int32"), ("float64", "float32"), ("int32", "int64"), ("uint64", "int64")}
    if (tensor.dtype, wanted) not in narrowed:
        raise Fault("bad_request", "input {!r} is {}, the engine takes {}".format(name, tensor.dtype, wanted))
    with np.errstate(over="ignore"):
        array = tensor.array.astype(STORAGE[wanted])
    if wanted != "float32" and not np.array_equal(array, tensor.array):
        raise Fault("bad_request", "input {!r} holds {} values beyond {}".format(name, tensor.dtype, wanted))
    return np.ascontiguousarray(array).reshape(tensor.array.shape)

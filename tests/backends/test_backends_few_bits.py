"""Inputs of 2 and 4 bits a number, which Python's ONNX Runtime takes as packed bytes alone."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from graphs import graph_model
from onnx import helper, numpy_helper

from harness.backends import Reference
from harness.backends.partitioned import _packed
from harness.model import load_model

TYPES = {"int4": 23, "uint4": 23, "int2": 25, "uint2": 25, "float4_e2m1fn": 23}
"""By type, the opset whose DequantizeLinear takes it."""


@pytest.mark.parametrize("shape", [(4, 6), (3, 5), (1,), (), (0, 3)])
@pytest.mark.parametrize("name", TYPES)
def test_numbers_of_few_bits_are_fed_as_they_are(name: str, shape: tuple[int, ...]) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name))
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    proto = graph_model(
        [helper.make_node("DequantizeLinear", ["x", "scale"], ["y"], "dequantize")],
        inputs={"x": shape},
        outputs={"y": shape},
        weights={"scale": np.float32(0.5)},
        opset=TYPES[name],
        dtypes={"x": kind},
    )
    proto.ir_version = 13
    finfo = name.startswith("float")
    low, high = (-6, 7) if finfo else (int(ml_dtypes.iinfo(dtype).min), int(ml_dtypes.iinfo(dtype).max) + 1)
    x = np.random.default_rng(0).integers(low, high, shape).astype(np.float32).astype(dtype)
    found = Reference(load_model(proto)).run({"x": x})["y"]
    np.testing.assert_array_equal(found, x.astype(np.float32) / 2)
    assert found.shape == shape


def test_packed_numbers_are_those_of_onnx() -> None:
    """ONNX packs tensors in files in the same way."""
    x = np.arange(-8, 7).astype(ml_dtypes.int4)
    packed = _packed(x)
    assert packed[:8].tobytes() == numpy_helper.from_array(x).raw_data
    assert not packed[8:].any()

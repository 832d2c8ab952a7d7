"""Scales that are wrong at first sight."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from cases.models.quantised import quantised_conv
from harness.model import Model, load_model
from harness.quantization import ScaleFault, find_scale_faults


def product(weight: np.ndarray, scale: np.ndarray, *, zero: int = 0, dtype=np.int8, axis: int = 1) -> Model:
    """x · Q/DQ(w), with x quantised by the smallest scale."""
    values = {
        "w": weight,
        "s": scale.astype(np.float32),
        "z": np.full(scale.shape, zero, dtype),
        "sx": np.float32(0.1),
        "zx": np.int8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["wq"], "q", axis=axis),
        helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["wd"], "dq", axis=axis),
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"], "qx"),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"], "dqx"),
        helper.make_node("MatMul", ["xd", "wd"], ["y"], "product"),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    return load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9))


WEIGHT = np.eye(4, dtype=np.float32) + 0.5
UNEVEN = WEIGHT * np.array([1, 1, 1, 500], np.float32)
GOOD = np.full(4, 0.01)


@pytest.mark.parametrize(
    ("model", "fault", "value"),
    [
        (product(WEIGHT, np.array([0.01, 0, 0.01, 0.01])), ScaleFault.ZERO, 0.0),
        (product(WEIGHT, np.array([0.01, 1e-40, 0.01, 0.01])), ScaleFault.SUBNORMAL, 1e-40),
        (product(WEIGHT, np.array([0.01, np.inf, 0.01, 0.01])), ScaleFault.NOT_FINITE, np.inf),
        (product(WEIGHT, -GOOD), ScaleFault.NEGATIVE, -0.01),
        (product(WEIGHT, GOOD, zero=3), ScaleFault.ZERO_POINT, 3.0),
        (product(WEIGHT, GOOD, dtype=np.uint8), ScaleFault.UNSIGNED, 0.0),
        (product(UNEVEN, np.array(5.0)), ScaleFault.UNEVEN, 500.0),
        (product(WEIGHT, GOOD, axis=0), ScaleFault.AXIS, 0.0),
    ],
    ids=lambda each: each.value if isinstance(each, ScaleFault) else "",
)
def test_a_scale_that_cannot_be_right_is_found(model, fault, value):
    (found,) = find_scale_faults(model)
    assert (found.fault, found.pair, found.node) == (fault, "w", "q")
    assert found.value == pytest.approx(value, rel=1e-5)


def test_sound_scales_are_left_alone():
    assert find_scale_faults(load_model(quantised_conv())) == ()
    assert find_scale_faults(product(UNEVEN, np.abs(UNEVEN).max(axis=0) / 127)) == ()

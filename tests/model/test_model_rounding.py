import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from harness.model import Emitter, round_array, rounder
from harness.tensors import Precision

LOW = [Precision.FP16, Precision.BF16, Precision.TF32, Precision.FP8]
EDGES = np.array(
    [
        0.0,
        -0.0,
        1.0,
        65504.0,
        65519.9,
        65520.0,
        -1e6,
        5.96e-8,
        2.9e-8,
        6.1e-5,
        448.0,
        463.9,
        464.0,
        2e-3,
        9.7e-4,
        3e38,
        -3e38,
        1e-40,
        np.inf,
        -np.inf,
        np.nan,
        0.0146484375,
        0.015625,
    ],
    dtype=np.float32,
)


def in_graph(
    values: np.ndarray, precision: Precision, opset: int, *, toward_zero: bool = False
) -> np.ndarray:
    emit = Emitter()
    out = rounder(precision, opset, toward_zero=toward_zero)(emit, "x")
    graph = helper.make_graph(
        emit.nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, [None])],
        list(emit.constants.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": values})[0]


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("opset", [11, 13, 19])
def test_graph_and_array_round_alike(precision: Precision, opset: int) -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(4000) * 10.0 ** rng.uniform(-12, 12, 4000)
    values = np.concatenate([EDGES, noise.astype(np.float32)])
    if precision is Precision.BF16 and opset < 13:  # no such type: arithmetic, within its documented range
        sound = (
            ~np.isfinite(values)
            | (values == 0)
            | ((np.abs(values) < 2.0**100) & (np.abs(values) > 2.0**-100))
        )
        values = values[sound]
    np.testing.assert_array_equal(in_graph(values, precision, opset), round_array(values, precision))


@given(st.floats(width=32, allow_subnormal=False))
@settings(max_examples=300)
def test_rounding_is_to_nearest_even_of_the_type(value: float) -> None:
    x = np.float32(value)
    with np.errstate(over="ignore"):
        expected = np.float32(x.astype(np.float16))
    assert np.array_equal(round_array(x, Precision.FP16), expected, equal_nan=True)
    assert np.array_equal(
        round_array(x, Precision.BF16), np.float32(x.astype(ml_dtypes.bfloat16)), equal_nan=True
    )
    tf32 = round_array(x, Precision.TF32)
    if np.isfinite(x) and abs(x) < 2.0**100:
        assert tf32.view(np.uint32) & np.uint32(0x1FFF) == 0  # ten fraction bits are left
        assert abs(float(tf32) - float(x)) <= abs(float(x)) * 2.0**-11


@given(st.floats(width=32))
@settings(max_examples=200)
@pytest.mark.parametrize("precision", LOW)
def test_rounding_is_idempotent(precision: Precision, value: float) -> None:
    once = round_array(np.float32(value), precision)
    assert np.array_equal(round_array(once, precision), once, equal_nan=True)


def test_values_beyond_the_range_become_infinite() -> None:
    over = np.array([70000.0, -70000.0], dtype=np.float32)
    np.testing.assert_array_equal(round_array(over, Precision.FP16), [np.inf, -np.inf])
    np.testing.assert_array_equal(round_array(over, Precision.FP8), [np.inf, -np.inf])
    assert np.isfinite(round_array(over, Precision.BF16)).all()


def test_the_emitted_nodes_use_the_opset_they_are_for() -> None:
    emit = Emitter()
    rounder(Precision.BF16, 11)(emit, "x")
    assert all(node.op_type != "Cast" for node in emit.nodes)
    emit = Emitter()
    rounder(Precision.BF16, 13)(emit, "x")
    assert [onnx.helper.get_attribute_value(node.attribute[0]) for node in emit.nodes] == [
        TensorProto.BFLOAT16,
        TensorProto.FLOAT,
    ]


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False), min_size=1))
@settings(max_examples=50)
def test_toward_zero_is_the_nearest_tf32_that_is_no_larger(values: list[float]) -> None:
    given = np.array([*values, 1.0, -1.0, 2 - 2.0**-23, -(2 - 2.0**-23), 0.0], dtype=np.float32)
    given = given[(given == 0) | (np.abs(given) > 2.0**-99)]
    found = round_array(given, Precision.TF32, toward_zero=True)
    np.testing.assert_array_equal(in_graph(given, Precision.TF32, 17, toward_zero=True), found)
    np.testing.assert_array_equal(round_array(found, Precision.TF32), found)  # it is a TF32
    assert (np.abs(found) <= np.abs(given)).all()
    step = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(found), 2.0**-100))) - 10)
    assert (np.abs(given) < np.abs(found) + step).all()
    assert (np.sign(found) == np.sign(given)).all()

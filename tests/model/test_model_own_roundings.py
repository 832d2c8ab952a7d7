"""Roundings that a model brings itself: float16 and bfloat16 tensors, and Q/DQ pairs."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from graphs import graph_model, norm_chain
from onnx import TensorProto, helper, numpy_helper

from harness.backends import Emulator, Reference
from harness.model import Model, bounds, load_model, spread
from harness.tensors import Precision

HALF, BRAIN, FLOAT = TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT
X = np.float16([[1.0, 300.0], [-250.0, 1000.0]])


def node(op: str, reads: str, writes: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, reads.split(), writes.split(), name=writes.split()[0], **attributes)


def own_square(kind: int = HALF) -> onnx.ModelProto:
    """x, squared and halved in a low type of the file's own, then FP32."""
    half = np.asarray(0.5, helper.tensor_dtype_to_np_dtype(kind))
    nodes = [node("Mul", "x x", "sq"), node("Mul", "sq half", "low"), node("Cast", "low", "y", to=FLOAT)]
    return graph_model(
        nodes, inputs={"x": X.shape}, outputs={"y": X.shape}, weights={"half": half}, dtypes={"x": kind}
    )


def as_written(x: np.ndarray) -> dict[str, np.ndarray]:
    """own_square in NumPy."""
    with np.errstate(over="ignore"):
        sq = (x.astype(np.float32) ** 2).astype(x.dtype)
        low = (sq.astype(np.float32) * np.float32(0.5)).astype(x.dtype)
    return {"sq": sq, "low": low, "y": low.astype(np.float32)}


@pytest.mark.parametrize("tensors", [["y"], ["sq"], ["sq", "low", "y"]], ids=str)
def test_a_square_that_overflows_the_types_of_the_file_overflows_in_the_reference(tensors: list[str]) -> None:
    found = Reference(load_model(own_square())).run({"x": X}, tensors)
    for name in tensors:
        assert np.isinf(found[name]).any()
        np.testing.assert_array_equal(found[name], as_written(X)[name], err_msg=name)


@pytest.mark.parametrize("precision", list(Precision))
def test_the_emulator_rounds_what_the_file_rounds_whatever_is_lowered(precision: Precision) -> None:
    emulator = Emulator(load_model(own_square()))
    for lowered in (None, ()):
        found = emulator.run({"x": X}, precision, lowered=lowered, tensors=["sq", "low"])
        for name, values in found.items():
            np.testing.assert_array_equal(values, as_written(X)[name], err_msg=name)


def test_the_error_that_a_node_introduces_starts_from_what_the_file_rounds() -> None:
    exact, low = Emulator(load_model(own_square())).introduced({"x": X}, Precision.FP16, ["y"])
    np.testing.assert_array_equal(exact["y"], as_written(X)["y"])
    np.testing.assert_array_equal(low["y"], as_written(X)["y"])


def test_bfloat16_of_the_file_is_computed_although_onnx_runtime_has_no_kernels() -> None:
    x = np.asarray([[1.01, 1e20], [-3.3, 200.7]], ml_dtypes.bfloat16)
    found = Reference(load_model(own_square(BRAIN))).run({"x": x}, ["sq", "y"])
    assert np.isinf(found["y"]).any()
    for name, values in found.items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, as_written(x)[name].astype(np.float32), err_msg=name)


def test_a_branch_rounds_what_the_file_rounds() -> None:
    inner = helper.make_graph(
        [node("Mul", "x x", "sq"), node("Cast", "sq", "wide", to=FLOAT)],
        "inner",
        [],
        [helper.make_tensor_value_info("wide", FLOAT, None)],
    )
    proto = graph_model(
        [node("If", "yes", "y", then_branch=inner, else_branch=inner)],
        inputs={"x": X.shape},
        outputs={"y": X.shape},
        weights={"yes": np.array(True)},
        dtypes={"x": HALF},
    )
    model = load_model(proto)
    assert model.unrounded is None, "subgraphs stay as they are"
    for found in (Reference(model).run({"x": X}), Emulator(model).run({"x": X}, Precision.BF16)):
        np.testing.assert_array_equal(np.isinf(found["y"]), np.isinf(as_written(X)["sq"]))


def test_weights_and_attributes_in_float16_count_as_well() -> None:
    weight = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float16)
    nodes = [
        node("Cast", "x", "low", to=HALF),
        node("MatMul", "low w", "product"),
        node("LayerNormalization", "product gain", "norm", axis=-1),
        node("ConstantOfShape", "shape", "ones", value=numpy_helper.from_array(np.float16([2000]))),
        node("Mul", "norm ones", "scaled"),
        node("Softmax", "scaled", "y", axis=-1),
    ]
    weights = {"w": weight, "gain": np.full(8, 40, np.float16), "shape": np.int64([8])}
    proto = graph_model(
        nodes, inputs={"x": [4, 16]}, outputs={"y": [4, 8]}, weights=weights, dtypes={"y": HALF}
    )
    x = np.random.default_rng(1).standard_normal((4, 16)).astype(np.float32)
    found = Reference(load_model(proto)).run({"x": x}, ["product", "scaled", "y"])
    assert {values.dtype.name for values in found.values()} == {"float16"}
    product = x.astype(np.float16).astype(np.float32) @ weight.astype(np.float32)
    np.testing.assert_allclose(found["product"], product.astype(np.float16), rtol=2e-3)
    assert np.isinf(found["scaled"]).any()


def test_without_its_own_roundings_the_model_computes_in_fp32() -> None:
    model = load_model(own_square())
    wide = Reference(model, own=False).run({"x": X})["y"]
    np.testing.assert_array_equal(wide, X.astype(np.float32) ** 2 * np.float32(0.5))


def test_a_model_of_fp32_has_no_roundings_of_its_own() -> None:
    model = load_model(norm_chain())
    assert model.evaluated is model.inferred
    assert model.unrounded is None
    assert not model.own_tensors


def quantised(zero: np.generic | None) -> Model:
    """x → QuantizeLinear → DequantizeLinear → y, at a scale of 0.1."""
    reads = "s" if zero is None else "s zero"
    nodes = [node("QuantizeLinear", f"x {reads}", "q"), node("DequantizeLinear", f"q {reads}", "y")]
    weights = {"s": np.float32(0.1)} | ({} if zero is None else {"zero": np.asarray(zero)})
    return load_model(graph_model(nodes, inputs={"x": [4]}, outputs={"y": [4]}, weights=weights))


@pytest.mark.parametrize(
    ("zero", "kept"),
    [
        (np.int8(0), [-100, -0.5, 0.5, 100]),
        (np.int8(-128), [0, 0, 0.5, 100]),
        (np.uint8(128), [-100, -0.5, 0.5, 100]),
        (np.uint8(0), [0, 0, 0.5, 100]),
        (None, [0, 0, 0.5, 100]),
    ],
    ids=str,
)
def test_without_its_quantizers_a_model_keeps_the_relu_that_they_stand_for(
    zero: np.generic | None, kept: list[float]
) -> None:
    x = np.float32([-100, -0.5, 0.5, 100])
    found = Reference(quantised(zero), own=False).run({"x": x})["y"]
    np.testing.assert_array_equal(found, np.float32(kept))


def test_a_scale_along_an_axis_or_by_blocks_is_spread_over_what_is_quantised() -> None:
    like = np.zeros((2, 6, 3), np.float32)
    along = helper.make_node("QuantizeLinear", ["x", "s"], ["q"], axis=-2)
    np.testing.assert_array_equal(spread(along, np.arange(6.0), like)[0, :, 0], np.arange(6.0))
    blocked = helper.make_node("QuantizeLinear", ["x", "s"], ["q"], axis=1, block_size=4)
    scales = np.arange(12.0).reshape(2, 2, 3)
    np.testing.assert_array_equal(spread(blocked, scales, like)[1, :, 2], [8, 8, 8, 8, 11, 11])


def test_the_range_of_a_quantizer_is_that_of_its_zero_point_or_its_output() -> None:
    plain = helper.make_node("QuantizeLinear", ["x", "s"], ["q"])
    assert bounds(plain, None) == (0, 255)
    assert bounds(plain, np.int8(0)) == (-128, 127)
    assert bounds(plain, np.zeros(1, ml_dtypes.int4)) == (-8, 7)
    assert bounds(plain, np.zeros(1, ml_dtypes.float8_e4m3fn)) == (-448, 448)
    wide = helper.make_node("QuantizeLinear", ["x", "s"], ["q"], output_dtype=TensorProto.INT16)
    assert bounds(wide, None) == (-32768, 32767)

"""How large slices are by construction: gains along an axis, and where no constant says so."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.comparison import CompareOptions, compare_tensors
from harness.model import Gains, gains_of, load_model

RNG = np.random.default_rng(0)
ROWS = (
    RNG.standard_normal((6, 4, 3, 3)).astype(np.float32)
    * np.float32([1, 2, 3, 4, 5, 0.01])[:, None, None, None]
)
NORMS = np.sqrt((ROWS.astype(np.float64) ** 2).sum((1, 2, 3)))
TABLE = RNG.standard_normal((8, 6)).astype(np.float32)
FACTORS = np.float32([640, 640, 640, 1, 1, 1])


def gains(nodes: list[onnx.NodeProto], shape: list[int], **weights: np.ndarray) -> Gains | None:
    out = nodes[-1].output[0]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return gains_of(load_model(model, name="m"), out)


def node(op: str, *reads: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, list(reads), [op.lower()], name=op.lower(), **attributes)


def test_a_convolution_has_the_norms_of_its_rows() -> None:
    found = gains([node("Conv", "x", "w", "b")], [1, 4, 8, 8], w=ROWS, b=np.arange(6, dtype=np.float32))
    assert found is not None
    assert found.axis == 1
    assert found.factors == pytest.approx(NORMS)
    assert found.offsets == (0, 1, 2, 3, 4, 5)


def test_what_passes_on_keeps_them_and_a_factor_multiplies_them() -> None:
    nodes = [
        node("Conv", "x", "w"),
        node("Relu", "conv"),
        node("Mul", "relu", "f"),
        node("Transpose", "mul", perm=[0, 2, 3, 1]),
    ]
    found = gains(nodes, [1, 4, 8, 8], w=ROWS, f=FACTORS[:, None, None])
    assert found is not None
    assert found.axis == 3
    assert found.factors == pytest.approx(NORMS * FACTORS)


def test_a_chain_may_be_longer_than_calls_are_deep() -> None:
    length = 3 * sys.getrecursionlimit()
    nodes = [helper.make_node("Mul", ["x", "f"], ["t0"])]
    nodes += [helper.make_node("Relu", [f"t{place}"], [f"t{place + 1}"]) for place in range(length)]
    found = gains(nodes, [3, 2], f=np.float32([1, 0.01]))
    assert found is not None
    assert found.factors == pytest.approx((1, 0.01))


def test_products_have_the_norms_of_what_makes_each_column() -> None:
    columns = np.sqrt((TABLE.astype(np.float64) ** 2).sum(0))
    for nodes, weight in (
        ([node("MatMul", "x", "w")], TABLE),
        ([node("Gemm", "x", "w", transB=1)], TABLE.T),
    ):
        found = gains(nodes, [5, 8], w=np.ascontiguousarray(weight))
        assert found is not None
        assert (found.axis, found.factors) == (1, pytest.approx(columns))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Add", "x", "x")],
        [node("Softmax", "x")],
        [node("Mul", "x", "grid")],
        [node("MatMul", "x", "x")],
    ],
)
def test_where_no_constant_tells_slices_apart_there_are_none(nodes: list[onnx.NodeProto]) -> None:
    assert gains(nodes, [6, 6], grid=RNG.standard_normal((6, 6)).astype(np.float32)) is None


def test_a_slice_that_is_small_by_construction_is_judged_by_its_own_size() -> None:
    reference = RNG.standard_normal((16, 6)).astype(np.float32) * FACTORS
    candidate = reference.copy()
    candidate[:, 4] += 0.5
    known = Gains(1, tuple(map(float, FACTORS)), (0.0,) * 6)
    floor = 0.4
    without = compare_tensors(
        candidate, reference, dtype="float16", options=CompareOptions(slice_floor=floor)
    )
    with_gains = compare_tensors(
        candidate, reference, dtype="float16", options=CompareOptions(slice_floor=floor, gains=known)
    )
    assert without.slice_nrmse < 0.01
    assert with_gains.slice_nrmse > 0.3
    assert str(with_gains.worst_slice) == "[:, 4]"


def test_what_cancels_within_a_slice_has_the_floor_of_its_gain() -> None:
    reference = RNG.standard_normal((16, 6)).astype(np.float32)
    reference[:, 2] *= 1e-4  # though its gain is that of the others
    candidate = reference + np.float32(1e-3)
    even = Gains(1, (1.0,) * 6, (0.0,) * 6)
    options = CompareOptions(slice_floor=0.4, gains=even)
    assert compare_tensors(candidate, reference, dtype="float16", options=options).slice_nrmse < 0.02


def test_what_is_added_to_a_slice_counts() -> None:
    reference = RNG.standard_normal((16, 6)).astype(np.float32) * FACTORS
    reference[:, 4] *= 1e-4  # a bias takes away what the product wrote
    candidate = reference + np.float32(1e-3)
    known = Gains(1, tuple(map(float, FACTORS)), (0.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    options = CompareOptions(slice_floor=0.4, gains=known)
    assert compare_tensors(candidate, reference, dtype="float16", options=options).slice_nrmse < 0.02

"""Arithmetic on sizes: lowered where they are known at run time only, and where it stays floating point."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import graph_model
from onnx import TensorProto, helper

from harness.backends import Emulator, Reference
from harness.model import Model, load_model, round_array, with_islands
from harness.tensors import Precision

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
CONSTANTS = {
    "zero": np.int64(0),
    "one": np.int64(1),
    "two": np.int64(2),
    "zeros": np.int64([0]),
    "ones": np.int64([1]),
    "last": np.int64([-1]),
    "end": np.int64([2**63 - 1]),
    "three": np.int64(3),
    "third": np.int64([2]),
    "nothing": np.float32(0),
    "half": np.float32(0.5),
    "row": np.ones((1, 4), np.float32),
}


def node(op: str, reads: str, writes: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, reads.split(), writes.split(), name=writes.split()[0], **attributes)


def model_of(*nodes: onnx.NodeProto, shape: list[int | str], output: str = "y", rank: int = 3) -> Model:
    used = {name for each in nodes for name in each.input}
    weights = {name: value for name, value in CONSTANTS.items() if name in used}
    return load_model(
        graph_model(nodes, inputs={"x": shape}, outputs={output: [None] * rank}, weights=weights)
    )


def lowered(*nodes: onnx.NodeProto, shape: list[int | str] | None = None) -> set[str]:
    """Names of the nodes of x [1, n, 4] → … → y that are lowered."""
    return {info.name for info in model_of(*nodes, shape=shape or [1, "n", 4]).lowerable}


POSITIONS = (
    node("Shape", "x", "shape"),
    node("Gather", "shape one", "n"),
    node("Range", "zero n one", "range"),
    node("Cast", "range", "pos", to=FLOAT),
    node("Mul", "pos half", "ang"),
    node("Sin", "ang", "sin"),
    node("Unsqueeze", "sin last", "column"),
    node("Add", "x column", "y"),
)
FLOATS = {"pos", "ang", "sin", "column"}


@pytest.mark.parametrize("shape", [[1, "n", 4], ["b", "n", "d"], [1, None, 4]], ids=str)
def test_positions_from_a_dynamic_shape_are_lowered(shape: list[int | str]) -> None:
    assert lowered(*POSITIONS, shape=shape) == FLOATS | {"y"}


@pytest.mark.parametrize("shape", [[1, 5, 4], ["batch", 5, 4], [1, 5, "width"]], ids=str)
def test_positions_from_a_fixed_size_are_folded(shape: list[int | str]) -> None:
    assert lowered(*POSITIONS, shape=shape) == {"y"}


def test_the_emulator_rounds_positions_and_an_island_keeps_them() -> None:
    model = model_of(*POSITIONS, shape=[1, "n", 4])
    x = np.zeros((1, 5000, 4), np.float32)
    position = np.arange(5000, dtype=np.float32)
    angle = round_array(round_array(position, Precision.FP16) * np.float32(0.5), Precision.FP16)
    emulator = Emulator(model)
    found = emulator.run({"x": x}, Precision.FP16, tensors=["ang", "y"])
    np.testing.assert_array_equal(found["ang"], angle)
    kept = emulator.run({"x": x}, Precision.FP16, lowered={"y"})["y"]
    exact = Reference(model).run({"x": x})["y"]
    assert np.abs(kept - exact).max() < 1e-3
    assert np.abs(found["y"] - exact).max() > 0.5
    cured, all_low = (
        Reference(with_islands(model, Precision.FP16, island)).run({"x": x})["y"] for island in (FLOATS, ())
    )
    assert np.abs(cured - exact).max() < 1e-3
    assert np.abs(all_low - exact).max() > 0.5


def test_what_goes_back_to_integers_or_steers_a_size_stays_exact() -> None:
    found = lowered(
        node("Shape", "x", "shape"),
        node("Cast", "shape", "wide", to=FLOAT),
        node("Mul", "wide half", "halved"),
        node("Ceil", "halved", "ceil"),
        node("Cast", "ceil", "sizes", to=INT),
        node("Expand", "half sizes", "filled"),
        node("Div", "ceil halved", "scales"),
        helper.make_node("Resize", ["x", "", "scales"], ["resized"], name="resized"),
        node("ReduceSum", "filled", "sum", keepdims=0),
        node("Mul", "resized sum", "y"),
    )
    # What is filled and summed up is data of the engine's own; how large it is, is not.
    assert found == {"filled", "sum", "resized", "y"}


def test_the_limit_of_a_range_of_floats_says_how_large_it_is_and_stays_exact() -> None:
    found = lowered(
        *POSITIONS[:2],
        node("Cast", "n", "wide", to=FLOAT),
        node("Range", "nothing wide half", "range"),
        node("ReduceMean", "range", "mean", keepdims=0),
        node("Add", "x mean", "y"),
    )
    assert found == {"mean", "y"}


def test_a_tensor_that_goes_both_ways_is_lowered() -> None:
    found = lowered(
        node("Size", "x", "size"),
        node("Cast", "size", "count", to=FLOAT),
        node("Cast", "count", "back", to=INT),
        node("Range", "zero back one", "range"),
        node("Div", "x count", "y"),
    )
    assert found == {"count", "y"}


@pytest.mark.parametrize(
    "chosen",
    [
        (node("Gather", "shape two", "n"),),
        (node("Slice", "shape third end zeros", "s"), node("Squeeze", "s", "n")),
        (node("Slice", "shape last end", "s"), node("Squeeze", "s", "n")),
        (node("Shape", "x", "s", start=2), node("Squeeze", "s", "n")),
        (node("Concat", "last shape", "s", axis=0), node("Gather", "s three", "n")),
        (
            node("Cast", "shape", "s", to=TensorProto.INT32),
            node("Gather", "s two", "n32"),
            node("Cast", "n32", "n", to=INT),
        ),
        (node("Constant", "", "place", value_int=-1), node("Gather", "shape place", "n")),
    ],
    ids=lambda nodes: " ".join(each.op_type for each in nodes),
)
def test_a_fixed_size_of_a_dynamic_shape_is_folded(
    chosen: tuple[onnx.NodeProto, ...],
) -> None:
    rest = (node("Cast", "n", "width", to=FLOAT), node("Sqrt", "width", "root"), node("Div", "x root", "y"))
    assert lowered(node("Shape", "x", "shape"), *chosen, *rest) == {"y"}
    assert lowered(node("Shape", "x", "shape"), *chosen, *rest, shape=[1, 3, "w"]) == {"width", "root", "y"}


def test_a_table_of_positions_that_is_an_output_is_lowered() -> None:
    found = model_of(*POSITIONS[:6], shape=[1, "n", 4], output="sin", rank=1)
    assert {info.name for info in found.lowerable} == {"pos", "ang", "sin"}


def test_sizes_that_the_data_decide_count_as_well() -> None:
    found = lowered(
        node("NonZero", "x", "places"),
        node("Shape", "places", "shape"),
        node("Gather", "shape one", "count"),
        node("Cast", "count", "wide", to=FLOAT),
        node("Div", "x wide", "y"),
        shape=[1, 5, 4],
    )
    assert found == {"wide", "y"}


def test_positions_in_a_product_are_rounded_by_tf32() -> None:
    model = model_of(
        *POSITIONS[:4],
        node("Unsqueeze", "pos last", "column"),
        node("MatMul", "column row", "angles"),
        node("Add", "x angles", "y"),
        shape=[1, "n", 4],
    )
    assert "angles" in Emulator(model).units(Precision.TF32)

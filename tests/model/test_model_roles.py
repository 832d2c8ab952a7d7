"""What the integer inputs of a model are filled with: what the graph does with them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import graph_model
from onnx import TensorProto, helper

from harness.case import Case, IntegersFill, MaskFill, ModelSource, PositionsFill, make_feeds
from harness.model import guess_fills, load_model

NODE = helper.make_node


def text_encoder() -> onnx.ModelProto:
    """Token, type and position embeddings, and attention under a padding mask."""
    rng = np.random.default_rng(4)
    nodes = [
        NODE("Gather", ["words", "ids"], ["word"], name="word"),
        NODE("Gather", ["types", "token_type_ids"], ["kind"], name="kind"),
        NODE("Gather", ["places", "position_ids"], ["place"], name="place"),
        NODE("Add", ["word", "kind"], ["sum"], name="sum"),
        NODE("Add", ["sum", "place"], ["hidden"], name="hidden"),
        NODE("Cast", ["attention"], ["kept"], name="kept", to=TensorProto.FLOAT),
        NODE("Unsqueeze", ["kept", "axis"], ["wide"], name="wide"),
        NODE("Sub", ["one", "wide"], ["gone"], name="gone"),
        NODE("Mul", ["gone", "low"], ["bias"], name="bias"),
        NODE("Transpose", ["hidden"], ["keys"], name="keys", perm=[0, 2, 1]),
        NODE("MatMul", ["hidden", "keys"], ["scores"], name="scores"),
        NODE("Add", ["scores", "bias"], ["masked"], name="masked"),
        NODE("Softmax", ["masked"], ["weights"], name="weights", axis=-1),
        NODE("MatMul", ["weights", "hidden"], ["y"], name="y"),
    ]
    inputs = ("ids", "token_type_ids", "position_ids", "attention")
    return graph_model(
        nodes,
        inputs={name: [2, 12] for name in inputs},
        outputs={"y": [2, 12, 8]},
        dtypes=dict.fromkeys(inputs, TensorProto.INT64),
        weights={
            "words": rng.standard_normal((100, 8)).astype(np.float32),
            "types": rng.standard_normal((2, 8)).astype(np.float32),
            "places": rng.standard_normal((32, 8)).astype(np.float32),
            "axis": np.array([1]),
            "one": np.float32(1),
            "low": np.float32(-1e4),
        },
    )


def rotary(length: int = 8) -> onnx.ModelProto:
    """x turned by the sine of positions times frequencies."""
    nodes = [
        NODE("Cast", ["where"], ["real"], name="real", to=TensorProto.FLOAT),
        NODE("Unsqueeze", ["real", "axis"], ["column"], name="column"),
        NODE("Mul", ["column", "frequencies"], ["angle"], name="angle"),
        NODE("Sin", ["angle"], ["sine"], name="sine"),
        NODE("Mul", ["x", "sine"], ["y"], name="y"),
    ]
    return graph_model(
        nodes,
        inputs={"x": [1, length, 4], "where": [1, length]},
        outputs={"y": [1, length, 4]},
        dtypes={"where": TensorProto.INT64},
        weights={"axis": np.array([2]), "frequencies": np.float32([1, 0.1, 0.01, 0.001])},
    )


def test_ids_select_from_the_whole_table_and_masks_pad_the_last_row() -> None:
    assert guess_fills(load_model(text_encoder())) == {
        "ids": IntegersFill(low=0, high=100),
        "token_type_ids": IntegersFill(low=0, high=2),
        "position_ids": PositionsFill(high=32),
        "attention": MaskFill(),
    }


def test_what_ends_in_a_sine_is_a_position_whatever_its_name() -> None:
    assert guess_fills(load_model(rotary())) == {"where": PositionsFill()}


def test_a_condition_is_a_mask() -> None:
    nodes = [NODE("Where", ["keep", "x", "zero"], ["y"], name="y")]
    model = graph_model(
        nodes,
        inputs={"x": [3, 8], "keep": [3, 8]},
        outputs={"y": [3, 8]},
        dtypes={"keep": TensorProto.BOOL},
        weights={"zero": np.float32(0)},
    )
    assert guess_fills(load_model(model)) == {"keep": MaskFill()}


@pytest.mark.parametrize(("branches", "inverted"), [(["low", "x"], True), (["x", "low"], False)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_mask_says_what_is_kept_or_what_is_left_out(branches, inverted, turned) -> None:
    nodes = [NODE("Not", ["m"], ["n"], name="n")] if turned else []
    nodes += [NODE("Where", ["n" if turned else "m", *branches], ["y"], name="y")]
    model = graph_model(
        nodes,
        inputs={"x": [3, 8], "m": [3, 8]},
        outputs={"y": [3, 8]},
        dtypes={"m": TensorProto.BOOL},
        weights={"low": np.float32(-np.inf)},
    )
    assert guess_fills(load_model(model)) == {"m": MaskFill(inverted=inverted != turned)}


@pytest.mark.parametrize(
    ("factor", "is_mask"), [(np.finfo(np.float32).min, True), (-1e4, True), (2.0, False)]
)
def test_floats_are_a_mask_where_what_they_leave_scales_a_number_that_masks(factor, is_mask) -> None:
    nodes = [
        NODE("Sub", ["one", "m"], ["left"], name="left"),
        NODE("Mul", ["left", "factor"], ["w"], name="w"),
        NODE("Add", ["x", "w"], ["y"], name="y"),
    ]
    model = graph_model(
        nodes,
        inputs={"x": [3, 8], "m": [3, 8]},
        outputs={"y": [3, 8]},
        weights={"one": np.float32(1), "factor": np.float32(factor)},
    )
    assert guess_fills(load_model(model)) == ({"m": MaskFill()} if is_mask else {})


def test_numbers_without_a_known_use_are_not_guessed() -> None:
    nodes = [
        NODE("Cast", ["n"], ["real"], name="real", to=TensorProto.FLOAT),
        NODE("Mul", ["x", "real"], ["y"], name="y"),
    ]
    model = graph_model(
        nodes, inputs={"x": [4], "n": [4]}, outputs={"y": [4]}, dtypes={"n": TensorProto.INT64}
    )
    assert guess_fills(load_model(model)) == {}


def test_the_fills_are_drawn_as_they_are_described() -> None:
    model = load_model(text_encoder())
    case = Case(name="bert", model=ModelSource(path="bert.onnx"))
    (feeds,) = make_feeds(case, model.inputs, guess_fills(model))
    assert feeds["ids"].max() > 50
    np.testing.assert_array_equal(feeds["position_ids"], [np.arange(12)] * 2)
    np.testing.assert_array_equal(feeds["attention"], [[1] * 12, [1] * 9 + [0] * 3])

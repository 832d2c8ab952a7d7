"""Why a node goes wrong, computed from what its tensors hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.diagnosis import FORMATS, TensorRange, diagnose
from harness.diagnosis.explain import Decision, MeasuredNode, accumulation, why
from harness.diagnosis.explain.reasons import lost_constant
from harness.diagnosis.results import Mend
from harness.tensors import Precision
from harness.text import magnitudes

FP16 = Precision.FP16


def held(name: str, *values: float, precision: Precision = FP16, constant: bool = False) -> TensorRange:
    return TensorRange.of(name, [np.array(values, dtype=np.float32)], precision, constant=constant)


def measured(op: str, inputs: list[TensorRange], output: TensorRange, **changes: object) -> MeasuredNode:
    return MeasuredNode(op, tuple(inputs), output, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (
            measured(
                "Pow", [held("x", 3100.0), held("two", 2.0, constant=True)], held("y", 9.61e6), exponent=2.0
            ),
            "squares of values up to 3100 reach 9.6e6, beyond 65504, the largest FP16 value",
        ),
        (
            measured("Mul", [held("x", 300.0), held("x", 300.0)], held("y", 9e4)),
            "squares of values up to 300 reach 90000, beyond 65504, the largest FP16 value",
        ),
        (
            measured("Mul", [held("x", 300.0), held("z", 400.0)], held("y", 1.2e5)),
            "products of values up to 300 and 400 reach 1.2e5, beyond 65504, the largest FP16 value",
        ),
        (
            measured("MatMul", [held("x", 300.0), held("w", 40.0)], held("y", 1.2e5)),
            "sums of products of values up to 300 and 40 reach 1.2e5, beyond 65504, the largest FP16 value",
        ),
        (
            measured("Exp", [held("x", 12.5)], held("y", 268337.0)),
            "exp of values up to 12.5 reaches 2.7e5, beyond 65504, the largest FP16 value",
        ),
        (
            measured("Add", [held("x", 41000.0), held("z", 41000.0)], held("y", 82000.0)),
            "sums of values up to 41000 and 41000 reach 82000, beyond 65504, the largest FP16 value",
        ),
        (
            measured("ReduceSum", [held("x", 50.0)], held("y", 1e5)),
            "sums of values up to 50 reach 1e5, beyond 65504, the largest FP16 value",
        ),
        (
            measured("ReduceMean", [held("sq", 9.6e6)], held("y", 7e4)),
            "it reads sq, whose values reach 9.6e6, beyond 65504, the largest FP16 value",
        ),
        (
            measured("Where", [held("mask", -3.4e38, constant=True)], held("y", 1.0)),
            "its constant mask holds -3.4e38, beyond -65504, the lowest FP16 value, and becomes infinite",
        ),
        (
            measured(
                "Mul",
                [held("padded", 1.0, 0.0), held("fill", -1e9, constant=True)],
                held("mask", -1e9),
            ),
            "its constant fill holds -1e9, beyond -65504, the lowest FP16 value, and becomes infinite: 0 · ∞ is NaN "
            "where padded is 0",
        ),
        (
            measured("Add", [held("mean", 0.0, 0.5), held("eps", 1e-8, constant=True)], held("y", 1e-8, 0.5)),
            "its constant eps, 1e-8, becomes 0 in FP16, whose smallest number is 6e-8",
        ),
        (
            measured("Pow", [held("x", 5e-5), held("two", 2.0)], held("y", 2.5e-9), exponent=2.0),
            "squares of values of about 5e-5 are about 2.5e-9: all of them become 0 in FP16, whose smallest number "
            "is 6e-8",
        ),
        (
            measured("Sigmoid", [held("x", -20.0)], held("y", 2e-9, 0.5)),
            "50 % of its values, which go down to 2e-9, become 0 in FP16, whose smallest number is 6e-8",
        ),
        (
            measured("Div", [held("x", 1.0), held("root", 1e-9, 1.0)], held("y", 1.0)),
            "it divides by root, whose values go down to 1e-9 and become 0 in FP16, whose smallest number is 6e-8",
        ),
        (
            measured("Pow", [held("var", 1e-9, 1.0), held("e", -0.5)], held("y", 3e4, 1.0), exponent=-0.5),
            "it divides by a power of var, whose values go down to 1e-9 and become 0 in FP16, whose smallest number "
            "is 6e-8",
        ),
        (
            measured(
                "MatMul",
                [held("x", 1.0), held("w", 1e-8, 2e-8, 4e-8, constant=True)],
                held("y", 4e-8, 1e-8),
                introduced=0.7,
            ),
            "67 % of its constant w, whose values reach 4e-8, become 0 in FP16, whose smallest number is 6e-8",
        ),
        (
            measured("Softmax", [held("logits", 12000.0, -3.0)], held("y", 1.0, 0.5)),
            "its inputs reach 12000, where FP16 has steps of 8: softmax makes each of them a factor of 3e3",
        ),
        (
            measured("Sin", [held("angle", 3000.0)], held("y", 0.5)),
            "its angles reach 3000, where FP16 has steps of 2 radians",
        ),
        (
            measured("Sub", [held("x", 3001.0, 3000.0), held("z", 3000.5, 3000.0)], held("y", 0.5, 0.1)),
            "values of about 3e3 cancel down to 0.361: at their size FP16 has steps of 2, and that is what is left of "
            "the difference",
        ),
        (
            measured("Softmax", [held("logits", 5000.0, 4999.0)], held("y", 0.7, 0.3, 1e-9), introduced=0.5),
            "its inputs reach 5000, where FP16 has steps of 4: softmax makes each of them a factor of 54.6",
        ),
        (
            measured(
                "Add",
                [held("x", 10.0, 11.0), held("ten", 10.0, constant=True)],
                held("scores", 20.0, 21.0),
                introduced=1e-4,
                usual=1e-4,
                decision=Decision("best", "ArgMax", changed=0.25, magnitude=21.0, apart=1e-3),
            ),
            "best (ArgMax) tells apart values that differ by 1e-3, where FP16 has steps of 0.0156: 25 % of its answers "
            "change",
        ),
        (
            measured(
                "CumSum",
                [held("ones", 1.0)],
                held("count", 2500.0),
                introduced=1e-4,
                decision=Decision("place", "Cast", changed=0.1, magnitude=2200.0, apart=1.0, whole=True),
            ),
            "place (Cast) reads whole numbers up to 2500, where FP16 has steps of 2: 10 % of its answers change",
        ),
        (
            measured(
                "Mul",
                [held("x", 2.0)],
                held("y", 2.0),
                introduced=1e-4,
                decision=Decision("kept", "NonZero", changed=0.5, magnitude=2.0),
            ),
            "kept (NonZero) decides by what this node writes: in FP16, 50 % of its answers change",
        ),
        (
            measured("Loop", [held("x", 2.0)], held("y", 1e6), inside="in its body, at a (Add), it is wrong"),
            "in its body, at a (Add), it is wrong",
        ),
        (
            measured("Tanh", [held("x", 2.0)], held("y", 1.0), introduced=3e-4, usual=3e-4, alone=1.3),
            "rounding to FP16's 11 bits introduces an error of 3e-4 (nrmse) here; lowered alone it fails the "
            "outputs, at 1.3 times the limit",
        ),
        (
            measured("Conv", [held("x", 1.0), held("w", 1.0)], held("y", 1.0), introduced=4e-3, usual=4e-4),
            "rounding to FP16's 11 bits introduces an error of 4e-3 (nrmse) here, 10 times that of a usual node",
        ),
        (
            measured("Conv", [held("x", 1.0)], held("y", 1.0), introduced=4e-4, usual=4e-4),
            "rounding to FP16's 11 bits introduces an error of 4e-4 (nrmse) here",
        ),
        (
            measured("Conv", [held("x", 9e9)], held("y", 9e9), introduced=4e-4, observed=0.5),
            "the engine errs by 0.5 (nrmse) here, where rounding to FP16 explains 4e-4",
        ),
    ],
)
def test_each_thing_that_can_happen_to_numbers_is_reported(node: MeasuredNode, text: str) -> None:
    assert why(node, FP16) == text


def test_the_format_under_test_decides() -> None:
    inputs = [held("x", 300.0, precision=Precision.FP8), held("z", 4.0, precision=Precision.FP8)]
    node = measured("Mul", inputs, held("y", 1200.0, precision=Precision.FP8))
    assert why(node, Precision.FP8).endswith("reach 1200, beyond 448, the largest FP8 (E4M3) value")
    assert "BF16" in why(measured("Mul", [], held("y", 1.0), introduced=1e-2), Precision.BF16)


def test_what_a_tensor_holds_is_measured_over_finite_values_of_all_samples() -> None:
    arrays = [np.array([0.0, -1e5, np.inf]), np.array([1e-9, 2.0])]
    found = TensorRange.of("x", [array.astype(np.float32) for array in arrays], FP16)
    assert found.largest == pytest.approx(1e5)
    assert found.smallest == pytest.approx(1e-9)
    assert found.overflowing == 0.25
    assert found.flushed == pytest.approx(1 / 3)
    assert TensorRange.of("x", [], FP16).largest == 0.0


def test_an_accumulation_blames_nobody_alone() -> None:
    text = accumulation(12, {"a": 0.3, "b": 0.4}, FP16)
    assert text.startswith("no single node is at fault")
    assert "b has the largest share, 64 %" in text
    assert "12 of them in FP32" in text
    assert "alone" not in text
    assert "largest share" not in accumulation(12, {}, FP16)


def test_nodes_that_fail_alone_by_what_others_make_of_them_are_counted() -> None:
    assert (
        "b has the largest share, 73 %; 1 of them fails alone (b at 1.3 times the limit), although none introduces an "
        "error that stands out"
    ) in accumulation(30, {"a": 0.8, "b": 1.3}, FP16)
    assert "; 2 of them fail alone (b at 1.3 times" in accumulation(30, {"a": 1.2, "b": 1.3}, FP16)


@pytest.mark.parametrize("precision", list(Precision))
def test_steps_are_those_of_the_format(precision: Precision) -> None:
    from harness.model import round_array

    if precision in (Precision.INT8, Precision.FP32):
        return
    kind = FORMATS[precision]
    for size in (1.0, 1.5, 96.0, 3.0 * 2.0**-4):
        step = kind.step(size)
        near = round_array(np.float32([size, size + step, size + 0.4 * step]), precision)
        assert near[1] - near[0] == pytest.approx(step)
        assert near[2] == near[0]


def test_what_is_not_finite_in_a_body_is_no_rounding() -> None:
    node = measured("If", [], held("y", 1.0), introduced=float("inf"), usual=1e-4)
    assert why(node, Precision.FP16) == (
        "what it computes in FP16 is not finite, although what it writes would fit: something in its body does not"
    )
    node = measured("Add", [], held("y", 1.0), introduced=float("inf"), usual=1e-4)
    assert "nrmse" not in why(node, Precision.FP16)


@pytest.mark.parametrize(
    "node",
    [
        # Most of the values become 0, but not those that the error is measured over.
        measured("Sigmoid", [held("x", -20.0)], held("y", 2e-9, 0.5), introduced=3e-4),
        # The weights hold a few that vanish.
        measured("Conv", [held("w", 1e-9, 0.1, constant=True)], held("y", 1.0), introduced=3e-4),
        # What is added vanishes, and all else is a million times as large.
        measured("Add", [held("x", 1.0), held("eps", 1e-9, constant=True)], held("y", 1.0), introduced=3e-4),
        # The logits that are coarse are masked; the others are not.
        measured("Softmax", [held("logits", -1e4, 2.0)], held("y", 0.0, 1.0), introduced=3e-4),
        # The operands have no digits that are lost.
        measured(
            "Sub", [held("x", 2048.0), held("z", 2047.0)], held("y", 1.0, 0.3), introduced=0.1, usual=0.1
        ),
        # Nothing divides by the values that become 0: all are finite.
        measured("Div", [held("x", 1.0), held("root", 1e-9, 1.0)], held("y", 1.0), introduced=3e-4),
    ],
)
def test_what_is_true_of_a_tensor_but_does_not_account_for_the_error_is_no_reason(node: MeasuredNode) -> None:
    assert why(node, FP16).startswith("rounding to FP16's 11 bits introduces an error of ")


def test_values_below_the_smallest_normal_number_lose_digits_where_they_are_written_first() -> None:
    small = [4.1e-7, -8.7e-7, 1.13e-6]
    assert why(measured("Mul", [held("x", 0.41, -0.87)], held("y", *small), introduced=0.02), FP16) == (
        "it writes values of about 8.6e-7; each is below 6.1e-5, the smallest normal FP16 value: down there steps are "
        "6e-8, however small a value is"
    )
    behind = measured("ReduceMean", [held("y", *small)], held("m", 6.1e-7), introduced=0.02)
    assert "smallest normal" not in why(behind, FP16), "what it reads had lost them already"


def test_the_fill_of_a_mask_is_clamped_although_it_scales() -> None:
    padded = held("padded", 1.0, 0.0)
    node = measured("Mul", [padded, held("fill", -1e9, constant=True)], held("mask", -1e9))
    assert lost_constant(node, FP16) is Mend.LARGE_CONSTANT


def test_a_bound_that_the_reference_reaches_is_not_to_be_clamped() -> None:
    """Between -65000 and 65000 it would cut off numbers of 2e5, which the reference has."""
    bound = held("most", 1e6, constant=True)
    reached = measured("Clip", [held("x", 2e5, 1.0), bound], held("y", 2e5, 1.0))
    assert lost_constant(reached, FP16) is None
    free = measured("Clip", [held("x", 20.0, 1.0), bound], held("y", 20.0, 1.0))
    assert lost_constant(free, FP16) is Mend.LARGE_CONSTANT


@pytest.mark.parametrize(
    ("op", "value", "mend"),
    [
        ("Add", 1e-12, Mend.SMALL_CONSTANT),
        ("Add", 1e-7, None),
        ("Add", -1e9, Mend.LARGE_CONSTANT),
        ("Mul", 1e6, Mend.FACTOR),
        ("Div", 1e-9, Mend.FACTOR),
        ("Mul", 1e-6, Mend.FACTOR),
        ("Mul", 0.3, None),
        ("Add", 1000.0, None),
    ],
)
def test_what_mends_a_constant_follows_from_what_it_is_for(op: str, value: float, mend: Mend | None) -> None:
    node = measured(op, [held("x", 0.0, 2.5), held("c", value, constant=True)], held("y", 1e-15, 1.0))
    assert lost_constant(node, FP16) is mend


def test_two_constants_that_undo_each_other_are_two_reasons_and_are_to_be_merged(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 64]) for name in "xy")
    nodes = [
        helper.make_node("Mul", ["x", "s"], ["d"], "down"),
        helper.make_node("Mul", ["d", "t"], ["y"], "up"),
    ]
    constants = [
        numpy_helper.from_array(np.float32(value), name) for name, value in (("s", 1e-6), ("t", 1e6))
    ]
    graph = helper.make_graph(nodes, "scales", [x], [y], constants)
    onnx.save(
        helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]),
        tmp_path / "m.onnx",
    )
    found = diagnose(tmp_path / "m.onnx", precision="fp16", journal=tmp_path / "journal")
    reasons = {origin.node: origin.why for origin in found.origins}
    assert reasons["down"].startswith("its constant s, 1e-6, is below 6.1e-5, the smallest normal FP16 value")
    assert reasons["up"].startswith("its constant t holds 1e6, beyond 65504")
    advice = "merge the factor of down, up with those around it, so that FP16 holds what is left"
    assert advice in found.advice


def test_where_fp32_itself_loses_digits_that_is_all_that_was_measured() -> None:
    node = measured("Log", [held("p", 1.0, 0.9)], held("y", 1e-7, 0.1))
    assert why(node, Precision.FP32) == (
        "FP32 and FP64 part here, and agree on what it reads to within the limit of FP32"
    )


def test_numbers_that_look_alike_get_the_digits_that_tell_them_apart() -> None:
    largest = float(np.finfo(np.float32).max)
    assert magnitudes(largest, FORMATS[Precision.BF16].largest) == ("3.40e38", "3.39e38")
    assert magnitudes(1e9, 65504.0) == ("1e9", "65504")
    node = measured("Mul", [held("mask", -largest, precision=Precision.BF16, constant=True)], held("y", 1.0))
    assert "-3.40e38, beyond -3.39e38, the lowest BF16 value" in why(node, Precision.BF16)


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16, Precision.FP8])
def test_below_the_smallest_normal_number_steps_stay(precision: Precision) -> None:
    kind = FORMATS[precision]
    assert kind.step(kind.normal) == kind.smallest
    assert kind.step(2 * kind.normal) == 2 * kind.smallest


def test_what_counts_of_the_inputs_of_a_softmax_is_the_largest_of_each_row() -> None:
    logits = np.float32([[-1e4, 2.0], [-1e4, -5.0]])
    assert TensorRange.of("x", [logits], FP16).peak == 5.0
    assert TensorRange.of("x", [logits], FP16, axis=0).peak == 1e4
    assert TensorRange.of("x", [logits.T], FP16, axis=0).peak == 5.0
    assert TensorRange.of("x", [np.float32(7.0)], FP16).peak == 7.0


@pytest.mark.parametrize(
    "node",
    [
        measured("Add", [held("x", 1.0), held("w", 1e-9, 0.5, constant=True)], held("y", 1.5)),
        measured("Relu", [held("x", 1.0)], held("y", 1e-9, *[1.0] * 150)),
        measured("Sub", [held("x", 15.0), held("z", 14.0)], held("y", 1.0)),
    ],
)
def test_what_is_too_little_to_matter_is_no_reason(node: MeasuredNode) -> None:
    reason = why(dataclasses.replace(node, introduced=2e-4, usual=1e-4), FP16)
    assert reason == "rounding to FP16's 11 bits introduces an error of 2e-4 (nrmse) here"

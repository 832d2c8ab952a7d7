"""Roundings that matter for what is decided by them, not for their size."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import graph_model
from onnx import TensorProto, helper

from harness.diagnosis import Subject, diagnose_model
from harness.diagnosis.context import make_bench
from harness.diagnosis.explain import Decision, decision_of
from harness.model import Model, load_model
from harness.tensors import Precision


def decided(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray] | None = None) -> Model:
    """`h = x + 10`, moved, and then `nodes`, which read `h` or `moved` and write the integers or bools `y`."""
    kind = TensorProto.BOOL if nodes[-1].op_type == "Greater" else TensorProto.INT64
    rank = 1 if any(each.name == "keepdims" and not each.i for each in nodes[-1].attribute) else 2
    before = [
        helper.make_node("Add", ["x", "ten"], ["h"], name="shift"),
        helper.make_node("Transpose", ["h"], ["moved"], name="move", perm=[1, 0]),
    ]
    proto = graph_model(
        [*before, *nodes],
        inputs={"x": [8, 32]},
        outputs={"y": ["n", "m"][:rank]},
        weights={"ten": np.float32(10.0), **(weights or {})},
        dtypes={"y": kind},
    )
    return load_model(proto, name="decided")


def found_in(model: Model, x: np.ndarray, node: str = "shift") -> Decision | None:
    bench = make_bench(model, [{"x": x.astype(np.float32)}])
    try:
        return decision_of(Subject(bench, Precision.FP16, bench.emulator), model.node(node), 0)
    finally:
        bench.close()


CLOSE = 1e-3 * np.random.default_rng(1).standard_normal((8, 32))
"""Near 10, FP16 has steps of 7.8e-3."""


@pytest.mark.parametrize(
    ("node", "weights"),
    [
        (helper.make_node("ArgMax", ["h"], ["y"], name="decide", axis=1, keepdims=0), {}),
        (helper.make_node("ArgMax", ["moved"], ["y"], name="decide", axis=0), {}),
        (helper.make_node("ArgMin", ["h"], ["y"], name="decide", axis=1), {}),
        (helper.make_node("TopK", ["h", "two"], ["top", "y"], name="decide"), {"two": np.int64([2])}),
        (
            helper.make_node("TopK", ["h", "two"], ["top", "y"], name="decide", largest=0),
            {"two": np.int64([2])},
        ),
        (helper.make_node("Greater", ["h", "ten"], ["y"], name="decide"), {}),
    ],
)
def test_values_that_are_distinguished_by_less_than_a_step_are_found(
    node: onnx.NodeProto, weights: dict[str, np.ndarray]
) -> None:
    found = found_in(decided(node, weights=weights), CLOSE)
    assert found is not None
    assert (found.node, found.op) == ("decide", node.op_type)
    assert 0.3 < found.changed <= 1
    assert found.magnitude == pytest.approx(10.0, abs=0.01)
    assert found.apart is not None
    assert 0 < found.apart < 2e-3


def test_where_as_many_are_chosen_as_there_are_the_share_counts() -> None:
    greater = helper.make_node("Greater", ["h", "ten"], ["above"], name="above")
    chosen = helper.make_node("NonZero", ["above"], ["y"], name="decide")
    found = found_in(decided(greater, chosen), CLOSE)
    assert found is not None
    assert found.op == "Greater"  # what follows is the comparison's doing
    below = helper.make_node("Sub", ["h", "ten"], ["d"], name="back")
    positive = helper.make_node("Relu", ["d"], ["r"], name="relu")
    chosen = helper.make_node("NonZero", ["r"], ["y"], name="decide")
    found = found_in(decided(below, positive, chosen), CLOSE, "back")
    assert found is not None
    assert (found.op, found.apart, found.changed) == ("NonZero", None, 1.0)


def test_whole_numbers_beyond_what_the_format_counts_are_reported() -> None:
    nodes = [
        helper.make_node("CumSum", ["x", "axis"], ["count"], name="count"),
        helper.make_node("Cast", ["count"], ["y"], name="place", to=TensorProto.INT64),
    ]
    proto = graph_model(
        nodes,
        inputs={"x": [1, 2500]},
        outputs={"y": [1, 2500]},
        weights={"axis": np.int64(1)},
        dtypes={"y": TensorProto.INT64},
    )
    model = load_model(proto, name="counted")
    diagnosis = diagnose_model(model, [{"x": np.ones((1, 2500), np.float32)}], Precision.FP16)
    (origin,) = diagnosis.origins
    assert origin.node == "count"
    assert origin.why == (
        "place (Cast) reads whole numbers up to 2500, where FP16 has steps of 2: 9 % of its answers change"
    )


def test_decisions_that_do_not_change_are_no_reason() -> None:
    node = helper.make_node("ArgMax", ["h"], ["y"], name="decide", axis=1)
    assert found_in(decided(node), 10 * CLOSE) is not None
    apart = np.arange(8 * 32, dtype=np.float32).reshape(8, 32)
    assert found_in(decided(node), apart) is None
    assert found_in(decided(node), apart, "move") is None


def test_the_reason_names_what_decides() -> None:
    node = helper.make_node("ArgMax", ["moved"], ["y"], name="choose", axis=0)
    diagnosis = diagnose_model(decided(node), [{"x": CLOSE.astype(np.float32)}], Precision.FP16)
    (origin,) = diagnosis.origins
    assert origin.node == "shift"
    assert origin.why.startswith("choose (ArgMax) tells apart values that differ by ")
    assert "where FP16 has steps of 7.8e-3" in origin.why

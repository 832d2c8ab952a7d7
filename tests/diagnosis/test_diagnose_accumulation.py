"""Errors that no node stands out by: they add up, and a network may amplify them on the way."""

from __future__ import annotations

from functools import cache

import numpy as np
from graphs import graph_model
from onnx import TensorProto, helper

from harness.diagnosis import A_FEW, Diagnosis, DiagnosisOptions, diagnose_model
from harness.model import Model, load_model
from harness.report.diagnosis.words import statements
from harness.tensors import Precision


def chaotic(depth: int = 50, width: int = 48, gain: float = 1.6) -> Model:
    """Products and tanh in turn; with this gain, each pair makes an error larger."""
    rng = np.random.default_rng(0)
    weights, nodes, tensor = {}, [], "x"
    for number in range(depth):
        matrix = rng.standard_normal((width, width)) * gain / np.sqrt(width)
        weights[f"w{number}"] = matrix.astype(np.float32)
        nodes += [
            helper.make_node("MatMul", [tensor, f"w{number}"], [f"p{number}"], name=f"p{number}"),
            helper.make_node("Tanh", [f"p{number}"], [f"t{number}"], name=f"t{number}"),
        ]
        tensor = f"t{number}"
    proto = graph_model(nodes, inputs={"x": [4, width]}, outputs={tensor: [4, width]}, weights=weights)
    return load_model(proto, name="chaotic")


@cache
def diagnosed() -> Diagnosis:
    x = np.random.default_rng(5).standard_normal((4, 48)).astype(np.float32)
    return diagnose_model(chaotic(), [{"x": x}], Precision.FP16, options=DiagnosisOptions(growth=True))


def test_nodes_that_fail_alone_without_standing_out_are_not_where_it_starts() -> None:
    diagnosis = diagnosed()
    assert len(diagnosis.culprits) > A_FEW
    assert diagnosis.origins[0].why.startswith("no single node is at fault")
    assert "fail alone" in diagnosis.origins[0].why
    words = {statement.label: statement.text for statement in statements(diagnosis)}
    assert words["what"] == f"the precision is too low for {len(diagnosis.culprits)} nodes taken together"
    assert words["where"].startswith("gates begin to fail at ")


def test_the_picture_circles_what_the_text_names() -> None:
    diagnosis = diagnosed()
    assert diagnosis.before is not None
    assert [layer.node for layer in diagnosis.before.origins] == [each.node for each in diagnosis.origins]


def test_the_picture_circles_the_cause_where_it_is_not_what_fails_its_gate() -> None:
    # Counting to 2500 errs by little; the rows that are chosen by it are other ones.
    nodes = [
        helper.make_node("CumSum", ["x", "axis"], ["count"], name="count"),
        helper.make_node("Cast", ["count"], ["place"], name="place", to=TensorProto.INT64),
        helper.make_node("Gather", ["rows", "place"], ["y"], name="gather"),
        helper.make_node("Mul", ["y", "x"], ["z"], name="times"),
    ]
    rows = np.random.default_rng(0).standard_normal(2501).astype(np.float32)
    weights = {"axis": np.int64(0), "rows": rows}
    proto = graph_model(nodes, inputs={"x": [2500]}, outputs={"z": [2500]}, weights=weights)
    diagnosis = diagnose_model(
        load_model(proto, name="count"),
        [{"x": np.ones(2500, np.float32)}],
        Precision.FP16,
        options=DiagnosisOptions(growth=True),
    )
    assert [origin.node for origin in diagnosis.origins] == ["count"]
    assert diagnosis.before is not None
    assert [layer.node for layer in diagnosis.before.origins] == ["count"]

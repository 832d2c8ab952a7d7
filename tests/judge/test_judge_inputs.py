"""Inputs that prove something: filled as the graph uses them, and said where they cannot show a fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import graph_model
from onnx import TensorProto, helper
from test_model_roles import rotary, text_encoder

from harness.case import load_case
from harness.cli import main
from harness.judge import Verdict, run


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def only(report):
    (result,) = report.results
    return result


def test_a_rotary_embedding_fails_at_bf16_by_default_as_its_positions_do() -> None:
    onnx.save(rotary(1024), "rope.onnx")
    assert only(run("rope.onnx", precisions="bf16")).verdict is Verdict.FAIL


def test_zeros_and_ones_in_place_of_what_the_graph_uses_are_warned_of() -> None:
    onnx.save(rotary(1024), "rope.onnx")
    Path("rope.case.yaml").write_text(
        "model: {path: rope.onnx}\ninputs: {where: {fill: {kind: integers, low: 0, high: 2}}}\nruns: [bf16]\n"
    )
    result = only(run("rope.case.yaml"))
    assert result.verdict is Verdict.PASS
    assert result.warnings == (
        "input 'where' is filled with 0 and 1, and positions count up; "
        "leave `fill` out of the case to draw from all of them",
    )


def test_numbers_whose_use_does_not_show_are_warned_of_where_they_matter() -> None:
    nodes = [
        helper.make_node("Cast", ["n"], ["real"], name="real", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "real"], ["y"], name="y"),
        helper.make_node("Shape", ["sized"], ["size"], name="size"),
    ]
    proto = graph_model(
        nodes,
        inputs={"x": [4], "n": [4], "sized": [4]},
        outputs={"y": [4], "size": [1]},
        dtypes={"n": TensorProto.INT64, "sized": TensorProto.INT64, "size": TensorProto.INT64},
    )
    onnx.save(proto, "net.onnx")
    result = only(run("net.onnx", precisions="fp16"))
    assert result.warnings == (
        "input 'n' is filled with 0 and 1, and the graph does not show what it is for; give it values with --data FILE",
    )
    np.savez("data.npz", x=np.ones(4, np.float32), n=np.array([0, 1, 0, 1]), sized=np.zeros(4, np.int64))
    from harness.judge import Given

    assert not only(run("net.onnx", precisions="fp16", given=Given(data=("data.npz",)))).warnings


def test_a_new_case_says_what_the_graph_asks_for(capsys) -> None:
    onnx.save(text_encoder(), "bert.onnx")
    assert main(["case", "new", "bert.onnx"]) == 0
    fills = {name: spec.fill.model_dump() for name, spec in load_case("bert.case.yaml").inputs.items()}
    assert fills == {
        "ids": {"kind": "integers", "low": 0, "high": 100},
        "token_type_ids": {"kind": "integers", "low": 0, "high": 2},
        "position_ids": {"kind": "positions", "high": 32},
        "attention": {"kind": "mask", "padded": 0.25, "inverted": False},
    }
    assert main(["run", "bert.case.yaml"]) == 0
    assert "0 and 1" not in capsys.readouterr().out

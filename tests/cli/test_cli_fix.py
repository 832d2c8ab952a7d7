"""`harness check --fix`: a model is written if its cures are proved, and nothing otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import parser

from harness.cli import main

FLOORED = "g (float[N,4] x, float[4] b) => (float[N,4] y) { y = Mod(x, b) }"
FINE = "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for name, graph in (("floored", FLOORED), ("fine", FINE)):
        onnx.save(parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {graph}'), f"{name}.onnx")


def check(*words: str) -> int:
    return main(["check", *words, "--input", "x:[2,4]"])


def test_a_proved_cure_is_written_and_reported(capsys):
    status = check("floored.onnx", "--fix", "out.onnx", "--json", "report.json", "--markdown", "report.md")
    said = capsys.readouterr().out
    assert status == 0
    assert "proved floored-mod" in said
    assert "Wrote out.onnx with 1 cure, proved on the reference alone" in said
    assert {node.op_type for node in onnx.load("out.onnx").graph.node} > {"Where"}
    fix = json.loads(Path("report.json").read_text())["fix"]
    assert (fix["file"], fix["applied"][0]["code"], fix["environments"]) == ("out.onnx", "floored-mod", [])
    assert fix["applied"][0]["proof"]["shapes"] >= 3
    assert "floored-mod" in Path("report.md").read_text()


def test_without_a_cure_nothing_is_written(capsys):
    assert check("fine.onnx", "--fix", "out.onnx") == 1
    assert "Nothing was written: no cure applies" in capsys.readouterr().out
    assert not Path("out.onnx").exists()


def test_the_model_itself_is_never_written_over(capsys):
    before = Path("floored.onnx").read_bytes()
    assert check("floored.onnx", "--fix", "floored.onnx") == 2
    assert "never overwritten" in capsys.readouterr().err
    assert Path("floored.onnx").read_bytes() == before


def test_one_model_is_fixed_at_a_time(capsys):
    assert check("floored.onnx", "fine.onnx", "--fix", "out.onnx") == 2
    assert "one model is fixed at a time" in capsys.readouterr().err
    assert not Path("out.onnx").exists()

"""`harness check` as it is typed: its answer, its files and its exit status."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.cli import main
from harness.conversion.schema import SCHEMA_FILE


@pytest.fixture(autouse=True)
def _in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, k: int) -> str:
    node = helper.make_node("TopK", ["x", "k"], ["v", "i"], "top")
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 5000])
    output = helper.make_tensor_value_info("v", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [info], [output], [numpy_helper.from_array(np.array([k]), "k")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), name)
    return name


def test_the_status_says_whether_something_stands_in_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", write("large.onnx", 4000)]) == 1
    said = capsys.readouterr().out
    assert "NOT BUILT topk-limit top (TopK): K is limited to 3840" in said
    assert "harness env add rtx" in said
    assert main(["check", write("small.onnx", 40)]) == 0
    assert "there is no known problem in 1 model" in capsys.readouterr().out


def test_risks_are_counted_where_nothing_fails(capsys: pytest.CaptureFixture[str]) -> None:
    name = write("wide.onnx", 40)
    model = onnx.load(name)
    model.graph.node.append(helper.make_node("MatMul", ["v", "w"], ["p"], "product"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((40, 8), np.float32), "w"))
    model.graph.output.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, None))
    onnx.save(model, name)
    assert main(["check", name]) == 0
    said = capsys.readouterr().out
    assert "risky tf32" in said
    assert "By the rules, nothing fails in 1 model: 1 risk\n" in said


def test_all_files_are_written_and_a_case_can_expect_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    write("large.onnx", 4000)
    Path("large.case.yaml").write_text("model: {path: large.onnx}\nfindings: [topk-limit]\n")
    files = ["--json", "c.json", "--html", "c.html", "--markdown", "c.md"]
    assert main(["check", "large.case.yaml", *files]) == 0
    said = capsys.readouterr().out
    assert "expected: topk-limit" in said
    assert "will compute something else, as expected" in said
    (result,) = json.loads(Path("c.json").read_text())["results"]
    assert (result["fails"], result["findings"][0]["code"]) == (False, "topk-limit")
    assert result["findings"][0]["node"]["inputs"][0] == {"name": "x", "dtype": "float32", "shape": [1, 5000]}
    assert "K is limited to 3840" in Path("c.html").read_text()
    assert "topk-limit" in Path("c.md").read_text()


@pytest.mark.parametrize("option", [["--list-kernels"], ["--split", "parts"]])
def test_what_only_a_compiler_can_say_needs_one(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", write("small.onnx", 40), *option]) == 2
    assert "add --env NAME" in capsys.readouterr().err
    assert not Path("parts").exists()


def test_an_unknown_environment_is_refused_before_anything_is_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["check", "missing.onnx", "--env", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_reported_and_the_rest_checked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("junk.onnx").write_bytes(b"junk")
    files = ["--json", "c.json", "--html", "c.html", "--markdown", "c.md"]
    assert main(["check", "junk.onnx", write("large.onnx", 4000), *files]) == 2
    said, told = capsys.readouterr()
    assert "junk\n  ‼ ERROR\n" in said
    assert "of 1 model 1 will not build, and 0 will compute something else; 1 could not be checked" in said
    why = "junk.onnx: not an ONNX model, or cut short"
    assert told.count(why) == 1
    document = json.loads(Path("c.json").read_text())
    jsonschema.validate(document, json.loads(SCHEMA_FILE.read_text()))
    junk, large = document["results"]
    assert (junk["fails"], junk["nodes"], junk["findings"], junk["environments"]) == (True, 0, [], [])
    assert (junk["error"]["kind"], junk["error"]["where"]) == ("ModelError", "junk.onnx")
    assert (large["error"], large["findings"][0]["code"]) == (None, "topk-limit")
    assert why in Path("c.html").read_text()
    assert "| junk | ‼ ERROR |" in Path("c.md").read_text()
    assert main(["check", "junk.onnx"]) == 2
    assert "The model could not be checked\n" in capsys.readouterr().out

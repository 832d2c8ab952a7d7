import json
import os
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from harness.case import load_case, make_feeds
from harness.cli import main
from harness.model import load_model


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def save(path: str = "net.onnx", **inputs: tuple[int, list | None]) -> Path:
    """A model that passes its inputs on."""
    values = [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in inputs]
    outputs = [helper.make_tensor_value_info(f"{name}_out", spec[0], None) for name, spec in inputs.items()]
    graph = helper.make_graph(nodes, "g", values, outputs)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return Path(path)


def test_a_new_case_has_the_real_inputs_of_the_model(capsys):
    inputs = {
        "image": (TensorProto.FLOAT, [1, 3, 8, 8]),
        "ids:0": (TensorProto.INT64, ["batch", "length"]),
        "mask": (TensorProto.BOOL, ["batch"]),
        "yes": (TensorProto.UINT8, []),
        "hidden": (TensorProto.FLOAT16, ["batch", None]),
    }
    model = save(**inputs)
    assert main(["case", "new", str(model)]) == 0
    case = load_case("net.case.yaml")
    assert list(case.inputs) == list(inputs)
    assert [spec.dtype for spec in case.inputs.values()] == ["float32", "int64", "bool", "uint8", "float16"]
    image, ids, mask, scalar, hidden = case.inputs.values()
    assert (image.shape, image.min) == ((1, 3, 8, 8), None)
    assert (ids.min, ids.opt, ids.max) == ((1, 1), (1, 16), (8, 64))
    assert (mask.shape, mask.max) == ((1,), (8,))
    assert scalar.shape == ()
    assert hidden.min is not None
    feeds = make_feeds(case, load_model(case.resolve(case.model.path)).inputs)
    assert feeds[0]["ids:0"].shape == (1, 16)
    text = Path("net.case.yaml").read_text()
    assert "dynamic: axes 0 (batch), 1 (length)" in text
    assert text.startswith("# yaml-language-server: $schema=case.schema.json\n")
    assert capsys.readouterr().out.splitlines() == [
        "net.case.yaml: case 'net' with 5 inputs",
        "Some axes are dynamic. Their sizes in the file are guesses: check them.",
        "Run it: harness run net.case.yaml",
    ]


def test_an_axis_of_one_name_gets_one_size(capsys):
    save(a=(TensorProto.FLOAT, ["n", 2]), b=(TensorProto.FLOAT, [2, "n"]))
    assert main(["case", "new", "net.onnx"]) == 0
    case = load_case("net.case.yaml")
    assert case.inputs["a"].max[0] == case.inputs["b"].max[1]
    make_feeds(case, load_model("net.onnx").inputs)


def test_a_new_case_finds_the_model_and_the_schema_from_its_own_folder():
    save("models/net.onnx", x=(TensorProto.FLOAT, [2]))
    Path("cases/deep").mkdir(parents=True)
    Path("cases/case.schema.json").write_text("{}")
    assert main(["case", "new", "models/net.onnx", "--out", "cases/deep/first.case.yaml"]) == 0
    case = load_case("cases/deep/first.case.yaml")
    assert case.name == "first"
    assert case.model.path == "../../models/net.onnx"
    assert case.resolve(case.model.path).is_file()
    assert "$schema=../case.schema.json" in Path("cases/deep/first.case.yaml").read_text()


def test_a_case_file_is_overwritten_only_by_force(capsys):
    save(x=(TensorProto.FLOAT, [2]))
    Path("net.case.yaml").write_text("mine")
    assert main(["case", "new", "net.onnx"]) == 2
    assert "--force" in capsys.readouterr().err
    assert Path("net.case.yaml").read_text() == "mine"
    assert main(["case", "new", "net.onnx", "--force"]) == 0
    assert load_case("net.case.yaml").name == "net"


@pytest.mark.parametrize("raw", [None, b"", b"not a model"])
def test_a_bad_model_leaves_no_case(raw, capsys):
    if raw is not None:
        Path("net.onnx").write_bytes(raw)
    assert main(["case", "new", "net.onnx"]) == 2
    error = capsys.readouterr().err
    assert "net.onnx" in error
    assert "Traceback" not in error
    assert not [name for name in os.listdir() if "case" in name]


def test_a_case_must_be_named_as_one(capsys):
    save(x=(TensorProto.FLOAT, [2]))
    assert main(["case", "new", "net.onnx", "--out", "net.yaml"]) == 2
    assert "must end in .case.yaml" in capsys.readouterr().err
    assert not Path("net.yaml").exists()


def test_checking_lists_every_mistake_of_every_file(capsys):
    Path("a.case.yaml").write_text("model: {path: gone.onnx}\n")
    Path("b.case.yaml").write_text("model: {path: gone.onnx}\nsed: 1\nruns: [fp61]\n")
    assert main(["case", "check", "."]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "a.case.yaml:1:15: model.path: no such file: gone.onnx",
        "b.case.yaml:2:1: sed: unknown key, did you mean `seed`?",
        "b.case.yaml:3:8: runs[0]: 'fp61' is not one of fp32, tf32, fp16, bf16, fp8, int8, did you mean `fp16`?",
    ]


def test_checking_sums_up_what_is_right(capsys):
    save(x=(TensorProto.FLOAT, [2]))
    Path("a.case.yaml").write_text("model: {path: net.onnx}\nruns: [fp16]\n")
    Path("b.case.yaml").write_text("model: {path: net.onnx}\n")
    assert main(["case", "check", "a.case.yaml"]) == 0
    assert main(["case", "check", "."]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "1 case with 1 run: no mistakes",
        "2 cases with 3 runs: no mistakes",
    ]


def test_checking_nothing_is_not_a_success(capsys):
    assert main(["case", "check", "."]) == 5
    assert "harness case new" in capsys.readouterr().err


def test_the_schema_is_printed_and_written(capsys):
    assert main(["case", "schema"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed)["title"] == "harness case"
    assert main(["case", "schema", "--out", "made/case.schema.json"]) == 0
    assert Path("made/case.schema.json").read_text("utf-8") == printed

"""`harness compare`, and the options that say what an .onnx file is fed and compared with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from polygraphy.comparator import RunResults
from polygraphy.json import save_json


def scaled(factor: float, name: str = "y") -> onnx.ModelProto:
    """y = relu(x) · factor."""
    nodes = [
        helper.make_node("Relu", ["x"], ["positive"], name="relu"),
        helper.make_node("Mul", ["positive", "factor"], [name], name="scale"),
    ]
    x, y = (helper.make_tensor_value_info(each, TensorProto.FLOAT, [2, 8]) for each in ("x", name))
    graph = helper.make_graph(
        nodes, "scaled", [x], [y], [numpy_helper.from_array(np.float32(factor), "factor")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    onnx.save(scaled(2.0), "two.onnx")
    onnx.save(scaled(3.0), "three.onnx")


def test_files_that_agree_say_how_they_were_paired(harness) -> None:
    onnx.save(scaled(2.0, "z"), "renamed.onnx")
    status, out, _ = harness("compare", "two.onnx", "renamed.onnx")
    assert status == 0
    assert "two.onnx: 2 tensors paired, 1 by name and 1 by position in the graph" in out


def test_files_that_differ_name_the_node_and_the_weight(harness) -> None:
    status, out, _ = harness("compare", "two.onnx", "three.onnx", "--json", "c.json", "--html", "c.html")
    assert status == 1
    assert "FAIL three at fp32: y: nrmse 0.5, limit 1e-5" in out
    assert "node scale (Mul), tensor y" in out
    assert "other values in weight factor (nrmse 0.5)" in out
    assert "harness compare two.onnx three.onnx --details" in out
    (result,) = json.loads(Path("c.json").read_text())["results"]
    assert result["candidate"] == "file"
    assert result["compared_with"]["reference"] == "two.onnx"
    assert result["error_map"]["shape"] == [2, 8]
    page = Path("c.html").read_text()
    assert "other values in weight" in page
    assert "Where the error sits in y, sample 0, of shape 2 × 8" in page


def test_mistakes_take_one_line(harness) -> None:
    assert harness("compare", "two.onnx", "nowhere.onnx")[0] == 2
    status, _, errors = harness("compare", "a.npz", "b.npz")
    assert status == 2
    assert errors.startswith("error: neither is an .onnx file")


def test_what_polygraphy_saved_is_fed_and_compared(harness) -> None:
    samples = [
        {"x": np.random.default_rng(seed).standard_normal((2, 8)).astype(np.float32)} for seed in (1, 2)
    ]
    results = RunResults()
    results.add([{"y": np.maximum(sample["x"], 0) * 2} for sample in samples], runner_name="trt")
    save_json(samples, "inputs.json")
    results.save("outputs.json")
    words = ("outputs.json", "--data", "inputs.json", "--json", "c.json")
    assert harness("compare", "two.onnx", *words)[0] == 0
    assert len(json.loads(Path("c.json").read_text())["results"][0]["outputs"]) == 2
    assert harness("compare", "three.onnx", *words)[0] == 1
    status, out, _ = harness(
        "run", "three.onnx", "--data", "inputs.json", "--reference", "outputs.json", "-p", "fp16"
    )
    assert status == 1
    assert "--data inputs.json --reference outputs.json --precision fp16" in out


def test_samples_and_seed_decide_the_inputs_of_a_plain_file(harness) -> None:
    def errors(*words: str) -> list[float]:
        assert harness("run", "two.onnx", "-p", "fp16", *words, "--json", "r.json")[0] == 0
        outputs = json.loads(Path("r.json").read_text())["results"][0]["outputs"]
        return [output["metrics"]["rmse"] for output in outputs]

    assert len(errors("--samples", "3")) == 3
    assert errors("--seed", "1") != errors("--seed", "2")
    assert errors("--seed", "0") == errors()


def test_an_archive_holds_samples_on_an_axis_of_its_own(harness) -> None:
    np.savez("data.npz", x=np.ones((3, 2, 8), np.float32))
    assert harness("run", "two.onnx", "-p", "fp16", "--data", "data.npz", "--json", "r.json")[0] == 0
    assert len(json.loads(Path("r.json").read_text())["results"][0]["outputs"]) == 3
    status, _, errors = harness("run", "two.onnx", "-p", "fp16", "--data", "data.npz", "--samples", "4")
    assert status == 2
    assert "4 samples asked for, and the data hold 3" in errors


def test_data_that_do_not_fit_are_named(harness) -> None:
    np.savez("data.npz", image=np.ones((2, 8), np.float32))
    status, _, errors = harness("run", "two.onnx", "--data", "data.npz")
    assert status == 2
    assert "data.npz: no data for input 'x' (it holds image)" in errors


def test_options_of_plain_files_are_refused_for_cases(harness) -> None:
    Path("two.case.yaml").write_text("model: {path: two.onnx}\n")
    status, _, errors = harness("run", "two.case.yaml", "--seed", "3")
    assert status == 2
    assert "`--seed` is for an .onnx file" in errors


def test_diagnose_goes_by_another_reference(harness) -> None:
    onnx.save(scaled(1e6), "large.onnx")
    status, out, _ = harness("diagnose", "large.onnx", "--reference", "large.onnx", "-p", "fp16")
    assert status == 1
    assert "scale" in out


def test_what_a_run_computed_is_saved_for_polygraphy_and_compared_again(harness) -> None:
    status, out, errors = harness(
        "run", "two.onnx", "-p", "fp16", "--samples", "2", "--save-outputs", "out.json"
    )
    assert status == 0
    assert not re.search(r"\[[IWE]\]|colored", out + errors), "polygraphy's own words are not a user's"
    words = ("out.json", "--samples", "2", "-p", "fp16")
    status, out, errors = harness("compare", "two.onnx", *words)
    assert status == 0
    assert not re.search(r"\[[IWE]\]|colored", out + errors)
    saved = RunResults.load("out.json")
    assert list(saved.keys()) == ["two::fp16"]
    assert [list(sample) for sample in saved["two::fp16"]] == [["y"], ["y"]]
    assert harness("compare", "three.onnx", *words)[0] == 1
    harness("run", "two.onnx", "three.onnx", "-p", "fp16", "--save-outputs", "both.json")
    status, _, errors = harness("compare", "two.onnx", "both.json")
    assert status == 2
    assert "both.json: holds the results of 2 runners" in errors

"""The parts of a model that a compiler takes and does not, each runnable, and together the model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness import check
from harness.conversion.parts import Parts
from harness.conversion.splitting import folder_names, split
from harness.environments import close_shared
from harness.model import Model, load_model
from harness.worker.protocol import CompileFailure, CompileReport

F = TensorProto.FLOAT
BUILT = CompileReport("TensorRT for RTX", "1.7.1.116", "strong")


def branched(path: Path) -> Path:
    """Two Dets among what is taken, one of them beside a branch that goes around it; an open batch."""
    nodes = [
        helper.make_node("Mul", ["scale", "scale"], ["s2"], "fixed"),
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("Det", ["r"], ["d"], "det_a"),
        helper.make_node("Exp", ["d"], ["e"], "exp"),
        helper.make_node("ReduceSum", ["r", "axes"], ["t"], "around", keepdims=0),
        helper.make_node("Add", ["e", "t"], ["a"], "join"),
        helper.make_node("Mul", ["a", "s2"], ["m"], "mul"),
        helper.make_node("Reshape", ["m", "three"], ["q"], "square"),
        helper.make_node("Det", ["q"], ["f"], "det_b"),
        helper.make_node("Neg", ["f"], ["y"], "neg"),
    ]
    arrays = {
        "scale": np.asarray(2.0, np.float32),
        "axes": np.array([1, 2]),
        "three": np.array([-1, 1, 1]),
    }
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    infos = [helper.make_tensor_value_info("x", F, ["n", 3, 3]), helper.make_tensor_value_info("y", F, ["n"])]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def run(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    wanted = {value.name: feeds[value.name] for value in session.get_inputs()}
    return dict(zip(names, session.run(names, wanted), strict=True))


def check_together(path: Path, folder: Path) -> None:
    """Run the parts in their order, and compare with the model."""
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 3, 3)).astype(np.float32)}
    tensors = dict(feeds)
    for part in json.loads((folder / "split.json").read_text())["parts"]:
        onnx.checker.check_model(part["file"])
        tensors |= run(Path(part["file"]), tensors)
    np.testing.assert_allclose(tensors["y"], run(path, feeds)["y"], rtol=1e-6)


def test_parts_are_as_large_as_they_can_be_and_run_in_order(tmp_path: Path) -> None:
    path = branched(tmp_path / "m.onnx")
    parts = split(Parts(load_model(path), {"x": (2, 3, 3)}), ["det_a", "det_b"], None, tmp_path / "parts")
    assert [(set(part.nodes), part.is_taken) for part in parts] == [
        ({"relu", "around"}, True),
        ({"det_a"}, False),
        ({"fixed", "exp", "join", "mul", "square"}, True),
        ({"det_b"}, False),
        ({"neg"}, True),
    ]
    check_together(path, tmp_path / "parts")


def test_a_part_that_does_not_build_is_split_again(tmp_path: Path) -> None:
    path = branched(tmp_path / "m.onnx")

    def ask(model: Model) -> CompileReport:
        if {"join", "mul"} <= {node.name for node in model.nodes}:
            return CompileReport(
                "TensorRT for RTX", "1.7.1.116", "strong", failure=CompileFailure("build_failed", "no")
            )
        return BUILT

    parts = split(Parts(load_model(path), {"x": (2, 3, 3)}), ["det_a", "det_b"], ask, tmp_path / "parts")
    assert {node for part in parts for node in part.nodes if not part.is_taken} == {"det_a", "det_b", "mul"}
    check_together(path, tmp_path / "parts")


def test_a_part_that_could_not_be_asked_about_is_not_called_supported(tmp_path: Path) -> None:
    path = branched(tmp_path / "m.onnx")
    needs_gpu = CompileReport(
        "TensorRT for RTX", "1.4.0.76", "strong", failure=CompileFailure("no_gpu", "there is none")
    )

    def ask(model: Model) -> CompileReport:
        return needs_gpu if "neg" in {node.name for node in model.nodes} else BUILT

    parts = split(Parts(load_model(path), {"x": (2, 3, 3)}), ["det_a", "det_b"], ask, tmp_path / "parts")
    assert [part.is_taken for part in parts] == [True, False, True, False, None]
    assert parts[-1].file.name == "part-05-not-asked.onnx"
    check_together(path, tmp_path / "parts")


def test_the_compiler_is_asked_about_each_part(rtx: str) -> None:
    path = branched(Path("m.onnx"))
    try:
        report = check(path, environments=rtx, inputs={"x": [2, 3, 3]}, split=Path("parts"))
    finally:
        close_shared()
    (environment,) = report.results[0].environments
    assert [part.is_taken for part in environment.parts] == [True, False, True, False, True]
    check_together(path, Path("parts"))


@pytest.mark.parametrize("bad", [[], ["relu", "fixed"], ["exp", "around"]])
def test_any_split_computes_the_same(tmp_path: Path, bad: list[str]) -> None:
    path = branched(tmp_path / "m.onnx")
    parts = split(Parts(load_model(path), {"x": (2, 3, 3)}), bad, None, tmp_path / "parts")
    assert sorted(node for part in parts for node in part.nodes) == sorted(
        node.name for node in load_model(path).nodes
    )
    check_together(path, tmp_path / "parts")


def test_models_of_one_name_keep_folders_of_their_own() -> None:
    assert folder_names(["net", "a b", "net", "a-b", "net-2"]) == ["net", "a-b", "net-2", "a-b-2", "net-2-2"]


def test_parts_of_two_models_of_one_name_are_kept_beside_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rtx: str
) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        branched(tmp_path / folder / "m.onnx")
    monkeypatch.chdir(tmp_path)
    report = check(
        ["one/m.onnx", "two/m.onnx"], environments=rtx, inputs={"x": [2, 3, 3]}, split=Path("parts")
    )
    paths = [part.file for result in report.results for part in result.environments[0].parts]
    assert {path.parent.name for path in paths} == {"m", "m-2"}
    assert len(set(paths)) == len(paths)
    assert all(path.is_file() for path in paths)

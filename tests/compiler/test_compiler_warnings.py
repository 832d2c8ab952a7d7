"""A model that is known not to convert is reported in one line, by rules and by what compilers said earlier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import harness
from harness.compiler import ConversionWarning, ReportCache, conversion_warning, known_problems
from harness.compiler.cache import report_key
from harness.model import load_model
from harness.worker.protocol import (
    TENSORRT_RTX,
    CompileFailure,
    CompileReport,
    Fingerprint,
    RefusedNode,
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def save(path: Path, node: onnx.NodeProto, *shapes: list[int], opset: int = 20, **constants) -> Path:
    names = [name for name in node.input if name not in constants]
    infos = [
        helper.make_tensor_value_info(*each)
        for each in zip(names, [TensorProto.FLOAT] * len(names), shapes, strict=True)
    ]
    arrays = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    output = [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "g", infos, output, arrays)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return path


def top(path: Path) -> Path:
    return save(path, helper.make_node("TopK", ["x", "k"], ["v", "i"], "top"), [1, 5000], k=np.array([4000]))


def grid(path: Path) -> Path:
    node = helper.make_node("GridSample", ["x", "g"], ["y"], "warp", mode="linear")
    return save(path, node, [1, 1, 4, 4], [1, 3, 3, 2])


def plain(path: Path) -> Path:
    return save(path, helper.make_node("Exp", ["x"], ["y"], "exp"), [2, 3])


def engine(release: str) -> Fingerprint:
    return Fingerprint("rtx", release, product=TENSORRT_RTX)


def test_a_run_on_the_emulator_says_that_no_engine_can_be_built(tmp_path: Path) -> None:
    report = harness.run(top(tmp_path / "m.onnx"), precisions="fp32")
    (warning,) = report.results[0].warnings
    assert warning.startswith(
        "by the rules of `harness check`, neither TensorRT for RTX nor TensorRT can build this model: top (TopK), K is"
    )
    assert harness.run(plain(tmp_path / "p.onnx"), precisions="fp32").results[0].warnings == ()


def test_a_diagnosis_that_finds_nothing_wrong_says_it_too(tmp_path: Path) -> None:
    diagnosis = harness.diagnose(grid(tmp_path / "m.onnx"), precision="fp16")
    assert diagnosis.before is not None
    assert any("warp (GridSample)" in warning for warning in diagnosis.before.warnings)


def test_drift_warns_once_a_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.warns(ConversionWarning, match=r"^m: .*top \(TopK\)"):
        harness.drift(
            top(tmp_path / "m.onnx"),
            environments=["emulator:fp16", "emulator:bf16"],
            precisions="fp16",
            options=harness.DriftOptions(repeats=1),
        )


def test_an_engine_is_warned_of_on_its_release_alone(tmp_path: Path) -> None:
    model = load_model(grid(tmp_path / "m.onnx"))
    assert "this engine computes something else" in str(conversion_warning(model, engine("1.4.0.76")))
    assert conversion_warning(model, engine("1.7.1.116")) is None
    assert "some releases compute something else" in str(conversion_warning(model))


def test_what_a_compiler_said_earlier_counts_until_it_builds(tmp_path: Path) -> None:
    model = load_model(plain(tmp_path / "m.onnx"))
    cache = ReportCache()
    refused = RefusedNode(0, "exp", "Exp", "UNSUPPORTED_NODE", "no")
    cache.put(
        report_key(model.sha256, "a" * 64), CompileReport(TENSORRT_RTX, "1.4.0.76", "strong", (refused,))
    )
    assert str(conversion_warning(model)).startswith("TensorRT for RTX 1.4.0.76 cannot build this model")
    asked = CompileFailure("unsupported", "an input decides shapes")
    cache.put(
        report_key(model.sha256, "b" * 64), CompileReport(TENSORRT_RTX, "1.6.1.120", "strong", failure=asked)
    )
    assert [report.release for report in known_problems(model).reports] == ["1.4.0.76"]
    cache.put(
        report_key(model.sha256, "d" * 64), CompileReport(TENSORRT_RTX, "1.7.1.116", "strong", (refused,))
    )
    both = "TensorRT for RTX 1.4.0.76 and 1.7.1.116 cannot build this model"
    assert str(conversion_warning(model)).startswith(both)
    cache.put(report_key(model.sha256, "e" * 64), CompileReport(TENSORRT_RTX, "1.7.1.116", "strong"))
    cache.put(report_key(model.sha256, "c" * 64), CompileReport(TENSORRT_RTX, "1.4.0.76", "strong"))
    assert conversion_warning(model) is None

"""Times of kernels: the real adapter in a real worker, on the double of TensorRT with a GPU and without one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.cli import main
from harness.conversion import check
from harness.conversion.timing import timed
from harness.worker.protocol import TENSORRT_RTX, Kernel, KernelList

DOUBLED = Path(__file__).parents[1] / "worker" / "doubled.py"


@pytest.fixture
def model(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A product and a root beside environments with and without a GPU."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path_factory.mktemp("s")))
    monkeypatch.chdir(tmp_path)
    wrapper = tmp_path / "python-rtx"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} "$@" --adapter {DOUBLED}\n')
    wrapper.chmod(0o755)
    for name, variables in {
        "gpu": ["RELEASE=1.6.1.120"],
        "none": ["RELEASE=1.6.1.120", "GPU=none"],
        "old": ["RELEASE=8.6.0"],
    }.items():
        settings = [word for variable in variables for word in ("--set", variable)]
        assert main(["env", "add", name, "--python", str(wrapper), *settings]) == 0
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 8]) for name in ("x", "y")]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "product"),
        helper.make_node("Sqrt", ["p"], ["y"], "root"),
    ]
    weight = numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], [weight])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("environment", ["gpu", "old"])
def test_with_a_gpu_each_kernel_has_its_time(model: Path, environment: str) -> None:
    (result,) = check(model, precision="fp16", environments=environment, times=True).results[0].environments
    assert result.report.kernels is not None
    assert result.times is not None
    assert (result.times.inference_ms, result.not_timed) == (1.5, "")
    assert result.times.kernel_ms == (0.25,) * len(result.report.kernels.kernels)
    assert result.times.other_ms == 0
    assert result.report.kernels.source == "inspector"  # of the engine that was run


def test_nothing_is_timed_that_was_not_asked_for(model: Path) -> None:
    (result,) = check(model, precision="fp16", environments="gpu").results[0].environments
    assert (result.times, result.not_timed) == (None, "")


def test_without_a_gpu_it_says_why_there_are_no_times(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = model.with_suffix(".json")
    assert main(["check", str(model), "--env", "none", "--list-kernels", "--json", str(kept)]) == 0
    assert "Not timed: there is no GPU" in capsys.readouterr().out
    (result,) = json.loads(kept.read_text())["results"]
    assert (result["environments"][0]["times"], result["environments"][0]["not_timed"]) == (
        None,
        "there is no GPU",
    )


def test_times_are_shown_on_the_console_and_drawn_on_the_page(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = model.with_suffix(".html")
    assert main(["check", str(model), "--env", "gpu", "--list-kernels", "--html", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "An inference takes 1.500 ms on" in shown
    assert "its kernels, timed one by one, " in shown
    assert "0.2500 ms (" in shown
    assert '"ms":0.25' in page.read_text()


def test_kernels_of_one_name_share_its_time_and_unknown_names_are_kept_apart() -> None:
    kernels = tuple(Kernel(name, "kgen") for name in ("a", "b", "a", "c"))
    listed = KernelList(TENSORRT_RTX, "1.6.1.120", "inspector", kernels)
    times = timed(listed, {"a": 0.5, "b": 0.125, "reformat": 0.25}, "H200", None)
    assert times.kernel_ms == (0.25, 0.125, 0.25, None)
    assert (times.all_kernels_ms, times.other_ms) == (0.625, 0.25)

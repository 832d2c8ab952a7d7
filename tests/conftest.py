"""What tests of several rooms share."""

from __future__ import annotations

import signal
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, settings
from onnx import TensorProto, helper, numpy_helper
from tiny_cases import write_cases

# A busy machine is no fault of the code: no example and no strategy is timed.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

DOUBLED = Path(__file__).parent / "worker" / "doubled.py"

# A shell starts what it puts in the background with SIGINT ignored, and children inherit that: the tests that interrupt
# their children would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def tiny_cases(tmp_path: Path):
    """Write some of the tiny cases to a folder: `tiny_cases("clean", "failing")`."""

    def write(*names: str, folder: Path = tmp_path / "cases") -> Path:
        return write_cases(folder, *names)

    return write


@pytest.fixture
def doubled_environments(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    """Add environments with the double of TensorRT by name and variables: `add({"old": ["RELEASE=8.6.0"]})`.

    The working folder is empty but for their harness.toml.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path_factory.mktemp("s")))
    monkeypatch.chdir(tmp_path)
    wrapper = tmp_path / "python-doubled"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} "$@" --adapter {DOUBLED}\n')
    wrapper.chmod(0o755)

    def add(environments: dict[str, list[str]]) -> None:
        from harness.cli import main

        for name, variables in environments.items():
            settings = [word for variable in variables for word in ("--set", variable)]
            assert main(["env", "add", name, "--python", str(wrapper), *settings]) == 0

    return add


@pytest.fixture
def chain(tmp_path: Path):
    """Write a product of a 4 × 8 input, and operators of one input after it: `chain("Relu", "Sqrt")`."""

    def write(*operators: str) -> Path:
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 8]) for name in ("x", "y")]
        tensors = ["p", *(f"t{place}" for place in range(1, len(operators))), "y"]
        nodes = [helper.make_node("MatMul", ["x", "w"], ["p"], "product")]
        for operator, (read, written) in zip(operators, pairwise(tensors), strict=True):
            nodes.append(helper.make_node(operator, [read], [written], operator.lower()))
        weight = numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
        graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], [weight])
        path = tmp_path / "m.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return path

    return write

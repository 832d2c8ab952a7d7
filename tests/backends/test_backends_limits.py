"""Inferences of ONNX Runtime that take too long, or that a signal ends."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.backends import Reference
from harness.errors import ModelError, UsageError
from harness.model import load_model


def endless() -> onnx.ModelProto:
    """A Loop of 2^62 iterations."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Neg", ["v"], ["w"])],
        "body",
        [value("i", TensorProto.INT64, ()), value("go", TensorProto.BOOL, ()), value("v", 1, (4,))],
        [value("on", TensorProto.BOOL, ()), value("w", 1, (4,))],
    )
    constants = [
        numpy_helper.from_array(np.int64(1 << 62), "m"),
        numpy_helper.from_array(np.array(True), "c"),
    ]
    node = helper.make_node("Loop", ["m", "c", "x"], ["y"], body=body)
    graph = helper.make_graph([node], "g", [value("x", 1, (4,))], [value("y", 1, (4,))], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_an_inference_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_TIME_LIMIT", "1")
    begun = time.monotonic()
    with pytest.raises(ModelError, match=r"took more than 1.0 s .*HARNESS_TIME_LIMIT"):
        Reference(load_model(endless())).run({"x": np.ones(4, np.float32)})
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(("variable", "given"), [("HARNESS_TIME_LIMIT", "x"), ("HARNESS_THREADS", "0")])
def test_a_limit_that_is_no_number_is_refused(
    variable: str, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, given)
    with pytest.raises(UsageError, match=f"{variable}={given}: give a whole number of at least 1"):
        Reference(load_model(endless())).run({"x": np.ones(4, np.float32)})


def test_a_tensor_that_no_memory_holds_is_named_with_its_size() -> None:
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["x", "y"], ["p"], "outer"),
        helper.make_node("ReduceMax", ["p"], ["z"], "largest", keepdims=0),
    ]
    inputs = [value("x", 1, (2_000_000, 1)), value("y", 1, (1, 2_000_000))]
    graph = helper.make_graph(nodes, "g", inputs, [value("z", 1, ())])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    feeds = {"x": np.ones((2_000_000, 1), np.float32), "y": np.ones((1, 2_000_000), np.float32)}
    with pytest.raises(
        ModelError, match=r"memory does not suffice for 14901.2 GiB more at node 'outer' \(MatMul\)"
    ):
        Reference(load_model(model)).run(feeds)


def test_a_signal_ends_an_inference() -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    reference = Reference(load_model(endless()))
    before = signal.signal(signal.SIGALRM, interrupt)
    begun = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            reference.run({"x": np.ones(4, np.float32)})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - begun < 20
    assert not any(thread.name == "inference" for thread in threading.enumerate())

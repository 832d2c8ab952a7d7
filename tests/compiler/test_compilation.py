"""Asking a compiler, with a worker that only pretends: what is asked, what is kept, and what a crash costs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from harness.case import BuildOptions
from harness.compiler import ReportCache, compile_model, kernels_of
from harness.environments import Environment, Supervisor, WorkerLimits
from harness.errors import BuildFailedError, NothingSelectedError, UnsupportedByReleaseError
from harness.model import Model, load_model
from harness.tensors import Precision

LIMITS = WorkerLimits(compile=2.0, idle=1.0, memory_gib=1.0)
ADAPTER = Path(__file__).with_name("fake_compiler.py")


def named(name: str) -> Model:
    """A model of two nodes."""
    value = [helper.make_tensor_value_info(which, TensorProto.FLOAT, [2, 3]) for which in ("x", "y")]
    nodes = [helper.make_node("Relu", ["x"], ["h"], "relu"), helper.make_node("Exp", ["h"], ["y"], "exp")]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    proto.doc_string = name
    onnx.checker.check_model(proto)
    return load_model(proto, name=name)


class Asking:
    """One fake compiler, its cache and its count."""

    def __init__(self, folder: Path) -> None:
        self.count = folder / "asked"
        variables = (("COUNT", str(self.count)),)
        self.environment = Environment("rtx", (sys.executable,), variables=variables, limits=LIMITS)
        self.supervisor = Supervisor(self.environment, adapter=ADAPTER, keep_cache=False)
        self.cache = ReportCache(folder / "cache")

    def __call__(self, function, model: Model, precision: Precision = Precision.FP16, **fields):
        return function(
            model, precision, self.environment, supervisor=self.supervisor, cache=self.cache, **fields
        )

    @property
    def builds(self) -> int:
        return len(self.count.read_text().splitlines()) if self.count.exists() else 0


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Asking]:
    asking = Asking(tmp_path)
    yield asking
    asking.supervisor.close()


def test_the_typed_graph_is_compiled_with_its_casts(ask: Asking) -> None:
    (kernel,) = ask(kernels_of, named("m")).kernels
    assert kernel.onnx_nodes == ("x::fp16", "relu", "exp", "y::output")
    (kernel,) = ask(kernels_of, named("m"), Precision.FP32).kernels
    assert kernel.onnx_nodes == ("relu", "exp")


def test_a_second_question_is_answered_from_the_cache_and_another_one_is_not(ask: Asking) -> None:
    first = ask(compile_model, named("m"))
    assert ask(compile_model, named("m")) == first
    assert ask.builds == 1
    ask(compile_model, named("m"), Precision.BF16)
    ask(compile_model, named("m"), islands=["exp"])
    ask(compile_model, named("m"), options=BuildOptions(compute_capability="sm86"))
    ask(compile_model, named("m"), profiles={"x": ((1, 3), (2, 3), (4, 3))})
    ask(compile_model, named("other"))
    assert ask.builds == 6
    variables = (*ask.environment.variables, ("NVIDIA_TF32_OVERRIDE", "0"))
    ask.environment = replace(ask.environment, variables=variables)
    ask(compile_model, named("m"))
    assert ask.builds == 7


def test_a_damaged_report_is_asked_for_again(ask: Asking) -> None:
    first = ask(compile_model, named("m"))
    (file,) = ask.cache.folder.rglob("*.json")
    for text in ("", "{}", file.read_text().replace("gemm", '", "'), file.read_text()[:-5]):
        file.write_text(text)
        assert ask(compile_model, named("m")) == first
    assert ask.builds == 5


@pytest.mark.parametrize(
    ("name", "kind"), [("abort", "crashed"), ("hang", "timed_out"), ("large", "out_of_memory")]
)
def test_a_builder_that_takes_its_process_with_it_fails_that_model_alone(
    ask: Asking, name: str, kind: str
) -> None:
    report = ask(compile_model, named(name))
    assert not report.built
    assert report.failure is not None
    assert report.failure.kind == kind
    assert f"a compilation of {name} at fp16" in " ".join((report.failure.message, *report.failure.evidence))
    if kind != "out_of_memory":  # behind the stack of the worker, of which findings show nothing then
        words = ("[TensorRT error] no tactic for conv_3", "the last words of the builder")
        assert report.failure.evidence[-2:] == words
        assert any("fake_compiler.py" in line for line in report.failure.evidence[:-2])
    assert ask(compile_model, named("m")).built
    assert not ask(compile_model, named(name)).built
    assert ask.builds == 3, "what a machine did to a build is not kept"


def test_a_worker_without_a_gpu_ends_when_nobody_asks_it_anything(ask: Asking) -> None:
    ask(compile_model, named("m"))
    assert ask.supervisor.running
    deadline = time.monotonic() + 20
    while ask.supervisor.running and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not ask.supervisor.running
    assert ask(compile_model, named("other")).built, "and another is started"


def test_no_kernels_is_an_error_that_says_why(ask: Asking) -> None:
    with pytest.raises(UnsupportedByReleaseError, match=r"node 2 \('det', Det\): UNSUPPORTED_NODE"):
        ask(kernels_of, named("refused"))
    with pytest.raises(BuildFailedError, match="K exceeds 3840") as caught:
        ask(kernels_of, named("failed"))
    assert caught.value.evidence == ("topk: K",)
    with pytest.raises(BuildFailedError, match=r"TensorRT for RTX 1\.7\.1\.116 does not say which kernels"):
        ask(kernels_of, named("silent"))
    with pytest.raises(NothingSelectedError, match="nowhere"):
        ask(kernels_of, named("m"), islands=["nowhere"])

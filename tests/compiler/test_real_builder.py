"""The real builder of TensorRT for RTX, without a GPU: every bundled case, and what it refuses.

HARNESS_RTX_PYTHON names a Python that has `tensorrt_rtx`; without it these tests skip, and with HARNESS_RTX_REQUIRED,
which CI sets, they fail.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.backends import shape_ranges
from harness.case import BuildOptions, Case, load_cases, make_feeds, resolve_model
from harness.compiler import ReportCache, compile_model, kernels_of
from harness.environments import Environment, Supervisor
from harness.judge import profiles_of
from harness.model import LOW_DTYPE, Model, load_model, save_model, with_islands
from harness.tensors import Precision
from harness.worker.protocol import CompileReport

CASES = {case.name: case for case in load_cases(Path(__file__).parents[2] / "cases")}
PYTHON = os.environ.get("HARNESS_RTX_PYTHON")
HOW = (
    "python3 -m venv .venv-rtx && .venv-rtx/bin/pip install tensorrt-rtx==1.7.1.116 numpy && "
    "HARNESS_RTX_PYTHON=$PWD/.venv-rtx/bin/python python -m pytest tests/compiler"
)
#: What a release cannot build: a check in its code generator fails on INT8 convolutions.
UNBUILDABLE = {"quantised-conv": ("1.4.", "1.5.", "1.6.")}


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory):
    """Asks the real builder."""
    if PYTHON is None:
        (pytest.fail if os.environ.get("HARNESS_RTX_REQUIRED") else pytest.skip)(f"to run these: {HOW}")
    environment = Environment("rtx", (PYTHON,))
    supervisor = Supervisor(environment, keep_cache=False)
    cache = ReportCache(tmp_path_factory.mktemp("compiled"))

    def ask(function, model: Model, precision: Precision = Precision.FP32, **fields):
        return function(model, precision, environment, supervisor=supervisor, cache=cache, **fields)

    yield ask
    supervisor.close()


def report_of(compiler, case: Case, precision: Precision) -> tuple[Model, CompileReport]:
    model = load_model(resolve_model(case), name=case.name)
    (feeds, *_) = make_feeds(case, model.inputs)
    profiles = shape_ranges(model, feeds, profiles_of(case))
    return model, compiler(compile_model, model, precision, profiles=profiles)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.BF16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_every_bundled_case_is_parsed_built_and_listed(compiler, name: str, precision: Precision) -> None:
    model, report = report_of(compiler, CASES[name], precision)
    assert report.product == "TensorRT for RTX"
    assert report.refused == ()
    if report.release.startswith(UNBUILDABLE.get(name, ("none",))):
        assert report.failure is not None
        assert "MyelinCheckException" in report.failure.message
        return
    assert (report.failure, report.warnings) == (None, ())
    assert report.kernels is not None
    kernels = report.kernels.kernels
    written = {tensor.name for kernel in kernels for tensor in kernel.outputs}
    assert {info.name for info in model.outputs} <= written
    dtypes = {tensor.dtype for kernel in kernels for tensor in (*kernel.inputs, *kernel.outputs)}
    assert None not in dtypes
    if precision in LOW_DTYPE:
        assert precision.storage_dtype in dtypes
    graph = with_islands(model, precision)
    known = {node.name for node in graph.nodes}
    listed = {node for kernel in kernels for node in kernel.onnx_nodes}
    # Nodes of bodies have their own names; all others are nodes of the graph that was built.
    assert len(listed & known) >= 0.5 * len(known)
    if not any(node.op in ("If", "Loop", "Scan") for node in graph.nodes):
        assert listed <= known


BUILD_TWICE = """
import sys
import tensorrt_rtx as trt

logger = trt.Logger(trt.Logger.ERROR)
built = []
for debugged in (False, True):
    builder = trt.Builder(logger)
    network, config = builder.create_network(0), builder.create_builder_config()
    assert trt.OnnxParser(network, logger).parse_from_file(sys.argv[1])
    if debugged:
        assert network.mark_unfused_tensors_as_debug_tensors()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    built.append(bytes(builder.build_serialized_network(network, config)))
plain, debugged = built
assert len(plain) == len(debugged)
print([(one, other) for one, other in zip(plain, debugged) if one != other])
"""


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("name", ["attention", "conv-overflow", "rmsnorm-overflow", "whisper-encoder"])
def test_an_engine_with_debug_tensors_is_the_deployed_one_but_for_a_flag(name: str, tmp_path: Path) -> None:
    model = load_model(resolve_model(CASES[name]), name=name)
    path = save_model(with_islands(model, Precision.FP16), tmp_path / "typed.onnx")
    done = subprocess.run([PYTHON, "-c", BUILD_TWICE, path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[(0, 1)]"


def test_attention_is_one_kernel_from_product_to_product(compiler) -> None:
    _, report = report_of(compiler, CASES["attention"], Precision.FP16)
    assert report.kernels is not None
    fused = [kernel.onnx_nodes for kernel in report.kernels.kernels if kernel.kind == "_gemm_mha_v2"]
    assert [set(nodes) for nodes in fused] == [
        {f"l{layer}_qk", f"l{layer}_qk_scale", f"l{layer}_softmax", f"l{layer}_av"} for layer in range(3)
    ]


def model_of(
    nodes: list[onnx.NodeProto], *, inputs: dict[str, list[int]], outputs: list[str], **weights
) -> Model:
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    made = [helper.make_empty_tensor_value_info(name) for name in outputs]
    arrays = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", infos, made, arrays)
    return load_model(
        onnx.shape_inference.infer_shapes(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        )
    )


def test_every_node_that_the_parser_refuses_is_named(compiler) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("Det", ["r"], ["d"], "det_a"),
        helper.make_node("Det", ["x"], ["e"], "det_b"),
        helper.make_node("Add", ["d", "e"], ["y"], "add"),
    ]
    model = model_of(nodes, inputs={"x": [2, 3, 3]}, outputs=["y"])
    report = compiler(compile_model, model)
    assert [(node.index, node.name, node.op, node.code) for node in report.refused] == [
        (1, "det_a", "Det", "UNSUPPORTED_NODE"),
        (2, "det_b", "Det", "UNSUPPORTED_NODE"),
    ]
    assert (report.built, report.failure, report.kernels) == (False, None, None)


def test_what_only_the_build_refuses_is_a_failure_in_the_builders_words(compiler) -> None:
    node = helper.make_node("TopK", ["x", "k"], ["v", "i"], "top")
    k = np.array([4000], np.int64)
    report = compiler(compile_model, model_of([node], inputs={"x": [1, 8000]}, outputs=["v", "i"], k=k))
    assert report.refused == ()
    assert report.failure is not None
    assert report.failure.kind == "build_failed"
    assert "top: K exceeds the maximum value allowed (3840)" in report.failure.message.replace("top_0", "top")


def test_a_list_is_of_the_target_that_is_asked_for(compiler) -> None:
    model = load_model(resolve_model(CASES["rmsnorm-mlp"]))
    lists = {
        target: compiler(kernels_of, model, Precision.FP16, options=BuildOptions(compute_capability=target))
        for target in (None, "sm75", "sm86")
    }
    assert [lists[target].compute_capability for target in lists] == [None, "sm75", "sm86"]
    assert lists["sm86"].kernels == lists[None].kernels
    report = compiler(compile_model, model, options=BuildOptions(compute_capability="sm90"))
    assert report.failure is not None
    assert "cannot build for compute capability sm90: it has current, sm120" in report.failure.message


def recurrent(op: str, gates: int) -> Model:
    """A product, a ReLU, a recurrent node and a product; the ReLU and the last product have names of their own."""
    random = np.random.default_rng(1)
    shapes = {"m": (8, 8), "W": (1, 8 * gates, 8), "R": (1, 8 * gates, 8), "B": (1, 16 * gates)}
    nodes = [
        helper.make_node("MatMul", ["x", "m"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node(op, ["r", "W", "R", "B"], ["s"], "rec", hidden_size=8),
        helper.make_node("MatMul", ["s", "m"], ["y"], "last"),
    ]
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return model_of(nodes, inputs={"x": [4, 2, 8]}, outputs=["y"], **weights)


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16], ids=str)
@pytest.mark.parametrize(("op", "gates"), [("GRU", 3), ("LSTM", 4), ("RNN", 1)])
def test_what_is_refused_at_a_precision_stays_in_fp32(
    compiler, op: str, gates: int, precision: Precision
) -> None:
    report = compiler(compile_model, recurrent(op, gates), precision)
    assert (report.refused, report.failure) == ((), None)
    assert report.kept in ((), ("relu", "rec"))
    if (op, precision) == ("GRU", Precision.BF16):
        assert report.kept
    if report.kept:
        assert f"the parser refuses relu, rec at {precision}: kept in FP32" in report.warnings
    assert report.kernels is not None
    dtypes = {tensor.dtype for kernel in report.kernels.kernels for tensor in kernel.outputs}
    assert precision.storage_dtype in dtypes

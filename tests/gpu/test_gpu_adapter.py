"""The adapter with a real TensorRT on a real GPU.

    HARNESS_GPU_PYTHON=/opt/trt-kit/bin/python-trt-8.6.0 pytest tests/gpu/test_gpu_adapter.py -s

All builds share one process, since the first one of a process is the slow one.
"""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.worker import protocol
from harness.worker.protocol import (
    BuilderOptions,
    BuildRequest,
    InferRequest,
    LoadCache,
    NodeHint,
    Probe,
    SaveCache,
)

PYTHON = os.environ.get("HARNESS_GPU_PYTHON")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not PYTHON, reason="HARNESS_GPU_PYTHON names no Python with a TensorRT"),
]
#: cuBLAS and cuDNN may be missing where the kit for machines without a network is used.
OPTIONS = BuilderOptions(tactic_sources=("edge_mask_convolutions", "jit_convolutions"))
BLOCKS, WIDTH, LOUD, SCALE = 4, 128, 2, 600.0
#: Or TensorRT chooses FP32 for layers that are so small, and nothing overflows.
PINNED = replace(OPTIONS, pin_precision=True)
ISLAND = tuple(f"b{LOUD}_{name}" for name in ("pow", "mean", "addeps", "sqrt"))
TIME_LIMIT = 570


def weight(name: str, *shape: int, scale: float) -> onnx.TensorProto:
    random = np.random.default_rng(len(name) * 1000 + sum(map(ord, name)))
    return numpy_helper.from_array((random.normal(size=shape) * scale).astype(np.float32), name)


def constant(name: str, value: object, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any]) -> Path:
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def overflowing(path: Path) -> Path:
    """RMSNorm blocks; in one of them the activations are so large that their squares overflow FP16."""
    nodes, weights = [], [constant("two", 2.0), constant("eps", 1e-5), constant("loud", SCALE)]
    current = "x"
    for block in range(BLOCKS):

        def node(op: str, name: str, inputs: list[str], block: int = block, **attributes: object) -> str:
            output = f"b{block}_{name}"
            nodes.append(helper.make_node(op, inputs, [f"{output}_out"], name=output, **attributes))
            return f"{output}_out"

        start = current
        if block == LOUD:
            start = node("Mul", "scale", [start, "loud"])
        square = node("Pow", "pow", [start, "two"])
        mean = node("ReduceMean", "mean", [square], axes=[1], keepdims=1)
        root = node("Sqrt", "sqrt", [node("Add", "addeps", [mean, "eps"])])
        normed = node("Div", "div", [start, root])
        weights += [
            weight(f"w{block}a", WIDTH, 2 * WIDTH, scale=WIDTH**-0.5),
            weight(f"w{block}b", 2 * WIDTH, WIDTH, scale=(2 * WIDTH) ** -0.5),
        ]
        hidden = node("Relu", "relu", [node("MatMul", "up", [normed, f"w{block}a"])])
        current = node("Add", "add", [current, node("MatMul", "down", [hidden, f"w{block}b"])])
    nodes.append(helper.make_node("Identity", [current], ["y"], name="end"))
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [16, WIDTH]) for name in ("x", "y")]
    return save(path, nodes, info[:1], info[1:], weights)


def convolutions(path: Path) -> Path:
    """A convolution and its activation, four times; the batch is dynamic."""
    nodes, weights, current = [], [], "x"
    for index in range(4):
        channels = 3 if index == 0 else 32
        weights.append(weight(f"k{index}", 32, channels, 3, 3, scale=(channels * 9) ** -0.5))
        nodes.append(
            helper.make_node("Conv", [current, f"k{index}"], [f"c{index}"], name=f"conv{index}", pads=[1] * 4)
        )
        current = f"a{index}" if index < 3 else "y"
        nodes.append(helper.make_node("Relu", [f"c{index}"], [current], name=f"relu{index}"))
    info = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 32, 32, 32]),
    ]
    return save(path, nodes, info[:1], info[1:], weights)


def gathering(path: Path) -> Path:
    """An int64 input and a boolean tensor inside."""
    nodes = [
        helper.make_node("Gather", ["x", "index"], ["g"], name="pick", axis=0),
        helper.make_node("Greater", ["g", "zero"], ["mask"], name="positive"),
        helper.make_node("Where", ["mask", "g", "zero"], ["s"], name="select"),
        helper.make_node("Relu", ["s"], ["a"], name="relu"),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 6]),
        helper.make_tensor_value_info("index", TensorProto.INT64, [3]),
    ]
    outputs = [
        helper.make_tensor_value_info("a", TensorProto.FLOAT, [3, 6]),
    ]
    return save(path, nodes, inputs, outputs, [constant("zero", 0.0)])


def recurrent(path: Path) -> Path:
    """An LSTM, which TensorRT imports as a loop."""
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["states"], name="lstm", hidden_size=16),
        helper.make_node("Relu", ["states"], ["y"], name="relu"),
    ]
    info = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 2, 8]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 1, 2, 16]),
    ]
    weights = [weight("w", 1, 64, 8, scale=0.3), weight("r", 1, 64, 16, scale=0.3)]
    return save(path, nodes, info[:1], info[1:], weights)


class Script:
    """Steps for `adapter_steps.py`, and their answers by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[dict[str, Any]] = []
        self.names: list[str] = []
        self.answers: dict[str, dict[str, Any]] = {}

    def add(self, name: str, message: Any) -> None:
        self.names.append(name)
        self.steps.append(protocol.message_to_json(message))

    def build(self, name: str, path: Path, precision: str, feeds: dict[str, Any], **fields: Any) -> None:
        graph = onnx.load(path).graph
        nodes = tuple(NodeHint(n.name, n.op_type, tuple(filter(None, n.output))) for n in graph.node)
        request = BuildRequest(str(path), precision, **{"nodes": nodes, "options": OPTIONS, **fields})
        self.add(name, request)
        inputs = self.folder / f"{name}.in"
        protocol.write_tensor_file(
            str(inputs), {key: protocol.Tensor(array, str(array.dtype)) for key, array in feeds.items()}
        )
        run = InferRequest("last", str(inputs), str(self.folder / f"{name}.out"), repeats=20, profile=True)
        self.add(f"{name}:run", run)

    def run(self) -> None:
        steps, answers = self.folder / "steps.json", self.folder / "answers.json"
        steps.write_text(json.dumps(self.steps))
        command = [str(PYTHON), str(Path(__file__).with_name("adapter_steps.py")), str(steps), str(answers)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
        print(done.stdout[-20000:])
        found = json.loads(answers.read_text()) if answers.exists() else []
        self.answers = dict(zip(self.names, found, strict=False))
        assert done.returncode == 0, done.stderr[-3000:]
        assert len(found) == len(self.steps)

    def built(self, name: str) -> dict[str, Any]:
        answer = self.answers[name]
        assert answer["type"] == "BuildReply", answer
        return answer

    def tensors(self, name: str) -> dict[str, protocol.Tensor]:
        self.built(name)
        answer = self.answers[f"{name}:run"]
        assert answer["type"] == "InferReply", answer
        return protocol.read_tensor_file(answer["outputs_path"])


def reference(path: Path, feeds: dict[str, Any], names: list[str]) -> dict[str, np.ndarray]:
    model = onnx.load(path)
    present = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, feeds), strict=True))


def feeds_of(model: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    shape = {"loud": (16, WIDTH), "conv": (2, 3, 32, 32), "gather": (8, 6), "lstm": (5, 2, 8)}[model]
    feeds = {"x": random.normal(size=shape).astype(np.float32)}
    if model == "gather":
        feeds["index"] = np.array([5, 0, 7])
    return feeds


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "loud": overflowing(folder / "loud.onnx"),
        "conv": convolutions(folder / "conv.onnx"),
        "gather": gathering(folder / "gather.onnx"),
        "lstm": recurrent(folder / "lstm.onnx"),
    }


@pytest.fixture(scope="module")
def marks(models: dict[str, Path]) -> tuple[str, ...]:
    return tuple(name for node in onnx.load(models["loud"]).graph.node for name in node.output if name != "y")


@pytest.fixture(scope="module")
def script(
    models: dict[str, Path], marks: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Script:
    script = Script(tmp_path_factory.mktemp("script"))
    loud, conv = feeds_of("loud"), feeds_of("conv")
    profiles = {"x": ((1, 3, 32, 32), (2, 3, 32, 32), (4, 3, 32, 32))}
    script.add("probe", Probe())
    script.build("loud-fp32", models["loud"], "fp32", loud)
    script.build("loud-fp16", models["loud"], "fp16", loud, options=PINNED)
    script.build("loud-again", models["loud"], "fp16", loud, options=PINNED)
    script.build(
        "loud-typed",
        models["loud"],
        "fp16",
        loud,
        options=PINNED,
        observation="typed",
        marks=marks,
        mark_dtype="float16",
    )
    script.build("loud-plain", models["loud"], "fp16", loud, options=PINNED, observation="typed", marks=marks)
    script.build("loud-island", models["loud"], "fp16", loud, options=PINNED, islands=ISLAND)
    script.build(
        "loud-both",
        models["loud"],
        "fp16",
        loud,
        options=PINNED,
        islands=ISLAND,
        observation="typed",
        marks=marks,
        mark_dtype="float16",
    )
    script.build("conv-fp32", models["conv"], "fp32", conv, profiles=profiles)
    script.build("conv-fp16", models["conv"], "fp16", conv, profiles=profiles, options=PINNED)
    script.build("gather", models["gather"], "fp32", feeds_of("gather"), observation="typed", marks=("g",))
    script.build("lstm", models["lstm"], "fp32", feeds_of("lstm"), observation="typed", marks=("states",))
    script.build("bf16", models["conv"], "bf16", conv, profiles=profiles)
    script.build("debug", models["loud"], "fp16", loud, options=PINNED, observation="debug")
    script.add("save", SaveCache(str(script.folder / "timing.cache")))
    script.add("load", LoadCache(str(script.folder / "timing.cache")))
    script.build("after-load", models["conv"], "fp16", conv, profiles=profiles)
    script.run()
    return script


def error(script: Script, name: str, expected: np.ndarray) -> float:
    actual = script.tensors(name)["y"].array.astype(np.float64)
    return float(np.nanmax(np.abs(actual - expected))) if np.isfinite(actual).any() else float("inf")


def test_the_probe_knows_the_machine(script: Script) -> None:
    probe = script.answers["probe"]
    print(json.dumps(probe, indent=1))
    assert probe["builder_ok"]
    assert not probe["problems"]
    assert probe["gpu"]
    assert float(probe["compute_capability"]) >= 7
    assert probe["total_bytes"] > probe["free_bytes"] > 0


def test_fp32_is_fp32(script: Script, models: dict[str, Path]) -> None:
    for name, model in (("loud-fp32", "loud"), ("conv-fp32", "conv"), ("lstm", "lstm")):
        expected = reference(models[model], feeds_of(model), ["y"])["y"]
        assert error(script, name, expected) < 1e-3, name
        assert not script.built(name)["facts"]["warnings"]


def test_marks_of_the_dtype_under_test_see_what_happens(
    script: Script, models: dict[str, Path], marks: tuple[str, ...]
) -> None:
    expected = reference(models["loud"], feeds_of("loud"), ["y"])["y"]
    errors = {
        name: error(script, name, expected)
        for name in (
            "loud-fp32",
            "loud-fp16",
            "loud-again",
            "loud-typed",
            "loud-plain",
            "loud-island",
            "loud-both",
        )
    }
    print("largest error of y:", json.dumps(errors, indent=1))
    typed = script.tensors("loud-typed")
    print(
        "not finite:", [name for name in marks if name in typed and not np.isfinite(typed[name].array).all()]
    )
    skipped = script.built("loud-typed")["facts"]["skipped_marks"]
    assert {typed[name].dtype for name in marks if name not in skipped} == {"float16"}
    assert not np.isfinite(typed[f"b{LOUD}_pow_out"].array).all(), "the planted overflow"
    assert np.isfinite(typed["b0_pow_out"].array).all()
    assert errors["loud-island"] < errors["loud-fp16"] / 3
    assert errors["loud-typed"] == pytest.approx(errors["loud-fp16"], rel=0.1), "faithful"


def test_an_island_is_in_fp32_and_marked_so(script: Script) -> None:
    built = script.built("loud-island")
    print(json.dumps(built["facts"]["realised"], indent=1), built["facts"]["warnings"])
    assert set(built["facts"]["realised"]["islands"]) == set(ISLAND)
    assert all(built["facts"]["realised"]["islands"].values())
    assert built["facts"]["realised"]["islands_ok"] is not False
    both = script.tensors("loud-both")
    for name in ISLAND:
        assert both[f"{name}_out"].dtype == "float32"
        assert np.isfinite(both[f"{name}_out"].array).all()


def test_the_layers_of_an_engine_are_known(script: Script) -> None:
    for name in ("conv-fp32", "conv-fp16"):
        built = script.built(name)
        print(name, json.dumps(built["facts"]["realised"]))
        for layer in built["facts"]["layers"]:
            print("  ", json.dumps(layer))
        nodes = {node for layer in built["facts"]["layers"] for node in layer["onnx_nodes"]}
        assert {f"conv{index}" for index in range(4)} <= nodes
        assert built["facts"]["realised"]["asserted"]


def test_times_are_measured(script: Script) -> None:
    run = script.answers["conv-fp16:run"]
    print(run["latency"], run["layer_ms"])
    assert 0 < run["latency"]["median_ms"] <= run["latency"]["p99_ms"] < 1000
    assert run["latency"]["n"] == 20
    assert set(run["layer_ms"]) <= {layer["name"] for layer in script.built("conv-fp16")["facts"]["layers"]}


def test_a_later_build_is_faster_than_the_first(script: Script) -> None:
    seconds = {
        name: script.built(name)["facts"]["build_seconds"]
        for name in ("loud-fp32", "loud-fp16", "loud-again")
    }
    print("build seconds:", seconds)
    assert seconds["loud-again"] < seconds["loud-fp32"]


def test_integers_come_through(script: Script, models: dict[str, Path]) -> None:
    expected = reference(models["gather"], feeds_of("gather"), ["a", "g"])
    found = script.tensors("gather")
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name].array, value)


def test_what_the_release_lacks_is_said(script: Script) -> None:
    capabilities = script.answers["probe"]["capabilities"]
    for name, feature in (("bf16", "bf16"), ("debug", "debug_tensors")):
        answer = script.answers[name]
        if feature in capabilities:
            assert answer["type"] == "BuildReply", answer
        else:
            assert (answer["type"], answer["kind"]) == ("Error", "unsupported"), answer


def test_a_timing_cache_from_a_file_is_taken_or_dropped(script: Script) -> None:
    print("refused when loaded:", script.answers["load"]["cache_refused"])
    print("refused in the build:", script.built("after-load")["cache_refused"])
    assert script.answers["load"]["type"] == "Done"
    assert (script.folder / "timing.cache").stat().st_size > 0

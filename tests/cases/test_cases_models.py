"""The bundled models: what every builder promises, for each case file that is shipped."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from ruamel.yaml import YAML

from cases import models
from cases.models.graph import Graph, seeded_uniform
from harness.case import load_case

ROOT = Path(__file__).parents[2]
CASES = sorted((ROOT / "cases").glob("*.case.yaml"))


@cache
def _document(path: Path) -> dict:
    return YAML(typ="safe", pure=True).load(path)


def _builder(path: Path) -> tuple[str, dict]:
    source = _document(path)["model"]
    return source["builder"].removeprefix("models:"), source["args"]


def _build(path: Path) -> onnx.ModelProto:
    for name in load_case(path).required_packages:
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    function, args = _builder(path)
    return getattr(models, function)(**args)


@cache
def _model(path: Path) -> onnx.ModelProto:
    return _build(path)


def _digest(model: onnx.ModelProto) -> str:
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


each_case = pytest.mark.parametrize("path", CASES, ids=lambda path: path.name.removesuffix(".case.yaml"))


@each_case
def test_model_passes_the_full_check(path):
    onnx.checker.check_model(_model(path), full_check=True)


@each_case
def test_model_is_one_that_tensorrt_8_5_reads_or_its_case_requires_a_newer_one(path):
    model, case = _model(path), load_case(path)
    assert model.ir_version <= 9
    newest = 17 if case.allows_release("8.6.0") else 20
    assert [(entry.domain, entry.version <= newest) for entry in model.opset_import] == [("", True)]


@each_case
def test_nodes_and_tensors_have_names_of_their_own(path):
    nodes = [node for graph in _graphs(_model(path).graph) for node in graph.node]
    names = [node.name for node in nodes]
    tensors = [name for node in nodes for name in node.output if name]
    assert all(names)
    assert len(set(names)) == len(names)
    assert len(set(tensors)) == len(tensors)


@each_case
def test_first_tensor_is_named_after_its_node(path):
    for graph in _graphs(_model(path).graph):
        for node in graph.node:
            # What ONNX Runtime's quantiser adds, it names itself.
            added = node.op_type in ("QuantizeLinear", "DequantizeLinear")
            assert node.output[0] == node.name + ("_Output" if added else "")


@each_case
def test_every_initializer_is_read(path):
    for graph in _graphs(_model(path).graph):
        read = {name for inner in _graphs(graph) for node in inner.node for name in node.input}
        assert {tensor.name for tensor in graph.initializer} <= read


@each_case
def test_expected_origins_are_nodes_of_the_model(path):
    nodes = {node.name for node in _model(path).graph.node}
    failing = [run for run in _document(path)["runs"] if isinstance(run, dict)]
    assert bool(failing) == ("faulty" in _document(path)["tags"])
    for run in failing:
        assert run["origin"] in nodes


@each_case
def test_building_twice_gives_the_same_bytes(path):
    assert _digest(_build(path)) == _digest(_model(path))


def test_another_process_builds_the_same_bytes():
    paths = [path for path in CASES if "borrowed" not in _document(path)["tags"]]
    script = (
        "import hashlib, json, sys\n"
        "from cases import models\n"
        "for function, args in json.load(sys.stdin):\n"
        "    model = getattr(models, function)(**args)\n"
        "    print(hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps([_builder(path) for path in paths]),
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [_digest(_model(path)) for path in paths]


@each_case
def test_another_seed_gives_other_weights(path):
    function, args = _builder(path)
    other = getattr(models, function)(**{**args, "seed": 1})
    assert _digest(other) != _digest(_model(path))


@pytest.mark.parametrize(
    ("function", "harmless", "fault"),
    [
        ("rmsnorm_mlp", {}, {"scale": 600.0}),
        ("rmsnorm_mlp", {}, {"scale": 5e-5, "epsilon": 0.0}),
        ("residual_growth", {}, {"growth": 2.0}),
        ("attention_encoder", {}, {"logit_scale": 65536.0}),
        ("attention_encoder", {"softmax_shift": 0.0}, {"softmax_shift": 10.0}),
        ("conv_residual", {}, {"scale": 131072.0}),
    ],
)
def test_clean_twin_differs_in_constants_only(function, harmless, fault):
    clean, faulty = (getattr(models, function)(**args) for args in (harmless, fault))
    assert clean.graph.node == faulty.graph.node
    assert clean.graph.initializer != faulty.graph.initializer


def test_grid_sample_tells_linear_from_nearest_at_opset_20():
    import onnxruntime

    model = models.grid_sample()
    assert model.opset_import[0].version == 20
    (sample,) = [node for node in model.graph.node if node.op_type == "GridSample"]
    (mode,) = [attribute for attribute in sample.attribute if attribute.name == "mode"]
    assert mode.s == b"linear"
    (grid,) = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == sample.input[1]]
    assert np.array_equal(grid * 64, np.round(grid * 64)), "TF32, FP16 and bfloat16 hold the same grid"
    image = seeded_uniform(0, "image", (2, 3, 16, 16), 1.0)

    def run() -> np.ndarray:
        return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"image": image})[0]

    linear = run()
    mode.s = b"nearest"
    nearest = run()
    assert np.sqrt(np.mean((nearest - linear) ** 2) / np.mean(linear**2)) > 0.5


def test_rmsnorm_mlp_has_132_nodes_at_opset_13():
    model = models.rmsnorm_mlp()
    assert len(model.graph.node) == 132
    assert model.opset_import[0].version == 13


def test_quantised_conv_has_a_pair_before_each_convolution():
    graph = models.quantised_conv().graph
    writers = {node.output[0]: node for node in graph.node}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 3
    for node in convolutions:
        for name in node.input[:2]:
            assert writers[name].op_type == "DequantizeLinear"
            assert writers[writers[name].input[0]].op_type == "QuantizeLinear"


def test_quantised_activations_have_scales_that_are_powers_of_two():
    graph = models.quantised_conv().graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    activations = [n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] not in constants]
    assert activations
    for node in activations:
        assert np.frexp(constants[node.input[1]])[0] == 0.5
        assert constants[node.input[2]] == 0


def test_weights_depend_on_their_own_name_and_not_on_their_neighbours():
    alone = seeded_uniform(0, "a", (3,), 1.0)
    graph = Graph("g")
    graph.weight("b", (5,), 1.0)
    graph.weight("a", (3,), 1.0)
    assert np.array_equal(graph.initializer("a"), alone)
    assert not np.array_equal(seeded_uniform(1, "a", (3,), 1.0), alone)


def test_weights_are_these_numbers_on_every_platform():
    assert seeded_uniform(0, "pin", (4,), 1.0).tobytes().hex() == "3ed7d0bf8b29ab3fe5ac50bfa4a22bbf"


def test_a_constant_cannot_be_added_again_with_another_value():
    graph = Graph("g")
    graph.constant("c", 1.0)
    graph.constant("c", 1.0)
    with pytest.raises(ValueError, match="'c' exists with another value"):
        graph.constant("c", 2.0)


def test_if_branches_takes_both_branches():
    from harness.case import load_case, make_feeds
    from harness.model import load_model

    case = load_case(ROOT / "cases" / "if-branches.case.yaml")
    feeds = make_feeds(case, load_model(models.branches()).inputs)
    assert {int(sample["wide"][0]) for sample in feeds} == {0, 1}

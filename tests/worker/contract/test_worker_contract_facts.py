"""Every field of every type of facts is filled somewhere, and read somewhere: no fact is computed and then lost."""

from __future__ import annotations

import ast
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from contract_rig import Rig, feed
from onnx import TensorProto, helper

import harness
from harness.backends import Observation, Plan, TensorRTCandidate, Timing
from harness.case import BuildOptions
from harness.environments import Environment, Supervisor
from harness.model import load_model
from harness.tactics import PinnedCandidate, export_pins, load_pins, record_of
from harness.tensors import Precision
from harness.worker.protocol import BuilderOptions, TacticOrders, facts, hexadecimal, tactics

PACKAGE = Path(harness.__file__).parent
DOUBLE = Path(__file__).parents[1] / "doubled.py"
PINNED = BuildOptions(pin_precision=True)
TYPES = [
    kind
    for module in (facts, tactics)
    for kind in vars(module).values()
    if dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__
]
FIELDS = {f"{kind.__name__}.{field.name}" for kind in TYPES for field in dataclasses.fields(kind)}

ORDERS = "an order of the host, which the worker reads"
IN_JSON = "for readers of the JSON of a run"
IN_PINS = "for the program that builds with pins, and for readers of the JSON of a record"
UNREAD = {
    "TacticOrders.cache_path": ORDERS,
    "TacticOrders.save_cache_path": ORDERS,
    "TacticOrders.strict": ORDERS,
    "LayerInfo.fused_members": IN_JSON,
    "LayerInfo.input_dtypes": IN_JSON,
    "LayerInfo.output_dtypes": IN_JSON,
    "LayerInfo.tactic_id": IN_JSON,
    "Latency.n": IN_JSON,
    "EngineFacts.internal_names": IN_JSON,
    "Choice.milliseconds": IN_PINS,
    "TacticReport.contradicted": IN_PINS,
    "TacticReport.offered": IN_PINS,
    "TensorForm.components": IN_PINS,
    "TensorForm.vectorized_dim": IN_PINS,
}
"""Fields that only the worker or a user reads, each with the reason."""


def filled(value: Any) -> Iterator[str]:
    """`Type.field` of each field in `value`, and in what it holds, that is not what it is by default."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple):
        for item in value:
            yield from filled(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            found = getattr(value, field.name)
            default = field.default_factory() if callable(field.default_factory) else field.default
            if found != default:
                yield f"{type(value).__name__}.{field.name}"
                yield from filled(found)


def names_read() -> set[str]:
    """The attributes that harness reads outside of the worker."""
    return {
        node.attr
        for path in PACKAGE.rglob("*.py")
        if "worker" not in path.relative_to(PACKAGE).parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def of_the_adapter(models: dict[str, Path], folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Facts of engines that go as few do: relaxed, opaque, debugged, with tactics that were not taken."""
    import trt_runtime
    import trt_tuning

    relaxed = Rig("8.6.0", models, folder)
    relaxed.world.break_build = lambda network: (
        "No supported formats"
        if any(layer._name == "relu1" and layer._precision == "HALF" for layer in network._layers)
        else None
    )
    pinned = {"typing": "weak", "options": BuilderOptions(pin_precision=True)}
    yield relaxed.build("conv", "fp16", islands=("conv1",), **pinned).facts
    hidden = Rig("8.6.0", models, folder)
    hidden.world.opaque = True
    yield hidden.build("conv", "fp16", islands=("conv1",)).facts
    debugged = Rig("10.13.3.9", models, folder)
    yield debugged.build("mixed", "fp16", observation="debug", marks=("sq",)).facts
    yield Rig("8.6.0", models, folder).build("mixed", observation="typed", marks=("nowhere",)).facts
    cached = Rig("11.4.0.106", models, folder)
    known = cached.build("conv", tactics=TacticOrders(alternatives=9)).facts.tactics
    assert known is not None
    yield cached.build("conv", tactics=TacticOrders(forbid=known.choices)).facts
    rig = Rig("8.6.0", models, folder)
    with_choices = rig.build("conv", tactics=TacticOrders(alternatives=9)).facts
    yield with_choices
    assert with_choices.tactics is not None
    impossible = replace(with_choices.tactics.choices[0], tactic=hexadecimal(12345))
    yield rig.build("conv", tactics=TacticOrders(force=(impossible,))).facts
    patch.setattr(trt_runtime, "_entry", _another_tactic(trt_runtime._entry))
    yield rig.build("conv", tactics=TacticOrders()).facts
    patch.setattr(trt_tuning.IAlgorithmContext, "get_shape", lambda self, index: 3)
    yield Rig("8.6.0", models, folder).build("conv", tactics=TacticOrders()).facts


def _another_tactic(entry: Any) -> Any:
    def lie(*arguments: Any) -> dict[str, Any]:
        return {**entry(*arguments), "TacticName": "sm90_other", "TacticValue": "0x00000000000000ff"}

    return lie


def of_candidates(folder: Path, models: dict[str, Path]) -> Iterator[Any]:
    """Facts of evaluations on real workers: timed, observed, pinned."""
    for release in ("8.6.0", "10.13.3.9"):
        environment = Environment(release, (sys.executable,), variables=(("RELEASE", release),))
        supervisor = Supervisor(environment, adapter=DOUBLE, keep_cache=False)
        try:
            yield from _evaluations(environment, supervisor, models, folder)
        finally:
            supervisor.close()


def half_throughout() -> onnx.ModelProto:
    """A file that has no FP32 to make anything else of."""
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="relu")]
    inputs, outputs = ([value(name, TensorProto.FLOAT16, (1, 4))] for name in "xy")
    graph = helper.make_graph(nodes, "half", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _evaluations(
    environment: Environment, supervisor: Supervisor, models: dict[str, Path], folder: Path
) -> Iterator[Any]:
    def candidate(name: str, kind: type = TensorRTCandidate, **options: Any) -> TensorRTCandidate:
        return kind(environment, load_model(models[name]), supervisor=supervisor, **options)

    plan = Plan(Precision.FP16, build=PINNED)
    timed = candidate("dynamic", timing=Timing(repeats=3, layers=True))
    yield timed.evaluate(replace(plan, tactics=TacticOrders()), feed("dynamic")).facts
    marks = {"observation": Observation.TYPED, "marks": frozenset({"sq"})}
    yield candidate("mixed").evaluate(replace(plan, **marks), feed("mixed")).facts
    if "debug_tensors" in supervisor.probe().capabilities:
        debug = replace(plan, observation=Observation.DEBUG)
        yield candidate("mixed").evaluate(debug, feed("mixed")).facts
    plain, feeds = candidate("conv"), feed("conv")
    if "strong" in supervisor.probe().capabilities:
        typed, strong = candidate("conv"), Plan(Precision.FP16, build=BuildOptions(typing="strong"))
        assert typed.requests.keep(strong, ["conv1"]), "as if the parser had refused it"
        yield typed.evaluate(strong, feeds).facts
        half = TensorRTCandidate(environment, load_model(half_throughout()), supervisor=supervisor)
        bf16 = Plan(Precision.BF16, build=BuildOptions(typing="strong"))
        yield half.evaluate(bf16, {"x": np.ones((1, 4), np.float16)}).facts
    recorded = replace(plan, tactics=TacticOrders())
    record = record_of(plain.evaluate(recorded, feeds), recorded, plain.model.sha256)
    assert record is not None
    pins = load_pins(export_pins(record, folder / f"pins-{environment.name}"))
    yield candidate("conv", PinnedCandidate, pins=[pins]).evaluate(plan, feeds).facts


def test_every_fact_is_filled(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path))
    found = set(filled(tuple(of_candidates(tmp_path, models))))
    found |= set(filled(tuple(of_the_adapter(models, tmp_path, monkeypatch))))
    empty = {name for name in FIELDS - found if not name.startswith("TacticOrders.")}  # the host's own
    assert not empty, f"no engine of the doubles fills {', '.join(sorted(empty))}"


def test_every_fact_is_read() -> None:
    read = names_read()
    unread = {name for name in FIELDS if name.partition(".")[2] not in read}
    assert not unread - set(UNREAD), f"nobody reads {', '.join(sorted(unread - set(UNREAD)))}"
    assert not set(UNREAD) - unread, "an exception that nobody needs"

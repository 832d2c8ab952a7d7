"""Engines that go wrong on purpose, for what no CPU can be made to do: fusions, tactics, wrong conversions.

An engine is the emulator of a model in which one node's output can be falsified. When it is, is what a test says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from harness.backends import Candidate, Emulator, Evaluation, Observation, ObservedEngine, Plan, Timing
from harness.errors import BuildFailedError, WorkerCrashedError
from harness.model import Model, load_model
from harness.tensors import Precision
from harness.worker.protocol import (
    TENSORRT_RTX,
    TF32_OFF,
    TF32_ON,
    TF32_STAYS,
    EngineFacts,
    Fingerprint,
    Latency,
    LayerInfo,
    ProbeReply,
    RealisedPrecision,
)

SWITCH = "falsified"


@dataclass(frozen=True)
class Build:
    """One build: its number, from 1, and what it was asked for."""

    number: int
    plan: Plan


def when_lowered(node: str) -> Callable[[Build], bool]:
    """Wrong at FP16 unless the node is kept in FP32."""
    return lambda build: build.plan.precision is Precision.FP16 and node not in build.plan.islands


def when_fused(node: str, tensor: str) -> Callable[[Build], bool]:
    """Wrong at FP16 unless the tensor is marked, or the node kept in FP32."""

    def wrong(build: Build) -> bool:
        plan = build.plan
        everything = plan.observation is Observation.TYPED and not plan.marks
        return when_lowered(node)(build) and not everything and tensor not in plan.marks

    return wrong


@dataclass
class FakeEngine(Candidate):
    """A candidate whose engines falsify `node` whenever `wrong` says so.

    Args:
        model: the model.
        node: the node whose output is falsified.
        wrong: decided at each build.
        rounds: whether FP16 rounds at all; without it the engine computes in FP32.
        tactics: by build, the tactic of its only layer.
        breaks: plans that cannot be built.
        crashes: numbers of the evaluations in which the worker dies.
        product: what it is built with; None is TensorRT, as of a worker that does not say.
        release: the version of it.
        typing: `weak` or `strong`.
        between: the debug tensors that it has between its kernels; None: it has no debug tensors.
    """

    model: Model
    node: str
    wrong: Callable[[Build], bool]
    rounds: bool = True
    tactics: Callable[[Build], str] | None = None
    breaks: Callable[[Plan], bool] = lambda plan: False
    crashes: frozenset[int] = frozenset()
    product: str | None = None
    release: str = "8.6.0"
    typing: str = "weak"
    between: frozenset[str] | None = None
    name: str = "fake"
    builds: int = 0
    evaluations: int = 0
    plans: list[Plan] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._engines: dict[Plan, Build] = {}
        self._emulator = Emulator(falsifiable(self.model, self.node))

    def fingerprint(self) -> Fingerprint:
        return Fingerprint(self.name, self.release, product=self.product)

    def probe(self) -> ProbeReply | None:
        if self.between is None:
            return None
        return ProbeReply(self.release, builder_ok=True, capabilities=("unfused_debug_tensors",))

    def evaluate(
        self, plan: Plan, feeds: Mapping[str, np.ndarray], *, timing: Timing | None = None
    ) -> Evaluation:
        self.evaluations += 1
        if self.evaluations in self.crashes:
            self._engines.clear()
            raise WorkerCrashedError("the worker died", signal=9)
        if self.breaks(plan):
            raise BuildFailedError("no implementation", evidence=("[E] no implementation",))
        made = plan not in self._engines
        if made:
            self.builds += 1
            self._engines[plan] = Build(self.builds, plan)
            self.plans.append(plan)
        build = self._engines[plan]
        tensors = self._run(build, feeds)
        outputs = {info.name: tensors[info.name] for info in self.model.outputs}
        watched = (
            () if plan.observation is Observation.NONE else (ObservedEngine(frozenset(tensors), outputs),)
        )
        tactic = None if self.tactics is None else self.tactics(build)
        median = 1.0 + 0.1 * len(plan.islands)
        facts = EngineFacts(
            fingerprint=self.fingerprint(),
            typing=self.typing,
            builds=int(made),
            build_seconds=0.1,
            engine_bytes=1,
            layers=(LayerInfo(f"layer {self.node}", onnx_nodes=(self.node,), tactic=tactic),),
            latency=Latency(median, median, 1) if timing is not None and timing.repeats else None,
        )
        return Evaluation(tensors, facts, watched)

    def close(self) -> None:
        self._engines.clear()

    def _run(self, build: Build, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        plan = build.plan
        names = [info.name for info in self.model.outputs]
        if plan.observation is not Observation.NONE:
            seen = self.between if plan.observation is Observation.DEBUG else plan.marks
            names += sorted((seen or frozenset(self.model.float_tensors)) - set(names))
        lowered = set(self._emulator.units(plan.precision)) - plan.islands - {SWITCH}
        switch = np.float32(1.0 if self.wrong(build) else 0.0)
        feeds = {**feeds, SWITCH: np.asarray(switch)}
        return self._emulator.run(
            feeds, plan.precision, lowered=lowered if self.rounds else (), tensors=names
        )


@dataclass
class Rougher(FakeEngine):
    """An engine that errs as the emulator does, but `factor` times as much."""

    factor: float = 1.25

    def _run(self, build: Build, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        low = super()._run(build, feeds)
        nothing = replace(build.plan, islands=frozenset(self._emulator.units(build.plan.precision)))
        exact = super()._run(Build(build.number, nothing), feeds)
        return {name: exact[name] + self.factor * (value - exact[name]) for name, value in low.items()}


@dataclass
class InTf32(FakeEngine):
    """An engine of TensorRT for RTX: products of FP32 are in TF32, and GridSample takes the nearest if `nearest`.

    `tf32` is what the worker says of that; `off` computes FP32 as FP32 unless TF32 is asked for. `cuts`: its narrow
    convolutions round toward zero, as those of engines were measured to.
    """

    tf32: str = TF32_STAYS
    nearest: bool = False
    cuts: bool = False
    product: str | None = TENSORRT_RTX
    release: str = "1.4.0.76"
    typing: str = "strong"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nearest or self.cuts:
            model = sampling_nearest(self.model) if self.nearest else self.model
            self._emulator = Emulator(falsifiable(model, self.node), as_kernels=self.cuts)

    def evaluate(
        self, plan: Plan, feeds: Mapping[str, np.ndarray], *, timing: Timing | None = None
    ) -> Evaluation:
        found = super().evaluate(plan, feeds, timing=timing)
        assert isinstance(found.facts, EngineFacts)
        says = TF32_ON if self._rounds(plan) and self.tf32 == TF32_OFF else self.tf32
        return replace(found, facts=replace(found.facts, realised=RealisedPrecision(tf32=says)))

    def _rounds(self, plan: Plan) -> bool:
        return self.tf32 != TF32_OFF or bool(plan.build.tf32) or plan.precision is Precision.TF32

    def _run(self, build: Build, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if build.plan.precision is Precision.FP32 and self._rounds(build.plan):
            build = Build(build.number, replace(build.plan, precision=Precision.TF32))
        return super()._run(build, feeds)


def sampling_nearest(model: Model) -> Model:
    """`model` whose GridSample nodes take the nearest element, whatever their mode says."""
    import onnx_ir as ir

    copy = model.ir.clone()
    for node in copy.graph:
        if node.op_type == "GridSample":
            node.attributes["mode"] = ir.AttrString("mode", "nearest")
    return load_model(copy, name=model.name)


def falsifiable(model: Model, node: str) -> Model:
    """`model` with one more input: 1 adds a tenth of itself, and 1, to what `node` writes; 0 leaves it as it is."""
    import onnx_ir as ir

    from harness.model.analysis import embedded

    proto: onnx.ModelProto = ir.to_proto(embedded(model.ir.clone()))
    place, found = next((i, each) for i, each in enumerate(proto.graph.node) if each.name == node)
    tensor = found.output[0]
    found.output[0] = f"{tensor}::true"
    error = f"{tensor}::error"
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.1), f"{tensor}::tenth"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1.0), f"{tensor}::one"))
    inserted = [
        helper.make_node(
            "Mul", [f"{tensor}::true", f"{tensor}::tenth"], [f"{tensor}::part"], name=f"{node}::part"
        ),
        helper.make_node(
            "Add", [f"{tensor}::part", f"{tensor}::one"], [f"{tensor}::off"], name=f"{node}::off"
        ),
        helper.make_node("Mul", [f"{tensor}::off", SWITCH], [error], name=f"{node}::error"),
        helper.make_node("Add", [f"{tensor}::true", error], [tensor], name=SWITCH),
    ]
    for offset, each in enumerate(inserted, start=1):
        proto.graph.node.insert(place + offset, each)
    proto.graph.input.append(helper.make_tensor_value_info(SWITCH, TensorProto.FLOAT, []))
    return load_model(proto, name=model.name)

"""Emulated releases: they stand in for TensorRT releases where there is no GPU, in tests, demos and benchmarks.

A release is written `emulator[:PRECISION][,noise=N][,seed=S][,plant=NODE[@PRECISION]]`:

    emulator                            rounds at the precision under test
    emulator:bf16                       rounds to BF16 at every precision, as a release that ignores the request
    emulator:fp16,noise=0.2,seed=1      rebuilds differ, as those of a real builder do
    emulator:fp16,plant=b3_up@bf16      one node rounds to BF16: a fault that came with the release

**Noise.** In each rebuild a seeded half of the nodes got "another tactic": before it is rounded, each element `x`
of their results becomes `x + x · a · sin(b · x + c)`, with `a` as `noise` times the unit roundoff and seeded `b`
and `c`. So some elements round the other way (about a quarter of `noise` of them), as they do when a sum is taken in
another order. It depends on nothing but release, seed, rebuild and node, so a rebuild can be had again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from harness.backends import Candidate, Evaluation, Observation, Plan, Timing
from harness.errors import UsageError
from harness.history.types import UNIT_ROUNDOFF
from harness.tensors import Precision
from harness.text import suggestion
from harness.worker.protocol import EngineFacts, Fingerprint, LayerInfo

if TYPE_CHECKING:
    import onnx

    from harness.backends import GraphRunner
    from harness.model import Emitter, Model

N = TypeVar("N", int, float)
PREFIX = "emulator"
SYNTAX = "emulator[:PRECISION][,noise=N][,seed=S][,plant=NODE[@PRECISION]]"
_COARSER = {Precision.FP32: Precision.TF32, Precision.TF32: Precision.BF16, Precision.FP16: Precision.BF16}
_LARGE = 1e30  # a thousand times of which FP32 still holds
_SHARE = 0.5  # of the nodes get "another tactic" in a rebuild


def is_emulated(name: str) -> bool:
    """Whether `name` is an emulated release rather than an environment."""
    return re.match(rf"{PREFIX}(?=[:,]|$)", name) is not None


@dataclass(frozen=True)
class EmulatedRelease:
    """What one emulated release does.

    Args:
        name: as it is written on the command line; reports call it that.
        precision: what it rounds to; None: the precision under test.
        noise: how far a rebuild disturbs results before they are rounded, in units of the unit roundoff.
        seed: of the noise: releases that differ in nothing else are rebuilds of each other.
        planted: name of the node that rounds otherwise; None: no node does. A model without such a node has no fault.
        planted_precision: what the planted node's results are rounded to besides.
    """

    name: str
    precision: Precision | None = None
    noise: float = 0.0
    seed: int = 0
    planted: str | None = None
    planted_precision: Precision | None = None

    @classmethod
    def parse(cls, text: str) -> EmulatedRelease:
        """The release that `text` describes.

        Raises:
            UsageError: it is not written as SYNTAX says.
        """
        head, *parts = text.split(",")
        name, _, precision = head.partition(":")
        if name != PREFIX:
            raise _wrong(text, f"{head!r} is not an emulated release")
        release = cls(text, _precision(text, precision) if precision else None)
        for part in parts:
            key, equals, value = part.partition("=")
            if key not in ("noise", "seed", "plant") or not equals or not value:
                raise _wrong(text, f"{part!r} is not an option of an emulated release")
            if key == "plant":
                node, _, coarse = value.rpartition("@") if "@" in value else (value, "", "")
                coarser = _precision(text, coarse) if coarse else None
                release = replace(release, planted=node, planted_precision=coarser)
            elif key == "seed":
                release = replace(release, seed=_number(text, part, value, int))
            else:
                release = replace(release, noise=_number(text, part, value, float))
        return release

    def rounds_to(self, precision: Precision) -> Precision:
        """What it rounds to when `precision` is under test."""
        return self.precision or precision


class EmulatedBuild(Candidate):
    """One build of an emulated release: a candidate. Every build of the same number computes the same.

    Args:
        release: the release.
        model: the model.
        rebuild: number of the build, from 0.
    """

    def __init__(self, release: EmulatedRelease, model: Model, rebuild: int) -> None:
        self.name = release.name
        self.release = release
        self.model = model
        self.rebuild = rebuild
        self._runners: dict[tuple[Precision, tuple[str, ...]], GraphRunner] = {}

    def evaluate(
        self, plan: Plan, feeds: Mapping[str, np.ndarray], *, timing: Timing | None = None
    ) -> Evaluation:
        """See Candidate.evaluate; islands are not supported.

        Raises:
            UsageError: the plan has islands.
            ModelError: ONNX Runtime does not accept the model.
        """
        from harness.backends import run_as_far_as_possible
        from harness.model import units_of

        if plan.islands:
            raise UsageError("an emulated release has no islands; use the plain emulator", where=self.name)
        precision = self.release.rounds_to(plan.precision)
        units = [node.name for node in units_of(self.model, precision)]
        tensors = [info.name for info in self.model.outputs]
        if plan.observation is not Observation.NONE:
            tensors += [name for name in self.model.float_tensors if name not in tensors]
        found = run_as_far_as_possible(
            self.model, tensors, lambda names: self._runner(precision, names).run(feeds, units)
        )
        return Evaluation(found.tensors, self._facts(precision, units), failures=found.failures)

    def _runner(self, precision: Precision, tensors: tuple[str, ...]) -> GraphRunner:
        from harness.backends import GraphRunner
        from harness.model import lower

        if (precision, tensors) not in self._runners:
            change = _Change(self.release, precision, self.rebuild, self.model)
            graph = lower(self.model, precision, tensors, switched=False, after=change)
            self._runners[precision, tensors] = GraphRunner(self.model, graph, precision, {})
        return self._runners[precision, tensors]

    def close(self) -> None:
        """Free the sessions."""
        self._runners.clear()

    def _facts(self, precision: Precision, units: list[str]) -> EngineFacts:
        lowered = frozenset(units)
        layers = tuple(
            LayerInfo(
                name=node.name,
                kind=node.op,
                onnx_nodes=(node.name,),
                precision=self._precision_of(node.name, precision, lowered).value,
                outputs=tuple(name for name in node.outputs if name),
            )
            for node in self.model.nodes
        )
        return EngineFacts(Fingerprint(self.name), layers=layers)

    def _precision_of(self, node: str, precision: Precision, lowered: frozenset[str]) -> Precision:
        if node == self.release.planted:
            return planted_precision(self.release, precision)
        return precision if node in lowered else Precision.FP32


def planted_precision(release: EmulatedRelease, precision: Precision) -> Precision:
    """What the planted node rounds to: as the release says, else the next coarser one."""
    return release.planted_precision or _COARSER.get(precision, Precision.FP8)


class _Change:
    """Disturbs and rounds the results of nodes as they are emitted."""

    def __init__(self, release: EmulatedRelease, precision: Precision, rebuild: int, model: Model) -> None:
        self.release, self.precision, self.rebuild, self.model = release, precision, rebuild, model
        self.nodes = {node.name: node for node in model.lowerable}

    def __call__(self, emit: Emitter, node: onnx.NodeProto) -> None:
        from harness.model import rounder

        planted = node.name == self.release.planted
        stream = self.stream(node.name)
        disturbed = self.release.noise > 0 and node.name in self.nodes and stream.random() < _SHARE
        if not (planted or disturbed):
            return
        for position, name in enumerate(node.output):
            if not name or self.model.dtypes.get(name) != "float32":
                continue
            value = node.output[position] = f"{name}::undisturbed"
            if disturbed:
                value = self.disturb(emit, value, stream)
            if planted:
                value = rounder(planted_precision(self.release, self.precision), self.model.opset)(
                    emit, value
                )
            emit.add("Identity", value, output=name)

    def stream(self, node: str) -> np.random.Generator:
        text = f"{self.release.seed} {self.rebuild} {node}".encode()
        return np.random.default_rng(int.from_bytes(hashlib.sha256(text).digest()[:8], "little"))

    def disturb(self, emit: Emitter, value: str, stream: np.random.Generator) -> str:
        amplitude = self.release.noise * UNIT_ROUNDOFF[self.precision]

        def constant(number: float) -> str:
            return emit.constant(f"noise{number!r}", np.array(number, dtype=np.float32))

        # The sine of an infinity, and an infinity less another one, would be no number: only what is finite is
        # disturbed, and an overflow stays one.
        finite = emit.add("Min", emit.add("Max", value, constant(-_LARGE)), constant(_LARGE))
        phase = emit.add(
            "Add",
            emit.add("Mul", finite, constant(100 + 900 * stream.random())),
            constant(6.28 * stream.random()),
        )
        part = emit.add("Mul", emit.add("Sin", phase), constant(amplitude))
        return emit.add("Add", value, emit.add("Mul", finite, part))


def _precision(text: str, name: str) -> Precision:
    try:
        return Precision(name)
    except ValueError:
        near = suggestion(name, Precision)
        choices = f"choose from {', '.join(Precision)}"
        raise _wrong(text, f"{name!r} is not a precision; {f'{near} Or ' if near else ''}{choices}") from None


def _number(text: str, part: str, value: str, kind: type[N]) -> N:
    try:
        number = kind(value)
    except ValueError:
        raise _wrong(text, f"{part!r} needs a number") from None
    if not 0 <= number < float("inf"):
        raise _wrong(text, f"{part!r} needs a number of 0 or more")
    return number


def _wrong(text: str, why: str) -> UsageError:
    return UsageError(why, where=f"--env {text}", hint=f"write {SYNTAX}")

"""What to evaluate: an immutable description of one evaluation, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import numpy as np

from harness.case import BuildOptions
from harness.tensors import Accumulate, Precision
from harness.worker.protocol import TF32_STAYS, EngineFacts, Fingerprint, ProbeReply, TacticOrders

if TYPE_CHECKING:
    from harness.model import Model


Marks = tuple[str, ...]


class Observation(StrEnum):
    """How intermediate tensors are read."""

    NONE = "none"
    TYPED = "typed"
    DEBUG = "debug"
    PREFIX = "prefix"


@dataclass(frozen=True)
class Plan:
    """One evaluation: hashable, comparable, and the same on every candidate.

    Args:
        precision: the precision under test.
        islands: names of ONNX nodes that are kept in FP32.
        observation: how intermediate tensors are read.
        marks: the intermediate tensors to observe; empty with an observation other than `none` means all.
        build: options of the TensorRT builder; the emulator ignores them.
        tactics: tactics to force and to forbid; None leaves them to TensorRT, and unrecorded. The emulator has none.
        fp32_sums: names of products that are added up in FP32, by Casts around them in the graph. They read and write
            what the precision rounds, so that they are no islands. Where flags say the precision, there are none.
        casts: hold the islands by Casts in the graph, too, where typing is weak: the graph itself then says the
            precision, and `pin_precision` is not asked for. Strong typing and the emulator do so anyway.
    """

    precision: Precision
    islands: frozenset[str] = frozenset()
    observation: Observation = Observation.NONE
    marks: frozenset[str] = frozenset()
    build: BuildOptions = field(default_factory=BuildOptions)
    tactics: TacticOrders | None = None
    casts: bool = False
    fp32_sums: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ObservedEngine:
    """One engine that was built to be observed, to see whether observing changed it.

    Args:
        marks: the tensors that it gave.
        outputs: the model's outputs as it computes them.
    """

    marks: frozenset[str]
    outputs: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class EmulatorFacts:
    """What is known of an emulated candidate.

    Args:
        lowered: how many nodes were lowered.
        kernels: the environment whose kernels were assumed, or `none`.
        accumulate: what products of FP16 were added up in.
    """

    lowered: int
    kernels: str = "none"
    accumulate: Accumulate = Accumulate.FP32


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation returned.

    Args:
        tensors: by ONNX tensor name: the model's outputs and every tensor observed.
        facts: what is known of the candidate beside its tensors.
        observed: the engines that the observed tensors come from; empty where observing changes nothing.
        failures: by name of a tensor that could not be computed, as a node failed: why, one clause.
        joined: by name of a tensor whose axes the engine joined: the shape that it gave. In which order the joined axes
            are is not known; see `arrange`.
    """

    tensors: Mapping[str, np.ndarray]
    facts: EngineFacts | EmulatorFacts
    observed: tuple[ObservedEngine, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    joined: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def engine(self) -> EngineFacts | None:
        """What is known of the engine; None if there was none."""
        return self.facts if isinstance(self.facts, EngineFacts) else None

    def judged_as(self, precision: Precision) -> Precision:
        """The precision whose gates it is held to: that of the file where it has no FP32 to compute in another one, and
        TF32 where FP32 was asked for and TF32 cannot be turned off."""
        return judged_as(precision, self.engine)

    @property
    def builds(self) -> int:
        """How many engines were built for it."""
        return 0 if self.engine is None else self.engine.builds


def judged_as(precision: Precision, engine: EngineFacts | None) -> Precision:
    """See `Evaluation.judged_as`."""
    if engine is not None and engine.realised.own is not None:
        return Precision(engine.realised.own)
    stays = engine is not None and engine.realised.tf32 == TF32_STAYS
    return Precision.TF32 if precision is Precision.FP32 and stays else precision


@dataclass(frozen=True)
class Timing:
    """How an engine is timed, once: `repeats` inferences after `warmup`, and each layer if `layers`."""

    repeats: int = 0
    warmup: int = 5
    layers: bool = False


class Candidate(Protocol):
    """What can be judged. `name` is `emulator` or the name of an environment.

    What a candidate does not override holds for one without an environment, such as the emulator.
    """

    name: str

    def evaluate(
        self, plan: Plan, feeds: Mapping[str, np.ndarray], *, timing: Timing | None = None
    ) -> Evaluation:
        """Evaluate the candidate's model under `plan`.

        Args:
            plan: what to evaluate.
            feeds: the inputs by name.
            timing: how to time the engine; by default as the candidate was made to.

        Raises:
            CandidateError: the build, the inference or the worker failed.
        """
        ...

    def close(self) -> None:
        """Free what the candidate holds. Calling it twice is allowed."""

    def start_ahead(self) -> None:
        """Start in the background what the first evaluation would wait for."""
        return  # so that it is not abstract

    def build_ahead(self, plan: Plan, feeds: Mapping[str, np.ndarray], *, certain: bool = False) -> bool:
        """Begin in the background what `evaluate` would wait for, which raises what comes of it; whether it is under
        way now. What is not `certain` to be evaluated is begun where it takes seconds."""
        return False  # so that it is not abstract

    def start_second(self) -> None:
        """Start in the background the process that `prebuild` needs, where one pays."""
        return  # so that it is not abstract

    def prebuild(self, plan: Plan, feeds: Mapping[str, np.ndarray]) -> None:
        """Build in that process what `build_ahead` and `evaluate` load: for what is most likely evaluated next, while
        something else is under way. What goes wrong is not told: it is built again then."""
        return  # so that it is not abstract

    def probe(self) -> ProbeReply | None:
        """What its environment is and can do; None without one.

        Raises:
            CandidateError: the worker does not start.
        """
        return None

    def fingerprint(self) -> Fingerprint | None:
        """What its numbers are made with beside this host; None if there is nothing.

        Raises:
            CandidateError: the worker does not start.
        """
        return None

    def build_options(self, plan: Plan) -> BuildOptions:
        """The build options that come to apply under `plan`."""
        return plan.build

    @property
    def engine_for(self) -> Callable[[Model], Candidate] | None:
        """Makes engines of other models in the same environment; None without one."""
        return None

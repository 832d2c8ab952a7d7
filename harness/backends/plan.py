"""What to evaluate: an immutable description of one evaluation, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np

from harness.case import BuildOptions
from harness.tensors import Precision
from harness.worker.protocol import EngineFacts, TacticOrders


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


@dataclass(frozen=True)
class ObservedEngine:
    """One engine that was built to be observed, so that it can be told whether observing changed it.

    Args:
        marks: the tensors that it gave.
        outputs: the model's outputs as it computes them.
    """

    marks: frozenset[str]
    outputs: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class EmulatorFacts:
    """What is known of an emulated candidate: how many nodes were lowered."""

    lowered: int


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation returned.

    Args:
        tensors: by ONNX tensor name: the model's outputs and every tensor observed.
        facts: what is known of the candidate beside its tensors.
        observed: the engines that the observed tensors come from; empty where observing changes nothing.
        failures: by name of a tensor that could not be computed, as a node failed: why, one clause.
    """

    tensors: Mapping[str, np.ndarray]
    facts: EngineFacts | EmulatorFacts
    observed: tuple[ObservedEngine, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def engine(self) -> EngineFacts | None:
        """What is known of the engine; None if there was none."""
        return self.facts if isinstance(self.facts, EngineFacts) else None

    @property
    def builds(self) -> int:
        """How many engines were built for it."""
        return 0 if self.engine is None else self.engine.builds


class Candidate(Protocol):
    """What can be judged. `name` is `emulator` or the name of an environment."""

    name: str

    def evaluate(self, plan: Plan, feeds: Mapping[str, np.ndarray]) -> Evaluation:
        """Evaluate the candidate's model under `plan`.

        Raises:
            CandidateError: the build, the inference or the worker failed.
        """

    def close(self) -> None:
        """Free what the candidate holds. Calling it twice is allowed."""

"""What a search for bad tactics came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from harness.search import Outcome
from harness.tactics.record import TacticRecord
from harness.tactics.samples import Sample
from harness.tactics.units import DifferingLayer
from harness.tensors import NEVER
from harness.worker.protocol import Choice


class TacticVerdict(StrEnum):
    """How a search for bad tactics ended.

    `found`: forcing the choices makes a good build bad, and replacing them makes a bad build good. `one outcome`: all
    builds passed, or all failed. `alike`: builds differ in the outcome and not in any recorded choice. `not
    reproducible`: recorded choices that are forced do not bring their outcome back. `unresolved`: the search ended
    without an answer, for the reason that is given.
    """

    FOUND = "found"
    ONE_OUTCOME = "one outcome"
    ALIKE = "alike"
    NOT_REPRODUCIBLE = "not reproducible"
    UNRESOLVED = "unresolved"


@dataclass(frozen=True)
class Proof:
    """One build that shows what a choice does.

    Args:
        forced: what was forced, in words.
        outcome: what came of it.
        badness: how far the worst gate is beyond its limit, as a multiple of it.
    """

    forced: str
    outcome: Outcome
    badness: float | None = None


@dataclass(frozen=True)
class TacticSearchResult:
    """The answer.

    Args:
        verdict: how it ended.
        culprits: the layers whose choice is at fault, each with its bad and its good choice.
        minimal: each culprit was given the good choice alone, or left with the bad one alone, and the proof was lost.
        proof: the builds that show it: the good build with the bad choices, the bad build with the good ones.
        samples: the builds among which good and bad ones were found.
        differing: layers at which the good and the bad build that were compared chose differently.
        suspected: those whose bad choice was seen in no good build.
        builds: builds after the samples, confirmations included.
        confirmations: how often both builds of the proof were repeated, and came out alike.
        missing: what kept the search from an answer; empty if nothing did.
        not_taken: layers at which TensorRT did not take what was forced.
        cured: what the build that shows the cure chose: pins.
        trail: each build of the search, in words.
    """

    verdict: TacticVerdict
    culprits: tuple[DifferingLayer, ...] = ()
    minimal: bool = False
    proof: tuple[Proof, ...] = ()
    samples: tuple[Sample, ...] = ()
    differing: int = 0
    suspected: int = 0
    builds: int = 0
    confirmations: int = 0
    missing: str = ""
    not_taken: tuple[str, ...] = ()
    cured: TacticRecord | None = field(default=None, metadata=NEVER)
    trail: tuple[str, ...] = ()

    ALSO_IN_JSON: ClassVar = ("summary",)

    @property
    def onnx_nodes(self) -> tuple[str, ...]:
        """The ONNX nodes of the culprits."""
        return tuple(dict.fromkeys(node for unit in self.culprits for node in unit.onnx_nodes))

    @property
    def summary(self) -> str:
        """The answer in one sentence."""
        if self.verdict is TacticVerdict.FOUND:
            names = " and ".join(describe(unit) for unit in self.culprits)
            apart = "" if self.minimal else " (together; TensorRT did not let them be distinguished)"
            return (
                f"at fault is {names}{apart}: forced, it makes a good build bad; replaced, a bad build good"
            )
        return f"{self.verdict}: {self.missing}" if self.missing else str(self.verdict)


def describe(unit: DifferingLayer) -> str:
    """A culprit in words: the layer and what it must not be built with."""
    return f"{brief(unit.bad)} at {unit.layer}" if unit.bad else f"a missing layer {unit.layer}"


def brief(choices: Sequence[Choice]) -> str:
    """A choice in words: the kernel if it has a name, and the identifiers."""
    choice = choices[0]
    if choice.kernel is not None:
        return f"{choice.kernel} ({_short(choice.tactic)})"
    name = f"tactic {_short(choice.tactic)}"
    return (
        name if choice.implementation is None else f"{name} of implementation {_short(choice.implementation)}"
    )


def _short(identifier: str) -> str:
    """A hexadecimal identifier without leading zeros."""
    return f"{int(identifier, 16):#x}"

"""One run: its verdict and everything that was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from harness.backends import EmulatorFacts
from harness.comparison import ErrorMap
from harness.golden import GoldenState
from harness.judge.results.provenance import Accumulators, ComparedWith, Emulation
from harness.judge.results.reasons import RunReason
from harness.judge.results.scores import Score
from harness.judge.results.shapes import ShapeResult
from harness.judge.results.tensors import LayerResult, Observed, OutputResult, Region, worst_of
from harness.judge.results.verdicts import Cause, Judged, RunError, Verdict
from harness.tensors import NEVER, UNLESS_DEFAULT, Precision, to_json
from harness.text import shorten
from harness.worker.protocol import EngineFacts

if TYPE_CHECKING:
    import numpy as np

    from harness.judge.losses import HiddenFault, OwnRoundings, Selection
    from harness.tactics import Repeats


@dataclass(frozen=True, repr=False)
class RunResult:
    """One case at one precision on one candidate.

    Args:
        case: name of the case.
        precision: the precision under test.
        candidate: `emulator` or the name of an environment.
        verdict: see Verdict.
        outputs: the model's outputs, sample by sample.
        layers: the observed tensors in topological order; empty when nothing was observed.
        regions: where the error starts, too: among nodes that were not all observed.
        selections: nodes that choose otherwise for near ties, as the candidate does; what follows is judged by that.
        hidden: where something is lost behind outputs that pass, as far as layers were observed.
        observed: what was observed of an engine; None for the emulator, and where nothing was to be.
        faithful: whether the observed engine's outputs equal the unobserved one's; None if not applicable.
        timings: seconds by stage: `reference`, `candidate`, `compare`, `build`, …
        facts: what is known of the candidate beside its tensors; None if it was not evaluated.
        why: what decided the verdict, as a code with its fields. In JSON `cause`, `reason` and `error`.
        evidence: lines that support an `error`: log tail, signal, plan.
        warnings: what the person should know although it changes no verdict (a changed golden reference, …).
        case_path: the case file, or the model itself where there is none.
        inputs: what `--input` gave to such a model: `x:[1,3,224,224]`.
        given: the other options of the command that say what is fed and compared with: `--seed 3`, word by word.
        compared_with: what stands in for the model as the reference; None for the model itself in FP32.
        golden: what the golden reference says of the fresh one; None where none is kept. A changed one fails the
            run, whatever the candidate computes.
        mistake: an `error` that is a mistake in the case, its model or its inputs, not of the candidate.
        emulation: what the emulator assumed of engines.
        judged_as: the precision whose gates it was held to, where it is not `precision`: TF32 that stays on.
        repeats: what several builds came to; None where the engine was built once. In JSON one of the facts.
        values: the candidate's outputs by name, sample by sample, where they were to be kept. Not in JSON.
        scores: what metrics of the user's own say.
        shapes: what other shapes gave than that of the case: those of its profile, and batches against their rows.
        error_map: where in the worst output the error sits; None where the outputs pass.
        own_roundings: what the model's own roundings do to it; None if it has none. In JSON one of the facts.
    """

    case: str
    precision: Precision
    candidate: str
    verdict: Verdict
    outputs: tuple[OutputResult, ...] = ()
    layers: tuple[LayerResult, ...] = ()
    regions: tuple[Region, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    selections: tuple[Selection, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    hidden: tuple[HiddenFault, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    observed: Observed | None = field(default=None, metadata=UNLESS_DEFAULT)
    faithful: bool | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    facts: EngineFacts | EmulatorFacts | None = None
    why: RunReason = field(default=RunReason(), metadata=NEVER)
    evidence: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    case_path: str | None = None
    inputs: tuple[str, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    given: tuple[str, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    compared_with: ComparedWith | None = field(default=None, metadata=UNLESS_DEFAULT)
    golden: GoldenState | None = None
    mistake: bool = False
    judged_as: Precision | None = field(default=None, metadata=UNLESS_DEFAULT)
    emulation: Emulation = field(default=Emulation(), metadata=UNLESS_DEFAULT)
    repeats: Repeats | None = field(default=None, metadata=NEVER)
    own_roundings: OwnRoundings | None = field(default=None, metadata=NEVER)
    scores: tuple[Score, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    shapes: tuple[ShapeResult, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    error_map: ErrorMap | None = field(default=None, metadata=UNLESS_DEFAULT)
    values: tuple[Mapping[str, np.ndarray], ...] = field(default=(), compare=False, metadata=NEVER)

    ALSO_IN_JSON: ClassVar = ("judged", "cause", "reason", "error")

    def __repr__(self) -> str:
        """`RunResult(mlp::fp16: fail, y: nrmse 0.6, limit 0.01)`."""
        return f"RunResult({self.id}: {self.verdict}{', ' if self.reason else ''}{shorten(self.reason, 120)})"

    @property
    def reason(self) -> str:
        """One line for a person: why this verdict."""
        return str(self.why)

    @property
    def cause(self) -> Cause | None:
        """What decided the verdict, as a code."""
        return self.why.code

    @property
    def error(self) -> RunError | None:
        """The error behind the verdict `error`."""
        return self.why.error

    @property
    def gates_hold(self) -> bool:
        """Whether every gate of every output holds."""
        return all(output.passed for output in self.outputs)

    @property
    def gates_of(self) -> Precision:
        """The precision whose gates it was held to."""
        return self.judged_as or self.precision

    @property
    def judged(self) -> Judged:
        """What was judged of every output that has elements, at least."""
        order = (Judged.FINITENESS, Judged.VALUES)
        found = {output.judged for output in self.outputs}
        return next((judged for judged in order if judged in found), Judged.NOTHING)

    @property
    def id(self) -> str:
        """`case::precision`, with the candidate in front of the precision when it is an environment."""
        suffix = (
            self.precision.value if self.candidate == "emulator" else f"{self.candidate}-{self.precision}"
        )
        return f"{self.case}::{suffix}"

    @property
    def engine(self) -> EngineFacts | None:
        """What is known of the engine; None if there was none."""
        return self.facts if isinstance(self.facts, EngineFacts) else None

    @property
    def accumulators(self) -> Accumulators | None:
        """What the tactics of the engine add up products of FP16 in; None where no name of one tells."""
        return None if self.engine is None else Accumulators.of(self.engine)

    @property
    def origins(self) -> tuple[LayerResult, ...]:
        """The layers where the error starts, in topological order."""
        return tuple(layer for layer in self.layers if layer.origin)

    @property
    def worst(self) -> OutputResult | None:
        """The output that is furthest beyond (or nearest to) its gates."""
        return worst_of(self.outputs)

    def with_timing(self, name: str, seconds: float) -> RunResult:
        """This result with one more timing."""
        return replace(self, timings={**self.timings, name: seconds})

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of this run: plain types only, non-finite numbers as strings."""
        more = {
            "repeats": self.repeats,
            "own_roundings": self.own_roundings,
            "accumulators": self.accumulators,
        }
        document: dict[str, Any] = to_json(self)
        facts = {name: to_json(value) for name, value in more.items() if value is not None}
        return {**document, "facts": {**(document["facts"] or {}), **facts}}

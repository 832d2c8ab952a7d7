"""What the stages have shown so far: one frozen record for each stage, and `Seen`, which holds them all.

A stage gets the `Seen` of those before it and returns a new one. Nothing is changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from harness.diagnosis.context.budget import DiagnosisOptions
from harness.diagnosis.context.engine import Relaxed, regions_around
from harness.diagnosis.context.evaluator import JudgedEvaluation
from harness.diagnosis.context.suspects import introduced_by_node
from harness.diagnosis.results import (
    Blame,
    DiagnosisVerdict,
    Evidence,
    EvidenceKind,
    Price,
    Recipe,
    Repro,
    Separation,
    Stage,
)
from harness.judge import HiddenFault, LayerResult, OutputResult, OwnRoundings, Region, ShapeResult
from harness.search import Outcome, Result, SearchVerdict, Trial
from harness.tactics import TacticRecord, TacticSearchResult
from harness.tensors import Precision

Layers = tuple[LayerResult, ...]


@dataclass(frozen=True)
class GateCheck:
    """What the first stage found.

    Args:
        verdict: `none`, `reference`, `file`, `shape`, or `unresolved` for want of budget, which end the diagnosis;
            None: go on.
        baseline: the unobserved candidate; None if it was not reached.
        reference_fault: the tensor where the reference stops being finite.
        own: for `file`, what the model's own roundings do to it; without an output where that is not finite.
        drawing: the nodes that draw the random numbers by which the reference differs from run to run.
        evidence: what was shown.
        outputs: all outputs of the unobserved candidate, also those that the baseline lacks as undecided.
        beside: a sentence on each output that is not decided, where the others are.
        shapes: for `shape`, those of the profile that are wrong.
    """

    verdict: DiagnosisVerdict | None
    baseline: JudgedEvaluation | None = None
    reference_fault: str | None = None
    own: OwnRoundings | None = None
    drawing: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    outputs: tuple[OutputResult, ...] = ()
    beside: tuple[str, ...] = ()
    shapes: tuple[ShapeResult, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """What the emulator says.

    Args:
        outputs: its outputs with everything lowered, with its gates.
        trial: the same as a search sees it.
        measured: every float tensor in the first sample that fails; or what measures them when they are needed.
        evidence: what was shown.
        errors: by node, the nrmse that it introduces; None takes it from the layers.
    """

    outputs: tuple[OutputResult, ...]
    trial: Trial
    measured: Layers | Callable[[], Layers]
    evidence: tuple[Evidence, ...] = ()
    errors: Mapping[str, float] | None = None

    @property
    def fails(self) -> bool:
        """Whether the emulator fails too: the precision's arithmetic alone explains a fault."""
        return self.trial.outcome is Outcome.FAIL

    @property
    def failing_sample(self) -> int:
        """The first sample that fails; 0 if none does."""
        return next((output.sample for output in self.outputs if not output.passed), 0)

    @cached_property
    def layers(self) -> Layers:
        """Every float tensor in the first sample that fails, in topological order."""
        return self.measured() if callable(self.measured) else self.measured

    @cached_property
    def introduced(self) -> dict[str, float]:
        """By node, the nrmse that it introduces."""
        return introduced_by_node(self.layers) if self.errors is None else dict(self.errors)

    @property
    def key(self) -> Hashable:
        """What a search for a cure depends on."""
        return self.failing_sample, *self.introduced.items()

    @property
    def origins(self) -> Layers:
        """The tensors where the emulator's error starts."""
        return tuple(layer for layer in self.layers if layer.origin)


@dataclass(frozen=True)
class CureSearch:
    """What a search for an island came to.

    Args:
        island: the nodes, in topological order; empty if none was found.
        confirmed_on: what was seen to pass with them: `emulator`, `candidate`, or None.
        minimal_on: on what each of them was seen to be needed; None if that was not shown.
        best: the smallest set that was seen to cure, whether or not the search ended.
        verdict: how the search ended; None if there was no need for one.
        evidence: what was shown.
        given_up: why the search was given up; empty if it was not.
        relaxed: what was given up so that the engine which passes could be built.
        casts: the island is held by Casts in the graph.
        fp32_sums: in place of an island: the products that are added up in FP32, in topological order.
        result: the search itself; None if there was no need for one.
    """

    island: tuple[str, ...] = ()
    confirmed_on: str | None = None
    minimal_on: str | None = None
    best: tuple[str, ...] | None = None
    verdict: SearchVerdict | None = None
    evidence: tuple[Evidence, ...] = ()
    given_up: str = ""
    relaxed: Relaxed | None = None
    casts: bool = False
    fp32_sums: tuple[str, ...] = ()
    result: Result | None = field(default=None, compare=False, repr=False)

    @property
    def found(self) -> bool:
        """Whether something cures."""
        return self.confirmed_on is not None


@dataclass(frozen=True)
class EngineObservation:
    """What was seen of an engine's tensors.

    Args:
        layers: the observed tensors, in topological order; empty if none could be.
        faithful: whether the observed engine's outputs equal the unobserved one's; None if nothing was observed.
        passes: whether the observed engine's outputs pass their gates: observing it cured the fault.
        skipped: by tensor, why it was not observed.
        failure: why nothing could be observed; empty if something was.
        log: the last lines of a log, if it failed.
        marks: the tensors that were marked in an engine of their own, to look inside regions; empty where all were
            marked, or none.
        regions: where the error starts at a node that the observation does not name.
    """

    layers: Layers = ()
    faithful: bool | None = None
    passes: bool = False
    skipped: Mapping[str, str] = field(default_factory=dict)
    failure: str = ""
    log: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    regions: tuple[Region, ...] = ()

    @property
    def origins(self) -> Layers:
        """The tensors where the error starts."""
        return tuple(layer for layer in self.layers if layer.origin)


@dataclass(frozen=True)
class SeparationSearch:
    """What the search for marks came to.

    Args:
        separations: the tensors whose marks cure together; empty if none were found.
        minimal: each of the marks was seen to be needed.
    """

    separations: tuple[Separation, ...]
    minimal: bool


@dataclass(frozen=True)
class FP32Sums:
    """What becomes of an emulator that adds up FP16 products in FP16 when it adds them up in FP32.

    Args:
        products: those with which it passes, in topological order; empty if it passes with none.
        before: nrmse of the worst output with all in FP16; infinite where it is not finite.
        after: with the products in FP32, or with all of them where none pass.
        evidence: what was shown.
        fused_away: the products around which the engine fuses Casts away.
    """

    products: tuple[str, ...] = ()
    before: float = 0.0
    after: float = 0.0
    evidence: tuple[Evidence, ...] = ()
    fused_away: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Accumulation:
    """What FP16 products that accumulate in FP16 do to the outputs, by an estimate.

    Args:
        nodes: the products that add most of it, in topological order; those that overflow, if some do.
        explains: whether the engine errs no more than that, give or take.
        estimated: nrmse of the worst output, by the estimate.
        seen: nrmse of the worst output of the engine.
        emulated: that of the emulator, which accumulates in FP32.
        overflows: the products of which partial sums overflow although their result does not.
    """

    nodes: tuple[str, ...]
    explains: bool
    estimated: float
    seen: float
    emulated: float
    overflows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Divergence:
    """Where an FP32 engine first differs.

    Args:
        nodes: the nodes where it does, in topological order; empty if that could not be found.
        culprits: those of them that are wrong alone, too.
    """

    nodes: tuple[str, ...] = ()
    culprits: tuple[str, ...] = ()


@dataclass(frozen=True)
class HiddenSearch:
    """What is lost behind outputs that pass.

    Args:
        faults: where, in topological order.
        island: with these nodes in FP32, those of the cure among them, nothing is lost; empty if that was not shown.
    """

    faults: tuple[HiddenFault, ...] = ()
    island: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unseen:
    """What became of an island on inputs that the search has not seen.

    Args:
        samples: how many there were that it was not widened for.
        passed: on how many of them it cures.
        island: the island, widened by what others need.
        widened: by how many nodes.
        before: on how many of the first ones the island cures that the search has found.
        first: how many these were.
        worst: its worst gate there, as a multiple of the limit.
        fitted: the island that was found stays, as many small errors add up; the wider one is offered beside it.
        faults: of a widened island, the nodes among which the origins are, where those that joined only err a little.
    """

    samples: int
    passed: int
    island: tuple[str, ...]
    widened: int = 0
    before: int = 0
    first: int = 0
    worst: float = 0.0
    fitted: bool = False
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Conclusion(Blame):
    """What the stages come to, before it is put into words.

    Args:
        island: the nodes that are kept in FP32 to cure it; the culprits, but for faults that FP32 does not cure.
        suspects: for an unresolved fault: the smallest set that is known to cure, or what is suspected most.
        cure: the search behind the island; None if there was none.
        own: for `file`, what the model's own roundings do to it.
        pins: the tactics of a build that passes, for a fault of a tactic.
        fp32_as: the precision that stands for FP32 on the engine: TF32 where it cannot do without.
        accumulates: FP16 products that accumulate in FP16 are at fault.
        fp32_sums: in place of an island: the products that are added up in FP32 to cure it.
    """

    island: tuple[str, ...] = ()
    suspects: tuple[str, ...] = ()
    cure: CureSearch | None = None
    own: OwnRoundings | None = None
    pins: TacticRecord | None = None
    fp32_as: Precision = Precision.FP32
    accumulates: bool = False
    fp32_sums: tuple[str, ...] = ()

    @property
    def casts(self) -> bool:
        """Whether the island cures where Casts hold it in the graph."""
        return self.cure is not None and self.cure.casts and bool(self.island)


@dataclass(frozen=True)
class Handover:
    """What was handed over.

    Args:
        recipes: commands by tool, and paths of files.
        repro: the repro folder; None if there is none.
        evidence: what the files came to when they were run.
        written: whether there was a folder to write to.
    """

    recipes: Mapping[Recipe, str] = field(default_factory=dict)
    repro: Repro | None = None
    evidence: tuple[Evidence, ...] = ()
    written: bool = True


@dataclass(frozen=True)
class Seen:
    """Everything that the stages have shown; None where a stage did not run.

    Args:
        precision: the precision under test.
        emulated: whether the candidate is the emulator itself.
        options: how to diagnose.
        gates: whether there is a fault at all.
        prediction: what the emulator says.
        sums: what adding up in FP32 does to an emulator that adds up in FP16.
        prior: the emulator's island, where the candidate is an engine.
        with_island: the unobserved engine with the emulator's island.
        cure: the island that the candidate was seen to pass with, or the search that found none.
        price: what the island costs in latency.
        fp32_engine: the unobserved engine in FP32 without TF32; where it computes in TF32 all the same, it passes if
            it errs no more than the emulated TF32.
        rebuilt: whether the unobserved engine was built again; False where it differs from run to run.
        tactics: the search for the tactics that decide; None if the candidate reports none.
        unstable: `tactic` or `nondeterministic`, if repetitions differ.
        accumulation: what FP16 accumulation adds, where the emulator passes.
        divergence: where an FP32 engine first differs.
        observed: the engine's own tensors.
        separated: the search for marks that cure.
        unseen: what became of the island on inputs that the search has not seen; None if there were none.
        hidden: what is lost behind outputs that pass; None if that was not looked for.
        known: what islands came to on the unobserved candidate.
        stopped: the message of the budget that ended the stages; empty if they were not ended.
        conclusion: what it all comes to.
        summary: the answer in one or two sentences.
        handover: the files and commands.
        evidence: what was shown, in its order.
    """

    precision: Precision
    emulated: bool
    options: DiagnosisOptions = field(default_factory=DiagnosisOptions)
    gates: GateCheck | None = None
    prediction: Prediction | None = None
    sums: FP32Sums | None = None
    prior: CureSearch | None = None
    with_island: JudgedEvaluation | None = None
    cure: CureSearch | None = None
    price: Price | None = None
    fp32_engine: JudgedEvaluation | None = None
    rebuilt: bool | None = None
    tactics: TacticSearchResult | None = None
    unstable: DiagnosisVerdict | None = None
    accumulation: Accumulation | None = None
    divergence: Divergence | None = None
    observed: EngineObservation | None = None
    separated: SeparationSearch | None = None
    unseen: Unseen | None = None
    hidden: HiddenSearch | None = None
    known: Mapping[frozenset[str], Trial] = field(default_factory=dict)
    stopped: str = ""
    conclusion: Conclusion | None = None
    summary: str = ""
    handover: Handover | None = None
    evidence: tuple[Evidence, ...] = ()

    def adding(self, *evidence: Evidence) -> Seen:
        """The same with more evidence."""
        return replace(self, evidence=(*self.evidence, *evidence))

    def stop(self, stage: Stage, message: str) -> Seen:
        """The same, ended by the budget: of the stages that follow, only those that spend nothing run."""
        why = Evidence(stage, EvidenceKind.STOPPED, f"stopped: {message}")
        return replace(self.adding(why), stopped=message)

    # What the stages before have left; each raises AssertionError where `requires` of a stage was not asked for.

    @property
    def baseline(self) -> JudgedEvaluation:
        """The unobserved candidate, which fails."""
        assert self.gates is not None, "the gates were not checked"
        assert self.gates.baseline is not None, "the candidate was not evaluated"
        return self.gates.baseline

    @property
    def predicted(self) -> Prediction:
        """What the emulator says."""
        assert self.prediction is not None, "the emulator was not asked"
        return self.prediction

    @property
    def cured(self) -> bool:
        """Whether an island cures the unobserved candidate."""
        return self.cure is not None and self.cure.found

    @property
    def cured_by_sums(self) -> bool:
        """Whether products that are added up in FP32 cure the unobserved candidate, and no node went back to FP32."""
        return self.cure is not None and self.cure.found and bool(self.cure.fp32_sums)

    @property
    def compiled(self) -> tuple[str, ...]:
        """The compiled regions of the engine that fails in which the emulator's island lies."""
        island = () if self.prior is None or self.emulated else self.prior.island
        return regions_around(self.baseline.compiled, island)

    @property
    def has_other_fault(self) -> bool:
        """Whether the engine fails with the emulator's island, too: there is a fault behind the known one."""
        return self.with_island is not None and self.with_island.outcome is Outcome.FAIL

    @property
    def fp32_as(self) -> Precision:
        """The precision whose gates hold for the engine in FP32: TF32 where its products are computed in TF32."""
        return (self.fp32_engine and self.fp32_engine.judged_as) or Precision.FP32

    @property
    def fp32_is_baseline(self) -> bool:
        """Whether the engine under test is the one in FP32 itself."""
        return self.fp32_engine is not None and self.fp32_engine.tensors is self.baseline.tensors

    @property
    def fails_in_fp32(self) -> bool:
        """Whether the engine fails in FP32 without TF32; where it cannot do without, beyond the emulated TF32."""
        return self.fp32_engine is not None and self.fp32_engine.outcome is Outcome.FAIL

    @property
    def accumulates(self) -> bool:
        """Whether FP16 accumulation explains what the emulator does not."""
        return self.accumulation is not None and self.accumulation.explains

    @property
    def starts(self) -> tuple[str, ...]:
        """Where the error starts: on the engine, or if that was not seen, on the emulator."""
        layers = self.observed.origins if self.observed is not None else ()
        return tuple(layer.node for layer in layers or self.predicted.origins)

    @property
    def layers(self) -> Layers:
        """The layers of the engine as it was observed, with an island or without."""
        return self.observed.layers if self.observed is not None else ()

    @property
    def failing_layers(self) -> Layers:
        """The layers of the engine that fails; nothing if it was observed with an island, or cured by observing."""
        if self.observed is None or self.observed.passes or self.has_other_fault:
            return ()
        return self.observed.layers

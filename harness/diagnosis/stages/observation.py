"""Stage 3, observe: the intermediate tensors of the engine itself, and whether looking changed it.

Between the kernels by debug tensors where a release has them, which move nothing; inside of the kernels in which the
error starts, and where there are no debug tensors, by marks. Marks have the dtype under test: a mark in FP32 makes the
builder compute in FP32, and cures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from harness.backends import Candidate, Computed, Evaluation, Observation, ObservedEngine, Plan, Timing
from harness.diagnosis.context import (
    Context,
    EngineObservation,
    Evaluator,
    JudgedEvaluation,
    Seen,
    Subject,
    introduced_by_tensor,
)
from harness.diagnosis.results import Evidence, EvidenceKind, Stage
from harness.errors import BudgetExhaustedError, CandidateError, UsageError
from harness.judge import (
    LayerResult,
    find_regions,
    is_faithful,
    mark_origins,
    measure_layers,
    observation_for,
    rms_limit,
)
from harness.tensors import Precision
from harness.text import names, plural
from harness.worker.protocol import TENSORRT_RTX

PHASE = "observe"


def observe_engine(seen: Seen, context: Context) -> Seen:
    """Observe the engine: one build, more where the marks must be split, or something inside of kernels is to be found.

    Where the emulator's island was not enough, the engine is observed with that island: otherwise the known fault
    would hide the other one.
    """
    suspected = seen.cure.island if seen.cure is not None and seen.cure.found else ()
    context.report(Stage.OBSERVE, "observe the tensors of the engine", suspected=suspected)
    engine, islands = seen.baseline, frozenset[str]()
    if seen.has_other_fault and seen.prior is not None and seen.with_island is not None:
        engine, islands = seen.with_island, frozenset(seen.prior.island)
    try:
        found = observed(context, engine, islands, inside=not seen.cured)
    except BudgetExhaustedError as error:
        if not seen.cured:
            raise
        text = f"the engine was not observed: {error.message}"
        return seen.adding(Evidence.of(EvidenceKind.NOT_OBSERVED, text))
    return replace(seen, observed=found).adding(*observation_evidence(found, seen.precision))


def observed(
    context: Context, engine: JudgedEvaluation, islands: frozenset[str], *, inside: bool
) -> EngineObservation:
    """What is observed of `engine`, now or before: see `observe`."""
    return context.observations.of(
        (islands, inside), lambda: observe(context.evaluator, engine, islands=islands, inside=inside)
    )


def observe(
    evaluator: Evaluator,
    baseline: JudgedEvaluation,
    *,
    precision: Precision | None = None,
    islands: frozenset[str] = frozenset(),
    judged_as: Precision | None = None,
    inside: bool = True,
) -> EngineObservation:
    """Observe an engine that was evaluated unobserved, as `baseline`.

    `precision` is another one than that under test, and `judged_as` the one whose gates hold, if it is another one;
    `islands` are in FP32 in that engine. To look `inside` of the kernels where the error starts takes an engine of its
    own.

    Raises:
        BudgetExhaustedError: the budget is spent.
    """
    subject = evaluator.subject
    if subject.emulated or not baseline.tensors:
        raise UsageError("observe requires an engine, and the outputs of the unobserved one")
    plan = _plan(subject, islands, precision)
    how, gates = plan.observation, judged_as or plan.precision
    key = _key(plan, gates, inside=inside)
    if (kept := evaluator.journal.recall(key, EngineObservation)) is not None:
        return kept
    evaluator.spending.check()
    observed = _observe_as(evaluator, baseline, plan, gates)
    if how is Observation.DEBUG and inside and not observed.failure:
        observed = _look_inside(evaluator, baseline, plan, gates, observed)
    if not observed.failure:
        evaluator.journal.keep(key, observed)
    return observed


def look_ahead(evaluator: Evaluator) -> None:
    """Read the tensors between the kernels of the engine that fails, where it has given them: that takes no build."""
    subject = evaluator.subject
    bench = subject.bench
    # Of TensorRT for RTX one engine serves both, outputs and debug tensors.
    if (
        subject.emulated
        or subject.product != TENSORRT_RTX
        or len(bench.memory.chunks(bench.model.float_tensors, copies=1)) > 1
    ):
        return
    plan = _plan(subject, frozenset(), None)
    if plan.observation is Observation.DEBUG:
        with suppress(CandidateError):  # who asks for them gets the reason
            evaluator.look_ahead(plan, phase=PHASE)


def _key(plan: Plan, gates: Precision, *, inside: bool) -> str:
    """Under which name the journal keeps an observation."""
    key = f"observed {plan.precision} {' '.join(sorted(plan.islands))}"
    key += f" as {gates}" if gates is not plan.precision else ""
    return key + ("" if inside or plan.observation is not Observation.DEBUG else " between kernels")


def _plan(subject: Subject, islands: frozenset[str], precision: Precision | None) -> Plan:
    how = observation_for(subject.candidate, None)
    marks = frozenset[str]() if how is Observation.DEBUG else _marks(subject, islands)
    return subject.plan(islands, precision=precision, observation=how, marks=marks)


def _observe_as(
    evaluator: Evaluator, baseline: JudgedEvaluation, plan: Plan, gates: Precision
) -> EngineObservation:
    bench = evaluator.subject.bench
    watched = _Watched(evaluator)
    try:
        known = None
        if len(bench.feeds) == 1 and gates is evaluator.subject.precision:
            known = introduced_by_tensor(evaluator.subject, 0)
        layers, _ = measure_layers(
            bench, watched, plan, bench.case.tolerances, judged_as=gates, introduced=known
        )
    except CandidateError as error:
        return EngineObservation(failure=str(error), log=error.lines)
    observed = _observed(evaluator, baseline, replace(plan, precision=gates), layers, watched.evaluations)
    regions = find_regions(layers, bench.model, watched.evaluations[-1].engine)
    return replace(observed, regions=regions)


def _look_inside(
    evaluator: Evaluator,
    baseline: JudgedEvaluation,
    plan: Plan,
    gates: Precision,
    between: EngineObservation,
) -> EngineObservation:
    """`between` kernels, with the tensors inside of the regions where the error starts; without where marks move it."""
    model = evaluator.subject.model
    kept = {name for node in plan.islands for name in model.node(node).outputs}
    known = {layer.tensor for layer in between.layers} | {info.name for info in model.outputs} | kept
    written = {
        name for region in between.regions for node in region.nodes for name in model.node(node).outputs
    }
    wanted = tuple(name for name in model.float_tensors if name in written and name not in known)
    if not wanted:
        return between
    marked = replace(plan, observation=Observation.TYPED, marks=frozenset(wanted))
    found = _observe_as(evaluator, baseline, marked, gates)
    if found.failure or not (found.faithful or found.passes):
        return between
    seen = {layer.tensor for layer in between.layers}
    layers = [*between.layers, *(layer for layer in found.layers if layer.tensor not in seen)]
    layers.sort(key=lambda layer: model.float_tensors.index(layer.tensor))
    merged = mark_origins(layers, model)
    # Kernels go by what is known of them when nothing is marked.
    regions = tuple(
        next((each for each in between.regions if each.tensor == region.tensor), region)
        for region in find_regions(merged, model, None)
    )
    return replace(found, layers=merged, marks=wanted, regions=regions)


def _marks(subject: Subject, islands: frozenset[str]) -> frozenset[str]:
    """All tensors, which a plan says by naming none; but not those of islands.

    A mark has the dtype under test, and what an island writes may not fit into it: the mark would overflow.
    """
    if not islands:
        return frozenset()
    model = subject.model
    written = {name for node in islands for name in model.node(node).outputs}
    return frozenset(model.float_tensors) - written


class _Watched(Candidate):
    """The candidate, charged for what it builds and remembered for what it returned."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.name = evaluator.subject.candidate.name
        self.evaluations: list[Evaluation] = []
        self._evaluator = evaluator

    def evaluate(
        self, plan: Plan, feeds: Mapping[str, np.ndarray], *, timing: Timing | None = None
    ) -> Evaluation:
        evaluation = self._evaluator.look(plan, feeds, phase=PHASE)
        self.evaluations.append(evaluation)
        return evaluation

    def close(self) -> None:
        """The evaluator's candidate stays open."""


def _observed(
    evaluator: Evaluator,
    baseline: JudgedEvaluation,
    plan: Plan,
    layers: tuple[LayerResult, ...],
    evaluations: Sequence[Evaluation],
) -> EngineObservation:
    subject = evaluator.subject
    limits = {output.tensor: rms_limit(output) for output in baseline.outputs}
    faithful = passes = True
    for sample, evaluation in enumerate(evaluations):
        expected = subject.bench.expected[sample]
        for engine in _engines(evaluation, expected):
            faithful &= is_faithful(engine.outputs, baseline.tensors[sample], expected, limits)
            passes &= all(output.passed for output in subject.judge(Computed(engine.outputs), sample, plan))
    facts = evaluations[-1].engine
    skipped = {} if facts is None else facts.skipped_marks
    return EngineObservation(layers=layers, faithful=faithful, passes=passes, skipped=skipped)


def _engines(evaluation: Evaluation, expected: Mapping[str, np.ndarray]) -> Sequence[ObservedEngine]:
    """Each engine that was observed; a candidate that does not list them has one."""
    if evaluation.observed:
        return evaluation.observed
    outputs = {name: evaluation.tensors[name] for name in expected}
    return (ObservedEngine(frozenset(evaluation.tensors) - frozenset(outputs), outputs),)


def observation_evidence(observed: EngineObservation, precision: Precision) -> tuple[Evidence, ...]:
    """What was shown by observing an engine at `precision`."""
    if observed.failure:
        text = f"the engine could not be observed: {observed.failure}"
        return (Evidence.of(EvidenceKind.NOT_OBSERVED, text, evidence=observed.log),)
    if observed.passes:
        text = f"observed in {precision}, the fault is gone: keeping every tensor cured the engine"
    elif observed.faithful:
        text = "the observed engine shows the same fault as the unobserved one"
    else:
        text = "the observed engine fails too, but with other outputs: observing changed it"
    found = [Evidence.of(EvidenceKind.OBSERVED, text, faithful=observed.faithful, passes=observed.passes)]
    origins = [layer.node for layer in observed.origins]
    if origins and not observed.passes:
        text = f"on the engine the error starts at {names(origins)}"
        found.append(Evidence.of(EvidenceKind.STARTS, text, origins=origins))
    for region in () if observed.passes else observed.regions:
        text = f"on the engine the error starts at one of the {len(region.nodes)} nodes up to {region.tensor}"
        nodes, kernels = list(region.nodes), list(region.kernels)
        found.append(Evidence.of(EvidenceKind.STARTS, text, nodes=nodes, kernels=kernels))
    if observed.skipped:
        text = f"{plural(len(observed.skipped), 'tensor')} could not be observed"
        found.append(Evidence.of(EvidenceKind.NOT_OBSERVED, text, skipped=observed.skipped))
    return tuple(found)

"""Stage 3, observe: the intermediate tensors of the engine itself, and whether looking changed it.

Tensors are marked with the dtype under test: a mark in FP32 makes the builder compute in FP32, and cures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from harness.backends import Candidate, Evaluation, Observation, ObservedEngine, Plan, Timing
from harness.diagnosis.context import EngineObservation, Evaluator, JudgedEvaluation, Subject
from harness.diagnosis.results import Evidence, EvidenceKind, Stage
from harness.errors import CandidateError, UsageError
from harness.judge import LayerResult, is_faithful, measure_layers, rms_limit
from harness.tensors import Precision
from harness.text import names, plural

PHASE = "observe"


def observe(
    evaluator: Evaluator,
    baseline: JudgedEvaluation,
    *,
    precision: Precision | None = None,
    islands: frozenset[str] = frozenset(),
    judged_as: Precision | None = None,
) -> EngineObservation:
    """Observe the engine, typed.

    Args:
        evaluator: of a subject whose candidate is an engine.
        baseline: the unobserved engine, with its outputs of all samples.
        precision: another precision than the one under test.
        islands: nodes that are in FP32 in that engine.
        judged_as: the precision whose gates hold, if it is another one.

    Raises:
        BudgetExhaustedError: the budget is spent.
    """
    subject = evaluator.subject
    if subject.emulated or not baseline.tensors:
        raise UsageError("observe requires an engine, and the outputs of the unobserved one")
    plan = subject.plan(
        islands, precision=precision, observation=Observation.TYPED, marks=_marks(subject, islands)
    )
    gates = judged_as or plan.precision
    key = f"observed {plan.precision} {' '.join(sorted(islands))}"
    key += f" as {gates}" if gates is not plan.precision else ""
    if (kept := evaluator.journal.recall(key, EngineObservation)) is not None:
        return kept
    evaluator.spending.check()
    watched = _Watched(evaluator)
    try:
        layers, _ = measure_layers(
            subject.bench, watched, plan, subject.bench.case.tolerances, judged_as=gates
        )
    except CandidateError as error:
        return EngineObservation(failure=str(error), log=error.evidence)
    observed = _observed(evaluator, baseline, replace(plan, precision=gates), layers, watched.evaluations)
    evaluator.journal.keep(key, observed)
    return observed


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
        evaluation = self._evaluator.run(plan, feeds, phase=PHASE)
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
            passes &= all(output.passed for output in subject.judge(engine.outputs, sample, plan))
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
        return (Evidence(Stage.OBSERVE, EvidenceKind.NOT_OBSERVED, text, {"evidence": observed.log}),)
    if observed.passes:
        text = f"observed in {precision}, the fault is gone: keeping every tensor cured the engine"
    elif observed.faithful:
        text = "the observed engine shows the same fault as the unobserved one"
    else:
        text = "the observed engine fails too, but with other outputs: observing changed it"
    facts = {"faithful": observed.faithful, "passes": observed.passes}
    found = [Evidence(Stage.OBSERVE, EvidenceKind.OBSERVED, text, facts)]
    origins = [layer.node for layer in observed.origins]
    if origins and not observed.passes:
        text = f"on the engine the error starts at {names(origins)}"
        found.append(Evidence(Stage.OBSERVE, EvidenceKind.STARTS, text, {"origins": origins}))
    if observed.skipped:
        text = f"{plural(len(observed.skipped), 'tensor')} could not be observed"
        found.append(Evidence(Stage.OBSERVE, EvidenceKind.NOT_OBSERVED, text, {"skipped": observed.skipped}))
    return tuple(found)

"""Stage 3, observe: the intermediate tensors of the engine itself, and whether looking changed it.

Requires: an unobserved engine that fails, with its outputs at hand.
Ensures: every tensor that could be marked is held against the reference; `faithful` says whether the observed
engine's real outputs equal the unobserved one's.
Evidence: where the error starts on the engine, what could not be observed, and whether the fault is still there.

Tensors are marked with the dtype under test: a mark in FP32 makes the builder compute in FP32, and cures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.backends import Candidate, Evaluation, Observation, ObservedEngine, Plan, Timing
from harness.diagnosis.context import Examination, Examiner, Subject, layer_from_record, layer_to_record
from harness.diagnosis.results import Evidence, Stage
from harness.errors import CandidateError, UsageError
from harness.judge import LayerResult, is_faithful, jsonable, measure_layers, rms_limit
from harness.tensors import Precision

PHASE = "observe"


@dataclass(frozen=True)
class Observed:
    """What was seen of an engine's tensors.

    Args:
        layers: the observed tensors, in topological order; empty if none could be.
        faithful: whether the observed engine's outputs equal the unobserved one's; None if nothing was observed.
        passes: whether the observed engine's outputs pass their gates: the fault is gone when it is looked at.
        skipped: by tensor, why it was not observed.
        evidence: what was shown.
    """

    layers: tuple[LayerResult, ...] = ()
    faithful: bool | None = None
    passes: bool = False
    skipped: Mapping[str, str] | None = None
    evidence: tuple[Evidence, ...] = ()

    @property
    def origins(self) -> tuple[LayerResult, ...]:
        """The tensors where the error starts."""
        return tuple(layer for layer in self.layers if layer.origin)


def observe(
    examiner: Examiner,
    baseline: Examination,
    *,
    precision: Precision | None = None,
    islands: frozenset[str] = frozenset(),
) -> Observed:
    """Observe the engine, typed.

    Args:
        examiner: of a subject whose candidate is an engine.
        baseline: the unobserved engine, with its outputs of all samples.
        precision: another precision than the one under test.
        islands: nodes that are in FP32 in that engine.

    Raises:
        BudgetExhaustedError: the limits are reached.
    """
    subject = examiner.subject
    if subject.emulated or not baseline.tensors:
        raise UsageError("observe requires an engine, and the outputs of the unobserved one")
    plan = subject.plan(
        islands, precision=precision, observation=Observation.TYPED, marks=_marks(subject, islands)
    )
    key = f"observed {plan.precision} {' '.join(sorted(islands))}"
    record = None if examiner.notebook is None else examiner.notebook.recall(key)
    if record is not None:
        return _from_record(record)
    examiner.spending.check()
    watched = _Watched(examiner)
    try:
        layers, _ = measure_layers(subject.bench, watched, plan, subject.bench.case.tolerances)
    except CandidateError as error:
        text = f"the engine could not be observed: {error}"
        return Observed(evidence=(Evidence(Stage.OBSERVE, text, {"evidence": list(error.evidence)}),))
    observed = _observed(examiner, baseline, plan, layers, watched.evaluations)
    if examiner.notebook is not None:
        examiner.notebook.keep(key, _to_record(observed))
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

    def __init__(self, examiner: Examiner) -> None:
        self.name = examiner.subject.candidate.name
        self.evaluations: list[Evaluation] = []
        self._examiner = examiner

    def evaluate(
        self, plan: Plan, feeds: Mapping[str, np.ndarray], *, timing: Timing | None = None
    ) -> Evaluation:
        evaluation = self._examiner.evaluate(plan, feeds, phase=PHASE)
        self.evaluations.append(evaluation)
        return evaluation

    def close(self) -> None:
        """The examiner's candidate stays open."""


def _observed(
    examiner: Examiner,
    baseline: Examination,
    plan: Plan,
    layers: tuple[LayerResult, ...],
    evaluations: Sequence[Evaluation],
) -> Observed:
    subject = examiner.subject
    limits = {output.tensor: rms_limit(output) for output in baseline.outputs}
    faithful = passes = True
    for sample, evaluation in enumerate(evaluations):
        expected = subject.bench.expected[sample]
        for engine in _engines(evaluation, expected):
            faithful &= is_faithful(engine.outputs, baseline.tensors[sample], expected, limits)
            passes &= all(output.passed for output in subject.judge(engine.outputs, sample, plan))
    facts = evaluations[-1].engine
    observed = Observed(
        layers=layers,
        faithful=faithful,
        passes=passes,
        skipped={} if facts is None else facts.skipped_marks,
    )
    return Observed(**{**vars(observed), "evidence": tuple(_evidence(observed, plan))})


def _engines(evaluation: Evaluation, expected: Mapping[str, np.ndarray]) -> Sequence[ObservedEngine]:
    """Each engine that was observed; a candidate that does not tell them apart is one."""
    if evaluation.observed:
        return evaluation.observed
    outputs = {name: evaluation.tensors[name] for name in expected}
    return (ObservedEngine(frozenset(evaluation.tensors) - frozenset(outputs), outputs),)


def _evidence(observed: Observed, plan: Plan) -> list[Evidence]:
    facts: dict[str, Any] = {"faithful": observed.faithful, "passes": observed.passes}
    if observed.passes:
        text = f"observed in {plan.precision}, the fault is gone: looking at the tensors cured the engine"
    elif observed.faithful:
        text = "the observed engine shows the same fault as the unobserved one"
    else:
        text = "the observed engine fails, too, but not in the same way: its numbers are perturbed"
    found = [Evidence(Stage.OBSERVE, text, facts)]
    origins = [layer.node for layer in observed.origins]
    if origins and not observed.passes:
        text = f"on the engine the error starts at {', '.join(origins[:6])}"
        found.append(Evidence(Stage.OBSERVE, text, {"origins": origins}))
    if observed.skipped:
        text = f"{len(observed.skipped)} tensors could not be observed"
        found.append(Evidence(Stage.OBSERVE, text, {"skipped": dict(observed.skipped)}))
    return found


def _to_record(observed: Observed) -> dict[str, Any]:
    return {
        "layers": [layer_to_record(layer) for layer in observed.layers],
        "faithful": observed.faithful,
        "passes": observed.passes,
        "skipped": dict(observed.skipped or {}),
        "evidence": [{"text": each.text, "facts": jsonable(each.facts)} for each in observed.evidence],
    }


def _from_record(record: Mapping[str, Any]) -> Observed:
    return Observed(
        layers=tuple(layer_from_record(layer) for layer in record["layers"]),
        faithful=record["faithful"],
        passes=record["passes"],
        skipped=record["skipped"],
        evidence=tuple(Evidence(Stage.OBSERVE, each["text"], each["facts"]) for each in record["evidence"]),
    )

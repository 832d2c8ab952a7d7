"""Fusion: which tensors must not be fused away.

The fault is gone when all tensors are observed at the precision under test, so the layers are right one by one. A
mark at a tensor forces the builder to compute it, and so keeps apart what writes it and what reads it. The search
is for the fewest marks that cure.
"""

from __future__ import annotations

from dataclasses import replace

from harness.backends import Observation, Plan
from harness.diagnosis.context import Context, Seen, SeparationSearch
from harness.diagnosis.results import Evidence, EvidenceKind, Separation, Stage
from harness.diagnosis.stages.search import search_candidate, why_given_up
from harness.model import Model
from harness.search import Outcome, Problem, SearchOptions, Trial
from harness.text import names

PHASE = "separate"
REPEATS = 2
"""How often each configuration is built that the answer rests on: the emulator cannot support it."""


def search_marks(seen: Seen, context: Context) -> Seen:
    """The fault is gone when every tensor is observed: the fewest marks that cure."""
    observed, subject = seen.observed, context.subject
    assert observed is not None
    context.report(Stage.ATTRIBUTE, "search the tensors that must not be fused away")
    fails, precision = seen.baseline, subject.precision
    if seen.fails_in_fp32 and seen.fp32_engine is not None:
        fails, precision = seen.fp32_engine, seen.fp32_as
    final = {info.name for info in subject.model.outputs}
    marked = observed.marks or subject.model.float_tensors
    tensors = tuple(name for name in marked if name not in observed.skipped and name not in final)
    problem = Problem(units=tensors, identity=f"{subject.identity} marks {precision}")
    known = {
        frozenset[str](): fails.trial,
        frozenset(tensors): Trial(Outcome.PASS, note="all tensors observed"),
    }

    def plan_of(treated: frozenset[str]) -> Plan:
        kind = Observation.TYPED if treated else Observation.NONE  # no marks at all means every tensor
        return subject.plan(precision=precision, observation=kind, marks=treated)

    result = search_candidate(
        context,
        context.evaluator,
        problem,
        SearchOptions(prove=True, repeats=REPEATS),
        known,
        name=f"marks-{precision}",
        text="search the marks",
        plan_of=plan_of,
        phase=PHASE,
    )
    found = tuple(_separation(subject.model, name) for name in result.culprits)
    if found:
        listed = names(each.tensor for each in found)
        text = f"marking {listed}, and nothing else, cures: what is fused across it goes wrong"
    elif result.given_up:
        text = f"the search for a mark that cures was given up: {why_given_up(result)}"
    else:
        text = f"the search for a mark that cures ended without an answer: {result.verdict}"
    log = [str(step) for step in result.log]
    shown = Evidence.of(
        EvidenceKind.MARKS, text, verdict=result.verdict.value, evaluations=result.evaluations, log=log
    )
    return replace(seen, separated=SeparationSearch(found, result.minimal)).adding(shown)


def _separation(model: Model, tensor: str) -> Separation:
    producer = model.producer(tensor)
    readers = tuple(node.name for node in model.nodes if tensor in node.inputs)
    return Separation(tensor, producer.name if producer else tensor, readers)

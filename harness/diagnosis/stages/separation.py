"""Fusion: which tensors must not be fused away.

The fault is gone when all tensors are observed at the precision under test, so the layers are right one by one. A
mark at a tensor forces the builder to compute it, and so keeps apart what writes it and what reads it. The search
is for the fewest marks that cure.
"""

from __future__ import annotations

from harness.backends import Observation
from harness.diagnosis.context import EngineObservation, Evaluator, JudgedEvaluation, SeparationSearch
from harness.diagnosis.results import Evidence, EvidenceKind, Separation, Stage
from harness.diagnosis.stages.search import SearchGivenUp, SearchSetup, SearchWatch
from harness.search import Budget, Evaluation, Options, Outcome, Problem, search
from harness.tensors import Precision
from harness.text import names

PHASE = "separate"
REPEATS = 2
"""How often each configuration is built that the answer rests on: the emulator cannot support it."""


def separate(
    evaluator: Evaluator,
    baseline: JudgedEvaluation,
    observed: EngineObservation,
    setup: SearchSetup,
    *,
    precision: Precision | None = None,
) -> SeparationSearch:
    """Find the fewest marks that cure.

    Args:
        evaluator: of a subject whose candidate is an engine.
        baseline: the unobserved engine, which fails.
        observed: the engine with all tensors observed, which passes.
        setup: what to run with.
        precision: another precision than the one under test.
    """
    subject = evaluator.subject
    skipped = set(observed.skipped or ())
    final = {info.name for info in subject.model.outputs}
    marked = observed.marks or subject.model.float_tensors
    tensors = tuple(name for name in marked if name not in skipped and name not in final)
    label = precision or subject.precision
    problem = Problem(units=tensors, identity=f"{subject.identity} marks {label}")
    known = {
        frozenset[str](): baseline.trial,
        frozenset(tensors): Evaluation(Outcome.PASS, note="all tensors observed"),
    }

    built: set[frozenset[str]] = set(known)

    def oracle(treated: frozenset[str]) -> Evaluation:
        kind = Observation.TYPED if treated else Observation.NONE  # no marks at all means every tensor
        plan = subject.plan(precision=precision, observation=kind, marks=treated)
        if treated in built:
            return evaluator.rebuild(plan, phase=PHASE).trial
        built.add(treated)
        return evaluator.evaluate(plan, phase=PHASE).trial

    spending, watch = evaluator.spending, SearchWatch()
    budget = Budget(evaluations=spending.left(PHASE))  # the evaluator watches the seconds
    with setup.journal.of_search(f"marks-{label}", problem) as journal:
        try:
            result = search(
                problem,
                oracle,
                options=Options(prove=True, repeats=REPEATS),
                budget=budget,
                journal=journal,
                known=known,
                on_progress=watch.watching(problem, setup.on_progress),
            )
        except SearchGivenUp:
            result = watch.result(problem)
    separations = tuple(_separation(evaluator, name) for name in result.culprits) if result.answered else ()
    facts = {
        "verdict": result.verdict.value,
        "evaluations": result.evaluations,
        "log": [str(step) for step in result.log],
    }
    if separations:
        listed = names(each.tensor for each in separations)
        text = f"marking {listed}, and nothing else, cures: what is fused across it goes wrong"
    elif watch.given_up:
        text = f"the search for a mark that cures was given up: {watch.reason}"
    else:
        text = f"the search for a mark that cures ended without an answer: {result.verdict}"
    evidence = Evidence(Stage.ATTRIBUTE, EvidenceKind.MARKS, text, facts)
    return SeparationSearch(separations, result.minimal, result.verdict, (evidence,))


def _separation(evaluator: Evaluator, tensor: str) -> Separation:
    model = evaluator.subject.model
    producer = model.producer(tensor)
    readers = tuple(node.name for node in model.nodes if tensor in node.inputs)
    return Separation(tensor, producer.name if producer else tensor, readers)

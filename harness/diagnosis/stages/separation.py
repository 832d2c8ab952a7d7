"""Fusion: which tensors must not be fused away.

The fault is gone when all tensors are observed at the precision under test, so the layers are right one by one. A
mark at a tensor forces the builder to compute it, and so keeps apart what writes it and what reads it. The search
is for the fewest marks that cure.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

from harness.backends import Observation
from harness.diagnosis.context import Examination, Examiner
from harness.diagnosis.results import Evidence, Separation, Stage
from harness.diagnosis.stages.cure import Searching
from harness.diagnosis.stages.observation import Observed
from harness.diagnosis.stages.patience import GivenUp, Patience
from harness.search import Budget, Options, Outcome, Problem, Trial, Verdict, search
from harness.tensors import Precision

PHASE = "separate"
REPEATS = 2
"""How often each configuration is built that the answer rests on: the emulator cannot support it."""


@dataclass(frozen=True)
class Separated:
    """What the search for marks came to.

    Args:
        separations: the tensors whose marks cure together; empty if none were found.
        minimal: each of the marks was seen to be needed.
        verdict: how the search ended.
        evidence: what was shown.
    """

    separations: tuple[Separation, ...]
    minimal: bool
    verdict: Verdict
    evidence: tuple[Evidence, ...]


def separate(
    examiner: Examiner,
    baseline: Examination,
    observed: Observed,
    searching: Searching,
    *,
    precision: Precision | None = None,
) -> Separated:
    """Find the fewest marks that cure.

    Args:
        examiner: of a subject whose candidate is an engine.
        baseline: the unobserved engine, which fails.
        observed: the engine with all tensors observed, which passes.
        searching: what to run with.
        precision: another precision than the one under test.
    """
    subject = examiner.subject
    skipped = set(observed.skipped or ())
    final = {info.name for info in subject.model.outputs}
    tensors = tuple(name for name in subject.model.float_tensors if name not in skipped and name not in final)
    label = precision or subject.precision
    problem = Problem(units=tensors, identity=f"{subject.identity} marks {label}")
    known = {
        frozenset[str](): baseline.trial,
        frozenset(tensors): Trial(Outcome.PASS, note="all tensors observed"),
    }

    asked: set[frozenset[str]] = set(known)

    def oracle(treated: frozenset[str]) -> Trial:
        kind = Observation.TYPED if treated else Observation.NONE  # no marks at all means every tensor
        plan = subject.plan(precision=precision, observation=kind, marks=treated)
        if treated in asked:
            return examiner.rebuild(plan, phase=PHASE).trial
        asked.add(treated)
        return examiner.examine(plan, phase=PHASE).trial

    spending, notebook, patience = examiner.spending, searching.notebook, Patience()
    budget = Budget(evaluations=spending.left(PHASE))  # the examiner watches the seconds
    with nullcontext() if notebook is None else notebook.journal(f"marks-{label}", problem) as journal:
        try:
            result = search(
                problem,
                oracle,
                options=Options(prove=True, repeats=REPEATS),
                budget=budget,
                journal=journal,
                known=known,
                on_progress=patience.watching(problem, searching.on_progress),
            )
        except GivenUp:
            result = patience.result(problem)
    separations = tuple(_separation(examiner, name) for name in result.culprits) if result.answered else ()
    facts = {
        "verdict": result.verdict.value,
        "evaluations": result.evaluations,
        "trail": [str(s) for s in result.trail],
    }
    if separations:
        names = ", ".join(each.tensor for each in separations)
        text = f"marking {names}, and nothing else, cures: what is fused across it goes wrong"
    elif patience.given_up:
        text = f"the search for a mark that cures was given up: {patience.reason}"
    else:
        text = f"the search for a mark that cures ended without an answer: {result.verdict}"
    evidence = Evidence(Stage.ATTRIBUTE, text, facts)
    return Separated(separations, result.minimal, result.verdict, (evidence,))


def _separation(examiner: Examiner, tensor: str) -> Separation:
    model = examiner.subject.model
    producer = model.producer(tensor)
    readers = tuple(node.name for node in model.nodes if tensor in node.inputs)
    return Separation(tensor, producer.name if producer else tensor, readers)

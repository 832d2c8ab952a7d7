"""Searches for islands: the question, its journal and budget, and when a search on an engine is given up.

A build that fails says nothing of the fault, and a search that learns nothing goes on to its last build. Measured on
an H200 with TensorRT 8.6.0: with all layers outside of the islands pinned to FP16, 64 builds and 151 s without an
answer, for TensorRT had no implementation for most islands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from harness.backends import Plan
from harness.diagnosis.context import Context, CureSearch, Evaluator, Subject, find_groups, kernel_groups
from harness.diagnosis.results import Evidence, EvidenceKind, Fact
from harness.search import Budget, Outcome, Problem, Result, SearchOptions, SearchVerdict, Trial, search
from harness.text import names, plural

CURE_PHASE = "search"
Known = Mapping[frozenset[str], Trial]

MOST_UNRESOLVED = 0.5
"""The share of builds that may fail before a search on an engine is given up."""


def island_problem(
    subject: Subject,
    *,
    scores: Mapping[str, float] | None = None,
    hints: Sequence[frozenset[str]] = (),
    kernels: Sequence[Sequence[str]] = (),
) -> Problem:
    """The question which nodes must go back to FP32: the same for every search, by hand or not, on one subject.

    Its groups are what the `kernels` of the engine under test compute; without them, blocks by name. `scores` say how
    much a node is suspected, and `hints` are islands to try first.
    """
    by_kernel = kernel_groups(subject.model, kernels, subject.units)
    return Problem(
        units=subject.units,
        identity=subject.identity,
        groups=by_kernel or find_groups(subject.model, subject.units),
        scores=scores,
        hints=tuple(hints),
    )


def search_candidate(
    context: Context,
    evaluator: Evaluator,
    problem: Problem,
    options: SearchOptions,
    known: Known,
    *,
    name: str,
    text: str,
    plan_of: Callable[[frozenset[str]], Plan] | None = None,
    phase: str = CURE_PHASE,
    most: int | None = None,
    at_hand: Known | None = None,
    share: float = 1.0,
) -> Result:
    """Search `problem` on the candidate of `evaluator`, within its budget, which ends a search and raises nothing.

    Seconds have one clock, the evaluator's: what the journal answers takes none, and the budget that ended a search is
    still spent afterwards. A configuration that is needed again is built again, with its tactics timed anew. On an
    engine a search is given up that cannot build most of what it asks for.

    Args:
        context: the diagnosis under way.
        evaluator: of the candidate, or of the emulator beside it.
        problem: which units, and what is believed of them.
        options: of the search.
        known: what was evaluated before, outside of the search.
        name: of its journal.
        text: what it does, for whoever follows progress.
        plan_of: what treating units means; by default they are nodes in FP32.
        phase: what the engines are charged to.
        most: how many evaluations to spend at most, besides the budget.
        at_hand: evaluations that were made just before: unlike those in `known`, they are part of the search and of
            its journal.
        share: what passes leaves at most so much of the limit of its worst gate.
    """
    emulated, plan_of = evaluator.subject.emulated, plan_of or evaluator.subject.plan
    built = set(known)
    left = dict(at_hand or {})

    def oracle(treated: frozenset[str]) -> Trial:
        if treated in left:
            return left.pop(treated)
        if treated in built and not emulated:
            return evaluator.rebuild(plan_of(treated), phase=phase).trial
        built.add(treated)
        return _held(evaluator.evaluate(plan_of(treated), phase=phase).trial, share)

    def ahead(configurations: Sequence[frozenset[str]]) -> None:
        evaluator.emulate_ahead([plan_of(treated) for treated in configurations])

    limits = [most] if emulated else [most, evaluator.spending.left(phase)]
    builds = min((limit for limit in limits if limit is not None), default=None)
    budget = Budget(evaluations=builds, unresolved=None if emulated else MOST_UNRESOLVED)
    with context.journal.of_search(name, problem) as journal:
        return search(
            problem,
            oracle,
            options=options,
            budget=budget,
            journal=journal,
            known=known,
            on_progress=context.follow(text),
            ahead=ahead if emulated else None,
        )


def why_given_up(result: Result) -> str:
    """Why a search on an engine was given up, in words; empty if it was not."""
    if not result.given_up:
        return ""
    last = f"; the last one: {result.last_note}" if result.last_note else ""
    return f"{result.unresolved} of {result.evaluations} engines could not be built{last}"


def _held(trial: Trial, share: float) -> Trial:
    """`trial`, which passes if its badness is `share` at most."""
    if share == 1.0 or trial.badness is None or trial.outcome is Outcome.UNRESOLVED:
        return trial
    outcome = Outcome.PASS if trial.badness <= share else Outcome.FAIL
    return replace(trial, outcome=outcome, margin=share - trial.badness)


def key_of(plan: Plan) -> str:
    """The key under which the journal keeps the evaluation of a plan that should cure."""
    kind = "fp32 sums" if plan.fp32_sums else "casts" if plan.casts else "island"
    return f"{kind} {' '.join(sorted(plan.fp32_sums or plan.islands))}"


def cure_of(result: Result, where: str) -> CureSearch:
    """What a search for an island on `where`, the emulator or the candidate, came to."""
    island = result.culprits if result.answered else ()
    facts: dict[str, Fact] = {
        "verdict": result.verdict.value,
        "evaluations": result.evaluations,
        "strategies": [strategy.value for strategy in result.strategies],
        "assumptions": {each.name: each.held for each in result.assumptions},
        "log": [str(step) for step in result.log],
    }
    count = plural(result.evaluations, "evaluation")
    if result.answered:
        proof = "without any one of them it fails" if result.minimal else "not shown to be minimal"
        text = f"with {names(island)} in FP32 the {where} passes ({proof}; {count})"
    elif result.tally is not None:
        again = result.tally
        facts |= {"passes": again.passes, "fails": again.fails}
        text = f"the same configuration passed {again.passes} and failed {again.fails} of {again.evaluations} times"
    else:
        reason = result.log[-1].text if result.verdict is SearchVerdict.BUDGET else result.verdict
        text = f"the search on the {where} ended without an answer: {reason}"
    return CureSearch(
        island=island,
        confirmed_on=where if result.answered else None,
        minimal_on=where if result.minimal else None,
        best=result.best,
        verdict=result.verdict,
        evidence=(Evidence.of(EvidenceKind.SEARCH, text, **facts),),
        result=result,
    )

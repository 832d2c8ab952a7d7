"""Searches for islands: the question, its journal and budget, and when a search on an engine is given up.

A build that fails says nothing of the fault, and a search that learns nothing goes on to its last build. Measured on
an H200 with TensorRT 8.6.0: with all layers outside of the islands pinned to FP16, 64 builds and 151 s without an
answer, for TensorRT had no implementation for most islands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.diagnosis.context import DiagnosisJournal, Evaluator, Subject, find_groups, kernel_groups
from harness.search import (
    Budget,
    Evaluation,
    Options,
    Outcome,
    Problem,
    Progress,
    Result,
    SearchVerdict,
    Step,
    search,
)

CURE_PHASE = "search"
Known = Mapping[frozenset[str], Evaluation]

FEWEST_BUILDS = 12
"""Builds before a search may be given up."""

MOST_UNRESOLVED = 0.5
"""The share of builds that may fail."""


class SearchGivenUp(Exception):
    """The search is useless. Nobody but those who start a search sees it."""


@dataclass
class SearchWatch:
    """Watches what a search evaluates, and gives it up when most of it cannot be built.

    Evaluations replayed from a journal count too, so that a resumed search ends alike.

    Args:
        evaluations: so far.
        unresolved: how many of them could not be judged.
        last: why, of the last one.
        best: the smallest set that was seen to cure.
        given_up: whether the search was ended.
        steps: each evaluation, for the trail.
    """

    evaluations: int = 0
    unresolved: int = 0
    last: str = ""
    best: frozenset[str] | None = None
    given_up: bool = False
    steps: list[Step] = field(default_factory=list)

    def watching(
        self, problem: Problem, on_progress: Callable[[Progress], None] | None
    ) -> Callable[[Progress], None]:
        """`on_progress`, which gives up once it is clear that nothing comes of it.

        Raises:
            SearchGivenUp: more than half of the engines, and of at least a dozen, could not be built.
        """

        def watch(step: Progress) -> None:
            if on_progress is not None:
                on_progress(step)
            self._add(problem, step)
            if self.evaluations >= FEWEST_BUILDS and self.unresolved > MOST_UNRESOLVED * self.evaluations:
                self.given_up = True
                raise SearchGivenUp

        return watch

    def _add(self, problem: Problem, step: Progress) -> None:
        self.evaluations += 1
        outcome = step.evaluation.outcome
        if outcome is Outcome.UNRESOLVED:
            self.unresolved += 1
            self.last = step.evaluation.note or self.last
        elif outcome is Outcome.PASS and (self.best is None or len(step.treated) < len(self.best)):
            self.best = step.treated
        text = f"treat {problem.describe(step.treated)}"
        self.steps.append(Step(step.strategy, step.evaluations, text, outcome))

    @property
    def reason(self) -> str:
        """Why it was given up, in words; empty if it was not."""
        if not self.given_up:
            return ""
        last = f"; the last one: {self.last}" if self.last else ""
        return f"{self.unresolved} of {self.evaluations} engines could not be built{last}"

    def result(self, problem: Problem) -> Result:
        """What a search that was given up came to."""
        return Result(
            verdict=SearchVerdict.UNRESOLVED,
            best=None if self.best is None else problem.ordered(self.best),
            evaluations=self.evaluations,
            strategies=tuple(dict.fromkeys(step.strategy for step in self.steps)),
            log=tuple(self.steps),
        )


@dataclass(frozen=True)
class SearchSetup:
    """What a search runs with.

    Args:
        journal: keeps the journal of the search.
        name: name of that journal.
        on_progress: called after each evaluation.
    """

    journal: DiagnosisJournal = field(default_factory=DiagnosisJournal)
    name: str = "islands"
    on_progress: Callable[[Progress], None] | None = None


def island_problem(
    subject: Subject,
    *,
    scores: Mapping[str, float] | None = None,
    hints: Sequence[frozenset[str]] = (),
    kernels: Sequence[Sequence[str]] = (),
) -> Problem:
    """The question which nodes must go back to FP32: the same for every search, by hand or not, on one subject.

    Args:
        subject: what is diagnosed.
        scores: by node, how much it is suspected.
        hints: islands to try first.
        kernels: of the engine under test: its groups are what they compute; without them, blocks by name.
    """
    by_kernel = kernel_groups(subject.model, kernels, subject.units)
    return Problem(
        units=subject.units,
        identity=subject.identity,
        groups=by_kernel or find_groups(subject.model, subject.units),
        scores=scores,
        hints=tuple(hints),
    )


def search_islands(
    evaluator: Evaluator,
    problem: Problem,
    options: Options,
    known: Known,
    setup: SearchSetup,
    *,
    phase: str = CURE_PHASE,
    most: int | None = None,
    at_hand: Known | None = None,
    watch: SearchWatch | None = None,
    share: float = 1.0,
) -> Result:
    """Search `problem` on the candidate of `evaluator`, within its budget, which ends a search and raises nothing.

    Seconds have one clock, the evaluator's: what the journal answers takes none, and the budget that ended a search
    is still spent afterwards. A configuration that is needed again is built again, with its tactics timed anew.

    Args:
        evaluator: of the candidate.
        problem: which nodes, and what is believed of them.
        options: of the search.
        known: what was evaluated before, outside of the search.
        setup: what to run with.
        phase: what the engines are charged to.
        most: how many evaluations to spend at most, besides the budget.
        at_hand: evaluations that were made just before: unlike those in `known`, they are part of the search and of
            its journal.
        watch: gives up a search that cannot judge most of what it evaluates; then the verdict is `unresolved`.
        share: what passes leaves at most so much of the limit of its worst gate.
    """
    subject = evaluator.subject
    built = set(known)
    left = dict(at_hand or {})

    def oracle(treated: frozenset[str]) -> Evaluation:
        if treated in left:
            return left.pop(treated)
        if treated in built and not subject.emulated:
            return evaluator.rebuild(subject.plan(treated), phase=phase).trial
        built.add(treated)
        return _held(evaluator.evaluate(subject.plan(treated), phase=phase).trial, share)

    spending = evaluator.spending
    limits = [most] if subject.emulated else [most, spending.left(phase)]
    builds = min((limit for limit in limits if limit is not None), default=None)
    budget = Budget(evaluations=builds)
    on_progress = setup.on_progress if watch is None else watch.watching(problem, setup.on_progress)
    with setup.journal.of_search(setup.name, problem) as journal:
        try:
            return search(
                problem,
                oracle,
                options=options,
                budget=budget,
                journal=journal,
                known=known,
                on_progress=on_progress,
            )
        except SearchGivenUp:
            assert watch is not None
            return watch.result(problem)


def _held(trial: Evaluation, share: float) -> Evaluation:
    """`trial`, which passes if its badness is `share` at most."""
    if share == 1.0 or trial.badness is None or trial.outcome is Outcome.UNRESOLVED:
        return trial
    outcome = Outcome.PASS if trial.badness <= share else Outcome.FAIL
    return replace(trial, outcome=outcome, margin=share - trial.badness)


def island_key(island: Sequence[str]) -> str:
    """The key under which the journal keeps the evaluation of an island."""
    return f"island {' '.join(sorted(island))}"

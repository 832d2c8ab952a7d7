"""The oracle with a memory: each configuration is evaluated once, journalled, and charged to the budget."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from harness.errors import BudgetExhaustedError, UsageError
from harness.search.journal import Journal
from harness.search.problem import Problem
from harness.search.types import Budget, Oracle, Outcome, SearchVerdict, Tally, Trial

MOST_RECHECKED = 3
"""Contradictions that are evaluated again; an oracle that repeats itself so often is simply not monotone."""


FEWEST = 12
"""Evaluations before a search may be given up."""


class BudgetSpent(Exception):
    """The budget does not allow another evaluation. It never leaves `search`."""

    verdict = SearchVerdict.BUDGET


class GivenUp(BudgetSpent):
    """More evaluations are unresolved than the budget allows. It never leaves `search`."""

    verdict = SearchVerdict.UNRESOLVED


class Unrepeatable(Exception):
    """A configuration did not give the same outcome twice. It never leaves `search`."""

    def __init__(self, treated: frozenset[str]) -> None:
        super().__init__()
        self.treated = treated


class MonotonicityCheck:
    """Finds outcomes that contradict each other: treating more should never turn a pass into a fail.

    Such a pair is the first sign of an oracle that is not monotone, or that does not repeat itself; evaluating both
    again shows which. The largest failing and the smallest passing configurations are kept for comparison.
    """

    def __init__(self) -> None:
        self._fails: list[frozenset[str]] = []
        self._passes: list[frozenset[str]] = []

    def add(self, treated: frozenset[str], outcome: Outcome) -> frozenset[str] | None:
        """Take in an outcome. Returns an earlier configuration that contradicts it, or None."""
        if outcome is Outcome.PASS:
            against = next((failed for failed in self._fails if treated < failed), None)
            if not any(passed < treated for passed in self._passes):
                self._passes = [passed for passed in self._passes if not treated < passed] + [treated]
            return against
        if outcome is Outcome.FAIL:
            against = next((passed for passed in self._passes if passed < treated), None)
            if not any(treated < failed for failed in self._fails):
                self._fails = [failed for failed in self._fails if not failed < treated] + [treated]
            return against
        return None


class Session:
    """One search's access to its oracle.

    Args:
        problem: what is searched.
        oracle: evaluates a configuration.
        budget: what may be spent; replayed evaluations count, so that a resumed search ends alike, but their
            seconds do not, so that it goes on.
        journal: answers evaluations that it holds, receives the others. None: nothing is kept.
        known: evaluations that were made elsewhere; they cost nothing.
        on_evaluation: called after each evaluation with (configuration, evaluation, replayed).
        ahead: gets configurations that will probably be evaluated next, in their order.
    """

    def __init__(
        self,
        problem: Problem,
        oracle: Oracle,
        *,
        budget: Budget,
        journal: Journal | None = None,
        known: Mapping[frozenset[str], Trial] | None = None,
        on_evaluation: Callable[[frozenset[str], Trial, bool], None] | None = None,
        ahead: Callable[[Sequence[frozenset[str]]], None] | None = None,
    ) -> None:
        self.problem = problem
        self.evaluations = 0
        self.replayed = 0
        self.seconds = 0.0
        self.contradictions = 0
        self.unresolved = 0
        self.last_note = ""
        """Of the last evaluation that was unresolved."""
        self._seconds_anew = 0.0
        self._oracle = oracle
        self._budget = budget
        self._journal = journal
        self._on_evaluation = on_evaluation
        self._ahead = ahead
        self._made: dict[frozenset[str], list[Trial]] = {}
        self._judged: dict[frozenset[str], Outcome] = {}
        self._monotonicity = MonotonicityCheck()
        self._recorded: dict[frozenset[str], deque[Trial]] = {}
        for treated, evaluation in (known or {}).items():
            self._made[treated] = [evaluation]
        for record in journal.records if journal is not None else ():
            self._recorded.setdefault(record.treated, deque()).append(record.evaluation)

    def is_judged(self, treated: frozenset[str]) -> bool:
        """Whether `judge` would answer without an evaluation."""
        return treated in self._made

    def expect(self, configurations: Iterable[frozenset[str]]) -> None:
        """These will probably be judged next: whoever can evaluate several at once begins."""
        if self._ahead is not None:
            left = [each for each in configurations if not (self.is_judged(each) or each in self._recorded)]
            self._ahead(left)

    def judge(self, treated: frozenset[str]) -> Outcome:
        """The outcome of a configuration; the same answer each time.

        Raises:
            BudgetSpent: it would need an evaluation that the budget does not allow.
            Unrepeatable: it contradicts another one, and one of the two gave another outcome when repeated.
        """
        if treated not in self._judged:
            self._judged[treated] = outcome = self.evaluation(treated).outcome
            against = self._monotonicity.add(treated, outcome)
            if against is not None:
                self.contradictions += 1
                if self.contradictions <= MOST_RECHECKED:
                    self._recheck(against, treated)
        return self._judged[treated]

    def _recheck(self, *configurations: frozenset[str]) -> None:
        for treated in configurations:
            if self.evaluation(treated, 1).outcome is not self.evaluation(treated).outcome:
                raise Unrepeatable(treated)

    def evaluation(self, treated: frozenset[str], number: int = 0) -> Trial:
        """The evaluation of that number of a configuration, from memory, journal or oracle.

        Raises:
            BudgetSpent: the budget does not allow it.
        """
        made = self._made.get(treated, [])
        while len(made) <= number:
            made.append(self._evaluate(treated))
            self._made[treated] = made
        return made[number]

    def tally(self, treated: frozenset[str]) -> Tally:
        """The counts over all evaluations of a configuration so far."""
        outcomes = [evaluation.outcome for evaluation in self._made.get(treated, [])]
        return Tally(
            treated=self.problem.ordered(treated),
            passes=outcomes.count(Outcome.PASS),
            fails=outcomes.count(Outcome.FAIL),
            unresolved=outcomes.count(Outcome.UNRESOLVED),
        )

    def _evaluate(self, treated: frozenset[str]) -> Trial:
        self._check_budget()
        recorded = self._recorded.get(treated)
        replayed = bool(recorded)
        evaluation = recorded.popleft() if recorded else self._call(treated)
        self.evaluations += 1
        self.replayed += replayed
        self.seconds += evaluation.seconds or 0.0
        self._seconds_anew += 0.0 if replayed else evaluation.seconds or 0.0
        if evaluation.outcome is Outcome.UNRESOLVED:
            self.unresolved += 1
            self.last_note = evaluation.note or self.last_note
        if self._on_evaluation is not None:
            self._on_evaluation(treated, evaluation, replayed)
        return evaluation

    def _check_budget(self) -> None:
        budget, spent = self._budget, "the budget is spent"
        if budget.evaluations is not None and self.evaluations >= budget.evaluations:
            raise BudgetSpent(spent)
        if budget.seconds is not None and self._seconds_anew >= budget.seconds:
            raise BudgetSpent(spent)
        share = 1.0 if budget.unresolved is None else budget.unresolved
        if self.evaluations >= FEWEST and self.unresolved > share * self.evaluations:
            raise GivenUp(f"{self.unresolved} of {self.evaluations} evaluations could not be judged")

    def _call(self, treated: frozenset[str]) -> Trial:
        started = time.perf_counter()
        try:
            evaluation = self._oracle(treated)
        except BudgetExhaustedError as error:
            raise BudgetSpent(error.message) from None
        if not isinstance(evaluation, Trial):
            raise UsageError(
                f"the oracle returned a {type(evaluation).__name__}",
                hint="return a harness.search.Trial",
            )
        if evaluation.seconds is None:
            evaluation = dataclasses.replace(evaluation, seconds=time.perf_counter() - started)
        if self._journal is not None:
            self._journal.append(treated, evaluation)
        return evaluation

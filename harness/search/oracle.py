"""The oracle with a memory: each configuration is evaluated once, journalled, and charged to the budget."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Mapping

from harness.errors import BudgetExhaustedError, UsageError
from harness.search.contradiction import Contradictions
from harness.search.journal import Journal
from harness.search.problem import Problem
from harness.search.types import Budget, Oracle, Outcome, Tally, Trial, Votes
from harness.search.votes import Dissent, decide, error_of_one


class BudgetSpent(Exception):
    """The budget does not allow another evaluation. It never leaves `search`."""

    def __init__(self, reason: str = "the budget is spent") -> None:
        super().__init__(reason)


class Unrepeatable(Exception):
    """A configuration did not give the same outcome twice. It never leaves `search`."""

    def __init__(self, treated: frozenset[str]) -> None:
        super().__init__()
        self.treated = treated


class NoisierThanAllowed(Exception):
    """Votes were cast against the decisions more often than `Votes` allows. It never leaves `search`."""

    def __init__(self, treated: frozenset[str], share: float) -> None:
        super().__init__()
        self.treated = treated
        self.share = share


MOST_RECHECKED = 3
"""Contradictions that are evaluated again; an oracle that repeats itself so often is simply not monotone."""


class Session:
    """One search's access to its oracle.

    Args:
        problem: what is searched.
        oracle: evaluates a configuration.
        budget: what may be spent; replayed evaluations count, so that a resumed search ends alike, but their
            seconds do not, so that it goes on.
        journal: answers evaluations that it holds, receives the others. None: nothing is kept.
        known: trials that others have made; they cost nothing.
        votes: how a noisy configuration is decided. None: one trial is believed.
        on_trial: called after each evaluation with (configuration, trial, replayed).
    """

    def __init__(
        self,
        problem: Problem,
        oracle: Oracle,
        *,
        budget: Budget,
        journal: Journal | None = None,
        known: Mapping[frozenset[str], Trial] | None = None,
        votes: Votes | None = None,
        on_trial: Callable[[frozenset[str], Trial, bool], None] | None = None,
    ) -> None:
        self.problem = problem
        self.votes = votes
        self.evaluations = 0
        self.replayed = 0
        self.seconds = 0.0
        self.seconds_anew = 0.0
        self.doubt = 0.0
        self.contradictions = 0
        self._oracle = oracle
        self._budget = budget
        self._journal = journal
        self._on_trial = on_trial
        self._trials: dict[frozenset[str], list[Trial]] = {}
        self._judged: dict[frozenset[str], Outcome] = {}
        self._consistency = Contradictions()
        self._dissent = Dissent()
        self._recorded: dict[frozenset[str], deque[Trial]] = {}
        for treated, trial in (known or {}).items():
            self._trials[treated] = [trial]
        for record in journal.records if journal is not None else ():
            self._recorded.setdefault(record.treated, deque()).append(record.trial)

    def is_judged(self, treated: frozenset[str]) -> bool:
        """Whether `judge` would answer without an evaluation."""
        return treated in self._judged or (self.votes is None and treated in self._trials)

    def judge(self, treated: frozenset[str]) -> Outcome:
        """What the configuration is, by one trial or by votes; the same answer each time.

        Raises:
            BudgetSpent: it would need an evaluation that the budget does not allow.
            Unrepeatable: it contradicts another one, and one of the two gave another outcome when repeated.
            NoisierThanAllowed: the votes disagree more than they may.
        """
        if treated not in self._judged:
            self._judged[treated] = outcome = self._decide(treated)
            against = self._consistency.add(treated, outcome)
            if against is not None:
                self.contradictions += 1
                if self.votes is None and self.contradictions <= MOST_RECHECKED:
                    self._recheck(against, treated)
        return self._judged[treated]

    def _decide(self, treated: frozenset[str]) -> Outcome:
        if self.votes is None:
            return self.trial(treated).outcome
        error = error_of_one(self.votes, len(self.problem.units))
        decision = decide(self.votes, error, lambda number: self.trial(treated, number))
        self.doubt += decision.error
        self._dissent.add(self.votes, decision)
        if self._dissent.excessive:
            raise NoisierThanAllowed(treated, self._dissent.share)
        return decision.outcome

    def _recheck(self, *configurations: frozenset[str]) -> None:
        for treated in configurations:
            if self.trial(treated, 1).outcome is not self.trial(treated).outcome:
                raise Unrepeatable(treated)

    def trial(self, treated: frozenset[str], number: int = 0) -> Trial:
        """The trial of that number of a configuration, from memory, journal or oracle.

        Raises:
            BudgetSpent: it would need an evaluation that the budget does not allow.
        """
        trials = self._trials.setdefault(treated, [])
        while len(trials) <= number:
            trials.append(self._evaluate(treated))
        return trials[number]

    def tally(self, treated: frozenset[str]) -> Tally:
        """The counts over all trials of a configuration so far."""
        outcomes = [trial.outcome for trial in self._trials.get(treated, [])]
        return Tally(
            treated=self.problem.ordered(treated),
            passes=outcomes.count(Outcome.PASS),
            fails=outcomes.count(Outcome.FAIL),
            unresolved=outcomes.count(Outcome.UNRESOLVED),
        )

    def _evaluate(self, treated: frozenset[str]) -> Trial:
        limit, seconds = self._budget.evaluations, self._budget.seconds
        if (limit is not None and self.evaluations >= limit) or (
            seconds is not None and self.seconds_anew >= seconds
        ):
            raise BudgetSpent
        recorded = self._recorded.get(treated)
        trial = recorded.popleft() if recorded else None
        replayed = trial is not None
        if trial is None:
            trial = self._call(treated)
        self.evaluations += 1
        self.replayed += replayed
        self.seconds += trial.seconds or 0.0
        self.seconds_anew += 0.0 if replayed else trial.seconds or 0.0
        if self._on_trial is not None:
            self._on_trial(treated, trial, replayed)
        return trial

    def _call(self, treated: frozenset[str]) -> Trial:
        started = time.perf_counter()
        try:
            trial = self._oracle(treated)
        except BudgetExhaustedError as error:
            raise BudgetSpent(error.message) from None
        if not isinstance(trial, Trial):
            raise UsageError(
                f"the oracle returned a {type(trial).__name__}", hint="return a harness.search.Trial"
            )
        if trial.seconds is None:
            trial = dataclasses.replace(trial, seconds=time.perf_counter() - started)
        if self._journal is not None:
            self._journal.append(treated, trial)
        return trial

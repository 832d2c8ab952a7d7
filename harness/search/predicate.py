"""The predicate that a search minimizes over sets of units, and the log of what it has said."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from harness.search.problem import Problem
from harness.search.session import Session
from harness.search.types import (
    Assumption,
    Direction,
    Outcome,
    SearchProgress,
    SearchVerdict,
    Step,
    Strategy,
    Trial,
)


class Stop(Exception):
    """The search cannot go on. It never leaves `search`.

    Args:
        verdict: how it ends.
        reason: for the log.
        treated: the configuration that decided it.
    """

    def __init__(self, verdict: SearchVerdict, reason: str, treated: frozenset[str]) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason
        self.treated = treated


class AllUnresolved(Exception):
    """The set of all units cannot be judged, so nothing follows from a failure of a part of it."""


class Log:
    """Collects the steps and assumptions of one search and calls its progress callback.

    Args:
        on_progress: called after each evaluation. None: nobody watches.
    """

    def __init__(self, on_progress: Callable[[SearchProgress], None] | None = None) -> None:
        self.strategy = Strategy.AUTO
        self.suspects = 0
        self.remaining: int | None = None
        self.evaluations = 0
        self.steps: list[Step] = []
        self.strategies: dict[Strategy, None] = {}  # in the order in which they were entered
        self.assumptions: dict[str, Assumption] = {}  # by name
        self._on_progress = on_progress

    def enter(self, strategy: Strategy) -> None:
        """Go on by this strategy."""
        self.strategy = strategy
        self.strategies[strategy] = None

    def expect(self, suspects: int, remaining: int | None = None) -> None:
        """So many units are suspected, and about so many evaluations are to come."""
        self.suspects, self.remaining = suspects, remaining

    def note(self, text: str, outcome: Outcome | None = None) -> None:
        """Add a step."""
        self.steps.append(Step(self.strategy, self.evaluations, text, outcome))

    def assume(self, name: str, detail: str, held: bool | None = None) -> None:
        """Record an assumption; one of the same name is replaced."""
        self.assumptions[name] = Assumption(name, detail, held)

    def evaluated(self, treated: frozenset[str], evaluation: Trial, replayed: bool) -> None:
        """Count an evaluation."""
        self.evaluations += 1
        if self._on_progress is not None:
            self._on_progress(
                SearchProgress(
                    strategy=self.strategy,
                    evaluations=self.evaluations,
                    suspects=self.suspects,
                    remaining=self.remaining,
                    treated=treated,
                    evaluation=evaluation,
                    replayed=replayed,
                )
            )
        if self.remaining:
            self.remaining -= 1


class Predicate:
    """One property of sets of units, tested by one session.

    The property of a set X is, by direction: treating X passes (cure); treating all but X fails (cause); both.
    The empty set does not have it, which the caller has checked. Whether all units have it is checked here, at
    the first set that does not: a set that has it proves by itself that there is something to find.

    Args:
        session: the oracle with its memory.
        log: where each new outcome is written down.
        direction: which property.
    """

    def __init__(self, session: Session, log: Log, direction: Direction) -> None:
        self.session = session
        self.log = log
        self.direction = direction
        self.best: frozenset[str] | None = None
        self._all_tested = False

    @property
    def problem(self) -> Problem:
        """The problem of the session."""
        return self.session.problem

    def test(self, units: Iterable[str], why: str) -> Outcome:
        """Whether the set has the property: pass if it does.

        Raises:
            Stop: all units together do not have it, so there is nothing to find.
            AllUnresolved: this set does not have it, and all units together cannot be judged.
        """
        tested = frozenset(units)
        outcome = self._property(tested, why)
        if outcome is Outcome.PASS:
            if self.best is None or len(tested) < len(self.best):
                self.best = tested
        elif self.best is None and tested and not self._all_tested:
            self._test_all()
        return outcome

    def expect(self, sets: Iterable[frozenset[str]]) -> None:
        """These sets will probably be tested next, in this order."""
        if self.direction is Direction.CURE:
            self.session.expect(sets)

    def holds(self, units: Iterable[str], why: str) -> bool:
        """Whether the set is known to have the property; unresolved counts as not known."""
        return self.test(units, why) is Outcome.PASS

    def badness(self, units: Iterable[str]) -> float | None:
        """How bad treating a set is, if it was evaluated and that gave a number; costs nothing."""
        treated = frozenset(units)
        return self.session.evaluation(treated).badness if self.session.is_judged(treated) else None

    def configurations(self, units: Iterable[str]) -> tuple[frozenset[str], ...]:
        """What is treated in the evaluations that the property of this set rests on."""
        cure = frozenset(units)
        cause = self.problem.everything - cure
        return {Direction.CURE: (cure,), Direction.CAUSE: (cause,)}.get(self.direction, (cure, cause))

    def _test_all(self) -> None:
        self._all_tested = True
        everything = self.problem.everything
        outcome = self._property(everything, "check that treating everything helps")
        if outcome is Outcome.PASS:
            self.best = everything
        elif outcome is Outcome.FAIL:
            reason = "the fault is not in the units: it stays when all of them are treated"
            raise Stop(SearchVerdict.LOST, reason, everything)
        else:
            raise AllUnresolved

    def _property(self, units: frozenset[str], why: str) -> Outcome:
        everything = self.problem.everything
        if self.direction is Direction.CURE:
            return self._judge(units, why)
        if self.direction is Direction.CAUSE:
            return self._judge(everything - units, why).flipped
        cures = self._judge(units, why)
        if cures is Outcome.FAIL:
            return cures
        causes = self._judge(everything - units, f"{why}, and the reverse").flipped
        return causes if cures is Outcome.PASS or causes is Outcome.FAIL else Outcome.UNRESOLVED

    def _judge(self, treated: frozenset[str], why: str) -> Outcome:
        is_new = not self.session.is_judged(treated)
        outcome = self.session.judge(treated)
        if is_new:
            self.log.note(f"{why}: treat {self.problem.describe(treated)}", outcome)
        return outcome

"""The question that a strategy puts to the oracle: does this set of units have the wanted property?"""

from __future__ import annotations

from collections.abc import Iterable

from harness.search.oracle import Session
from harness.search.problem import Problem
from harness.search.trail import Trail
from harness.search.types import Direction, Outcome, Verdict


class Stop(Exception):
    """The search cannot go on. It never leaves `search`.

    Args:
        verdict: how it ends.
        reason: for the trail.
        treated: the configuration that decided it.
    """

    def __init__(self, verdict: Verdict, reason: str, treated: frozenset[str]) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason
        self.treated = treated


class WholeUnresolved(Exception):
    """The set of all suspects cannot be judged, so nothing follows from a failure of a part of it."""


class Inquiry:
    """One property of sets of units, asked of one session.

    The property of a set X is, by direction: treating X passes (cure); treating all but X fails (cause); both.
    The empty set does not have it, which the caller has checked. Whether the whole has it is checked here, at
    the first set that does not: a set that has it proves by itself that there is something to find.

    Args:
        session: the oracle with its memory.
        trail: where each new outcome is written down.
        direction: which property.
        whole: the suspects, in their order. None: all units.
    """

    def __init__(
        self, session: Session, trail: Trail, direction: Direction, whole: Iterable[str] | None = None
    ) -> None:
        self.session = session
        self.trail = trail
        self.direction = direction
        self.whole = session.problem.units if whole is None else tuple(whole)
        self.best: frozenset[str] | None = None
        self._whole_asked = False

    @property
    def problem(self) -> Problem:
        """The problem of the session."""
        return self.session.problem

    def ask(self, units: Iterable[str], why: str) -> Outcome:
        """Whether the set has the property: pass if it does.

        Raises:
            Stop: the whole does not have it, so there is nothing to find.
            WholeUnresolved: this set does not have it, and the whole cannot be judged.
        """
        asked = frozenset(units)
        outcome = self._property(asked, why)
        if outcome is Outcome.PASS:
            if self.best is None or len(asked) < len(self.best):
                self.best = asked
        elif self.best is None and asked and not self._whole_asked:
            self._ask_whole()
        return outcome

    def has(self, units: Iterable[str], why: str) -> bool:
        """Whether the set is known to have the property; unresolved counts as not known."""
        return self.ask(units, why) is Outcome.PASS

    def badness(self, units: Iterable[str]) -> float | None:
        """How bad treating a set is, if it was asked about, is a number, and one trial decided; costs nothing."""
        treated = frozenset(units)
        if self.session.votes is not None or not self.session.is_judged(treated):
            return None
        return self.session.trial(treated).badness

    def configurations(self, units: Iterable[str]) -> tuple[frozenset[str], ...]:
        """What is treated in the evaluations that the property of this set rests on."""
        cure = frozenset(units)
        cause = self.problem.everything - cure
        return {Direction.CURE: (cure,), Direction.CAUSE: (cause,)}.get(self.direction, (cure, cause))

    def _ask_whole(self) -> None:
        self._whole_asked = True
        whole = frozenset(self.whole)
        outcome = self._property(whole, "check that the whole helps")
        if outcome is Outcome.PASS:
            self.best = whole
        elif outcome is Outcome.FAIL:
            reason = "the fault is not in the units: it stays when all of them are treated"
            raise Stop(Verdict.LOST, reason, self.problem.everything)
        else:
            raise WholeUnresolved

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
            self.trail.note(f"{why}: treat {self.problem.describe(treated)}", outcome)
        return outcome

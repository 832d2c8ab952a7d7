"""`search`: check the two ends, narrow, prove, repeat, and report what was assumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from harness.errors import UsageError
from harness.search.journal import Journal
from harness.search.predicate import Log, Predicate, Stop
from harness.search.problem import Problem
from harness.search.ranked import ranking
from harness.search.session import BudgetSpent, GivenUp, Session, Unrepeatable
from harness.search.splitting import Reduction, prove_minimal
from harness.search.strategy import narrow
from harness.search.types import (
    Budget,
    Direction,
    Oracle,
    Outcome,
    Result,
    SearchOptions,
    SearchProgress,
    SearchVerdict,
    Tally,
    Trial,
)

REPEATABLE = "a configuration gives the same outcome each time"
MONOTONE = "treating more never turns a pass into a fail"


def search(
    problem: Problem,
    oracle: Oracle,
    *,
    options: SearchOptions | None = None,
    budget: Budget | None = None,
    journal: Journal | None = None,
    known: Mapping[frozenset[str], Trial] | None = None,
    on_progress: Callable[[SearchProgress], None] | None = None,
    ahead: Callable[[Sequence[frozenset[str]]], None] | None = None,
) -> Result:
    """Find a minimal set of units whose treatment makes the oracle pass, or what else `options` say.

    The search is deterministic in its arguments and the oracle's outcomes. An oracle that raises
    BudgetExhaustedError ends it as `budget` does. A KeyboardInterrupt, and whatever else the oracle raises, passes
    through and leaves a journal that can be resumed.

    Args:
        problem: the units and what is believed of them.
        oracle: evaluates one configuration; see `Oracle`.
        options: what is searched for. None: a proved minimal cure, one evaluation a configuration.
        budget: what may be spent. None: no limit.
        journal: answers evaluations that it holds and receives the others. None: nothing is kept.
        known: evaluations that were made elsewhere, by configuration; they cost nothing.
        on_progress: called after each evaluation.
        ahead: gets configurations that will probably be evaluated next, in their order: an oracle that can do several
            at once begins.

    Raises:
        UsageError: `known` names an unknown unit.
        JournalError: the journal could not be written.
    """
    for treated in known or {}:
        if not treated <= problem.everything:
            stray = min(treated - problem.everything)
            raise UsageError(f"a known evaluation treats {stray!r}, which is not a unit of the problem")
    log = Log(on_progress)
    session = Session(
        problem,
        oracle,
        budget=budget or Budget(),
        journal=journal,
        known=known,
        on_evaluation=log.evaluated,
        ahead=ahead,
    )
    return _Search(session, log, options or SearchOptions()).run()


class _Search:
    """One run of `search`; its state is what a result can still report when the search stops half-way."""

    def __init__(self, session: Session, log: Log, options: SearchOptions) -> None:
        self.session = session
        self.log = log
        self.options = options
        self.problem = session.problem
        self.predicate = Predicate(session, log, options.direction)
        self.kept: frozenset[str] | None = None
        self.minimal = False
        self.untested: frozenset[str] = frozenset()
        self.tally: Tally | None = None
        self.given_up = False

    def run(self) -> Result:
        self.log.expect(len(self.problem.units))
        try:
            try:
                self._check_ends()
                narrowed = self._narrow()
                self.kept, self.untested = narrowed.kept, narrowed.untested_units
                self._check_repeats(*self.predicate.configurations(narrowed.kept))
            except BudgetSpent as spent:
                self.log.note(str(spent))
                self.given_up = isinstance(spent, GivenUp)
                return self._result(spent.verdict)
            self._prove(narrowed)
            return self._result(SearchVerdict.FOUND)
        except Stop as stop:
            return self._stopped(stop)
        except Unrepeatable as error:
            return self._stopped(self._flaky(error.treated))

    def _check_ends(self) -> None:
        """Something is wrong to begin with, and for a cause: not with everything treated."""
        nothing = frozenset[str]()
        outcome = self._settle(nothing, "treat nothing")
        if outcome is Outcome.PASS:
            raise Stop(SearchVerdict.NONE, "nothing is wrong: it passes with nothing treated", nothing)
        if outcome is Outcome.UNRESOLVED:
            raise Stop(SearchVerdict.UNRESOLVED, "it cannot be judged with nothing treated", nothing)
        if not self.problem.units:
            raise Stop(SearchVerdict.LOST, "it fails and there is nothing to treat", nothing)
        if self.options.direction is Direction.CURE:
            return
        everything = self.problem.everything
        outcome = self._settle(everything, "treat everything")
        if outcome is Outcome.FAIL:
            raise Stop(SearchVerdict.LOST, "it fails with everything treated", everything)
        if outcome is Outcome.UNRESOLVED:
            reason = "it cannot be judged with everything treated"
            raise Stop(SearchVerdict.UNRESOLVED, reason, everything)

    def _settle(self, treated: frozenset[str], why: str) -> Outcome:
        is_new = not self.session.is_judged(treated)
        outcome = self.session.judge(treated)
        if is_new:
            self.log.note(why, outcome)
        self._check_repeats(treated)
        return outcome

    def _check_repeats(self, *configurations: frozenset[str]) -> None:
        """Evaluate again what must not change.

        Raises:
            Stop: it did change.
        """
        if self.options.repeats == 1:
            return
        for treated in configurations:
            evaluations = [self.session.evaluation(treated, n) for n in range(self.options.repeats)]
            if len({evaluation.outcome for evaluation in evaluations}) > 1:
                raise self._flaky(treated)
        self.log.assume("repeatable", REPEATABLE, True)

    def _flaky(self, treated: frozenset[str]) -> Stop:
        self.log.assume("repeatable", REPEATABLE, False)
        what = self.problem.describe(treated)
        return Stop(SearchVerdict.FLAKY, f"treating {what} does not give the same outcome twice", treated)

    def _narrow(self) -> Reduction:
        """For both directions: a cure first; if it is not a cause, a cause beside it, and what both need."""
        if self.options.direction is not Direction.BOTH:
            return narrow(self.predicate, prove=self.options.prove)
        cure = narrow(Predicate(self.session, self.log, Direction.CURE), prove=False)
        if self.predicate.holds(cure.kept, "the cure, and the reverse"):
            return cure
        cause = narrow(Predicate(self.session, self.log, Direction.CAUSE), prove=False)
        for kept in (cause.kept, cure.kept | cause.kept):
            if self.predicate.holds(kept, "cause and cure"):
                return Reduction(kept)
        return narrow(self.predicate, prove=self.options.prove)

    def _prove(self, narrowed: Reduction) -> None:
        """Spend what is left of the budget on the proof; an answer stays an answer without it."""
        if not self.options.prove and len(narrowed.kept) > 1:
            return
        order = tuple(reversed(ranking(self.problem)))
        try:
            proof = prove_minimal(self.predicate, narrowed.kept, order)
            self.minimal, self.untested = not proof.untested, proof.untested_units
            if proof.kept != self.kept:
                self.kept = proof.kept
                self._check_repeats(*self.predicate.configurations(proof.kept))
        except BudgetSpent:
            self.log.note("the budget is spent before the proof was complete")

    def _stopped(self, stop: Stop) -> Result:
        verdict = stop.verdict
        if verdict is SearchVerdict.LOST:
            try:
                self._check_repeats(stop.treated)
            except BudgetSpent:
                self.log.note("the budget is spent before that could be repeated")
            except Stop as flaky:
                stop, verdict = flaky, flaky.verdict
        tally = self.session.tally(stop.treated)
        if verdict is SearchVerdict.UNRESOLVED and tally.passes and tally.fails:
            verdict = SearchVerdict.FLAKY
        self.tally = tally if verdict is SearchVerdict.FLAKY else None
        self.log.note(stop.reason)
        return self._result(verdict)

    def _result(self, verdict: SearchVerdict) -> Result:
        contradictions = self.session.contradictions
        self.log.assume("monotone", MONOTONE, False if contradictions else True if self.minimal else None)
        answered = verdict is SearchVerdict.FOUND
        best = self.kept if answered else self.predicate.best
        return Result(
            verdict=verdict,
            culprits=self.problem.ordered(best) if answered and best is not None else (),
            best=None if best is None else self.problem.ordered(best),
            minimal=self.minimal and answered,
            untested=self.problem.ordered(self.untested) if answered else (),
            evaluations=self.session.evaluations,
            seconds=self.session.seconds,
            strategies=tuple(self.log.strategies),
            assumptions=tuple(self.log.assumptions.values()),
            log=tuple(self.log.steps),
            tally=self.tally,
            replayed=self.session.replayed,
            given_up=self.given_up,
            unresolved=self.session.unresolved,
            last_note=self.session.last_note,
        )

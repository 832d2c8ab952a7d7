"""`search`: check the two ends, narrow, prove, double-check, and report what was assumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.errors import UsageError
from harness.search.inquiry import Inquiry, Stop
from harness.search.journal import Journal
from harness.search.narrow import Narrowed, check_strategy, narrow
from harness.search.oracle import BudgetSpent, NoisierThanAllowed, Session, Unrepeatable
from harness.search.problem import Problem
from harness.search.prove import failing_alone, prove_minimal
from harness.search.ranked import ranking
from harness.search.trail import Trail
from harness.search.types import (
    Budget,
    Direction,
    Options,
    Oracle,
    Outcome,
    Progress,
    Result,
    Strategy,
    Tally,
    Trial,
    Verdict,
)

MOST_EXPLAINED = 4
"""The causes behind an interaction are searched for while this few culprits do not fail alone.

More of them mean an error that accumulates: its minimal causes are large, many, and say nothing.
"""


REPEATABLE = "a configuration gives the same outcome each time"
MONOTONE = "treating more never turns a pass into a fail"


def search(
    problem: Problem,
    oracle: Oracle,
    *,
    options: Options | None = None,
    budget: Budget | None = None,
    journal: Journal | None = None,
    known: Mapping[frozenset[str], Trial] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Find a minimal set of units whose treatment makes the oracle pass, or that is asked for by `options`.

    The search is deterministic in its arguments and the oracle's outcomes. An oracle that raises
    BudgetExhaustedError ends it as `budget` does. A KeyboardInterrupt, and whatever else the oracle raises, passes
    through and leaves a journal that can be resumed.

    Args:
        problem: the units and what is believed of them.
        oracle: evaluates one configuration; see `Oracle`.
        options: what is asked. None: a proved minimal cure, one trial a configuration.
        budget: what may be spent. None: no limit.
        journal: answers evaluations that it holds and receives the others. None: nothing is kept.
        known: trials that were made elsewhere, by configuration; they cost nothing.
        on_progress: called after each evaluation.

    Raises:
        UsageError: `known` names an unknown unit, or a strategy lacks its scores or groups.
        JournalError: the journal could not be written.
    """
    options = options or Options()
    for treated in known or {}:
        if not treated <= problem.everything:
            stray = min(treated - problem.everything)
            raise UsageError(f"a known trial treats {stray!r}, which is not a unit of the problem")
    trail = Trail(on_progress)
    session = Session(
        problem,
        oracle,
        budget=budget or Budget(),
        journal=journal,
        known=known,
        votes=options.votes,
        on_trial=trail.evaluated,
    )
    return _Search(session, trail, options).run()


class _Search:
    """One run of `search`; its state is what a result can still report when the search stops half-way."""

    def __init__(self, session: Session, trail: Trail, options: Options) -> None:
        self.session = session
        self.trail = trail
        self.options = options
        self.problem = session.problem
        self.inquiry = Inquiry(session, trail, options.direction)
        self.kept: frozenset[str] | None = None
        self.minimal = False
        self.untested: frozenset[str] = frozenset()
        self.causes: list[tuple[str, ...]] = []
        self.tally: Tally | None = None

    def run(self) -> Result:
        check_strategy(self.inquiry, self.options)
        self.trail.expect(len(self.problem.units))
        try:
            try:
                self._check_ends()
                narrowed = self._narrow()
                self.kept, self.untested = narrowed.kept, narrowed.untested
                self._check_repeats(*self.inquiry.configurations(narrowed.kept))
            except BudgetSpent as spent:
                self.trail.note(str(spent))
                return self._result(Verdict.BUDGET)
            return self._result(self._strengthen(narrowed))
        except Stop as stop:
            return self._stopped(stop)
        except Unrepeatable as error:
            return self._stopped(self._flaky(error.treated))
        except NoisierThanAllowed as error:
            reason = f"{error.share:.0%} of the votes go against the decisions, more than the options allow"
            return self._stopped(Stop(Verdict.FLAKY, reason, error.treated))

    def _check_ends(self) -> None:
        """Something is wrong to begin with, and for a cause: not with everything treated."""
        nothing = frozenset[str]()
        outcome = self._settle(nothing, "treat nothing")
        if outcome is Outcome.PASS:
            raise Stop(Verdict.NONE, "nothing is wrong: it passes with nothing treated", nothing)
        if outcome is Outcome.UNRESOLVED:
            raise Stop(Verdict.UNRESOLVED, "it cannot be judged with nothing treated", nothing)
        if not self.problem.units:
            raise Stop(Verdict.LOST, "it fails and there is nothing to treat", nothing)
        if self.options.direction is not Direction.CURE:
            self._check_everything()

    def _check_everything(self) -> None:
        everything = self.problem.everything
        outcome = self._settle(everything, "treat everything")
        if outcome is Outcome.FAIL:
            raise Stop(Verdict.LOST, "it fails with everything treated", everything)
        if outcome is Outcome.UNRESOLVED:
            raise Stop(Verdict.UNRESOLVED, "it cannot be judged with everything treated", everything)

    def _settle(self, treated: frozenset[str], why: str) -> Outcome:
        is_new = not self.session.is_judged(treated)
        outcome = self.session.judge(treated)
        if is_new:
            self.trail.note(why, outcome)
        self._check_repeats(treated)
        return outcome

    def _check_repeats(self, *configurations: frozenset[str]) -> None:
        """Evaluate again what must not change.

        Raises:
            Stop: it did change.
        """
        if self.session.votes is not None or self.options.repeats == 1:
            return
        for treated in configurations:
            outcomes = {self.session.trial(treated, number).outcome for number in range(self.options.repeats)}
            if len(outcomes) > 1:
                raise self._flaky(treated)
        self.trail.assume("repeatable", REPEATABLE, True)

    def _flaky(self, treated: frozenset[str]) -> Stop:
        self.trail.assume("repeatable", REPEATABLE, False)
        what = self.problem.describe(treated)
        return Stop(Verdict.FLAKY, f"treating {what} does not give the same outcome twice", treated)

    def _narrow(self) -> Narrowed:
        if self.options.strategy is Strategy.RDDMIN:
            return self._by_causes()
        if self.options.direction is Direction.BOTH:
            return self._both()
        return narrow(self.inquiry, self.options)

    def _by_causes(self) -> Narrowed:
        """The first minimal cause; for a cure, one after the other until treating them all passes (rddmin)."""
        self.trail.enter(Strategy.RDDMIN)
        if self.options.direction is Direction.BOTH:
            return self._both()
        all_causes = self._find_causes()
        if self.options.direction is Direction.CAUSE:
            return Narrowed(frozenset(self.causes[0]))
        if self.inquiry.has(all_causes, "all causes"):
            return Narrowed(all_causes)
        return narrow(self.inquiry, Options(prove=self.options.prove))

    def _find_causes(self) -> frozenset[str]:
        """Minimal causes that share no unit, until treating all of them does not fail any more."""
        self._check_everything()
        cure = Inquiry(self.session, self.trail, Direction.CURE)
        treated = frozenset[str]()
        while cure.ask(treated, "the causes so far") is Outcome.FAIL:
            rest = self.problem.ordered(self.problem.everything - treated)
            inquiry = Inquiry(self.session, self.trail, Direction.CAUSE, rest)
            narrowed = narrow(inquiry, Options(direction=Direction.CAUSE))
            proof = prove_minimal(inquiry, narrowed.kept, rest)
            cause = self.problem.ordered(proof.kept)
            self.causes.append(cause)
            self.trail.note(f"fails with only {self.problem.describe(cause)} untreated")
            treated |= proof.kept
        return treated

    def _both(self) -> Narrowed:
        """A cure first; if it is not a cause too, a cause beside it, and what of the two together is needed."""
        plain = Options(strategy=self.options.strategy, prove=False)
        cure = narrow(Inquiry(self.session, self.trail, Direction.CURE), plain)
        if self.inquiry.has(cure.kept, "the cure, and the reverse"):
            return cure
        cause = narrow(Inquiry(self.session, self.trail, Direction.CAUSE), plain)
        for kept in (cause.kept, cure.kept | cause.kept):
            if self.inquiry.has(kept, "cause and cure"):
                return Narrowed(kept)
        return narrow(self.inquiry, self.options)

    def _strengthen(self, narrowed: Narrowed) -> Verdict:
        """Spend what is left of the budget on the proofs; an answer stays an answer without them."""
        verdict = Verdict.FOUND
        try:
            if self.options.prove or len(narrowed.kept) == 1:
                self._prove(narrowed)
            if self.options.independence:
                verdict = self._check_independence()
        except BudgetSpent:
            self.trail.note("the budget is spent before all proofs were made")
        return verdict

    def _prove(self, narrowed: Narrowed) -> None:
        order = tuple(reversed(ranking(self.problem)))
        proof = prove_minimal(self.inquiry, narrowed.kept, order)
        self.minimal, self.untested = not proof.untested, proof.untested
        if proof.kept != self.kept:
            self.kept = proof.kept
            self._check_repeats(*self.inquiry.configurations(proof.kept))

    def _check_independence(self) -> Verdict:
        culprits = self.problem.ordered(self.kept or ())
        outcomes = failing_alone(self.inquiry, culprits)
        silent = [unit for unit, outcome in outcomes.items() if outcome is Outcome.PASS]
        unknown = any(outcome is Outcome.UNRESOLVED for outcome in outcomes.values())
        detail = "each culprit fails alone, with all others treated"
        if not silent:
            self.trail.assume("independent", detail, None if unknown else True)
            return Verdict.FOUND
        self.trail.assume("independent", f"{detail}; {self.problem.describe(silent)} does not", False)
        if len(silent) <= MOST_EXPLAINED and not self.causes:
            try:
                self._find_causes()
            except (BudgetSpent, Stop):
                self.trail.note("with whom they interact could not be found out")
        return Verdict.INTERACTION

    def _stopped(self, stop: Stop) -> Result:
        verdict = stop.verdict
        if verdict is Verdict.LOST:
            try:
                self._check_repeats(stop.treated)
            except BudgetSpent:
                self.trail.note("the budget is spent before that could be repeated")
            except Stop as flaky:
                stop, verdict = flaky, flaky.verdict
        tally = self.session.tally(stop.treated)
        if verdict is Verdict.UNRESOLVED and tally.passes and tally.fails:
            verdict = Verdict.FLAKY
        self.tally = tally if verdict is Verdict.FLAKY else None
        self.trail.note(stop.reason)
        return self._result(verdict)

    def _result(self, verdict: Verdict) -> Result:
        contradictions = self.session.contradictions
        self.trail.assume("monotone", MONOTONE, False if contradictions else True if self.minimal else None)
        answered = verdict in (Verdict.FOUND, Verdict.INTERACTION)
        best = self.kept if answered else self.inquiry.best
        confidence = None if self.session.votes is None else max(0.0, 1 - self.session.doubt)
        return Result(
            verdict=verdict,
            culprits=self.problem.ordered(best) if answered and best is not None else (),
            best=None if best is None else self.problem.ordered(best),
            minimal=self.minimal and answered,
            untested=self.problem.ordered(self.untested) if answered else (),
            causes=tuple(self.causes),
            evaluations=self.session.evaluations,
            seconds=self.session.seconds,
            strategies=self.trail.strategies,
            assumptions=self.trail.assumptions,
            trail=self.trail.steps,
            confidence=confidence,
            tally=self.tally,
            replayed=self.session.replayed,
        )

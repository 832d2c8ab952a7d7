"""Configurations, evaluated and remembered: by the emulator, by an engine, and by a search for the fewest nodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property

from harness.diagnosis import (
    BASELINE,
    CURE_PHASE,
    GATES_PHASE,
    Context,
    DiagnosisJournal,
    JudgedEvaluation,
    Prediction,
    SearchSetup,
    Stage,
    Subject,
    confirm,
    cure_on_emulator,
    emulate,
    find_groups,
    inherited,
    island_problem,
)
from harness.explore.answers import JournalSummary, TryResult
from harness.judge import OutputResult
from harness.search import Evaluation, Outcome, Problem, Result, search

OF_CANDIDATE, OF_EMULATOR = "islands", "emulator"
"""The journals of a diagnosis: of its candidate and, beside an engine, of the emulator."""


class Record:
    """The evaluations of one subject, in the journal that `harness diagnose` keeps of it.

    The journal is open only while something is evaluated, so that a diagnosis may use it in between.

    Args:
        journal: holds the journal of the search.
        subject: the model on the candidate that evaluates.
        name: name of the journal.

    Raises:
        JournalError: the journal belongs to another problem, is damaged, or another process is writing to it.
    """

    def __init__(self, journal: DiagnosisJournal, subject: Subject, name: str) -> None:
        self.journal = journal
        self.subject = subject
        self.name = name
        self.known: dict[frozenset[str], Evaluation] = {}
        self.refresh()
        self.earlier = self._summary()

    @cached_property
    def problem(self) -> Problem:
        """The question that the journal is about, as a diagnosis puts it."""
        return island_problem(self.subject)

    def refresh(self) -> None:
        """Read what others have written."""
        with self.journal.of_search(self.name, self.problem) as search_journal:
            assert search_journal is not None
            self.known |= {record.treated: record.evaluation for record in search_journal.records}

    def add(self, kept: frozenset[str], evaluation: Evaluation) -> None:
        """Write an evaluation to disk; one with the outcome that is known already is not repeated.

        What could not be judged is not written: it may be another time, and a resumed search would not try again.

        Raises:
            JournalError: another process is writing.
        """
        if evaluation.outcome is Outcome.UNRESOLVED:
            return
        known = self.known.get(kept)
        if known is None or known.outcome is not evaluation.outcome:
            with self.journal.of_search(self.name, self.problem) as search_journal:
                assert search_journal is not None
                search_journal.append(kept, evaluation)
        self.known[kept] = evaluation

    def result(self, kept: frozenset[str], evaluation: JudgedEvaluation) -> TryResult:
        """The answer for a configuration."""
        units = self.subject.units
        nodes = tuple(name for name in units if name in kept)
        return TryResult(self.subject.candidate.name, nodes, len(units), evaluation)

    def _summary(self) -> JournalSummary:
        passing = [kept for kept, trial in self.known.items() if trial.outcome is Outcome.PASS]
        best = min(passing, key=len, default=None)
        name = self.subject.candidate.name
        return JournalSummary(name, len(self.known), None if best is None else self.problem.ordered(best))


class Evaluations:
    """Evaluates configurations of one model, each a set of nodes that are kept in FP32.

    Args:
        context: what is explored; its progress follows everything that takes time.
        prediction: the emulator with everything lowered.
    """

    def __init__(self, context: Context, prediction: Prediction) -> None:
        self._context = context
        self.subject = context.emulated
        self.prediction = prediction
        only, journal = context.subject.emulated, context.journal
        self.emulator = Record(journal, self.subject, OF_CANDIDATE if only else OF_EMULATOR)
        self.engine = None if only else Record(journal, context.subject, OF_CANDIDATE)
        context.emulator.failing_sample = prediction.failing_sample

    @property
    def earlier(self) -> tuple[JournalSummary, ...]:
        """What the journals held when the session began."""
        records = [record for record in (self.emulator, self.engine) if record is not None]
        return tuple(record.earlier for record in records if record.earlier.evaluations)

    def emulate(self, kept: frozenset[str]) -> TryResult:
        """Evaluate all samples on the emulator."""
        started = time.perf_counter()
        outputs, _ = emulate(self.subject, kept)
        result = self.judge(kept, outputs, time.perf_counter() - started)
        self.emulator.add(kept, result.evaluation.trial)
        return result

    def judge(
        self, kept: frozenset[str], outputs: tuple[OutputResult, ...], seconds: float = 0.0
    ) -> TryResult:
        """The answer for outputs of the emulator."""
        outcome = Outcome.PASS if all(output.passed for output in outputs) else Outcome.FAIL
        return self.emulator.result(kept, JudgedEvaluation(outcome, outputs, seconds))

    def build(self, kept: frozenset[str], record: Record) -> TryResult:
        """Build the unobserved engine and evaluate all samples, or recall that this was done.

        The journal keeps it as a diagnosis keeps its own steps: with nothing in FP32 it is the baseline.
        """
        evaluator = self._context.evaluator
        self._context.report(Stage.CURE, f"build with {len(kept)} nodes in FP32")
        if kept:
            judged = confirm(evaluator, tuple(kept))
        else:
            judged = evaluator.evaluate(record.subject.plan(), phase=GATES_PHASE, key=BASELINE, thorough=True)
        record.add(kept, judged.trial)
        return record.result(kept, judged)

    def bisect(self, units: Sequence[str], fixed: frozenset[str]) -> Result:
        """The fewest of `units` that pass together with `fixed`, on the emulator.

        Among all nodes it is the search of a diagnosis. Otherwise every unit is lowered alone, and the ranking is
        searched; each configuration goes to the journal as what it is in the whole model.
        """
        if not fixed and set(units) == set(self.subject.units) and self.prediction.fails:
            return self._bisect_everything()

        def oracle(treated: frozenset[str]) -> Evaluation:
            kept = fixed | treated
            known = self.emulator.known.get(kept)
            if known is None:
                plan = self.subject.plan(kept)
                known = self._context.emulator.evaluate(plan, phase=CURE_PHASE).trial
                self.emulator.add(kept, known)
            return known

        # If all of them do not help, ranking them is in vain: the search says so at once.
        helps = oracle(frozenset(units)).outcome is Outcome.PASS
        model = self.subject.model
        problem = Problem(
            units=tuple(units),
            groups=find_groups(model, units),
            scores=self._scores(units) if helps else None,
        )
        return search(problem, oracle, on_progress=self._context.follow("search the island"))

    def _scores(self, units: Sequence[str]) -> dict[str, float]:
        self._context.report(Stage.CURE, f"lower {len(units)} nodes one at a time")
        errors = inherited(self.subject.model, self.prediction.introduced, units)
        return self._context.effects(self.prediction.failing_sample).scores(units, errors)

    def _bisect_everything(self) -> Result:
        context, record = self._context, self.emulator
        setup = SearchSetup(record.journal, record.name, context.follow("search the island"))
        context.report(Stage.CURE, "lower suspects one at a time")
        effects = context.effects(self.prediction.failing_sample)
        try:
            cure = cure_on_emulator(context.emulator, self.prediction, effects, setup)
        finally:
            record.refresh()
        assert cure.result is not None, "cure_on_emulator always searches"
        return cure.result

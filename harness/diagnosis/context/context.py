"""What the stages of one diagnosis share: the subject, its evaluators, what may be spent, and who follows progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness import search
from harness.diagnosis.context.background import Once
from harness.diagnosis.context.budget import DiagnosisBudget, Spending
from harness.diagnosis.context.effects import Effects
from harness.diagnosis.context.evaluator import Evaluator
from harness.diagnosis.context.journal import DiagnosisJournal
from harness.diagnosis.context.parts import GraphPart
from harness.diagnosis.context.seen import CureSearch, EngineObservation, FP32Sums
from harness.diagnosis.context.subject import Subject
from harness.diagnosis.results import Cost, Stage
from harness.judge import LayerResult, OutputResult

MOST_NAMED = 8
"""Larger sets of nodes are not named to whoever follows progress."""

Cured = tuple[tuple[OutputResult, ...], bool, tuple[LayerResult, ...]]
"""Outputs of the emulator with a cure, whether they pass, and its layers, if they were measured."""


@dataclass(frozen=True)
class DiagnosisEvent:
    """What a progress display needs to know.

    Args:
        stage: the stage that is under way.
        text: what it does right now.
        detail: with which step of that it is at work; empty where it has none.
        emulations: evaluations of the emulator so far.
        builds: engines so far, those of a resumed diagnosis included.
        suspects: how many nodes are suspected; None where that is not known yet.
        suspected: names of some of them, the most suspected first.
        remaining: an estimate of the evaluations still to come in this stage; None where that is not known.
    """

    stage: Stage
    text: str
    emulations: int = 0
    builds: int = 0
    suspects: int | None = None
    suspected: tuple[str, ...] = ()
    remaining: int | None = None
    detail: str = ""

    def __str__(self) -> str:
        """`[cure] search the island: bisect, fail`."""
        return f"[{self.stage}] {self.text}" + (f": {self.detail}" if self.detail else "")


DiagnosisProgress = Callable[[DiagnosisEvent], None]


class Context:
    """One diagnosis under way: services, no findings.

    Args:
        subject: what is diagnosed.
        budget: what may be spent; by default without limits.
        journal: what is kept on disk; by default nothing.
        progress: gets every step; None: nobody follows.
        out: folder for what is handed over; None writes nothing.
        idle: called when no engine is asked for any more.
    """

    def __init__(
        self,
        subject: Subject,
        budget: DiagnosisBudget | None = None,
        journal: DiagnosisJournal | None = None,
        progress: DiagnosisProgress | None = None,
        out: Path | None = None,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        self.subject = subject
        self.idle = idle
        self.budget = budget or DiagnosisBudget()
        self.journal = journal or DiagnosisJournal()
        self.progress = progress
        self.out = out
        self.stage = Stage.GATES
        self.spending = Spending(self.budget)
        self.spending.restore(self.journal.spent)
        self.evaluator = Evaluator(self.subject, self.spending, self.journal)
        self._emulations = self.subject.bench.emulator.evaluations
        self._effects: dict[int, Effects] = {}
        self.sums = Once[FP32Sums]()
        self.priors = Once[CureSearch]()
        self.observations = Once[EngineObservation]()
        self.cured = Once[Cured]()
        self.shrunk = Once[GraphPart | None]()
        self.begun_repro: Any = None
        """A handover.ReproRun that was begun before it was known what is said of it."""
        self._stages: dict[Stage, float] = {}
        self._since = self.spending.started

    @cached_property
    def emulated(self) -> Subject:
        """The same subject on the emulator."""
        subject = self.subject
        if subject.emulated:
            return subject
        return Subject(subject.bench, subject.precision, subject.bench.emulator, undecided=subject.undecided)

    @cached_property
    def emulator(self) -> Evaluator:
        """Evaluates plans on the emulator; it charges no engines."""
        if self.subject.emulated:
            return self.evaluator
        spending = Spending(DiagnosisBudget(seconds=self.budget.seconds), self.spending.started)
        return Evaluator(self.emulated, spending, self.journal)

    def effects(self, sample: int) -> Effects:
        """The effects of nodes alone, on the emulator, for one sample."""
        if sample not in self._effects:

            def report() -> None:
                self.report(Stage.CURE, "lower suspects one at a time")

            self._effects[sample] = Effects(self.subject, sample, self.journal, report)
        return self._effects[sample]

    @property
    def cost(self) -> Cost:
        """What was spent so far."""
        emulations = self.subject.bench.emulator.evaluations - self._emulations
        self._clock()
        stages = {stage: round(seconds, 4) for stage, seconds in self._stages.items()}
        return Cost(self.spending.builds, emulations, round(self.spending.seconds, 4), stages)

    def report(
        self,
        stage: Stage,
        text: str,
        *,
        suspected: tuple[str, ...] = (),
        suspects: int | None = None,
        remaining: int | None = None,
        detail: str = "",
    ) -> None:
        """Say what is done now to whoever follows progress; see `DiagnosisEvent`."""
        self._clock()
        self.stage = stage
        if self.progress is not None:
            cost = self.cost
            spent = cost.emulations, cost.builds
            self.progress(DiagnosisEvent(stage, text, *spent, suspects, suspected, remaining, detail))

    def _clock(self) -> None:
        """Count the time since the last call to the stage that is under way."""
        now = time.perf_counter()
        self._stages[self.stage] = self._stages.get(self.stage, 0.0) + now - self._since
        self._since = now

    def follow(self, text: str) -> Callable[[search.SearchProgress], None]:
        """Turns the steps of a search into events of the stage that is under way."""

        def on_progress(step: search.SearchProgress) -> None:
            self.report(
                self.stage,
                text,
                suspected=tuple(sorted(step.treated)) if len(step.treated) <= MOST_NAMED else (),
                suspects=step.suspects,
                remaining=step.remaining,
                detail=f"{step.strategy}, {step.evaluation.outcome}",
            )

        return on_progress

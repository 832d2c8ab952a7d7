"""What the stages of one diagnosis share: who is examined, with what, and who is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from harness import search
from harness.diagnosis.context.budget import Limits, Spending
from harness.diagnosis.context.effects import Effects
from harness.diagnosis.context.examiner import Examiner
from harness.diagnosis.context.journal import Notebook
from harness.diagnosis.context.progress import Progress, ProgressEvent
from harness.diagnosis.context.subject import Subject
from harness.diagnosis.results import Cost, Stage


@dataclass
class Lab:
    """One diagnosis under way.

    Args:
        subject: what is diagnosed.
        limits: what may be spent.
        notebook: what is kept on disk; None keeps nothing.
        progress: told of every step; None: nobody watches.
    """

    subject: Subject
    limits: Limits = field(default_factory=Limits)
    notebook: Notebook | None = None
    progress: Progress | None = None
    stage: Stage = Stage.GATES

    def __post_init__(self) -> None:
        self.spending = Spending(self.limits)
        if self.notebook is not None:
            self.spending.restore(self.notebook.spent)
        self._emulations = self.subject.bench.emulator.evaluations
        self.examiner = Examiner(self.subject, self.spending, self.notebook)
        self._stages: dict[Stage, float] = {}
        self._since = self.spending.started

    @cached_property
    def emulated(self) -> Subject:
        """The same subject on the emulator."""
        subject = self.subject
        return (
            subject
            if subject.emulated
            else Subject(
                subject.bench, subject.precision, subject.bench.emulator, undecided=subject.undecided
            )
        )

    @cached_property
    def emulations(self) -> Examiner:
        """An examiner of the emulator; it charges no engines."""
        if self.subject.emulated:
            return self.examiner
        spending = Spending(Limits(seconds=self.limits.seconds), self.spending.started)
        return Examiner(self.emulated, spending, self.notebook)

    def effects(self, sample: int) -> Effects:
        """The effects of nodes alone, on the emulator, for one sample."""
        return Effects(
            self.subject, sample, self.notebook, lambda: self.tell(Stage.CURE, "lower suspects one at a time")
        )

    @property
    def cost(self) -> Cost:
        """What was spent so far."""
        emulations = self.subject.bench.emulator.evaluations - self._emulations
        self._clock()
        return Cost(self.spending.builds, emulations, self.spending.seconds, dict(self._stages))

    def tell(
        self, stage: Stage, text: str, *, suspected: tuple[str, ...] = (), suspects: int | None = None
    ) -> None:
        """Tell whoever watches."""
        self._clock()
        self.stage = stage
        if self.progress is not None:
            cost = self.cost
            self.progress(ProgressEvent(stage, text, cost.emulations, cost.builds, suspects, suspected))

    def _clock(self) -> None:
        """Count the time since it was last looked at to the stage that is under way."""
        now = time.perf_counter()
        self._stages[self.stage] = self._stages.get(self.stage, 0.0) + now - self._since
        self._since = now

    def watcher(self, text: str) -> Callable[[search.Progress], None]:
        """What a search tells, as events of the cure."""

        def on_progress(step: search.Progress) -> None:
            if self.progress is None:
                return
            cost = self.cost
            names = tuple(sorted(step.treated)) if len(step.treated) <= 8 else ()
            label = f"{text}: {step.strategy}, {step.trial.outcome}"
            self.progress(
                ProgressEvent(
                    Stage.CURE, label, cost.emulations, cost.builds, step.suspects, names, step.remaining
                )
            )

        return on_progress

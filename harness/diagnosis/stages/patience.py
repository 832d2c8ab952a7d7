"""When a search on an engine is given up: most of what it asks for cannot be built.

A build that fails says nothing of the fault, and a search that hears nothing goes on to its last build. Measured on
an H200 with TensorRT 8.6.0: with all layers outside of the islands pinned to FP16, 64 builds and 151 s without an
answer, for TensorRT had no implementation for most islands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from harness.search import Outcome, Problem, Progress, Result, Step, Verdict

FIRST = 12
"""Builds before a search may be given up."""

MOST_UNRESOLVED = 0.5
"""The share of builds that may fail."""


class GivenUp(Exception):
    """The search has no use. It never leaves `search_islands`."""


@dataclass
class Patience:
    """Counts what a search hears; replayed evaluations too, so that a resumed search ends alike.

    Args:
        evaluations: so far.
        unresolved: how many of them could not be judged.
        last: why, of the last one.
        best: the smallest set that was seen to cure.
        relaxed: by set that was seen to cure, what its engine was built without.
        given_up: whether the search was ended.
        steps: each evaluation, for the trail.
    """

    evaluations: int = 0
    unresolved: int = 0
    last: str = ""
    best: frozenset[str] | None = None
    relaxed: dict[frozenset[str], str] = field(default_factory=dict)
    given_up: bool = False
    steps: list[Step] = field(default_factory=list)

    def watching(
        self, problem: Problem, on_progress: Callable[[Progress], None] | None
    ) -> Callable[[Progress], None]:
        """`on_progress`, which gives up once it is clear that nothing comes of it.

        Raises:
            GivenUp: more than half of the engines, and of at least a dozen, could not be built.
        """

        def watch(step: Progress) -> None:
            if on_progress is not None:
                on_progress(step)
            self._add(problem, step)
            if self.evaluations >= FIRST and self.unresolved > MOST_UNRESOLVED * self.evaluations:
                self.given_up = True
                raise GivenUp

        return watch

    def _add(self, problem: Problem, step: Progress) -> None:
        self.evaluations += 1
        outcome = step.trial.outcome
        if outcome is Outcome.UNRESOLVED:
            self.unresolved += 1
            self.last = step.trial.note or self.last
        elif outcome is Outcome.PASS:
            if step.trial.note:
                self.relaxed[step.treated] = step.trial.note
            if self.best is None or len(step.treated) < len(self.best):
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
            verdict=Verdict.UNRESOLVED,
            best=None if self.best is None else problem.ordered(self.best),
            evaluations=self.evaluations,
            strategies=tuple(dict.fromkeys(step.strategy for step in self.steps)),
            log=tuple(self.steps),
        )

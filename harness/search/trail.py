"""What a search tells while it goes on, and what it can show afterwards."""

from __future__ import annotations

from collections.abc import Callable

from harness.search.types import Assumption, Outcome, Progress, Step, Strategy, Trial


class Trail:
    """Collects the steps and assumptions of one search and feeds its progress callback.

    Args:
        on_progress: called after each evaluation. None: nobody watches.
    """

    def __init__(self, on_progress: Callable[[Progress], None] | None = None) -> None:
        self.strategy = Strategy.AUTO
        self.suspects = 0
        self.remaining: int | None = None
        self.evaluations = 0
        self._on_progress = on_progress
        self._steps: list[Step] = []
        self._strategies: list[Strategy] = []
        self._assumptions: dict[str, Assumption] = {}

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps so far."""
        return tuple(self._steps)

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        """The strategies that were entered, each once, in their order."""
        return tuple(self._strategies)

    @property
    def assumptions(self) -> tuple[Assumption, ...]:
        """All assumptions so far, in the order of their first mention."""
        return tuple(self._assumptions.values())

    def enter(self, strategy: Strategy) -> None:
        """Work goes on by this strategy."""
        self.strategy = strategy
        if strategy not in self._strategies:
            self._strategies.append(strategy)

    def expect(self, suspects: int, remaining: int | None = None) -> None:
        """So many units are suspected, and about so many evaluations are to come."""
        self.suspects, self.remaining = suspects, remaining

    def note(self, text: str, outcome: Outcome | None = None) -> None:
        """Add a step."""
        self._steps.append(Step(self.strategy, self.evaluations, text, outcome))

    def assume(self, name: str, detail: str, held: bool | None = None) -> None:
        """Lean on something; a later word on the same name replaces an earlier one."""
        self._assumptions[name] = Assumption(name, detail, held)

    def evaluated(self, treated: frozenset[str], trial: Trial, replayed: bool) -> None:
        """One evaluation is done."""
        self.evaluations += 1
        if self._on_progress is not None:
            left = self.remaining
            self._on_progress(
                Progress(
                    strategy=self.strategy,
                    evaluations=self.evaluations,
                    suspects=self.suspects,
                    remaining=left,
                    treated=treated,
                    trial=trial,
                    replayed=replayed,
                )
            )
        if self.remaining:
            self.remaining -= 1

"""What a diagnosis spends, and may spend."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.errors import BudgetExhaustedError, UsageError


@dataclass(frozen=True)
class Limits:
    """What a diagnosis may spend; None: no limit.

    Args:
        builds: engines, those of the diagnosis that is resumed included.
        seconds: wall time of this process; what the diagnosis that is resumed took is not counted.
    """

    builds: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("builds", "seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(
                    f"a limit of {value} {name} leaves nothing to diagnose with", hint="give more, or none"
                )


@dataclass
class Spending:
    """Counts engines and time; engines also by phase, so that a resumed search has the same budget again."""

    limits: Limits = field(default_factory=Limits)
    started: float = field(default_factory=time.perf_counter)
    by_phase: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    earlier_seconds: float = 0.0

    @property
    def builds(self) -> int:
        """Engines so far."""
        return sum(self.by_phase.values())

    @property
    def seconds(self) -> float:
        """Wall time of this process so far."""
        return time.perf_counter() - self.started

    def charge(self, phase: str, builds: int) -> None:
        """Count what was spent."""
        self.by_phase[phase] += builds

    def restore(self, spent: Mapping[str, int]) -> None:
        """Count what an earlier process spent."""
        for phase, builds in spent.items():
            self.by_phase[phase] += builds

    def left(self, phase: str) -> int | None:
        """How many engines `phase` may build in all, those that it has built already included."""
        if self.limits.builds is None:
            return None
        others = self.builds - self.by_phase.get(phase, 0)
        return max(self.limits.builds - others, 0)

    def seconds_left(self) -> float | None:
        """How long this process may go on."""
        return None if self.limits.seconds is None else max(self.limits.seconds - self.seconds, 0.0)

    def check(self) -> None:
        """See that another engine may be built.

        Raises:
            BudgetExhaustedError: the limit is reached.
        """
        if self.limits.builds is not None and self.builds >= self.limits.builds:
            raise BudgetExhaustedError(f"the budget of {self.limits.builds} builds is spent")
        left = self.seconds_left()
        if left is not None and left <= 0:
            raise BudgetExhaustedError(f"the budget of {self.limits.seconds:g} seconds is spent")

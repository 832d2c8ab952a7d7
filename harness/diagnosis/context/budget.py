"""What a diagnosis is to do, what it may spend, and what it has spent."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from harness.errors import BudgetExhaustedError, UsageError


@dataclass(frozen=True, kw_only=True)
class DiagnosisOptions:
    """How to diagnose.

    Args:
        prove: on an engine, confirm each culprit with a build of its own. Without it the emulator's proof is enough,
            where the emulator explains the fault.
        growth: measure every layer, before and with the culprits in FP32, for the table and the picture of how the
            error grows. What was observed of an engine is there in any case.
        timed: measure what the island costs in latency, on an engine that can be timed.

    Raises:
        UsageError: an option is not a bool.
    """

    prove: bool = False
    growth: bool = False
    timed: bool = True

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if not isinstance(value, bool):
                raise UsageError(f"{option.name} is {value!r}", hint=f"set {option.name} to True or False")


@dataclass(frozen=True)
class DiagnosisBudget:
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
                    f"a budget of {value} {name} is not enough for a diagnosis",
                    hint="give a larger one, or none",
                )


@dataclass
class Spending:
    """Counts engines and time; engines also by phase, so that a resumed search has the same budget again."""

    budget: DiagnosisBudget = field(default_factory=DiagnosisBudget)
    started: float = field(default_factory=time.perf_counter)
    by_phase: dict[str, int] = field(default_factory=lambda: defaultdict(int))

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
        if self.budget.builds is None:
            return None
        others = self.builds - self.by_phase.get(phase, 0)
        return max(self.budget.builds - others, 0)

    def seconds_left(self) -> float | None:
        """How long this process may go on."""
        return None if self.budget.seconds is None else max(self.budget.seconds - self.seconds, 0.0)

    def check(self) -> None:
        """See that another engine may be built.

        Raises:
            BudgetExhaustedError: the limit is reached.
        """
        if self.budget.builds is not None and self.builds >= self.budget.builds:
            raise BudgetExhaustedError(f"the budget of {self.budget.builds} builds is spent")
        left = self.seconds_left()
        if left is not None and left <= 0:
            raise BudgetExhaustedError(f"the budget of {self.budget.seconds:g} seconds is spent")

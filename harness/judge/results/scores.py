"""Metrics of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness.text import number


@dataclass(frozen=True)
class Score:
    """What a metric of the user's own says.

    Args:
        metric: `module:function`.
        reference: the score of the reference.
        candidate: the score of the candidate.
        max_drop: how much worse the candidate may be.
        higher: whether a higher score is better.
    """

    metric: str
    reference: float
    candidate: float
    max_drop: float
    higher: bool = True

    ALSO_IN_JSON: ClassVar = ("drop", "passed")

    @property
    def drop(self) -> float:
        """How much worse the candidate is than the reference."""
        worse = self.reference - self.candidate
        return worse if self.higher else -worse

    @property
    def passed(self) -> bool:
        """Whether the drop is within its limit."""
        return self.drop <= self.max_drop

    def __str__(self) -> str:
        """`scoring:top1 drops by 0.03, from 0.92 to 0.89, limit 0.01`."""
        verb = "drops" if self.higher else "rises"
        moved = f"{verb} by {number(self.drop)}, from" if self.drop > 0 else "is"
        was = f"{number(self.reference)} to {number(self.candidate)}"
        was = was if self.drop > 0 else f"{number(self.candidate)}, of the reference {number(self.reference)}"
        return f"{self.metric} {moved} {was}, limit {number(self.max_drop)}"

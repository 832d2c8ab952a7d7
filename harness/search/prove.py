"""The proofs at the end of a search: nothing can be left out, and each culprit fails alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from harness.search.inquiry import Inquiry
from harness.search.types import Direction, Outcome


@dataclass(frozen=True)
class Minimality:
    """What leaving out each unit of a set, alone, has shown.

    Args:
        kept: the set, without what turned out to be superfluous.
        minimal: leaving out each of them lost the property.
        untested: units whose leaving out could not be judged.
        monotone: none of the units that were needed when more was kept turned out to be superfluous.
    """

    kept: frozenset[str]
    minimal: bool
    untested: frozenset[str]
    monotone: bool


def prove_minimal(
    inquiry: Inquiry, kept: frozenset[str], order: Sequence[str], needed: Collection[str]
) -> Minimality:
    """Leave out each unit of a set that has the property, alone, until none can be spared.

    Args:
        inquiry: the question.
        kept: the set.
        order: its units, those that are spared first if they can be first.
        needed: units whose leaving out lost the property when more was kept.
    """
    monotone = True
    spared = True
    untested: set[str] = set()
    while spared:
        spared = False
        untested.clear()
        for unit in order:
            if unit not in kept:
                continue
            inquiry.trail.expect(len(kept), len(kept))
            outcome = inquiry.ask(kept - {unit}, f"the answer without {unit}")
            if outcome is Outcome.PASS:
                kept -= {unit}
                monotone = monotone and unit not in needed
                spared = True
            elif outcome is Outcome.UNRESOLVED:
                untested.add(unit)
    return Minimality(kept, not untested, frozenset(untested), monotone)


def failing_alone(inquiry: Inquiry, culprits: Sequence[str]) -> dict[str, Outcome]:
    """For each culprit, what comes of treating everything but it: fail if it is a fault by itself."""
    alone = Inquiry(inquiry.session, inquiry.trail, Direction.CAUSE)
    outcomes: dict[str, Outcome] = {}
    for number, unit in enumerate(culprits):
        inquiry.trail.expect(len(culprits), len(culprits) - number)
        outcomes[unit] = alone.ask([unit], f"{unit} alone untreated").flipped
    return outcomes

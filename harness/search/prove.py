"""The proofs at the end of a search: nothing can be left out, and each culprit fails alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.search.independent import reduce
from harness.search.inquiry import Inquiry
from harness.search.types import Direction, Outcome


@dataclass(frozen=True)
class Minimality:
    """What leaving out each unit of a set, alone, has shown.

    Args:
        kept: the set, without what turned out to be superfluous.
        untested: units whose leaving out could not be judged; leaving out each of the others lost the property.
    """

    kept: frozenset[str]
    untested: frozenset[str]


def prove_minimal(inquiry: Inquiry, kept: frozenset[str], order: Sequence[str]) -> Minimality:
    """Leave out each unit of a set that has the property, alone, until none can be spared.

    Args:
        inquiry: the question.
        kept: the set.
        order: all units, those that are probably spared first.
    """
    while True:
        # A pass through `reduce` that dismisses nothing has asked for each unit alone. One that does gallops, so
        # that a set with much to spare does not cost the square of its size.
        inquiry.trail.expect(len(kept), len(kept))
        reduction = reduce(inquiry, kept, [(unit,) for unit in order if unit in kept])
        if reduction.kept == kept:
            return Minimality(kept, frozenset(unit for atom in reduction.untested for unit in atom))
        kept = reduction.kept


def failing_alone(inquiry: Inquiry, culprits: Sequence[str]) -> dict[str, Outcome]:
    """For each culprit, what comes of treating everything but it: fail if it is a fault by itself."""
    alone = Inquiry(inquiry.session, inquiry.trail, Direction.CAUSE)
    outcomes: dict[str, Outcome] = {}
    for number, unit in enumerate(culprits):
        inquiry.trail.expect(len(culprits), len(culprits) - number)
        outcomes[unit] = alone.ask([unit], f"{unit} alone untreated").flipped
    return outcomes

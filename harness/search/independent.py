"""Several culprits: split groups of suspects until each culprit stands alone.

As in FLiT's bisection, each culprit costs about log2 of the distance to its neighbour. Unlike there, a group is
judged by leaving it out of the set that is known to be enough, so that each dismissal is verified when it is
made; and the sizes of the groups follow the distances between the culprits found so far, as Hwang's group testing
does with a known number of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.search.bisect import smallest_prefix
from harness.search.inquiry import Inquiry
from harness.search.types import Outcome

Atom = tuple[str, ...]
"""Units that are left out together or not at all."""


@dataclass(frozen=True)
class Reduction:
    """What is left when suspects have been dismissed.

    Args:
        kept: the units of a set that was seen to have the property.
        needed: atoms whose leaving out lost it, perhaps when more was kept.
        untested: atoms whose leaving out could not be judged.
    """

    kept: frozenset[str]
    needed: tuple[Atom, ...]
    untested: tuple[Atom, ...]


def reduce(
    inquiry: Inquiry,
    kept: frozenset[str],
    suspects: Sequence[Atom],
    *,
    distances: Sequence[int] | None = None,
    size: int = 1,
    patience: int | None = None,
) -> Reduction:
    """Dismiss every atom of `suspects` that `kept` does not need, the first ones first.

    Args:
        inquiry: the question.
        kept: a set that has the property; it holds all suspects.
        suspects: disjoint atoms, the least suspected first.
        distances: how far apart, in atoms, the culprits found so far lie; sizes follow their mean. None: begin
            at one atom again after each culprit, as is right at the end of a ranking.
        size: how many atoms the first group has.
        patience: give up after so many needed atoms in a row. None: go through all suspects.
    """
    splitter = _Splitter(inquiry, kept, list(suspects), list(distances) if distances is not None else None)
    splitter.run(max(size, 1), patience)
    return Reduction(splitter.kept, tuple(splitter.needed), tuple(splitter.untested))


class _Splitter:
    def __init__(
        self, inquiry: Inquiry, kept: frozenset[str], suspects: list[Atom], distances: list[int] | None
    ) -> None:
        self.inquiry = inquiry
        self.kept = kept
        self.suspects = suspects
        self.distances = distances
        self.needed: list[Atom] = []
        self.untested: list[Atom] = []
        self._passed_over = 0
        self._in_a_row = 0

    def run(self, size: int, patience: int | None) -> None:
        while self.suspects and (patience is None or self._in_a_row < patience):
            self.inquiry.trail.expect(len(self.kept))
            group = self.suspects[:size]
            outcome = self._leave_out(group)
            if outcome is Outcome.PASS:
                size *= 2
            elif outcome is Outcome.FAIL:
                self._isolate(group)
                size = self._next_size()
            elif len(group) == 1:
                self._settle(group[0], outcome)
            else:
                size = len(group) // 2

    def _leave_out(self, atoms: Sequence[Atom]) -> Outcome:
        """Try without these atoms; if they are not needed they are gone."""
        units = frozenset(unit for atom in atoms for unit in atom)
        outcome = self.inquiry.ask(self.kept - units, f"without {self.inquiry.problem.describe(units)}")
        if outcome is Outcome.PASS:
            self.kept -= units
            gone = set(atoms)
            self.suspects = [atom for atom in self.suspects if atom not in gone]
            self._passed_over += len(atoms)
            self._in_a_row = 0
        return outcome

    def _isolate(self, window: list[Atom]) -> None:
        """Find a needed atom in a group that cannot be left out as a whole."""
        while len(window) > 1:
            half = (len(window) + 1) // 2
            halves = (window[:half], window[half:])
            for part, other in (halves, halves[::-1]):
                outcome = self._leave_out(part)
                if outcome is not Outcome.UNRESOLVED:
                    window = other if outcome is Outcome.PASS else part
                    break
            else:
                for atom in window:
                    self._settle(atom, self._leave_out([atom]))
                return
        self._settle(window[0], Outcome.FAIL)

    def _settle(self, atom: Atom, outcome: Outcome) -> None:
        if outcome is Outcome.PASS:
            return
        self.suspects.remove(atom)
        if outcome is Outcome.UNRESOLVED:
            self.untested.append(atom)
            return
        self.needed.append(atom)
        self._in_a_row += 1
        if self.distances is not None:
            self.distances.append(self._passed_over)
        self._passed_over = 0

    def _next_size(self) -> int:
        """The size of group that holds a culprit about every second time, for culprits at random places.

        The median of a geometric distribution is 0.7 times its mean. Neighbours (a distance of 0) are likelier
        to go on than to end.
        """
        if self.distances is None or self.distances[-1] == 0:
            return 1
        return int(0.7 * statistics.fmean(self.distances)) + 1


def between_ends(inquiry: Inquiry, order: Sequence[str]) -> Reduction:
    """Several culprits in an order of which the last is known: find the first, then those in between.

    Args:
        inquiry: the question.
        order: the units of a set that has the property; without its last it has not, nor has the last alone.
    """
    last = order[-1]
    cut = smallest_prefix(inquiry, order[::-1], short=1, called="the last {place} of {count}")
    kept = tuple(order[len(order) - cut.enough :])
    distances = [len(inquiry.whole) - len(order), len(order) - len(kept)]
    ends: list[Atom] = [(last,)]
    if cut.exact:
        ends.append((kept[0],))
    inside = [(unit,) for unit in reversed(kept) if (unit,) not in ends]
    expected = statistics.fmean(distances)
    size = len(inside) if len(inside) <= expected else int(0.7 * expected) + 1
    rest = reduce(inquiry, frozenset(kept), inside, distances=distances, size=size)
    return Reduction(rest.kept, (*ends, *rest.needed), rest.untested)

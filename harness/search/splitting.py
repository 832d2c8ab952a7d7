"""Several culprits: group testing, the proof that nothing can be left out, and delta debugging.

Group testing splits groups of suspects until each culprit stands alone. As in FLiT's bisection, each culprit costs
about log2 of the distance to its neighbour. Unlike there, a group is judged by leaving it out of the set that is
known to be enough, so that each dismissal is verified when it is made; and the sizes of the groups follow the
distances between the culprits found so far, as Hwang's group testing does with a known number of them.

Delta debugging is for oracles that are not monotone or often unresolved, and for culprits that interact: A. Zeller
and R. Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE TSE 28(2), 2002.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.search.bisect import smallest_prefix
from harness.search.predicate import Predicate
from harness.search.types import Outcome, Strategy

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
    needed: tuple[Atom, ...] = ()
    untested: tuple[Atom, ...] = ()

    @property
    def untested_units(self) -> frozenset[str]:
        """The units whose leaving out could not be judged."""
        return frozenset(unit for atom in self.untested for unit in atom)


def reduce(
    predicate: Predicate,
    kept: frozenset[str],
    suspects: Sequence[Atom],
    *,
    distances: Sequence[int] | None = None,
    size: int = 1,
    give_up_after: int | None = None,
) -> Reduction:
    """Dismiss every atom of `suspects` that `kept` does not need, the first ones first.

    Args:
        predicate: what to keep.
        kept: a set that has the property; it holds all suspects.
        suspects: disjoint atoms, the least suspected first.
        distances: how far apart, in atoms, the culprits found so far lie; sizes follow their mean. None: begin
            at one atom again after each culprit, as is right at the end of a ranking.
        size: how many atoms the first group has.
        give_up_after: stop at so many needed atoms in a row. None: go through all suspects.
    """
    splitter = _Splitter(predicate, kept, list(suspects), list(distances) if distances is not None else None)
    splitter.run(max(size, 1), give_up_after)
    return Reduction(splitter.kept, tuple(splitter.needed), tuple(splitter.untested))


class _Splitter:
    def __init__(
        self, predicate: Predicate, kept: frozenset[str], suspects: list[Atom], distances: list[int] | None
    ) -> None:
        self.predicate = predicate
        self.kept = kept
        self.suspects = suspects
        self.distances = distances
        self.needed: list[Atom] = []
        self.untested: list[Atom] = []
        self._passed_over = 0
        self._in_a_row = 0
        self._expected: frozenset[str] | None = None

    def run(self, size: int, give_up_after: int | None) -> None:
        while self.suspects and (give_up_after is None or self._in_a_row < give_up_after):
            self.predicate.log.expect(len(self.kept))
            group = self.suspects[:size]
            if size == 1 and self.kept != self._expected:  # each alone, until one is not needed
                self._expected = self.kept
                self.predicate.expect(self.kept.difference(atom) for atom in self.suspects)
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
        outcome = self.predicate.test(self.kept - units, f"without {self.predicate.problem.describe(units)}")
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


def between_ends(predicate: Predicate, order: Sequence[str]) -> Reduction:
    """Several culprits in an order of which the last is known: find the first, then those in between.

    All of `order` have the property together; without its last it has not, nor has the last alone.
    """
    last = order[-1]
    cut = smallest_prefix(predicate, order[::-1], short=1, called="the last {place} of {count}")
    kept = tuple(order[len(order) - cut.enough :])
    distances = [len(predicate.problem.units) - len(order), len(order) - len(kept)]
    ends: list[Atom] = [(last,)]
    if cut.exact:
        ends.append((kept[0],))
    inside = [(unit,) for unit in reversed(kept) if (unit,) not in ends]
    expected = statistics.fmean(distances)
    size = len(inside) if len(inside) <= expected else int(0.7 * expected) + 1
    rest = reduce(predicate, frozenset(kept), inside, distances=distances, size=size)
    return Reduction(rest.kept, (*ends, *rest.needed), rest.untested)


def prove_minimal(predicate: Predicate, kept: frozenset[str], order: Sequence[str]) -> Reduction:
    """Leave out each unit of `kept`, a set that has the property, alone, until each is needed: first in the order."""
    while True:
        # A pass through `reduce` that dismisses nothing has tested each unit alone. One that does gallops, so
        # that a set with many superfluous units does not cost the square of its size.
        predicate.log.expect(len(kept), len(kept))
        reduction = reduce(predicate, kept, [(unit,) for unit in order if unit in kept])
        if reduction.kept == kept:
            return reduction
        kept = reduction.kept


def ddmin(predicate: Predicate, kept: Sequence[str]) -> tuple[str, ...]:
    """A part of `kept` that has the property and of which no single unit can be seen to be superfluous.

    Tries each of n chunks, then all but each of them, then twice as many chunks. At worst about n² evaluations.
    """
    predicate.log.enter(Strategy.DDMIN)
    current = tuple(kept)
    parts = 2
    while len(current) >= 2:
        predicate.log.expect(len(current))
        chunks = list(split(current, parts))
        chunk = next((each for each in chunks if predicate.holds(each, f"one of {parts} parts")), None)
        if chunk is not None:
            current, parts = chunk, 2
            continue
        rest = _first_superfluous(predicate, current, chunks)
        if rest is not None:
            current, parts = rest, max(parts - 1, 2)
        elif parts >= len(current):
            break
        else:
            parts = min(2 * parts, len(current))
    return current


def _first_superfluous(
    predicate: Predicate, current: tuple[str, ...], chunks: list[tuple[str, ...]]
) -> tuple[str, ...] | None:
    if len(chunks) == 2:  # all but one of two parts is the other part, which was just tried
        return None
    for chunk in chunks:
        gone = frozenset(chunk)
        rest = tuple(unit for unit in current if unit not in gone)
        if predicate.holds(rest, f"all but one of {len(chunks)} parts"):
            return rest
    return None


def split(units: Sequence[str], parts: int) -> Iterator[tuple[str, ...]]:
    """Cut a sequence into that many parts of nearly the same length, none of them empty."""
    parts = min(parts, len(units))
    for number in range(parts):
        yield tuple(units[number * len(units) // parts : (number + 1) * len(units) // parts])


def some_part(predicate: Predicate, order: Sequence[str]) -> tuple[str, ...] | None:
    """A set with the property where treating everything cannot be judged: all but a half, a quarter, an eighth of it.

    Returns None if each of the 14 of them is unresolved or lacks it.
    """
    predicate.log.note("treating everything cannot be judged: look for a large part that has the property")
    for parts in (2, 4, 8):
        chunks = list(split(order, parts))
        for chunk in chunks if len(chunks) == parts else ():
            gone = frozenset(chunk)
            rest = tuple(unit for unit in order if unit not in gone)
            if predicate.test(rest, f"all but one of {parts} parts") is Outcome.PASS:
                return rest
    return None

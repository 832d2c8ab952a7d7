"""Bisection over an order: the smallest prefix that is enough, and the one unit that may be enough by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.search.predicate import Predicate
from harness.search.types import Outcome, Strategy

Middle = Callable[[int, int], int]
"""Where to cut next, strictly between a length that is too short and one that is enough."""


@dataclass(frozen=True)
class Cut:
    """A prefix of length `short` lacks the property and one of length `enough` has it.

    Unless they are neighbours, everything between them is unresolved.
    """

    short: int
    enough: int

    @property
    def exact(self) -> bool:
        """Whether the last unit of the longer prefix is shown to matter."""
        return self.enough - self.short == 1


def halfway(short: int, enough: int) -> int:
    """The arithmetic middle: every place is equally likely."""
    return (short + enough) // 2


def geometric(short: int, enough: int) -> int:
    """The geometric middle: every order of magnitude is equally likely, as in a ranking that can be trusted.

    About log2(log2(n)) evaluations find the order of magnitude, log2(k) more the place k itself.
    """
    return min(max(round(math.sqrt(max(short, 1) * enough)), short + 1), enough - 1)


def smallest_prefix(
    predicate: Predicate,
    order: Sequence[str],
    *,
    short: int = 0,
    enough: int | None = None,
    until: int = 1,
    middle: Middle = halfway,
    called: str = "the first {place} of {count}",
) -> Cut:
    """The shortest prefix of `order` that has the property, if longer ones always have it too.

    Takes at most ⌈log2 n⌉ evaluations with `halfway` where all of them are resolved. Without monotonicity it is
    still some prefix that has the property while the one before it does not.

    Args:
        predicate: what the prefix must have.
        order: the units; all of them together have the property.
        short: a length known to lack it.
        enough: a length known to have it. None: all.
        until: stop when this few units are left between the two.
        middle: where to cut.
        called: how the log calls a prefix.
    """
    low, high = short, len(order) if enough is None else enough
    unresolved: set[int] = set()
    most_unresolved = 2 * max(high - low, 1).bit_length()
    while high - low > until:
        predicate.log.expect(len(order[:high]), math.ceil(math.log2(high - low)))
        place = _nearest(middle(low, high), low, high, unresolved)
        if place is None or len(unresolved) > most_unresolved:
            break
        outcome = predicate.test(order[:place], called.format(place=place, count=len(order)))
        if outcome is Outcome.PASS:
            high = place
        elif outcome is Outcome.FAIL:
            low = place
        else:
            unresolved.add(place)
    return Cut(low, high)


def _nearest(place: int, low: int, high: int, unresolved: set[int]) -> int | None:
    """The place itself, or one at a doubling distance from it that has not been unresolved yet."""
    distances = [0, *(1 << power for power in range((high - low).bit_length()))]
    for distance in distances:
        for candidate in (place + distance, place - distance):
            if low < candidate < high and candidate not in unresolved:
                return candidate
    return next((each for each in range(low + 1, high) if each not in unresolved), None)


@dataclass(frozen=True)
class Bisected:
    """A set that has the property.

    Args:
        kept: in the order of the bisection; one unit if that is enough.
        exact: the last unit is shown to matter.
    """

    kept: tuple[str, ...]
    exact: bool


def bisect(predicate: Predicate, order: Sequence[str]) -> Bisected:
    """The one culprit if there is one, else the smallest prefix up to the last of them.

    Finds the last culprit, then tests whether it is enough alone: ⌈log2 n⌉ + 1 evaluations. Where two candidates
    are left each is tested alone, which spares half an evaluation on average if there is only one.
    """
    predicate.log.enter(Strategy.SINGLE)
    cut = smallest_prefix(predicate, order, until=2)
    pair = order[cut.short : cut.enough]
    if len(pair) == 2 and cut.short > 0:
        for unit in pair:
            if predicate.holds([unit], "one of the last two, alone"):
                return Bisected((unit,), True)
    cut = smallest_prefix(predicate, order, short=cut.short, enough=cut.enough)
    kept = tuple(order[: cut.enough])
    if len(kept) > 1 and cut.exact and predicate.holds(kept[-1:], "the last culprit, alone"):
        return Bisected(kept[-1:], True)
    return Bisected(kept, cut.exact)

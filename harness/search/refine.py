"""Exchange units of an answer for others, by the effects that were measured on the way.

A ranking by introduced error is not quite the ranking by effect on the answer. Where no unit is the culprit but
the sum of many is, a set cut from the former can be minimal and yet a good deal larger than the best. With a
number for each evaluation, each unit's effect is what adding it to the set, or taking it out, changes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.search.predicate import Predicate
from harness.search.types import Direction

FEWEST = 3
"""With fewer units there is no sum of many."""

CLEARLY_LESS = 1.5
"""A unit is worth exchanging when the next one in the ranking promises this many times its effect."""

ATTEMPTS = 3
"""How often a smaller set is proposed before the old one stays."""


@dataclass(frozen=True)
class _Effects:
    """What each unit of a pool takes from the square of the badness, and the square with all of `kept` treated."""

    base: float
    inside: dict[str, float]
    outside: dict[str, float]

    def order(self) -> list[str]:
        both = self.inside | self.outside
        return sorted(both, key=lambda unit: -both[unit])

    def predicted(self, chosen: Sequence[str]) -> float:
        """The square of the badness with only `chosen` treated, if effects add up."""
        gone = sum(effect for unit, effect in self.inside.items() if unit not in chosen)
        return self.base + gone - sum(self.outside.get(unit, 0.0) for unit in chosen)


def refine(predicate: Predicate, kept: frozenset[str], order: Sequence[str]) -> frozenset[str] | None:
    """A smaller set with the property than `kept`, for a cure, or None if none was found.

    Costs an evaluation for each unit of `kept` (those that prove it minimal, too) and, if their effects do not follow
    the ranking, which is `order`, one for each of as many units that come next in it.
    """
    if predicate.direction is not Direction.CURE or len(kept) < FEWEST or predicate.badness(kept) is None:
        return None
    effects = _measure(predicate, kept, order)
    limit = _limit(predicate, kept)
    if effects is None or limit is None:
        return None
    ranked = effects.order()
    attempts = 0
    for place in range(1, len(kept)):
        if effects.predicted(ranked[:place]) <= limit * limit and attempts < ATTEMPTS:
            attempts += 1
            if predicate.holds(ranked[:place], f"the {place} units of most effect"):
                return frozenset(ranked[:place])
    return None


def _limit(predicate: Predicate, kept: frozenset[str]) -> float | None:
    made = predicate.session.evaluation(kept)
    return None if made.badness is None or made.margin is None else made.badness + made.margin


def _measure(predicate: Predicate, kept: frozenset[str], order: Sequence[str]) -> _Effects | None:
    base = _square(predicate.badness(kept))
    predicate.expect(kept - {unit} for unit in order if unit in kept)
    inside = {
        unit: _effect(predicate, kept - {unit}, f"effect of {unit}") - base for unit in order if unit in kept
    }
    following = [unit for unit in order if unit not in kept][: len(kept)]
    scores = predicate.problem.scores or {}
    ratios = [
        effect / scores[unit] ** 2
        for unit, effect in inside.items()
        if math.isfinite(effect) and 0 < scores.get(unit, 0.0) < math.inf
    ]
    if not following or not ratios or not math.isfinite(base):
        return None
    expected = statistics.median(ratios) * scores.get(following[0], 0.0) ** 2
    if min(inside.values()) >= expected / CLEARLY_LESS:  # what follows does not promise more
        return None
    outside = {unit: base - _effect(predicate, kept | {unit}, f"effect of {unit}") for unit in following}
    return _Effects(base, inside, {unit: effect for unit, effect in outside.items() if effect > 0})


def _effect(predicate: Predicate, units: frozenset[str], why: str) -> float:
    predicate.test(units, why)
    return _square(predicate.badness(units))


def _square(badness: float | None) -> float:
    """A badness that is unknown or not a number is as bad as can be: its unit stays where it is."""
    return math.inf if badness is None or math.isnan(badness) else badness * badness

"""A ranking of the units: guess how much of its top is needed, find the cut-off, prune."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from harness.search.bisect import Cut, geometric, smallest_prefix
from harness.search.predicate import Predicate
from harness.search.problem import Problem
from harness.search.types import Outcome, Strategy, Trial

CLEAR_GAP = 8.0
"""Two neighbouring scores this many times apart are taken for the border between culprits and others.

Rounding errors of healthy nodes spread over less than one order of magnitude between neighbours in a ranking;
measured on a network of 132 nodes, overflowing nodes stand 1,000 times above the next.
"""


def ranking(problem: Problem) -> tuple[str, ...]:
    """The units, the most suspected first; units with the same score keep the problem's order."""
    scores = problem.scores or {}
    return tuple(sorted(problem.units, key=lambda unit: -scores.get(unit, -math.inf)))


def guess(problem: Problem, untreated: Trial) -> int | None:
    """How many units of the ranking's top are probably needed; None if the scores do not say.

    In this order: the units with an infinite score; what is needed by the numbers, given the evaluation with nothing
    treated; the units above a clear gap that lies in the ranking's first half.
    """
    scores = sorted((score for score in (problem.scores or {}).values() if score > 0), reverse=True)
    infinite = sum(map(math.isinf, scores))
    if infinite:
        return infinite
    by_numbers = _by_numbers(scores, untreated)
    if by_numbers is not None:
        return by_numbers
    padded = [*scores, *([0.0] if len(scores) < len(problem.units) else [])]
    ratios = [
        (above / below if below else math.inf, -place)
        for place, (above, below) in enumerate(itertools.pairwise(padded), start=1)
        if place <= max(len(problem.units) // 2, 1)
    ]
    ratio, place = max(ratios, default=(0.0, 0))
    return -place if ratio >= CLEAR_GAP else None


def _by_numbers(scores: Sequence[float], untreated: Trial) -> int | None:
    """The shortest top whose treatment brings the badness to its limit, if errors add up as independent ones do.

    Then the squares of the scores add up to the square of the badness, up to one common factor that the evaluation
    with nothing treated gives.
    """
    badness, margin = untreated.badness, untreated.margin
    if badness is None or margin is None or not math.isfinite(badness) or not scores:
        return None
    limit = badness + margin
    total = math.fsum(score * score for score in scores)
    if not 0 < limit < badness or not 0 < total < math.inf:
        return None
    left = total
    for place, score in enumerate(scores, start=1):
        left -= score * score
        if left / total <= (limit / badness) ** 2:
            return place
    return None


def cut_off(predicate: Predicate, order: Sequence[str], guessed: int | None) -> Cut:
    """The shortest top of a ranking that has the property.

    With a good guess that takes two evaluations, one that has it and one that has one unit less and has not.
    Else the steps away from the guess double until the cut-off lies between two of them. Without a guess the
    order of magnitude is bisected first.
    """
    predicate.log.enter(Strategy.RANKED)
    if guessed is None or not 0 < guessed < len(order):
        return smallest_prefix(predicate, order, middle=geometric)
    short, enough = 0, len(order)
    step, place = 1, guessed
    outcome = predicate.test(order[:place], f"the first {place} of the ranking")
    upwards = outcome is not Outcome.PASS
    while outcome is not Outcome.UNRESOLVED:
        short, enough = (place, enough) if outcome is Outcome.FAIL else (short, place)
        if (outcome is Outcome.PASS) is upwards:
            break
        place += step if upwards else -step
        step *= 2
        if not short < place < enough:
            break
        outcome = predicate.test(order[:place], f"the first {place} of the ranking")
    return smallest_prefix(predicate, order, short=short, enough=enough, middle=geometric)

"""Which strategy when: from all suspects to a set that has the property and is nearly minimal."""

from __future__ import annotations

from collections.abc import Iterable

from harness.search.bisect import bisect
from harness.search.hierarchy import reduce_by_structure, relatives
from harness.search.predicate import AllUnresolved, Predicate, Stop
from harness.search.ranked import cut_off, guess, ranking
from harness.search.refine import refine
from harness.search.splitting import Reduction, between_ends, ddmin, reduce, some_part
from harness.search.types import SearchVerdict, Strategy

ENOUGH_NEEDED = 2
"""Needed units in a row, at the end of a ranking, after which an unproved answer is pruned no further."""


def narrow(predicate: Predicate, *, prove: bool) -> Reduction:
    """Find a set that has the property, by what is known and found.

    Where a proof follows, what that evaluates costs nothing here.

    Raises:
        Stop: there is nothing to find, or it cannot be judged.
    """
    units = predicate.problem.units
    try:
        narrowed = _by_strategy(predicate, prove)
        if predicate.best is None:  # there is a single suspect, and nothing was tested yet
            predicate.test(units, "everything")
    except AllUnresolved:
        part = some_part(predicate, units)
        if part is None:
            reason = "treating everything cannot be judged, nor can any large part of it"
            raise Stop(SearchVerdict.UNRESOLVED, reason, predicate.problem.everything) from None
        order = _least_suspected_first(predicate, part)
        narrowed = reduce(predicate, frozenset(part), order, distances=[len(part)], size=len(part) // 2)
    return _debug_untested(predicate, narrowed)


def _by_strategy(predicate: Predicate, prove: bool) -> Reduction:
    for number, hint in enumerate(predicate.problem.hints, start=1):
        if hint and predicate.holds(hint, f"hint {number}"):
            predicate.log.enter(Strategy.RANKED)
            return _pruned(predicate, hint, None if prove else 0)
    return _ranked(predicate, prove) if predicate.problem.scores else _unranked(predicate)


def _ranked(predicate: Predicate, prove: bool) -> Reduction:
    order = ranking(predicate.problem)
    cut = cut_off(predicate, order, guess(predicate.problem, predicate.session.evaluation(frozenset())))
    if cut.enough < len(order):
        predicate.log.note(f"the first {cut.enough} of the ranking are enough")
    if not prove:
        return _pruned(predicate, frozenset(order[: cut.enough]), ENOUGH_NEEDED)
    pruned = _pruned(predicate, frozenset(order[: cut.enough]), None)
    smaller = refine(predicate, pruned.kept, order)
    return pruned if smaller is None else _pruned(predicate, smaller, None)


def _pruned(predicate: Predicate, kept: frozenset[str], give_up_after: int | None) -> Reduction:
    if len(kept) == 1:
        return Reduction(kept)
    suspects = _least_suspected_first(predicate, kept)
    return reduce(predicate, kept, suspects, give_up_after=give_up_after)


def _unranked(predicate: Predicate) -> Reduction:
    bisected = bisect(predicate, predicate.problem.units)
    kept = bisected.kept
    if len(kept) == 1:
        predicate.log.assume("single", "one culprit is enough", True)
        return Reduction(frozenset(kept))
    predicate.log.assume("single", "one culprit is enough", False if bisected.exact else None)
    if predicate.problem.groups:
        predicate.log.enter(Strategy.HIERARCHICAL)
        return _among_relatives(predicate, kept) or reduce_by_structure(predicate, frozenset(kept))
    predicate.log.enter(Strategy.INDEPENDENT)
    if bisected.exact:
        return between_ends(predicate, kept)
    atoms = _least_suspected_first(predicate, kept)
    size = max(len(atoms) // 2, 1)
    return reduce(predicate, frozenset(kept), atoms, distances=[len(atoms)], size=size)


def _among_relatives(predicate: Predicate, kept: tuple[str, ...]) -> Reduction | None:
    """All culprits among the relatives of the last of them, if they are there."""
    for why, family in relatives(predicate.problem, kept[-1]):
        order = tuple(unit for unit in kept if unit in family)
        if 1 < len(order) < len(kept) and predicate.holds(order, why):
            return between_ends(predicate, order)
    return None


def _debug_untested(predicate: Predicate, narrowed: Reduction) -> Reduction:
    """Try harder where splitting was stopped by unresolved outcomes: other subsets may be resolved."""
    untested = narrowed.untested_units
    if len(untested) < 2:
        return narrowed
    predicate.log.note(f"{predicate.problem.describe(untested)} could not be judged one by one")
    kept = frozenset(ddmin(predicate, predicate.problem.ordered(narrowed.kept)))
    return Reduction(kept, untested=tuple((unit,) for unit in untested & kept))


def _least_suspected_first(predicate: Predicate, units: Iterable[str]) -> list[tuple[str]]:
    inside = frozenset(units)
    return [(unit,) for unit in reversed(ranking(predicate.problem)) if unit in inside]

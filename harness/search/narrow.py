"""Which strategy when: from all suspects to a set that has the property and is nearly minimal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.errors import UsageError
from harness.search.bisect import bisect
from harness.search.ddmin import ddmin, some_part
from harness.search.hierarchy import reduce_by_structure, relatives
from harness.search.independent import Reduction, between_ends, reduce
from harness.search.inquiry import Inquiry, Stop, WholeUnresolved
from harness.search.ranked import cut_off, guess, ranking
from harness.search.refine import refine
from harness.search.types import Options, Strategy, Verdict

PATIENCE = 2
"""Needed units in a row, at the end of a ranking, after which an unproved answer is pruned no further."""


@dataclass(frozen=True)
class Narrowed:
    """A set that has the property.

    Args:
        kept: the set.
        untested: those of its units whose leaving out could not be judged.
    """

    kept: frozenset[str]
    untested: frozenset[str] = frozenset()


def check_strategy(inquiry: Inquiry, options: Options) -> None:
    """Refuse a strategy whose data is missing.

    Raises:
        UsageError: ranked without scores, or hierarchical without groups.
    """
    problem = inquiry.problem
    if options.strategy is Strategy.RANKED and not problem.scores:
        raise UsageError("the strategy `ranked` needs scores", hint="give Problem(scores=…), or use `auto`")
    if options.strategy is Strategy.HIERARCHICAL and not problem.groups:
        raise UsageError(
            "the strategy `hierarchical` needs groups", hint="give Problem(groups=…), or use `auto`"
        )


def narrow(inquiry: Inquiry, options: Options) -> Narrowed:
    """Find a set that has the property, by the strategy of `options` or by what is found.

    Raises:
        Stop: there is nothing to find, or it cannot be judged.
    """
    try:
        narrowed = _by_strategy(inquiry, options)
        if inquiry.best is None:  # there is a single suspect, and nothing was asked yet
            inquiry.ask(inquiry.whole, "the whole")
    except WholeUnresolved:
        part = some_part(inquiry, inquiry.whole)
        if part is None:
            reason = "treating everything cannot be judged, nor can any large part of it"
            raise Stop(Verdict.UNRESOLVED, reason, inquiry.problem.everything) from None
        order = _least_suspected_first(inquiry, part)
        narrowed = _narrowed(
            reduce(inquiry, frozenset(part), order, distances=[len(part)], size=len(part) // 2)
        )
    return _debug_untested(inquiry, narrowed)


def _by_strategy(inquiry: Inquiry, options: Options) -> Narrowed:
    strategy, whole = options.strategy, inquiry.whole
    if strategy is Strategy.AUTO:
        hinted = _hinted(inquiry, options)
        if hinted is not None:
            return hinted
    if strategy is Strategy.RANKED or (strategy is Strategy.AUTO and inquiry.problem.scores):
        return _ranked(inquiry, options)
    if strategy in (Strategy.HIERARCHICAL, Strategy.DDMIN):
        inquiry.ask(whole, "the whole")  # raises unless it has the property
        if strategy is Strategy.DDMIN:
            return Narrowed(frozenset(ddmin(inquiry, whole)))
        return _narrowed(reduce_by_structure(inquiry, frozenset(whole)))
    return _unranked(inquiry, options)


def _hinted(inquiry: Inquiry, options: Options) -> Narrowed | None:
    whole = frozenset(inquiry.whole)
    for number, hint in enumerate(inquiry.problem.hints, start=1):
        if hint and hint <= whole and inquiry.has(hint, f"hint {number}"):
            inquiry.trail.enter(Strategy.RANKED)
            return _pruned(inquiry, hint, None if options.prove else 0)
    return None


def _ranked(inquiry: Inquiry, options: Options) -> Narrowed:
    suspects = frozenset(inquiry.whole)
    order = tuple(unit for unit in ranking(inquiry.problem) if unit in suspects)
    guessed = None
    if suspects == inquiry.problem.everything:
        guessed = guess(inquiry.problem, inquiry.session.trial(frozenset()))
    cut = cut_off(inquiry, order, guessed)
    if cut.enough < len(order):
        inquiry.trail.note(f"the first {cut.enough} of the ranking are enough")
    if not options.prove:
        return _pruned(inquiry, frozenset(order[: cut.enough]), PATIENCE)
    pruned = _pruned(inquiry, frozenset(order[: cut.enough]), None)
    smaller = refine(inquiry, pruned.kept, order)
    return pruned if smaller is None else _pruned(inquiry, smaller, None)


def _pruned(inquiry: Inquiry, kept: frozenset[str], patience: int | None) -> Narrowed:
    if len(kept) == 1:
        return Narrowed(kept)
    return _narrowed(reduce(inquiry, kept, _least_suspected_first(inquiry, kept), patience=patience))


def _unranked(inquiry: Inquiry, options: Options) -> Narrowed:
    bisected = bisect(inquiry, inquiry.whole)
    kept = bisected.kept
    if len(kept) == 1:
        inquiry.trail.assume("single", "one culprit is enough", True)
        return Narrowed(frozenset(kept))
    inquiry.trail.assume("single", "one culprit is enough", False if bisected.exact else None)
    if inquiry.problem.groups and options.strategy is not Strategy.INDEPENDENT:
        inquiry.trail.enter(Strategy.HIERARCHICAL)
        return _narrowed(_among_relatives(inquiry, kept) or reduce_by_structure(inquiry, frozenset(kept)))
    inquiry.trail.enter(Strategy.INDEPENDENT)
    if bisected.exact:
        return _narrowed(between_ends(inquiry, kept))
    return _narrowed(_reduce_evenly(inquiry, frozenset(kept)))


def _among_relatives(inquiry: Inquiry, kept: tuple[str, ...]) -> Reduction | None:
    """All culprits among those that hang together with the last of them, if they do."""
    for why, family in relatives(inquiry.problem, kept[-1]):
        order = tuple(unit for unit in kept if unit in family)
        if 1 < len(order) < len(kept) and inquiry.has(order, why):
            return between_ends(inquiry, order)
    return None


def _reduce_evenly(inquiry: Inquiry, kept: frozenset[str]) -> Reduction:
    """Dismiss what is not needed from a set of which nothing else is known."""
    atoms = _least_suspected_first(inquiry, kept)
    return reduce(inquiry, kept, atoms, distances=[len(atoms)], size=max(len(atoms) // 2, 1))


def _debug_untested(inquiry: Inquiry, narrowed: Narrowed) -> Narrowed:
    """Try harder where splitting was stopped by unresolved outcomes: other subsets may be resolved."""
    if len(narrowed.untested) < 2:
        return narrowed
    inquiry.trail.note(f"{inquiry.problem.describe(narrowed.untested)} could not be judged one by one")
    kept = frozenset(ddmin(inquiry, inquiry.problem.ordered(narrowed.kept)))
    return Narrowed(kept, narrowed.untested & kept)


def _least_suspected_first(inquiry: Inquiry, units: Iterable[str]) -> list[tuple[str]]:
    inside = frozenset(units)
    return [(unit,) for unit in reversed(ranking(inquiry.problem)) if unit in inside]


def _narrowed(reduction: Reduction) -> Narrowed:
    untested = frozenset(unit for atom in reduction.untested for unit in atom)
    return Narrowed(reduction.kept, untested & reduction.kept)

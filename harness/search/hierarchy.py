"""Blocks and repeated structures: what hangs together with a culprit, and reduction from coarse to fine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.search.predicate import Predicate
from harness.search.problem import Group, Problem
from harness.search.splitting import Atom, Reduction, reduce
from harness.search.types import Strategy

REPEATS = 3
"""A structure counts as repeated when it occurs this often; two blocks may be alike by chance."""


def ancestors(problem: Problem, unit: str) -> tuple[Group, ...]:
    """The groups that hold a unit, the innermost first."""
    found: list[Group] = []
    groups: Sequence[Group] = problem.groups
    while True:
        inside = next((group for group in groups if unit in group.units), None)
        if inside is None:
            return tuple(reversed(found))
        found.append(inside)
        groups = inside.groups


def walk(groups: Sequence[Group]) -> Iterator[Group]:
    """All groups, outer before inner."""
    for group in groups:
        yield group
        yield from walk(group.groups)


def counterparts(problem: Problem, group: Group) -> tuple[Group, ...]:
    """The groups that repeat the structure of `group`, itself included: those of its kind and length."""
    if group.kind is None:
        return (group,)
    alike = (each for each in walk(problem.groups) if each.kind == group.kind)
    return tuple(each for each in alike if len(each.units) == len(group.units))


def relatives(problem: Problem, unit: str) -> tuple[tuple[str, frozenset[str]], ...]:
    """Sets that probably hold all culprits once `unit` is one, each with its description.

    Its innermost group, the units that play its part in the repetitions of that group, then the same for the
    groups around it.
    """
    found: dict[frozenset[str], str] = {}
    for group in ancestors(problem, unit):
        found.setdefault(frozenset(group.units), f"group {group.name}")
        repeated = counterparts(problem, group)
        if len(repeated) >= REPEATS:
            place = group.units.index(unit)
            part = frozenset(each.units[place] for each in repeated)
            found.setdefault(part, f"the {len(repeated)} counterparts of {unit}")
    return tuple((why, units) for units, why in found.items() if 1 < len(units) < len(problem.units))


def reduce_by_structure(predicate: Predicate, kept: frozenset[str]) -> Reduction:
    """Dismiss units of a set that has the property: parts of repeated structures, then groups, then units.

    Faults of a repeated structure sit in the same part of each repetition, so one evaluation can dismiss a part
    everywhere. What remains is split along the groups, from the outermost to the units.
    """
    predicate.log.enter(Strategy.HIERARCHICAL)
    parts = [atom for atom in _parts(predicate.problem, kept) if atom]
    if parts:
        kept = _reduce(predicate, kept, parts).kept
    groups: Sequence[Group] = predicate.problem.groups
    return _descend(predicate, kept, groups, predicate.problem.ordered(kept))


def _parts(problem: Problem, kept: frozenset[str]) -> Iterator[Atom]:
    """For each outermost structure that is repeated: the units of each of its places, over all repetitions."""
    done: set[str] = set()
    for group in problem.groups:
        repeated = counterparts(problem, group)
        if len(repeated) < REPEATS or group.name in done:
            continue
        done.update(each.name for each in repeated)
        for place in range(len(group.units)):
            yield tuple(each.units[place] for each in repeated if each.units[place] in kept)


def _descend(
    predicate: Predicate, kept: frozenset[str], groups: Sequence[Group], inside: Sequence[str]
) -> Reduction:
    """Reduce the units `inside` one group: first its subgroups as wholes, then within each that is needed."""
    atoms: list[Atom] = []
    nested: dict[Atom, Sequence[Group]] = {}
    grouped: set[str] = set()
    for group in groups:
        atom = tuple(unit for unit in group.units if unit in kept)
        grouped.update(group.units)
        if atom:
            atoms.append(atom)
            nested[atom] = group.groups
    atoms += [(unit,) for unit in inside if unit in kept and unit not in grouped]
    atoms.sort(key=lambda atom: predicate.problem.positions[atom[0]])
    rest = _reduce(predicate, kept, atoms)
    kept, needed, untested = rest.kept, list[Atom](), list[Atom]()
    for source, sink in ((rest.needed, needed), (rest.untested, untested)):
        for atom in source:
            if len(atom) == 1:
                sink.append(atom)
                continue
            below = _descend(predicate, kept, nested.get(atom, ()), atom)
            kept = below.kept
            needed += below.needed
            untested += below.untested
    return Reduction(kept, tuple(needed), tuple(untested))


def _reduce(predicate: Predicate, kept: frozenset[str], atoms: Sequence[Atom]) -> Reduction:
    """Begin with everything but one: which group is at fault is open, that not all of them are is likely."""
    return reduce(predicate, kept, atoms, distances=[len(atoms)], size=max(len(atoms) // 2, 1))

"""What is searched: which units, how they hang together, and what is believed of them beforehand."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from harness.errors import UsageError
from harness.text import suggestion


@dataclass(frozen=True)
class Group:
    """Units that belong together, such as the nodes of one transformer block.

    Args:
        name: how people call it; shown in the log.
        units: all units of the group, those of its subgroups included, in the problem's order.
        groups: disjoint subgroups; they need not cover every unit.
        kind: groups of one kind and one length are repetitions of one structure, so that their units at the
            same position play the same part. None: the group is the only one of its kind.
    """

    name: str
    units: tuple[str, ...]
    groups: tuple[Group, ...] = ()
    kind: str | None = None


@dataclass(frozen=True)
class Problem:
    """The units of a search, in their natural order (for a network: the order of execution).

    Args:
        units: unique, non-empty names.
        identity: what besides the units decides a verdict, usually a hash over model, precision, inputs and
            environment. A journal of another identity is refused.
        groups: disjoint groups of units, nested as deep as wanted; they need not cover every unit.
        scores: by unit, how much it is suspected beforehand: larger is more, infinite is allowed, a unit that
            is missing is the least suspected. Best measured in the unit of `Trial.badness`, as the effect of
            leaving only that unit untreated.
        hints: sets that are worth trying before any search, best first.

    Raises:
        UsageError: a name is empty, repeated or unknown, groups overlap, or a score is not a number.
    """

    units: tuple[str, ...]
    identity: str = ""
    groups: tuple[Group, ...] = ()
    scores: Mapping[str, float] | None = None
    hints: tuple[frozenset[str], ...] = ()
    positions: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        positions = {unit: position for position, unit in enumerate(self.units)}
        object.__setattr__(self, "positions", positions)
        if "" in positions:
            raise UsageError("a unit has an empty name", hint="give every unit a unique name")
        if len(positions) != len(self.units):
            seen: set[str] = set()
            again = next(unit for unit in self.units if unit in seen or seen.add(unit))  # type: ignore[func-returns-value]
            raise UsageError(f"unit {again!r} is named twice", hint="give every unit a unique name")
        self._check_groups(self.groups, frozenset(self.units), "the problem")
        for unit, score in (self.scores or {}).items():
            self._check_known([unit], "scores")
            if math.isnan(score):
                raise UsageError(f"the score of unit {unit!r} is not a number", hint="leave it out instead")
        for hint in self.hints:
            self._check_known(hint, "hints")

    def _check_known(self, units: Iterable[str], where: str) -> None:
        for unit in units:
            if unit not in self.positions:
                message = f"{where} names the unknown unit {unit!r}"
                raise UsageError(message, hint=suggestion(unit, self.units))

    def _check_groups(self, groups: tuple[Group, ...], inside: frozenset[str], parent: str) -> None:
        taken: set[str] = set()
        for group in groups:
            self._check_known(group.units, f"group {group.name!r}")
            members = set(group.units)
            if len(members) != len(group.units):
                raise UsageError(f"group {group.name!r} names a unit twice")
            if not members <= inside:
                stray = min(members - inside, key=self.positions.__getitem__)
                raise UsageError(f"group {group.name!r} holds {stray!r}, which {parent} does not")
            if taken & members:
                both = min(taken & members, key=self.positions.__getitem__)
                raise UsageError(f"unit {both!r} is in two groups of {parent}", hint="nest or separate them")
            taken |= members
            self._check_groups(group.groups, frozenset(members), f"group {group.name!r}")

    @property
    def digest(self) -> str:
        """SHA-256 over what decides a verdict: the identity and the units in their order.

        Groups, scores and hints are left out on purpose: they change the way through a search, never what an
        evaluation says, so a journal stays good when they do.
        """
        text = json.dumps([self.identity, list(self.units)], ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def everything(self) -> frozenset[str]:
        """All units, as a set."""
        return frozenset(self.units)

    def ordered(self, units: Iterable[str]) -> tuple[str, ...]:
        """`units` in the problem's order."""
        return tuple(sorted(units, key=self.positions.__getitem__))

    def describe(self, units: Iterable[str], most: int = 4) -> str:
        """Units for a person: their names while they are few, else a count and the first and last."""
        names = self.ordered(units)
        if len(names) == len(self.units) and len(names) > most:
            return f"all {len(names)} units"
        if len(names) <= most:
            return ", ".join(names) if names else "nothing"
        return f"{len(names)} units ({names[0]} … {names[-1]})"

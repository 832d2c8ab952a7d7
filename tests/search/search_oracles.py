"""Oracles with a known truth, shared by the tests of the search."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping

from harness.search import Group, Outcome, Problem, Result, SearchOptions, Trial

Units = frozenset[str]


def names(count: int) -> tuple[str, ...]:
    return tuple(f"n{number}" for number in range(count))


def conjunction(culprits: Iterable[str]) -> Callable[[Units], Trial]:
    """Passes when all culprits are treated."""
    needed = frozenset(culprits)
    return lambda treated: Trial(Outcome.PASS if needed <= treated else Outcome.FAIL)


def table(truth: Mapping[Units, Outcome]) -> Callable[[Units], Trial]:
    return lambda treated: Trial(truth[treated])


def subsets(units: Iterable[str]) -> list[Units]:
    members = list(units)
    sizes = range(len(members) + 1)
    return [frozenset(chosen) for size in sizes for chosen in itertools.combinations(members, size)]


class Counting:
    """Counts the calls of an oracle and keeps what was asked, in order."""

    def __init__(self, oracle: Callable[[Units], Trial]) -> None:
        self.oracle = oracle
        self.asked: list[Units] = []

    def __call__(self, treated: Units) -> Trial:
        self.asked.append(treated)
        return self.oracle(treated)


def held(result: Result) -> dict[str, bool | None]:
    """Each assumption of an answer, and whether it held."""
    return {each.name: each.held for each in result.assumptions}


def killed_problem() -> Problem:
    """What a search that is killed works on, here and in the child process."""
    units = names(20)
    groups = tuple(Group(f"g{n}", units[n : n + 5]) for n in range(0, 20, 5))
    return Problem(units, "killed", groups=groups)


KILLED_CULPRITS = ("n4", "n17")
KILLED_OPTIONS = SearchOptions(repeats=2)

"""What a search costs, in evaluations, over simulated oracles of which the truth is known.

    python -m benchmarks.search_costs [--repetitions 40] [--write]

Each row is a kind of fault; each number is a mean over its repetitions. `search` is the search without, `proved`
the one with the proof that nothing can be left out; the evaluations at the two ends (nothing treated, everything
treated) are in all of them. `ddmin` is classic delta debugging over the same oracle. `bound` is what no method
can beat on average: the logarithm of the number of possible answers.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.record import record
from benchmarks.spread import no_scheduler
from harness.search import (
    Budget,
    Direction,
    Group,
    Oracle,
    Outcome,
    Problem,
    SearchOptions,
    Trial,
    search,
)
from harness.search.predicate import Log, Predicate
from harness.search.session import Session
from harness.search.splitting import ddmin

RESULTS = Path(__file__).parent / "results" / "search_costs.json"


@dataclass(frozen=True)
class Fault:
    """One simulated fault: what is searched, the oracle, and the size of the best answer."""

    problem: Problem
    oracle: Oracle
    best: int
    culprits: frozenset[str] | None = None
    known: tuple[tuple[frozenset[str], Trial], ...] = ()


Make = Callable[[random.Random, int], Fault]


@dataclass(frozen=True)
class Kind:
    """One row: how its faults are made, and how they are searched."""

    name: str
    make: Make
    options: SearchOptions = field(default_factory=SearchOptions)
    bound: float | None = None
    exhaustive: int | None = None
    with_ddmin: bool = True
    unproved: bool = True


@dataclass(frozen=True)
class Row:
    """What was measured for one kind. `right`: the share of answers that are exactly the planted culprits."""

    name: str
    repetitions: int
    bound: float | None
    search: float | None
    search_most: int | None
    proved: float
    proved_most: int
    ddmin: float | None
    right: float | None
    size_over_best: float
    size_over_best_most: float
    ddmin_size_over_best: float | None


def units_of(count: int) -> tuple[str, ...]:
    return tuple(f"n{number}" for number in range(count))


def conjunction(culprits: frozenset[str]) -> Oracle:
    return lambda treated: Trial(Outcome.PASS if culprits <= treated else Outcome.FAIL)


def planted(count: int, choose: Callable[[random.Random, int], Iterable[int]]) -> Make:
    """Faults that pass when all culprits at the chosen positions are treated."""

    def make(chance: random.Random, number: int) -> Fault:
        units = units_of(count)
        culprits = frozenset(units[position] for position in choose(chance, number))
        return Fault(Problem(units), conjunction(culprits), len(culprits), culprits)

    return make


def adjacent(chance: random.Random, _: int) -> range:
    first = chance.randrange(481)
    return range(first, first + 20)


def with_prior(make: Make, places: list[int], clear: int) -> Make:
    """The same faults, with a ranking that puts the culprits at `places` and has a clear gap after `clear`."""

    def ranked(chance: random.Random, number: int) -> Fault:
        fault = make(chance, number)
        culprits = fault.problem.ordered(fault.culprits or ())
        others = [unit for unit in fault.problem.units if unit not in culprits]
        chance.shuffle(others)
        at = dict(zip(places, culprits, strict=True))
        order = [at[place] if place in at else others.pop() for place in range(len(fault.problem.units))]
        scores = {u: (1e3 if place < clear else 1.0) / (1 + place / 1e3) for place, u in enumerate(order)}
        return Fault(Problem(fault.problem.units, scores=scores), fault.oracle, fault.best, fault.culprits)

    return ranked


def blocks(choose: Callable[[random.Random, list[Group]], frozenset[str]], grouped: bool) -> Make:
    """Twelve equal blocks of 40 units, and 20 units outside of them."""

    def make(chance: random.Random, _: int) -> Fault:
        units = units_of(500)
        groups = [Group(f"block {n}", units[10 + 40 * n : 50 + 40 * n], kind="block") for n in range(12)]
        culprits = choose(chance, groups)
        problem = Problem(units, groups=tuple(groups) if grouped else ())
        return Fault(problem, conjunction(culprits), len(culprits), culprits)

    return make


def inside_one_block(chance: random.Random, groups: list[Group]) -> frozenset[str]:
    return frozenset(chance.sample(chance.choice(groups).units, 4))


def same_part_of_each_block(chance: random.Random, groups: list[Group]) -> frozenset[str]:
    place = chance.randrange(40)
    return frozenset(group.units[place] for group in groups)


def accumulated(noise: float, *, numbers: bool = True, prior: bool = True) -> Make:
    """300 independent errors that add up; 16 to 22 units suffice. `noise`: the ranking's, in nepers."""

    def make(chance: random.Random, _: int) -> Fault:
        units = units_of(300)
        errors = {unit: math.exp(chance.gauss(0, 1)) for unit in units}
        scores = {unit: error * math.exp(chance.gauss(0, noise)) for unit, error in errors.items()}
        squares = sorted((error * error for error in errors.values()), reverse=True)
        best = chance.randint(16, 22)
        limit = math.sqrt(sum(squares[best:]) + 0.99 * chance.random() * squares[best - 1])

        def oracle(treated: frozenset[str]) -> Trial:
            badness = math.sqrt(sum(error * error for unit, error in errors.items() if unit not in treated))
            outcome = Outcome.PASS if badness <= limit else Outcome.FAIL
            return Trial(outcome, badness, limit - badness) if numbers else Trial(outcome)

        return Fault(Problem(units, scores=scores if prior else None), oracle, best)

    return make


def unresolved(make: Make, share: float) -> Make:
    """The same faults; that share of the configurations cannot be built, always the same ones."""

    def failing_builds(chance: random.Random, number: int) -> Fault:
        fault = make(chance, number)
        salt, built = chance.random(), frozenset({frozenset[str](), fault.problem.everything})

        def oracle(treated: frozenset[str]) -> Trial:
            fails = random.Random(f"{salt} {sorted(treated)}").random() < share
            return Trial(Outcome.UNRESOLVED) if fails and treated not in built else fault.oracle(treated)

        return Fault(fault.problem, oracle, fault.best, fault.culprits)

    return failing_builds


def tactics(chance: random.Random, _: int) -> Fault:
    """One bad choice among 64 that differ between a good build and a bad one, both of which are known."""
    fault = planted(64, lambda chance, _: [chance.randrange(64)])(chance, 0)
    ends = (frozenset[str](), Trial(Outcome.FAIL)), (fault.problem.everything, Trial(Outcome.PASS))
    return Fault(fault.problem, fault.oracle, fault.best, fault.culprits, known=ends)


def pair(chance: random.Random, _: int) -> Fault:
    """Two units that fail only together: either of them cures, only both of them are the cause."""
    units = units_of(200)
    culprits = frozenset(chance.sample(units, 2))
    return Fault(
        Problem(units),
        lambda treated: Trial(Outcome.PASS if culprits & treated else Outcome.FAIL),
        2,
        culprits,
    )


def one(count: int) -> Make:
    return planted(count, lambda _, number: [number % count])


def random_culprits(count: int, culprits: int) -> Make:
    return planted(count, lambda chance, _: chance.sample(range(count), culprits))


def kinds() -> Iterator[Kind]:
    yield Kind("one culprit, n=500", one(500), bound=math.log2(500), exhaustive=500)
    yield Kind("two random, n=500", random_culprits(500, 2), bound=math.log2(math.comb(500, 2)))
    yield Kind("five random, n=500", random_culprits(500, 5), bound=math.log2(math.comb(500, 5)))
    yield Kind("twenty random, n=500", random_culprits(500, 20), bound=math.log2(math.comb(500, 20)))
    yield Kind("twenty adjacent, n=500", planted(500, adjacent), bound=math.log2(481))
    yield Kind("four in one block, flat", blocks(inside_one_block, grouped=False))
    yield Kind("four in one block, groups known", blocks(inside_one_block, grouped=True), with_ddmin=False)
    yield Kind("one part of 12 blocks, flat", blocks(same_part_of_each_block, grouped=False))
    yield Kind(
        "one part of 12 blocks, groups known", blocks(same_part_of_each_block, grouped=True), with_ddmin=False
    )
    single, four = random_culprits(500, 1), random_culprits(500, 4)
    yield Kind("one culprit, ranked first", with_prior(single, [0], 1), with_ddmin=False)
    yield Kind("four culprits, ranked first", with_prior(four, [0, 1, 2, 3], 4), with_ddmin=False)
    yield Kind("one culprit, ranked 40th, no gap", with_prior(single, [39], 0), with_ddmin=False)
    yield Kind("one culprit, ranked 40th, gap after 4", with_prior(single, [39], 4), with_ddmin=False)
    yield Kind("accumulated, n=300, exact ranking", accumulated(0.0))
    yield Kind("accumulated, ranking noise 0.3", accumulated(0.3), with_ddmin=False)
    yield Kind("accumulated, noise 0.3, no numbers", accumulated(0.3, numbers=False), with_ddmin=False)
    yield Kind("accumulated, no ranking", accumulated(0.0, prior=False), with_ddmin=False)
    yield Kind("one culprit, 10 % of builds fail", unresolved(random_culprits(500, 1), 0.1))
    yield Kind("five random, 10 % of builds fail", unresolved(random_culprits(500, 5), 0.1), with_ddmin=False)
    both = SearchOptions(direction=Direction.BOTH)
    yield Kind("one bad tactic of 64, both ends known", tactics, both, bound=6.0, with_ddmin=False)
    yield Kind("a pair that fails only together, n=200", pair, both, with_ddmin=False, unproved=False)


def measure(kind: Kind, repetitions: int) -> Row:
    repetitions = kind.exhaustive or repetitions
    variants = {"proved": kind.options}
    if kind.unproved:
        variants["search"] = SearchOptions(direction=kind.options.direction, prove=False)
    calls: dict[str, list[int]] = {name: [] for name in variants}
    sizes: dict[str, list[float]] = {name: [] for name in variants}
    right: list[bool] = []
    for number in range(repetitions):
        for name, options in variants.items():
            fault = kind.make(random.Random(f"{kind.name} {number}"), number)
            result = search(fault.problem, fault.oracle, options=options, known=dict(fault.known))
            calls[name].append(result.evaluations)
            sizes[name].append(len(result.culprits) / fault.best)
            if name == "proved" and fault.culprits is not None:
                right.append(frozenset(result.culprits) == fault.culprits)
    for number in range(min(repetitions, 40) if kind.with_ddmin else 0):
        fault = kind.make(random.Random(f"{kind.name} {number}"), number)
        evaluations, size = delta_debugging(fault)
        calls.setdefault("ddmin", []).append(evaluations)
        sizes.setdefault("ddmin", []).append(size / fault.best)
    return Row(
        name=kind.name,
        repetitions=repetitions,
        bound=kind.bound and round(kind.bound, 1),
        search=_mean(calls.get("search")),
        search_most=max(calls["search"]) if kind.unproved else None,
        proved=round(statistics.fmean(calls["proved"]), 3),
        proved_most=max(calls["proved"]),
        ddmin=_mean(calls.get("ddmin")),
        right=_mean(right),
        size_over_best=round(statistics.fmean(sizes["proved"]), 3),
        size_over_best_most=round(max(sizes["proved"]), 3),
        ddmin_size_over_best=_mean(sizes.get("ddmin")),
    )


def delta_debugging(fault: Fault) -> tuple[int, int]:
    """Evaluations of delta debugging alone, those at the two ends included, and the size of its answer."""
    session = Session(fault.problem, fault.oracle, budget=Budget())
    predicate = Predicate(session, Log(), Direction.CURE)
    session.judge(frozenset())
    predicate.test(fault.problem.units, "everything")
    kept = ddmin(predicate, fault.problem.units)
    return session.evaluations, len(kept)


def _mean(values: Iterable[float] | None) -> float | None:
    values = list(values or ())
    return round(statistics.fmean(values), 3) if values else None


def table(rows: Iterable[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| fault | bound | search | most | proved | most | ddmin | right | size / best |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            row.name,
            _cell(row.bound),
            _cell(row.search),
            _cell(row.search_most),
            _cell(row.proved),
            _cell(row.proved_most),
            _cell(row.ddmin),
            "" if row.right is None else f"{row.right:.0%}",
            f"{row.size_over_best:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def write(rows: Iterable[Row], path: Path) -> None:
    """Keep the result with what it was measured with."""
    record(
        "search_costs", {"unit": "evaluations of the oracle", "rows": [asdict(row) for row in rows]}, out=path
    )


def main() -> None:
    """Measure all kinds and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it takes half a minute")
    parser.add_argument("--repetitions", type=int, default=40, help="searches a row (default: 40)")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--write", action="store_true", help=f"keep the result in {RESULTS.name}")
    arguments = parser.parse_args()
    rows = [measure(kind, arguments.repetitions) for kind in kinds() if arguments.only in kind.name]
    print(table(rows))
    if arguments.write:
        write(rows, RESULTS)


if __name__ == "__main__":
    main()

"""Faults that a verdict can miss: mixed scales, hidden overflows, near ties, two faults in one place, ruined files.

Each model is judged and diagnosed at fp16 on the emulator, as a user would have it done, and so are clean twins. A cure
is tried on five seeds that no diagnosis has seen, as a typed model that `harness compare` judges by the original.

    python -m benchmarks.verdicts [--only TEXT] [--jobs N] [--scheduler ADDRESS] [--out FILE]

Exit status 0 if every number to reach is reached, else 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.record import record
from benchmarks.spread import add_scheduler, each_answer
from benchmarks.verdicts.models import specs
from benchmarks.verdicts.score import FRESH, Score, score
from benchmarks.verdicts.truth import Group, Spec

GOALS = {"verdict right": 0.99, "reasons named": 0.98, "cures that hold, or are said to be fitted": 1.0}


def main() -> int:
    """Run the benchmark as the command line asks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts", description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="models whose name holds this text")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, help="where to write the result instead of benchmarks/results")
    add_scheduler(parser)
    options = parser.parse_args()
    chosen = [spec for spec in specs() if options.only in spec.name]
    started = time.perf_counter()
    found: list[Score] = []
    for scored in _scores(chosen, options.jobs, options.scheduler):
        found.append(scored)
        if not scored.right or scored.named < scored.reasons or not scored.cured or scored.told:
            print(scored, flush=True)
        elif len(found) % 20 == 0:
            print(f"{len(found)} of {len(chosen)}", file=sys.stderr, flush=True)
    numbers = numbers_of(found, time.perf_counter() - started)
    print(f"kept in {record('verdicts', numbers, out=options.out, indent=1)}")
    for name, limit in GOALS.items():
        value = numbers[name]
        print(f"{'ok  ' if value >= limit else 'MISS'} {name}: {value:.4g} ≥ {limit:g}")
    return int(any(numbers[name] < limit for name, limit in GOALS.items()))


def _scores(chosen: Sequence[Spec], jobs: int, scheduler: str | None) -> Iterator[Score]:
    if scheduler is not None:
        by_spec = dict(each_answer(score, chosen, scheduler))
        yield from (by_spec[spec] for spec in chosen)
        return
    if jobs == 1:
        yield from map(score, chosen)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        yield from pool.map(score, chosen)


def numbers_of(found: Sequence[Score], seconds: float) -> dict[str, Any]:
    """The numbers as JSON data."""
    groups = {group.value: _numbers([each for each in found if each.group == group]) for group in Group}
    return {
        **_numbers(found),
        "fresh seeds": len(FRESH),
        "seconds": round(seconds, 1),
        "groups": {name: numbers for name, numbers in groups.items() if numbers["models"]},
        "rows": [{**asdict(each), "seconds": round(each.seconds, 2)} for each in found],
    }


def _numbers(found: Sequence[Score]) -> dict[str, Any]:
    cures = [each for each in found if each.held is not None]
    reasons = sum(each.reasons for each in found)
    return {
        "models": len(found),
        "clean twins": sum(not each.planted for each in found),
        "verdict right": sum(each.right for each in found) / max(len(found), 1),
        "reasons": reasons,
        "reasons named": sum(each.named for each in found) / max(reasons, 1),
        "cures": len(cures),
        "cures that hold on every seed": sum(each.held == len(FRESH) for each in cures),
        "cures said to be fitted": sum(each.fitted for each in cures),
        "cures that hold, or are said to be fitted": sum(each.cured for each in found) / max(len(found), 1),
        "origins and hidden faults told where there are none": sum(len(each.told) for each in found),
    }


if __name__ == "__main__":
    sys.exit(main())

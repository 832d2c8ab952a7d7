"""The planted-fault benchmark.

    python -m benchmarks.faults --sample 60            a sample of small cases
    python -m benchmarks.faults --full --out FILE      every case, kept as JSON
    python -m benchmarks.faults --sample 60 --verify   hold the ground truth against the emulator instead

Exit status 0 if every number to reach is reached, else 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from benchmarks.faults.generate import Spec, grid, sample
from benchmarks.faults.run import each, judge, problems
from benchmarks.faults.score import Score, goals, table
from benchmarks.record import record


def main() -> int:
    """Run the benchmark as the command line asks."""
    options = _arguments()
    specs = list(grid()) if options.full else sample(options.sample, seed=options.seed)
    if options.verify:
        return _verify(specs, options.jobs)
    started = time.perf_counter()
    scores = []
    for spec, found in each(judge, specs, options.jobs):
        scores.append(found)
        if found.error or not found.verdict_right or found.recall not in (None, 1.0):
            print(f"{spec.name}: {found}", file=sys.stderr)
    reached = goals(scores)
    print(table(scores))
    print()
    for goal in reached:
        sign = "≥" if goal.at_least else "≤"
        print(f"{'ok  ' if goal.reached else 'MISS'} {goal.text}: {goal.value:.4g} {sign} {goal.limit:g}")
    if options.out:
        numbers = _document(scores, time.perf_counter() - started)
        print(f"kept in {record('faults', numbers, out=options.out)}")
    return 0 if all(goal.reached for goal in reached) else 1


def _verify(specs: Sequence[Spec], jobs: int) -> int:
    wrong = 0
    for spec, found in each(problems, specs, jobs):
        wrong += bool(found)
        for problem in found:
            print(f"{spec.name}: {problem}")
    print(f"{len(specs)} cases, {wrong} with a wrong ground truth")
    return 1 if wrong else 0


def _document(scores: Sequence[Score], seconds: float) -> dict[str, Any]:
    """The numbers as JSON: one line of text a case, so that two results can be compared line by line."""
    return {
        "cases": len(scores),
        "seconds": round(seconds, 1),
        "goals": [
            {"goal": goal.text, "value": goal.value, "limit": goal.limit, "reached": goal.reached}
            for goal in goals(scores)
        ],
        "table": table(scores).splitlines(),
        "columns": ",".join(field.name for field in fields(Score)),
        "rows": [_csv(found) for found in scores],
    }


def _csv(found: Score) -> str:
    cells = []
    for value in astuple(found):
        if value is None:
            cells.append("")
        elif isinstance(value, float):
            cells.append(f"{value:.4g}")
        else:
            cells.append(str(value).replace(",", ";").replace("\n", " "))
    return ",".join(cells)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__.split("\n")[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--sample", type=int, default=60, help="how many small cases (60)")
    which.add_argument("--full", action="store_true", help="every case")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, help="keep the result as JSON")
    parser.add_argument("--verify", action="store_true", help="check the ground truth, diagnose nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

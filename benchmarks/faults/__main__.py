"""The planted-fault benchmark.

    python -m benchmarks.faults --sample 60            a sample of small cases
    python -m benchmarks.faults --full --out FILE      every case, kept as JSON
    python -m benchmarks.faults --sample 60 --verify   hold the ground truth against the emulator instead

Exit status 0 if every number to reach is reached, else 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.faults.diagnosis import diagnose
from benchmarks.faults.generate import Spec, generate, grid, sample
from benchmarks.faults.score import Answer, Score, goals, score, table
from benchmarks.faults.truth import optimum, verify
from benchmarks.record import record

T = TypeVar("T")


def main() -> int:
    """Run the benchmark as the command line asks."""
    options = _arguments()
    specs = list(grid()) if options.full else sample(options.sample, seed=options.seed)
    if options.verify:
        return _verify(specs, options.jobs)
    started = time.perf_counter()
    scores = []
    for spec, found in _each(judge, specs, options.jobs):
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


def judge(spec: Spec) -> Score:
    """Generate one case, diagnose it, and score the answer. A diagnosis that raises scores as an error."""
    case = generate(spec)
    error = ""
    started = time.perf_counter()
    try:
        answer = diagnose(case.model, [case.feeds], case.precision)
    except Exception as raised:  # one bad case must not end a run of a thousand
        error = f"{type(raised).__name__}: {raised}"
        answer = Answer("error", frozenset(), 0, None, time.perf_counter() - started)
    return score(case, answer, optimum=optimum(case) if case.places else None, error=error)


def problems(spec: Spec) -> list[str]:
    """What is wrong with the ground truth of one case; small ones are brute-forced."""
    return verify(generate(spec), brute_force=spec.nodes <= 200)


def _verify(specs: Sequence[Spec], jobs: int) -> int:
    wrong = 0
    for spec, found in _each(problems, specs, jobs):
        wrong += bool(found)
        for problem in found:
            print(f"{spec.name}: {problem}")
    print(f"{len(specs)} cases, {wrong} with a wrong ground truth")
    return 1 if wrong else 0


def _each(work: Callable[[Spec], T], specs: Sequence[Spec], jobs: int) -> Iterator[tuple[Spec, T]]:
    """`work` done on each specification, in order, with a line of progress on a terminal."""
    if jobs > 1:
        os.environ["OMP_NUM_THREADS"] = "1"
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            yield from _with_progress(specs, pool.map(work, specs))
    else:
        yield from _with_progress(specs, map(work, specs))


def _with_progress(specs: Sequence[Spec], results: Iterable[T]) -> Iterator[tuple[Spec, T]]:
    live = sys.stderr.isatty()
    for index, (spec, result) in enumerate(zip(specs, results, strict=True), start=1):
        if live:
            print(f"\r\x1b[K[{index}/{len(specs)}] {spec.name}", end="", file=sys.stderr, flush=True)
        yield spec, result
    if live:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


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

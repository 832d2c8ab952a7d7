"""The planted-fault benchmark.

    python -m benchmarks.faults --sample 60                      a sample of small cases
    python -m benchmarks.faults --full --jobs 64 --out FILE      every case, kept as JSON
    python -m benchmarks.faults --table FILE                     a kept result as Markdown
    python -m benchmarks.faults --sample 60 --verify             hold the ground truth against the emulator instead
    python -m benchmarks.faults --sample 60 --kernels rtx-1.7    with the kernels of an environment, and FP16 sums
    python -m benchmarks.faults --full --scheduler ADDRESS       on the workers of a dask scheduler

A run with --out keeps its scores beside FILE until it is done; stopped at any moment, the same command goes on.
Exit status 0 if every number to reach is reached, else 1; 2 for a mistake.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from functools import partial as partial_of
from pathlib import Path

from benchmarks.faults.generate import grid, sample
from benchmarks.faults.partial import OtherRunError, Partial
from benchmarks.faults.planted import Spec
from benchmarks.faults.report import numbers_of, page, table
from benchmarks.faults.run import each, judge, problems
from benchmarks.faults.score import CLEAN, Score, goals
from benchmarks.record import record
from benchmarks.spread import add_scheduler
from harness.environments import load, select, shared_supervisor


def main() -> int:
    """Run the benchmark as the command line asks."""
    options = _arguments()
    if options.table:
        print(page(json.loads(options.table.read_text(encoding="utf-8"))))
        return 0
    specs = list(grid()) if options.full else sample(options.sample, seed=options.seed)
    if options.verify:
        return _verify(specs, options.jobs)
    try:
        partial = Partial(options.out) if options.out else None
    except OtherRunError as error:
        print(error, file=sys.stderr)
        return 2
    scores, seconds = _scores(specs, options, partial)
    reached = goals(scores)
    print(table(scores))
    print()
    for goal in reached:
        sign = "≥" if goal.at_least else "≤"
        print(f"{'ok  ' if goal.reached else 'MISS'} {goal.text}: {goal.value:.4g} {sign} {goal.limit:g}")
    if partial is not None:
        numbers = numbers_of(scores, seconds=seconds, jobs=options.jobs)
        if options.kernels is not None:
            held = [
                each.name for each in scores if each.faults and each.verdict == CLEAN and each.verdict_right
            ]
            numbers = {"kernels": _compiler(options.kernels), "planted and harmless": held, **numbers}
        name = "faults" if options.kernels is None else "faults_kernels"
        written = record(name, numbers, out=options.out, module="faults")
        print(f"kept in {written}")
        partial.remove()
    return 0 if all(goal.reached for goal in reached) else 1


def _scores(
    specs: Sequence[Spec], options: argparse.Namespace, partial: Partial | None
) -> tuple[list[Score], float]:
    """The scores in the order of `specs`, and the seconds that they took, those of earlier runs included."""
    found = {} if partial is None else dict(partial.scores)
    before = 0.0 if partial is None else partial.seconds
    left = [spec for spec in specs if spec.name not in found]
    work = judge if options.kernels is None else partial_of(judge, kernels=options.kernels)
    needs = () if options.kernels is None else (options.kernels,)
    started = time.perf_counter()
    for spec, result in each(
        work,
        left,
        options.jobs,
        done=len(specs) - len(left),
        scheduler=options.scheduler,
        environments=needs,
    ):
        found[spec.name] = result
        if partial is not None:
            partial.keep(result, before + time.perf_counter() - started)
        if result.error or not result.verdict_right or result.recall not in (None, 1.0):
            print(f"{spec.name}: {result}", file=sys.stderr)
    return [found[spec.name] for spec in specs], before + time.perf_counter() - started


def _compiler(name: str) -> str:
    """The environment with its product and release."""
    probe = shared_supervisor(select(name, load())).probe()
    return f"{name}: {probe.product} {probe.tensorrt}"


def _verify(specs: Sequence[Spec], jobs: int) -> int:
    wrong = 0
    for spec, found in each(problems, specs, jobs):
        wrong += bool(found)
        for problem in found:
            print(f"{spec.name}: {problem}")
    print(f"{len(specs)} cases, {wrong} with a wrong ground truth")
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__.split("\n")[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--sample", type=int, default=60, help="how many small cases (60)")
    which.add_argument("--full", action="store_true", help="every case")
    which.add_argument("--table", type=Path, metavar="FILE", help="print a kept result as Markdown")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--out", type=Path, help="keep the result as JSON; go on with it, if it was stopped")
    parser.add_argument(
        "--kernels", metavar="NAME", help="assume the kernels of this environment, and FP16 sums"
    )
    add_scheduler(parser)
    parser.add_argument("--verify", action="store_true", help="check the ground truth, diagnose nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

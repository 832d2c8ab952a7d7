"""What is done with each case, in this process or in several."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from benchmarks.faults.diagnosis import diagnose
from benchmarks.faults.generate import Spec, generate
from benchmarks.faults.score import Answer, Score, score
from benchmarks.faults.truth import optimum, verify

T = TypeVar("T")


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


def each(work: Callable[[Spec], T], specs: Sequence[Spec], jobs: int) -> Iterator[tuple[Spec, T]]:
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

"""What is done with each case, in this process or in several."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import TypeVar

from benchmarks import spread
from benchmarks.faults.diagnosis import assumed, diagnose
from benchmarks.faults.generate import generate
from benchmarks.faults.planted import PlantedCase, Spec
from benchmarks.faults.score import Answer, Score, score
from benchmarks.faults.truth import Emulation, optimum, verify

T = TypeVar("T")
EVERY = 15.0  # seconds between lines of progress where there is no terminal


def judge(spec: Spec, kernels: str | None = None) -> Score:
    """Generate one case, diagnose it, and score the answer. A diagnosis that raises scores as an error.

    Args:
        spec: which case.
        kernels: the environment whose kernels the emulator assumes.
    """
    case = generate(spec)
    if kernels is not None:
        return _judge_with(case, kernels)
    error = ""
    started = time.perf_counter()
    try:
        answer = diagnose(case.model, [case.feeds], case.precision)
    except Exception as raised:  # one bad case must not end a run of a thousand
        error = f"{type(raised).__name__}: {raised}"
        answer = Answer("error", frozenset(), 0, None, time.perf_counter() - started)
    return score(case, answer, optimum=optimum(case) if case.places else None, error=error)


def _judge_with(case: PlantedCase, kernels: str) -> Score:
    """The score where the emulator assumes kernels: what was planted need not fail with them."""
    assumption, started = assumed(kernels), time.perf_counter()
    try:
        answer = diagnose(case.model, [case.feeds], case.precision, kernels)
        fails = not Emulation(case, assumption).passes(())
        best = optimum(case, assumption) if case.places and fails else None
    except Exception as raised:
        answer = Answer("error", frozenset(), 0, None, time.perf_counter() - started)
        return score(case, answer, error=f"{type(raised).__name__}: {raised}")
    return score(case, answer, optimum=best, fails=fails)


def problems(spec: Spec) -> list[str]:
    """What is wrong with the ground truth of one case; small ones are brute-forced."""
    return verify(generate(spec), brute_force=spec.nodes <= 200)


def each(
    work: Callable[[Spec], T],
    specs: Sequence[Spec],
    jobs: int,
    *,
    done: int = 0,
    scheduler: str | None = None,
    environments: Sequence[str] = (),
) -> Iterator[tuple[Spec, T]]:
    """`work` done on each specification, as it is done, with a line of progress.

    Args:
        work: what to do.
        specs: with what.
        jobs: how many processes, of one thread each; 1 is this process, in order.
        done: how many others were done before, for the line of progress.
        scheduler: the address of a dask scheduler whose workers do it instead.
        environments: what they must have.
    """
    if scheduler is not None:
        return _with_progress(
            spread.each_answer(work, specs, scheduler, environments=environments), done, done + len(specs)
        )
    results = _pooled(work, specs, jobs) if jobs > 1 else ((spec, work(spec)) for spec in specs)
    return _with_progress(results, done, done + len(specs))


def _pooled(work: Callable[[Spec], T], specs: Sequence[Spec], jobs: int) -> Iterator[tuple[Spec, T]]:
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HARNESS_THREADS": "1"}
    os.environ.update(one_thread)  # a spawned process gets them before it imports NumPy and ONNX Runtime
    workers = min(jobs, max(len(specs), 1))
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_watch_parent) as pool:
        # The largest first: one that starts last would be waited for by all.
        order = sorted(specs, key=lambda spec: spec.nodes, reverse=True)
        waiting = {pool.submit(work, spec): spec for spec in order}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _watch_parent() -> None:
    """End this process when the one that started it does: the pool's own processes outlive a kill -9 of it."""
    parent = parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def end() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _with_progress(results: Iterator[tuple[Spec, T]], done: int, total: int) -> Iterator[tuple[Spec, T]]:
    live = sys.stderr.isatty()
    started = reported = time.perf_counter()
    for count, (spec, result) in enumerate(results, start=1):
        now = time.perf_counter()
        left = (now - started) / count * (total - done - count)
        line = f"[{done + count}/{total}] {now - started:.0f} s, about {left:.0f} s to go: {spec.name}"
        if live:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        elif now - reported > EVERY:
            reported = now
            print(line, file=sys.stderr, flush=True)
        yield spec, result
    if live:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)

"""Carry out runs: one after the other on a GPU, and at the same time on several GPUs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple

from harness.case import Case, RunSpec
from harness.judge.judge import Judge
from harness.judge.results import RunResult
from harness.tensors.precision import Precision


@dataclass(frozen=True)
class ProgressEvent:
    """What a progress display needs to know.

    Args:
        kind: `start` and `done` of a run, and `stage` in between.
        index: position of the run, from 0.
        total: how many runs there are.
        case: name of the case.
        precision: the precision under test.
        candidate: `emulator` or an environment.
        stage: what goes on, for `stage`.
        result: the result, for `done`.
    """

    kind: Literal["start", "stage", "done"]
    index: int
    total: int
    case: str
    precision: Precision
    candidate: str
    stage: str = ""
    result: RunResult | None = None


Progress = Callable[[ProgressEvent], None]


class Run(NamedTuple):
    """One case on one candidate at one precision."""

    case: Case
    candidate: str
    spec: RunSpec


def carry_out(judge: Judge, runs: Sequence[Run], progress: Progress) -> tuple[RunResult, ...]:
    """The results of `runs`, in their order.

    The runs of each GPU are a lane: within it they follow each other, so that no build is timed while another one
    keeps its GPU busy. Lanes go at the same time, each with a judge of its own; golden references are rewritten by
    one lane only. `progress` is told by one lane at a time.
    """
    lanes = judge.candidates.lanes(dict.fromkeys(run.candidate for run in runs))
    if len(lanes) == 1 or judge.options.golden_update:
        lanes = [tuple(name for lane in lanes for name in lane)]
    told, stopped = threading.Lock(), threading.Event()
    results: dict[int, RunResult] = {}

    def tell(event: ProgressEvent) -> None:
        with told:
            progress(event)

    def work(lane: tuple[str, ...], own: Judge) -> None:
        try:
            for index, run in enumerate(runs):
                if run.candidate in lane and not stopped.is_set():
                    results[index] = _judged(own, run, index, len(runs), tell)
        except BaseException:
            stopped.set()
            raise
        finally:
            if own is not judge:
                own.release()

    if len(lanes) == 1:
        work(lanes[0], judge)
        return tuple(results[index] for index in range(len(runs)))
    with ThreadPoolExecutor(len(lanes), thread_name_prefix="lane") as pool:
        work_of = [pool.submit(work, lane, Judge(judge.options, judge.candidates.again())) for lane in lanes]
        try:
            for ended in work_of:
                ended.result()
        except BaseException:
            stopped.set()
            judge.candidates.abort()  # or the other lanes would be waited for until their builds end
            raise
    return tuple(results[index] for index in range(len(runs)))


def _judged(judge: Judge, run: Run, index: int, total: int, progress: Progress) -> RunResult:
    case, candidate, spec = run

    def tell(
        kind: Literal["start", "stage", "done"], stage: str = "", result: RunResult | None = None
    ) -> None:
        progress(ProgressEvent(kind, index, total, case.name, spec.precision, candidate, stage, result))

    tell("start")
    start = time.perf_counter()
    result = judge.run(case, spec, candidate, lambda stage: tell("stage", stage))
    result = result.with_timing("total", time.perf_counter() - start)
    tell("done", result=result)
    return result

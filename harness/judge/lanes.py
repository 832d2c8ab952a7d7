"""Carry out runs: one after the other on a GPU, and at the same time on several GPUs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple, TypeVar

from harness.case import Case, RunSpec
from harness.judge.candidates import EMULATOR
from harness.judge.judge import Judge
from harness.judge.results import Cause, RunResult
from harness.tensors import Precision


@dataclass(frozen=True)
class ProgressEvent:
    """What a progress display needs to know.

    Args:
        kind: `start` and `done` of a run, and `stage` in between.
        index: position of the run, from 0, among those that are judged.
        total: how many runs there are, without those of cases that turned out not to be judged at all.
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
T = TypeVar("T")
_JOIN_SECONDS = 30.0


class Run(NamedTuple):
    """One case on one candidate at one precision."""

    case: Case
    candidate: str
    spec: RunSpec


def carry_out(judge: Judge, runs: Sequence[Run], progress: Progress) -> tuple[RunResult, ...]:
    """The results of `runs`, in their order; of a case that cannot be judged at all there is one.

    The runs of each GPU are a lane: within it they follow each other, so that no build is timed while another one
    keeps its GPU busy. Lanes go at the same time, each with a judge of its own; golden references are rewritten by
    one lane only. `progress` is called by one lane at a time.
    """
    lanes = judge.candidates.lanes(dict.fromkeys(run.candidate for run in runs))
    if len(lanes) == 1 or judge.options.golden_update:
        lanes = [tuple(name for lane in lanes for name in lane)]
    reporting, stopped = threading.Lock(), threading.Event()
    results: dict[int, RunResult] = {}
    unusable: set[int] = set()  # cases of which no run can be judged: one result says so
    begun: set[int] = set()
    left_out: set[int] = set()  # runs that an unusable case spares

    def report(event: ProgressEvent) -> None:
        with reporting:
            begun.add(event.index)
            if event.result is not None and event.result.cause is Cause.CASE:
                case = runs[event.index].case
                left_out.update(i for i, run in enumerate(runs) if run.case is case and i not in begun)
            before = sum(i < event.index for i in left_out)
            progress(replace(event, index=event.index - before, total=len(runs) - len(left_out)))

    def work(lane: tuple[str, ...], own: Judge) -> None:
        try:
            for index, run in enumerate(runs):
                if run.candidate not in lane or stopped.is_set() or id(run.case) in unusable:
                    continue
                following = (each.case for each in runs[index:] if each.candidate in lane)
                ahead = next((case for case in following if case is not run.case), None)
                then = next((each for each in runs[index + 1 :] if each.candidate in lane), None)
                result = _judged(own, run, index, len(runs), report, ahead, then)
                if result.cause is Cause.CASE:
                    if id(run.case) in unusable:  # another lane has said so meanwhile
                        continue
                    unusable.add(id(run.case))
                results[index] = result
        except BaseException:
            stopped.set()
            raise
        finally:
            if own is not judge:
                own.release()

    def give_up() -> None:
        stopped.set()
        judge.candidates.abort()  # or the other lanes would be waited for until their builds end

    judges = [judge if len(lanes) == 1 else Judge(judge.options, judge.candidates.again()) for _ in lanes]
    side_by_side([partial(work, lane, own) for lane, own in zip(lanes, judges, strict=True)], give_up)
    return tuple(results[index] for index in sorted(results))


def side_by_side(works: Sequence[Callable[[], T]], give_up: Callable[[], None]) -> list[T]:
    """What all of `works` return; more than one of them run in threads.

    Args:
        works: what to do.
        give_up: called when one of them raises, or the caller is interrupted; it must make the others end soon.

    Raises:
        BaseException: what the first of them raised.
    """
    if len(works) == 1:
        return [works[0]()]
    futures: list[Future[T]] = [Future() for _ in works]
    threads = [
        threading.Thread(target=_fulfil, args=pair, daemon=True) for pair in zip(futures, works, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
    except BaseException:
        give_up()
        for thread in threads:
            thread.join(_JOIN_SECONDS)
        raise
    return [future.result() for future in futures]


def _fulfil(future: Future[T], work: Callable[[], T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # the thread that waits raises it
        future.set_exception(error)


def _judged(
    judge: Judge,
    run: Run,
    index: int,
    total: int,
    progress: Progress,
    ahead: Case | None,
    then: Run | None,
) -> RunResult:
    """The result of `run`; while its engine is built, the case `ahead` is prepared, and then the engine of `then`."""
    case, candidate, spec = run

    def report(
        kind: Literal["start", "stage", "done"], stage: str = "", result: RunResult | None = None
    ) -> None:
        progress(ProgressEvent(kind, index, total, case.name, spec.precision, candidate, stage, result))

    def enter(stage: str) -> None:
        report("stage", stage)
        if stage == "candidate" and candidate != EMULATOR and ahead is not None:
            judge.prepare(ahead)

    def build_ahead() -> None:
        if then is not None:
            judge.build_ahead(then.case, then.spec, then.candidate)

    report("start")
    start = time.perf_counter()
    result = judge.run(case, spec, candidate, enter, build_ahead)
    result = result.with_timing("total", time.perf_counter() - start)
    report("done", result=result)
    return result

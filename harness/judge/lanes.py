"""Carry out runs: one after the other on a GPU, at the same time on several GPUs, or on the workers of a scheduler."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, as_completed, wait
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

from harness.case import Case, RunSpec
from harness.cluster import CaseUnit, Cluster, Stage
from harness.errors import UnitLostError
from harness.judge.candidates import EMULATOR, NO_KERNELS, WITHOUT_ENGINE
from harness.judge.judge import Judge, blank_result, failed_result
from harness.judge.measurement import Idle, JudgeOptions
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


@dataclass(frozen=True)
class Run(CaseUnit[Judge, RunResult]):
    """One case on one candidate at one precision."""

    case: Case
    candidate: str
    spec: RunSpec
    options: JudgeOptions

    @property
    def title(self) -> str:
        """See Unit."""
        return f"{self.case.name} at {self.spec.precision} on {self.candidate}"

    @property
    def environments(self) -> tuple[str, ...]:
        """See Unit: its own, and that whose kernels are assumed."""
        named = (self.candidate, self.options.kernels or NO_KERNELS)
        return tuple(dict.fromkeys(name for name in named if name not in (*WITHOUT_ENGINE, NO_KERNELS)))

    @property
    def on_gpu(self) -> bool:
        """See Unit."""
        return self.candidate not in WITHOUT_ENGINE

    @property
    def desk(self) -> Hashable:
        """See Unit."""
        return self.options

    def open(self) -> Judge:
        """See Unit."""
        return Judge(self.options)

    def carry_out(self, desk: Judge, stage: Stage, idle: Idle = lambda: None) -> RunResult:
        """See Unit; the result says how long it took. `idle` is that of `Judge.run`."""
        start = time.perf_counter()
        result = desk.run(desk.known(self.case), self.spec, self.candidate, stage, idle)
        return result.with_timing("total", time.perf_counter() - start)


class _Told:
    """What a progress display is told: positions and total count only runs that are judged.

    `progress` is called by one thread at a time.
    """

    def __init__(self, runs: Sequence[Run], progress: Progress) -> None:
        self.runs, self.progress = runs, progress
        self.guard = threading.Lock()
        self.begun: set[int] = set()
        self.left_out: set[int] = set()
        """Runs that an unusable case spares."""

    def __call__(
        self,
        index: int,
        kind: Literal["start", "stage", "done"],
        stage: str = "",
        result: RunResult | None = None,
    ) -> None:
        run = self.runs[index]
        with self.guard:
            self.begun.add(index)
            if result is not None and result.cause is Cause.CASE:
                others = (i for i, other in enumerate(self.runs) if other.case is run.case)
                self.left_out.update(i for i in others if i not in self.begun)
            before = sum(i < index for i in self.left_out)
            at, total = index - before, len(self.runs) - len(self.left_out)
            event = ProgressEvent(
                kind, at, total, run.case.name, run.spec.precision, run.candidate, stage, result
            )
            self.progress(event)


def carry_out(judge: Judge, runs: Sequence[Run], progress: Progress) -> tuple[RunResult, ...]:
    """The results of `runs`, in their order; of a case that cannot be judged at all there is one.

    The runs of each GPU are a lane: within it they follow each other, so that no build is timed while another one
    keeps its GPU busy. Lanes go at the same time, each with a judge of its own; golden references are rewritten by
    one lane only. `progress` is called by one lane at a time.
    """
    lanes = judge.candidates.lanes(dict.fromkeys(run.candidate for run in runs))
    if len(lanes) == 1 or judge.options.golden_update:
        lanes = [tuple(name for lane in lanes for name in lane)]
    told, stopped = _Told(runs, progress), threading.Event()
    results: dict[int, RunResult] = {}
    unusable: set[int] = set()  # cases of which no run can be judged: one result says so

    def work(lane: tuple[str, ...], own: Judge) -> None:
        try:
            for index, run in enumerate(runs):
                if run.candidate not in lane or stopped.is_set() or id(run.case) in unusable:
                    continue
                following = (each.case for each in runs[index:] if each.candidate in lane)
                ahead = next((case for case in following if case is not run.case), None)
                then = next((each for each in runs[index + 1 :] if each.candidate in lane), None)
                result = _judged(own, run, index, told, ahead, then)
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


def carry_out_on(cluster: Cluster, runs: Sequence[Run], progress: Progress) -> tuple[RunResult, ...]:
    """As `carry_out`, on the workers of a scheduler.

    Raises:
        SchedulerError: the scheduler is gone.
    """
    told = _Told(runs, progress)
    futures = {cluster.submit(run, partial(told, index, "start")): index for index, run in enumerate(runs)}
    by_index = {index: future for future, index in futures.items()}
    results: dict[int, RunResult] = {}
    for future in as_completed(futures):
        index = futures[future]
        if future.cancelled():
            continue
        run = runs[index]
        try:
            result = future.result()
        except UnitLostError as error:
            result = failed_result(blank_result(run.case, run.spec, run.candidate), error)
        told(index, "done", result=result)
        results[index] = result
        if result.cause is Cause.CASE:
            for later in range(index + 1, len(runs)):
                if runs[later].case is run.case:
                    by_index[later].cancel()
    first: dict[int, int] = {}  # case → its first run, where none can be judged: that one says so
    for index in sorted(results):
        if results[index].cause is Cause.CASE:
            first.setdefault(id(runs[index].case), index)
    return tuple(
        results[index] for index in sorted(results) if first.get(id(runs[index].case), index) == index
    )


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
    judge: Judge, run: Run, index: int, told: _Told, ahead: Case | None, then: Run | None
) -> RunResult:
    """The result of `run`; while its engine is built, the case `ahead` is prepared, and then the engine of `then`."""

    def enter(stage: str) -> None:
        told(index, "stage", stage)
        if stage == "candidate" and run.candidate != EMULATOR and ahead is not None:
            judge.prepare(ahead)

    def build_ahead() -> None:
        if then is not None:
            judge.build_ahead(then.case, then.spec, then.candidate)

    told(index, "start")
    result = run.carry_out(judge, enter, build_ahead)
    told(index, "done", result=result)
    return result

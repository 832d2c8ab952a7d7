"""Carry out runs: in lanes, one or several for each GPU, or on the workers of a scheduler."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, as_completed, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from harness.backends import sharing_cores
from harness.case import Case, RunSpec
from harness.cluster import CaseUnit
from harness.errors import UnitLostError
from harness.judge.candidates import EMULATOR, NO_KERNELS, WITHOUT_ENGINE
from harness.judge.judge import Judge, blank_result, failed_result
from harness.judge.measurement import Idle, JudgeOptions
from harness.judge.results import Cause, RunResult
from harness.tensors import Precision

if TYPE_CHECKING:
    from harness.cluster import Cluster, OnStage


@dataclass(frozen=True)
class RunEvent:
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


RunProgress = Callable[[RunEvent], None]
T = TypeVar("T")
_JOIN_SECONDS = 30.0
_SWITCH_SECONDS = 0.0005
#: What a worker says that lacks memory, or whose GPU another process has upset.
_SCARCE = frozenset({"out_of_memory", "no_context", "not_started", "cuda_error", "disk_full"})
_LOST = frozenset({"WorkerCrashedError", "WorkerTimeoutError"})


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

    def carry_out(self, desk: Judge, stage: OnStage, idle: Idle = lambda: None) -> RunResult:
        """See Unit; the result says how long it took. `idle` is that of `Judge.run`."""
        start = time.perf_counter()
        result = desk.run(desk.known(self.case), self.spec, self.candidate, stage, idle)
        return result.with_timing("total", time.perf_counter() - start)


class _Events:
    """What a progress display shows: positions and total count only runs that are judged.

    `progress` is called by one thread at a time, and not any more when `over` is set: what fails then was interrupted.
    """

    def __init__(self, runs: Sequence[Run], progress: RunProgress) -> None:
        self.runs, self.progress = runs, progress
        self.guard = threading.Lock()
        self.over = threading.Event()
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
            if self.over.is_set():
                return
            self.begun.add(index)
            if result is not None and result.cause is Cause.CASE:
                others = (i for i, other in enumerate(self.runs) if other.case is run.case)
                self.left_out.update(i for i in others if i not in self.begun)
            before = sum(i < index for i in self.left_out)
            at, total = index - before, len(self.runs) - len(self.left_out)
            event = RunEvent(kind, at, total, run.case.name, run.spec.precision, run.candidate, stage, result)
            try:
                self.progress(event)
            except BaseException:
                self.over.set()
                raise


class _Lanes:
    """Runs that lanes carry out: those left to take, what came of the others, and what is to be repeated.

    Args:
        runs: what to do.
        progress: gets every event.
    """

    def __init__(self, runs: Sequence[Run], progress: RunProgress) -> None:
        self.runs, self.events = runs, _Events(runs, progress)
        self.results: dict[int, RunResult] = {}
        self.again: list[int] = []
        """Runs of which a worker died, or lacked something, beside others: they are repeated alone."""
        self._guard = threading.Lock()
        self._loading = threading.Lock()
        self._taken: set[tuple[int, tuple[str, ...]]] = set()
        self._unusable: set[int] = set()
        """Cases of which no run can be judged: one result says so."""

    def work(self, names: tuple[str, ...], judge: Judge, *, shared: bool) -> None:
        """Carry out runs of these candidates, a case at a time; `shared`: other lanes take cases of them, too."""
        try:
            while (indices := self._take(names)) and not self.events.over.is_set():
                with contextlib.ExitStack() as loading:
                    if shared:  # no two models that are large are at hand at a time
                        loading.enter_context(self._loading)
                        if not judge.is_large(self.runs[indices[0]].case):
                            loading.close()
                    for index in indices:
                        self._carry_out(index, names, judge, shared=shared)
        except BaseException:
            self.events.over.set()
            raise

    def repeat(self, judge: Judge) -> None:
        """Carry out again, one after the other, what failed for what else went on."""
        for index in sorted(self.again):
            self.results[index] = _judged(judge, self.runs[index], index, self.events)

    def _take(self, names: tuple[str, ...]) -> list[int]:
        """Positions of the runs of the next case on these candidates; none if no case is left."""
        with self._guard:
            cases = (run.case for run in self.runs if run.candidate in names)
            case = next((each for each in cases if (id(each), names) not in self._taken), None)
            self._taken.add((id(case), names))
        return [i for i, run in enumerate(self.runs) if run.case is case and run.candidate in names]

    def _carry_out(self, index: int, names: tuple[str, ...], judge: Judge, *, shared: bool) -> None:
        run = self.runs[index]
        if self.events.over.is_set() or id(run.case) in self._unusable:
            return
        mine = [each for each in self.runs[index + 1 :] if each.candidate in names]
        if shared:
            mine = [each for each in mine if each.case is run.case]  # others may take the next case
        ahead = next((each.case for each in mine if each.case is not run.case), None)
        result = _judged(judge, run, index, self.events, ahead, next(iter(mine), None), withhold=shared)
        if shared and is_of_others(result):
            self.again.append(index)
            return
        if result.cause is Cause.CASE:
            with self._guard:
                if id(run.case) in self._unusable:  # another lane has said so meanwhile
                    return
                self._unusable.add(id(run.case))
        self.results[index] = result


@dataclass(frozen=True)
class Lane:
    """Some of the candidates, and which one of several lanes that share their GPU."""

    names: tuple[str, ...]
    number: int
    count: int


def plan_lanes(judge: Judge, runs: Sequence[Run]) -> list[Lane]:
    """Who carries out `runs`: a lane for each GPU, or several for TensorRT for RTX, whose builds need no GPU.

    Golden references are rewritten by one lane only. The workers of those that share a GPU are started.
    """
    candidates = judge.candidates
    groups = candidates.lanes(dict.fromkeys(run.candidate for run in runs))
    if judge.options.golden_update:
        return [Lane(tuple(name for group in groups for name in group), 0, 1)]
    lanes = []
    for names in groups:
        cases = {id(run.case) for run in runs if run.candidate in names}
        count = min(len(cases), candidates.beside(names)) if len(cases) > 1 else 1
        lanes += [Lane(names, number, count) for number in range(count)]
        for number in range(1, count):
            candidates.again(number).start_ahead(names)
    return lanes


def carry_out(
    judge: Judge, runs: Sequence[Run], progress: RunProgress, lanes: Sequence[Lane]
) -> tuple[RunResult, ...]:
    """The results of `runs`, in their order; of a case that cannot be judged at all there is one.

    Lanes go at the same time, each with a judge and workers of its own. Those that share a GPU take the cases as they
    come, and no inference is timed beside another one or a build. `progress` is called by one lane at a time.
    """
    work = _Lanes(runs, progress)

    def carry_out_lane(lane: Lane) -> None:
        if len(lanes) == 1:
            work.work(lane.names, judge, shared=False)
            return
        options = replace(judge.options, memory_budget=judge.options.memory_budget // lane.count)
        own = Judge(options, judge.candidates.again(lane.number))
        try:
            with sharing_cores(lane.count):
                work.work(lane.names, own, shared=lane.count > 1)
        finally:
            own.release()

    def give_up() -> None:
        work.events.over.set()
        judge.candidates.abort()  # or the other lanes would be waited for until their builds end

    side_by_side([partial(carry_out_lane, lane) for lane in lanes], give_up)
    work.repeat(judge)
    return tuple(work.results[index] for index in sorted(work.results))


def is_of_others(result: RunResult) -> bool:
    """Whether a run may have failed for want of what others use at the same time, or with a worker."""
    error = result.error
    if error is None or result.cause is not Cause.CANDIDATE:
        return False
    return error.fault in _SCARCE or error.kind in _LOST


def carry_out_on(cluster: Cluster, runs: Sequence[Run], progress: RunProgress) -> tuple[RunResult, ...]:
    """As `carry_out`, on the workers of a scheduler.

    Raises:
        SchedulerError: the scheduler is gone.
    """
    notify = _Events(runs, progress)
    futures = {cluster.submit(run, partial(notify, index, "start")): index for index, run in enumerate(runs)}
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
        notify(index, "done", result=result)
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
    with _switching_often():
        return _in_threads(works, give_up)


@contextlib.contextmanager
def _switching_often() -> Iterator[None]:
    """Let threads wait less for Python's lock.

    A thread waits for one switch whenever it comes back from ONNX Runtime or NumPy while another computes in Python,
    and does so thousands of times a case.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, _SWITCH_SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _in_threads(works: Sequence[Callable[[], T]], give_up: Callable[[], None]) -> list[T]:
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
    notify: _Events,
    ahead: Case | None = None,
    then: Run | None = None,
    *,
    withhold: bool = False,
) -> RunResult:
    """The result of `run`; while its engine is built, the case `ahead` is prepared, and then the engine of `then`.

    With `withhold`, one that is to be repeated is not reported.
    """

    def enter(stage: str) -> None:
        notify(index, "stage", stage)
        if stage == "candidate" and run.candidate != EMULATOR and ahead is not None:
            judge.prepare(ahead)

    def build_ahead() -> None:
        if then is not None:
            judge.build_ahead(then.case, then.spec, then.candidate)

    notify(index, "start")
    result = run.carry_out(judge, enter, build_ahead)
    if not (withhold and is_of_others(result)):
        notify(index, "done", result=result)
    return result

"""The matrix: cases × precisions × releases, each engine built several times, every part kept as soon as it is there.

One part is one case at one precision on all releases. An interrupted run loses the part that it was at, and
continues there when it is resumed. A release whose engine fails leaves a row that says so, and the matrix continues.
Releases on different GPUs are built side by side; where a scheduler has workers, so are parts.
"""

from __future__ import annotations

import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from harness.case import Case, RunSpec
from harness.cluster import files_of
from harness.cluster import open_cluster as opened_cluster
from harness.compiler import ConversionWarning
from harness.errors import HistoryError
from harness.history.matrix.emulated import EmulatedRelease, is_emulated
from harness.history.matrix.lanes import (
    BuildUnit,
    Built,
    Lane,
    RemoteLane,
    StoppedError,
    hashes_of,
    opened_lanes,
)
from harness.history.matrix.options import DriftOptions, check_releases
from harness.history.store import MatrixPlan, Recording, RunInfo, RunWriter, hash_case, opened, read_info
from harness.judge import Judge, RunEvent, RunProgress, RunResult, Verdict, fingerprint_of, side_by_side
from harness.text import command

PARTS_A_WORKER = 3
"""Parts under way for each worker of a scheduler: a part waits for its own first build, and another one fills in."""


def run_matrix(
    specs: Sequence[tuple[Case, RunSpec]],
    releases: Sequence[str],
    options: DriftOptions,
    *,
    history: Path,
    resume: bool = False,
    progress: RunProgress | None = None,
    scheduler: str | None = None,
) -> RunInfo:
    """Run the matrix and return what it left in the history.

    Args:
        specs: cases and their runs.
        releases: environments and emulated releases, the older one first.
        options: how.
        history: the folder of the history.
        resume: continue the newest interrupted run of the same matrix.
        progress: called for every build.
        scheduler: address of a dask scheduler whose workers build.

    Raises:
        SchedulerError: it does not answer, or its workers cannot do what is asked of them; nothing was run.
        EnvironmentConfigError: no environment has the name of a release; nothing was run.
        HistoryError: there is nothing to resume, the interrupted run was another one, or a model or inputs changed
            since.
    """
    check_releases(releases, structure=options.structure)
    plan = MatrixPlan(
        releases=tuple(releases),
        repeats=options.repeats,
        cases={case.name: hash_case(case, whole=True) for case, _ in specs},
        precisions=tuple(sorted({spec.precision for _, spec in specs})),
        layers=options.layers,
        timing_cache=options.timing_cache,
        structure=options.structure,
        command=command(Path(sys.argv[0]).name, *sys.argv[1:]) if sys.argv else "",
    )
    files = {path for case, _ in specs for path in files_of(case)}
    with (
        _opened(releases, options, scheduler, sorted(files)) as (lanes, at_a_time, abort),
        Judge() as judge,
        opened(history, plan, resume=resume) as writer,
    ):
        notify = progress or (lambda event: None)
        matrix = _Matrix(lanes, options, releases, writer, notify, judge, at_a_time, abort)
        matrix.all(specs)
        path = writer.finish(fingerprint_of(matrix.first_results()))
    return read_info(path)


@contextmanager
def _opened(
    releases: Sequence[str], options: DriftOptions, scheduler: str | None, files: Sequence[Path]
) -> Iterator[tuple[Sequence[Lane | RemoteLane], int, Callable[[], None]]]:
    """The lanes, how many parts they take at a time, and what ends all builds soon."""
    from harness.environments import abort_shared

    if scheduler is None:
        with opened_lanes(releases, options) as lanes:
            yield lanes, 1, abort_shared  # builds that are under way may take minutes
        return
    environments = [name for name in releases if not is_emulated(name)]
    for name in filter(is_emulated, releases):
        EmulatedRelease.parse(name)
    with opened_cluster(scheduler, environments=environments, files=files) as cluster:
        remote = [RemoteLane(name, cluster) for name in releases]
        yield remote, PARTS_A_WORKER * max(1, len(cluster)), partial(cluster.close, at_once=True)


@dataclass
class _Matrix:
    lanes: Sequence[Lane | RemoteLane]
    options: DriftOptions
    releases: Sequence[str]
    writer: RunWriter
    progress: RunProgress
    judge: Judge
    """What tells whether models and inputs are still those of an interrupted run."""
    at_a_time: int
    """How many parts are under way together."""
    abort: Callable[[], None]
    results: list[RunResult] = field(default_factory=list)
    done: int = 0
    total: int = 0
    warned: set[str] = field(default_factory=set)
    """The warnings that were given."""
    guard: threading.Lock = field(default_factory=threading.Lock)
    stopped: threading.Event = field(default_factory=threading.Event)

    def all(self, specs: Sequence[tuple[Case, RunSpec]]) -> None:
        kept = self.writer.done()
        self.check_kept(specs, kept)
        self.judge.release()
        waiting = [(case, spec) for case, spec in specs if part_name(case, spec) not in kept]
        self.total = len(waiting) * len(self.releases) * self.options.repeats
        if self.at_a_time == 1:
            for case, spec in waiting:
                self.write(case, spec, self.part(case, spec))
            return
        pool = ThreadPoolExecutor(self.at_a_time)
        futures = {pool.submit(self.part, case, spec): (case, spec) for case, spec in waiting}
        try:
            for future in as_completed(list(futures)):
                self.write(*futures[future], future.result())
                del futures[future]
        except BaseException as error:
            self.give_up()
            pool.shutdown(cancel_futures=True)
            ended = [each for each in futures if each.done() and not each.cancelled()]
            for future in ended:  # what was done by then is kept
                if future.exception() is None:
                    self.write(*futures[future], future.result())
            found = (each.exception() for each in ended)
            raise next(
                (each for each in found if each and not isinstance(each, StoppedError)), error
            ) from None
        pool.shutdown()

    def write(self, case: Case, spec: RunSpec, builds: Sequence[Built]) -> None:
        """Keep a part."""
        rows = [row for built in builds for row in built.rows]
        self.writer.write(part_name(case, spec), rows, builds[0].hashes)

    def check_kept(self, specs: Sequence[tuple[Case, RunSpec]], kept: Collection[str]) -> None:
        """Check that the parts that are there were made from the models and inputs of today.

        Raises:
            HistoryError: a model or inputs changed since; all of them are named.
        """
        changed: dict[str, None] = {}
        for case, spec in specs:
            if (part := part_name(case, spec)) in kept:
                before, now = self.writer.hashes(part), hashes_of(self.judge.bench(case))
                if now.model is not None and before.model not in (None, now.model):
                    changed[f"the model of {case.name}"] = None
                if now.inputs is not None and before.inputs not in (None, now.inputs):
                    changed[f"the inputs of {case.name}"] = None
        if changed:
            raise HistoryError(
                f"{', '.join(changed)} changed since the run was interrupted: its parts would not belong together",
                where=self.writer.parts,
                hint="restore what changed, or leave out --resume to start a new run",
            )

    def part(self, case: Case, spec: RunSpec) -> list[Built]:
        """All builds of one case at one precision, on all releases, in their order."""
        first: Future[Built | None] = Future()
        works = [partial(self.lane, lane, case, spec, first) for lane in self.lanes]
        by_release = {
            release: builds
            for found in side_by_side(works, self.give_up)
            for release, builds in found.items()
        }
        return [built for release in self.releases for built in by_release[release]]

    def give_up(self) -> None:
        """End all lanes soon."""
        self.stopped.set()
        self.abort()

    def lane(
        self, lane: Lane | RemoteLane, case: Case, spec: RunSpec, first: Future[Built | None]
    ) -> dict[str, list[Built]]:
        """The builds of the releases of one lane; `first` is to hold the first build of the first release."""
        try:
            return {release: self.builds(lane, case, spec, release, first) for release in lane.releases}
        finally:
            if self.releases[0] in lane.releases and not first.done():
                first.set_result(None)  # so that no lane waits for ever

    def builds(
        self,
        lane: Lane | RemoteLane,
        case: Case,
        spec: RunSpec,
        release: str,
        first: Future[Built | None],
    ) -> list[Built]:
        found: list[Built] = []
        taken, limit = 0.0, self.options.run_limit
        for build in self.options.builds(release):
            if build.number and limit is not None and taken >= limit:
                self.skip(build.number)
                break
            is_first = release == self.releases[0] and build.number == 0
            unit = BuildUnit(case, spec, release, build, self.options, self.writer.run, is_first)
            built, seconds = self.build(lane, unit, first)
            taken += seconds
            if is_first:
                first.set_result(built if built.recording.unobserved else None)
                built = replace(built, recording=Recording(), kept=None)
            found.append(built)
            if build.number == 0:
                self.remember(built.result)
                if built.result.verdict in (Verdict.ERROR, Verdict.SKIP):
                    self.skip(1)
                    break  # the others would fail in the same way, and may take as long
        return found

    def skip(self, built: int) -> None:
        """Count the builds after the first `built` of an engine as done: they are left out."""
        with self.guard:
            self.done += self.options.repeats - built

    def build(
        self, lane: Lane | RemoteLane, unit: BuildUnit, first: Future[Built | None]
    ) -> tuple[Built, float]:
        """Carry out one build, and how many seconds it took from when it began."""
        numbered = f"{unit.release} build {unit.build.number + 1}"
        label = numbered if self.options.repeats > 1 else unit.release
        begun = time.perf_counter()

        def notify(
            kind: Literal["start", "stage", "done"], stage: str = "", result: RunResult | None = None
        ) -> None:
            with self.guard:
                if self.stopped.is_set():
                    raise StoppedError
                precision, name = unit.spec.precision, unit.case.name
                self.progress(RunEvent(kind, self.done, self.total, name, precision, label, stage, result))
                self.done += kind == "done"

        def begin() -> None:
            nonlocal begun
            begun = time.perf_counter()
            notify("start")

        built = lane.carry_out(unit, begin, lambda stage: notify("stage", stage), first.result)
        seconds = time.perf_counter() - begun
        notify("done", result=replace(built.result, candidate=label))
        if built.warning is not None:
            self.tell(f"{unit.case.name}: {built.warning}")
        return built, seconds

    def tell(self, warning: str) -> None:
        """Give a warning, once."""
        with self.guard:
            if warning in self.warned:
                return
            self.warned.add(warning)
        warnings.warn(warning, ConversionWarning, stacklevel=1)

    def first_results(self) -> list[RunResult]:
        """One result a release, in their order."""
        return sorted(self.results, key=lambda result: self.releases.index(result.candidate))

    def remember(self, result: RunResult) -> None:
        """Keep one result a release, for the fingerprint."""
        with self.guard:
            known = {other.candidate for other in self.results}
            if result.engine is not None and result.candidate not in known:
                self.results.append(result)


def part_name(case: Case, spec: RunSpec) -> str:
    """The name of the part that holds a case at a precision."""
    plain = re.sub(r"[^\w.-]+", "_", case.name)
    suffix = "" if plain == case.name else f"-{hash_case(case)[:8]}"
    return f"{plain}{suffix}@{spec.precision}"

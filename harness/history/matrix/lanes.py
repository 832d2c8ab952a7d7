"""Builds as units of work, and the lanes that they go along: releases that must wait for each other share one.

Engines on one GPU are built and timed one after the other, or each would disturb the tactics and latencies of the
others. Releases on different GPUs need not wait: each lane is a thread with a judge of its own, and the work itself
is done in the workers' processes; or all of it, where a scheduler has workers.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from harness.case import Case, RunSpec
from harness.cluster import CaseUnit, Cluster, Kept, OnStage
from harness.compiler import conversion_warning
from harness.environments import select
from harness.errors import HarnessError, InternalError, UnitLostError
from harness.history.matrix.compiled import as_compiled, compile_case
from harness.history.matrix.emulated import is_emulated
from harness.history.matrix.options import Build, DriftOptions
from harness.history.matrix.recording import RecordingCandidates
from harness.history.store import CaseHashes, Recording, Row, common_columns, rows_of
from harness.judge import Judge, JudgeOptions, RunResult, Workbench, blank_result, failed_result
from harness.tensors import hash_feeds


@dataclass(frozen=True)
class Built:
    """What came of one build.

    Args:
        result: what the judge says.
        rows: those of the history.
        recording: what the build computed.
        hashes: what its case is made of.
        warning: what a conversion silently changes.
        kept: all that, where a worker of a scheduler keeps it for the builds that are compared with this one.
    """

    result: RunResult
    rows: list[Row]
    recording: Recording = field(default_factory=Recording)
    hashes: CaseHashes = field(default_factory=CaseHashes)
    warning: str | None = None
    kept: Kept[Built] | None = None


First = Callable[[], Built | None]
"""The first build of the first release; waits for it. None if it computed nothing."""


@dataclass(frozen=True)
class BuildUnit(CaseUnit["Lane", Built]):
    """One build of one release for a case at a precision.

    Args:
        case: the case.
        spec: the precision, and what is expected.
        release: the environment or emulated release.
        build: which of its builds.
        options: of the matrix.
        run: the run that the rows belong to.
        is_first: whether the others are compared with it.
        first: that one; None if it is this one, or failed.
    """

    case: Case
    spec: RunSpec
    release: str
    build: Build
    options: DriftOptions
    run: str
    is_first: bool = False
    first: Built | None = None

    @property
    def title(self) -> str:
        """See Unit."""
        return f"{self.case.name} at {self.spec.precision}: build {self.build.number + 1} of {self.release}"

    @property
    def environments(self) -> tuple[str, ...]:
        """See Unit."""
        return () if is_emulated(self.release) else (self.release,)

    @property
    def on_gpu(self) -> bool:
        """See Unit; a compiler needs none."""
        return not (self.options.structure or is_emulated(self.release))

    @property
    def desk(self) -> Hashable:
        """See Unit."""
        return (self.options.memory_budget, self.options.run_limit)

    def open(self) -> Lane:
        """See Unit."""
        return open_lane((self.release,), self.options)

    def given(self, result: Built) -> BuildUnit:
        """See Unit: the build that this one is compared with."""
        return replace(self, first=result)

    def carry_out(self, desk: Lane, stage: OnStage) -> Built:
        """See Unit."""
        unit = replace(self, case=desk.judge.known(self.case))
        return desk.carry_out(unit, lambda: None, stage, lambda: self.first)


class StoppedError(BaseException):
    """Another lane gave up."""


@dataclass(frozen=True)
class Lane:
    """Releases that are built one after the other, in their order, and the judge of them."""

    releases: tuple[str, ...]
    judge: Judge
    candidates: RecordingCandidates

    def close(self) -> None:
        """Free engines and end workers."""
        self.judge.close()

    def carry_out(self, unit: BuildUnit, begin: Callable[[], None], stage: OnStage, first: First) -> Built:
        """Judge one build, and make its rows; a mistake of harness ends neither a night nor its other builds."""
        begin()
        self.candidates.begin(unit.build)
        layers = unit.options.observes(unit.release, unit.build)
        self.judge.options = replace(self.judge.options, layers=layers)
        start = time.perf_counter()
        try:
            if unit.options.structure:
                stage("compile")
                environment = select(unit.release, self.candidates.environments)
                bench = self.judge.bench(unit.case)
                result = compile_case(self.candidates, unit.case, unit.spec, environment, bench)
            else:
                result = self.judge.run(unit.case, unit.spec, unit.release, stage)
            recording = self.candidates.recording
        except Exception as error:
            blank = blank_result(unit.case, unit.spec, unit.release)
            result, recording = failed_result(blank, InternalError.of(error)), Recording()
        result = result.with_timing("total", time.perf_counter() - start)
        bench = self.judge.bench(unit.case)
        hashes = hashes_of(bench)
        other = Built(result, [], recording) if unit.is_first else first()
        compared = other.recording if other is not None and other.recording.unobserved else None
        rows, warning = self._rows(unit, result, recording, compared, bench)
        return Built(result, rows, recording if unit.is_first else Recording(), hashes, warning)

    def _rows(
        self,
        unit: BuildUnit,
        result: RunResult,
        recording: Recording,
        first: Recording | None,
        bench: Workbench,
    ) -> tuple[list[Row], str | None]:
        """The rows of one build, and a warning of its conversion."""
        warning = None
        try:
            common = common_columns(unit.case, bench, unit.run)
        except HarnessError:  # the model cannot be had, which the result says
            common = common_columns(unit.case, None, unit.run)
        else:
            fingerprint = None if result.engine is None else result.engine.fingerprint
            warning = conversion_warning(bench.model, fingerprint)
        rows = rows_of(result, bench, recording, first, described(unit, common))
        return as_compiled(rows, result) if unit.options.structure else rows, warning


class RemoteLane:
    """One release, built by the workers of a scheduler: as many builds at a time as there are cases waiting."""

    def __init__(self, release: str, cluster: Cluster) -> None:
        self.releases = (release,)
        self._cluster = cluster

    def carry_out(self, unit: BuildUnit, begin: Callable[[], None], stage: OnStage, first: First) -> Built:
        """See Lane.carry_out; a build that its workers died of leaves a row that says so."""
        try:
            if unit.is_first:
                kept = self._cluster.submit_kept(unit, begin).result()
                return replace(kept.result, kept=kept)
            other = first()
            return self._cluster.submit(unit, begin, given=None if other is None else other.kept).result()
        except CancelledError:
            raise StoppedError from None
        except HarnessError as error:
            if not isinstance(error, UnitLostError | InternalError):
                raise
            result = failed_result(blank_result(unit.case, unit.spec, unit.release), error)
        bench = Workbench(unit.case, memory_budget=unit.options.memory_budget)
        common = described(unit, common_columns(unit.case, None, unit.run))
        return Built(result, rows_of(result, bench, Recording(), None, common))


def described(unit: BuildUnit, common: Row) -> Row:
    """What all rows of a build share."""
    return replace(
        common,
        precision=unit.spec.precision.value,
        release=unit.release,
        build=unit.build.number,
        timing_cache=unit.build.timing_cache,
    )


def hashes_of(bench: Workbench) -> CaseHashes:
    """The hashes of the model and of the inputs of a case; both are loaded."""
    model = None
    try:
        model = bench.model.sha256
        samples = "".join(map(hash_feeds, bench.feeds))
        return CaseHashes(model, hashlib.sha256(samples.encode()).hexdigest())
    except HarnessError:  # which the result of the run says
        return CaseHashes(model)


def open_lane(releases: tuple[str, ...], options: DriftOptions) -> Lane:
    """A lane of `releases`, with a judge of its own."""
    candidates = RecordingCandidates(build_limit=options.run_limit)
    return Lane(releases, Judge(JudgeOptions(memory_budget=options.memory_budget), candidates), candidates)


@contextmanager
def opened_lanes(releases: Sequence[str], options: DriftOptions) -> Iterator[tuple[Lane, ...]]:
    """The lanes of `releases`, the one with the first release first; leaving the context ends all workers.

    Raises:
        EnvironmentConfigError: no environment has the name of a release.
        UsageError: the name of an emulated release means nothing.
    """
    known = RecordingCandidates()
    known.check(tuple(releases))
    lanes = tuple(open_lane(names, options) for names in known.lanes(releases))
    try:
        yield lanes
    finally:
        for lane in lanes:
            lane.close()

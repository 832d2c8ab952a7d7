"""The matrix: cases × precisions × releases, each engine built several times, every part kept as soon as it is there.

One part is one case at one precision on all releases. An interrupted run loses the part that it was at, and
continues there when it is resumed. A release whose engine fails leaves a row that says so, and the matrix continues.
Releases on different GPUs are built side by side.
"""

from __future__ import annotations

import hashlib
import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.case import Case, RunSpec
from harness.compiler import ConversionWarning, conversion_warning
from harness.errors import HarnessError, HistoryError
from harness.history.matrix.compiled import as_compiled
from harness.history.matrix.lanes import Build, Lane, opened_lanes
from harness.history.matrix.options import DriftOptions, check_releases
from harness.history.store import (
    CaseHashes,
    MatrixPlan,
    Recording,
    Row,
    RunInfo,
    RunWriter,
    common_columns,
    hash_case,
    opened,
    read_info,
    rows_of,
)
from harness.judge import (
    Progress,
    ProgressEvent,
    RunResult,
    Verdict,
    Workbench,
    fingerprint_of,
    side_by_side,
)
from harness.tensors import hash_feeds
from harness.text import command


def run_matrix(
    specs: Sequence[tuple[Case, RunSpec]],
    releases: Sequence[str],
    options: DriftOptions,
    *,
    history: Path,
    resume: bool = False,
    progress: Progress | None = None,
) -> RunInfo:
    """Run the matrix and return what it left in the history.

    Args:
        specs: cases and their runs.
        releases: environments and emulated releases, the older one first.
        options: how.
        history: the folder of the history.
        resume: continue the newest interrupted run of the same matrix.
        progress: called for every build.

    Raises:
        EnvironmentConfigError: no environment has the name of a release; nothing was run.
        HistoryError: there is nothing to resume, the interrupted run was another one, or a model or inputs changed
            since.
    """
    check_releases(releases, structure=options.structure)
    with opened_lanes(releases, memory_budget=options.memory_budget, run_limit=options.run_limit) as lanes:
        plan = MatrixPlan(
            releases=tuple(releases),
            repeats=options.repeats,
            cases={case.name: hash_case(case, whole=True) for case, _ in specs},
            precisions=tuple(sorted({spec.precision for _, spec in specs})),
            layers=options.layers,
            timing_cache=options.timing_cache,
            structure=options.structure,
            command=_command(),
        )
        with opened(history, plan, resume=resume) as writer:
            matrix = _Matrix(lanes, options, releases, writer, progress or (lambda event: None))
            matrix.all(specs)
            path = writer.finish(fingerprint_of(matrix.first_results()))
    return read_info(path)


class _Stopped(Exception):
    """Another lane gave up."""


@dataclass
class _Matrix:
    lanes: Sequence[Lane]
    options: DriftOptions
    releases: Sequence[str]
    writer: RunWriter
    progress: Progress
    results: list[RunResult] = field(default_factory=list)
    done: int = 0
    warned: set[str] = field(default_factory=set)
    """The warnings that were given."""
    guard: threading.Lock = field(default_factory=threading.Lock)
    stopped: threading.Event = field(default_factory=threading.Event)

    def all(self, specs: Sequence[tuple[Case, RunSpec]]) -> None:
        kept = self.writer.done()
        self.check_kept(specs, kept)
        waiting = [(case, spec) for case, spec in specs if part_name(case, spec) not in kept]
        self.total = len(waiting) * len(self.releases) * self.options.repeats
        for case, spec in waiting:
            rows = self.part(case, spec)
            self.writer.write(part_name(case, spec), rows, hashes_of(self.lanes[0].judge.bench(case)))

    def check_kept(self, specs: Sequence[tuple[Case, RunSpec]], kept: Collection[str]) -> None:
        """Check that the parts that are there were made from the models and inputs of today.

        Raises:
            HistoryError: a model or inputs changed since; all of them are named.
        """
        changed: dict[str, None] = {}
        for case, spec in specs:
            if (part := part_name(case, spec)) in kept:
                before, now = self.writer.hashes(part), hashes_of(self.lanes[0].judge.bench(case))
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

    def part(self, case: Case, spec: RunSpec) -> list[Row]:
        """All builds of one case at one precision, on all releases, in their order."""
        first: Future[Recording | None] = Future()
        works = [partial(self.lane, lane, case, spec, first) for lane in self.lanes]
        by_release = {
            release: rows for found in side_by_side(works, self.give_up) for release, rows in found.items()
        }
        return [row for release in self.releases for row in by_release[release]]

    def give_up(self) -> None:
        """End all lanes soon: builds that are under way may take minutes."""
        from harness.environments import abort_shared

        self.stopped.set()
        abort_shared()

    def lane(
        self, lane: Lane, case: Case, spec: RunSpec, first: Future[Recording | None]
    ) -> dict[str, list[Row]]:
        """The rows of the releases of one lane; `first` is to hold the first build of the first release."""
        try:
            return {release: self.builds(lane, case, spec, release, first) for release in lane.releases}
        finally:
            if self.releases[0] in lane.releases and not first.done():
                first.set_result(None)  # so that no lane waits for ever

    def builds(
        self, lane: Lane, case: Case, spec: RunSpec, release: str, first: Future[Recording | None]
    ) -> list[Row]:
        rows: list[Row] = []
        begun, limit = time.perf_counter(), self.options.run_limit
        for build in self.options.builds(release):
            if build.number and limit is not None and time.perf_counter() - begun >= limit:
                self.skip(build.number)
                break
            result, recording = self.build(lane, case, spec, release, build)
            if release == self.releases[0] and build.number == 0:
                first.set_result(recording if recording.unobserved else None)
            rows += self.rows(lane, case, spec, release, build, result, recording, first.result())
            if build.number == 0:
                self.remember(result)
                if result.verdict in (Verdict.ERROR, Verdict.SKIP):
                    self.skip(1)
                    break  # the others would fail in the same way, and may take as long
        return rows

    def skip(self, built: int) -> None:
        """Count the builds after the first `built` of an engine as done: they are left out."""
        with self.guard:
            self.done += self.options.repeats - built

    def build(
        self, lane: Lane, case: Case, spec: RunSpec, release: str, build: Build
    ) -> tuple[RunResult, Recording]:
        """Judge one build."""
        label = f"{release} build {build.number + 1}" if self.options.repeats > 1 else release

        def notify(kind: Any, stage: str = "", result: RunResult | None = None) -> None:
            with self.guard:
                if self.stopped.is_set():
                    raise _Stopped
                self.progress(
                    ProgressEvent(
                        kind, self.done, self.total, case.name, spec.precision, label, stage, result
                    )
                )
                self.done += kind == "done"

        notify("start")
        layers = self.options.observes(release, build)
        seconds = 0.0
        recording = Recording()
        try:
            if self.options.structure:
                notify("stage", "compile")
                result, seconds = lane.compile(case, spec, release)
            else:
                result, recording, seconds = lane.build(
                    case, spec, release, build, layers=layers, stage=lambda stage: notify("stage", stage)
                )
        except _Stopped:
            raise
        except Exception as error:  # one bug must not end a night
            result = _unexpected(case, spec, release, error)
        notify("done", result=replace(result, candidate=label).with_timing("total", seconds))
        return result, recording

    def rows(
        self,
        lane: Lane,
        case: Case,
        spec: RunSpec,
        release: str,
        build: Build,
        result: RunResult,
        recording: Recording,
        first: Recording | None,
    ) -> list[Row]:
        bench = lane.judge.bench(case)
        try:
            common = common_columns(case, bench, self.writer.run)
        except HarnessError:  # the model cannot be had, which the result says
            common = common_columns(case, None, self.writer.run)
        else:
            fingerprint = None if result.engine is None else result.engine.fingerprint
            if warning := conversion_warning(bench.model, fingerprint):
                self.tell(f"{case.name}: {warning}")
        common = replace(
            common,
            precision=spec.precision.value,
            release=release,
            build=build.number,
            timing_cache=build.timing_cache,
        )
        rows = rows_of(result, bench, recording, first, common)
        return as_compiled(rows, result) if self.options.structure else rows

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


def _command() -> str:
    """How this process was started, as one would type it."""
    return command(Path(sys.argv[0]).name, *sys.argv[1:]) if sys.argv else ""


def _unexpected(case: Case, spec: RunSpec, release: str, error: Exception) -> RunResult:
    """The result of a build that raised an unexpected error: a bug, here or in a library."""
    return RunResult(
        case=case.name,
        precision=spec.precision,
        candidate=release,
        verdict=Verdict.ERROR,
        reason=f"internal error: {type(error).__name__}: {error}",
        evidence=tuple("".join(traceback.format_exception(error)).splitlines()[-6:]),
        case_path=case.model.path if case.path is None else str(case.path),
        inputs=case.shape_arguments,
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


def part_name(case: Case, spec: RunSpec) -> str:
    """The name of the part that holds a case at a precision."""
    plain = re.sub(r"[^\w.-]+", "_", case.name)
    suffix = "" if plain == case.name else f"-{hash_case(case)[:8]}"
    return f"{plain}{suffix}@{spec.precision}"

"""Lanes: releases that must wait for each other share one, and the lanes go side by side.

Engines on one GPU are built and timed one after the other, or each would disturb the tactics and latencies of the
others. Releases on different GPUs need not wait: each lane is a thread with a judge of its own, and the work itself
is done in the workers' processes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from harness.case import Case, RunSpec
from harness.history.store import Build, Recording, RecordingCandidates
from harness.judge import Judge, JudgeOptions, RunResult, Stage


@dataclass(frozen=True)
class Lane:
    """Releases that are built one after the other, in their order, and who judges them."""

    releases: tuple[str, ...]
    judge: Judge
    candidates: RecordingCandidates

    def build(
        self, case: Case, spec: RunSpec, release: str, build: Build, *, layers: bool, stage: Stage
    ) -> tuple[RunResult, Recording, float]:
        """Judge one build: the result, what it computed, and how many seconds it took."""
        self.candidates.begin(build)
        self.judge.options = replace(self.judge.options, layers=layers)
        begun = time.perf_counter()
        result = self.judge.run(case, spec, release, stage)
        return result, self.candidates.recording, time.perf_counter() - begun


@contextmanager
def opened_lanes(
    releases: Sequence[str], *, memory_budget: int, run_limit: float | None
) -> Iterator[tuple[Lane, ...]]:
    """The lanes of `releases`, the one with the first release first; leaving the context ends all workers.

    Raises:
        EnvironmentConfigError: a release is no environment.
        UsageError: the name of an emulated release means nothing.
    """
    known = RecordingCandidates()
    known.check(tuple(releases))
    options = JudgeOptions(memory_budget=memory_budget)
    lanes = []
    for names in known.lanes(releases):
        candidates = RecordingCandidates(build_limit=run_limit)
        lanes.append(Lane(names, Judge(options, candidates), candidates))
    try:
        yield tuple(lanes)
    finally:
        for lane in lanes:
            lane.judge.close()

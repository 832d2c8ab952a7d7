"""Candidates whose builds are fresh, and whose tensors are kept for as long as rows are made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from harness.backends import Candidate, Evaluation, Observation, Plan, Timing
from harness.case import Case, RunSpec
from harness.environments import Environment
from harness.errors import CandidateError
from harness.history.matrix.emulated import PREFIX, EmulatedBuild, EmulatedRelease, is_emulated
from harness.history.matrix.options import Build
from harness.history.store import Recording
from harness.judge import Candidates, RunReason, Workbench
from harness.worker.protocol import ProbeReply


class RecordingCandidates(Candidates):
    """Makes candidates for drift: each build is a fresh one, and what it computes is recorded.

    Args:
        config: see Candidates.
        build_limit: seconds that a single build may take, where an environment gives it more.
    """

    def __init__(self, config: Path | None = None, *, build_limit: float | None = None) -> None:
        super().__init__(config)
        self._build_limit = build_limit
        self.build = Build(0)
        """The build that the next candidate stands for."""
        self.recording = Recording()
        """What it computed so far."""

    @cached_property
    def environments(self) -> Mapping[str, Environment]:
        """See Candidates.environments; with the limit of this matrix."""
        known = super().environments
        limit = self._build_limit
        if limit is None:
            return known
        return {
            name: replace(one, limits=one.limits.model_copy(update={"build": min(one.limits.build, limit)}))
            for name, one in known.items()
        }

    def begin(self, build: Build) -> None:
        """From now on candidates stand for `build`: engines of earlier builds are freed."""
        self.build = build
        self.recording = Recording()
        self.release_model()

    def get(self, name: str, bench: Workbench) -> Candidate:
        """See Candidates.get; `name` may be an emulated release.

        Raises:
            EnvironmentConfigError: no environment has this name.
            UsageError: the name of an emulated release means nothing.
        """
        if is_emulated(name):
            candidate: Candidate = EmulatedBuild(EmulatedRelease.parse(name), bench.model, self.build.number)
        else:
            candidate = super().get(name, bench)
        return _Recorder(candidate, self.build, self.recording)

    def lacking(self, name: str, case: Case, spec: RunSpec) -> RunReason | None:
        """See Candidates.lacking; an emulated release lacks nothing."""
        return None if is_emulated(name) else super().lacking(name, case, spec)

    def device_of(self, name: str) -> int | str | None:
        """See Candidates.device_of; emulated releases share the processor."""
        return PREFIX if is_emulated(name) else super().device_of(name)

    def check(self, names: tuple[str, ...]) -> None:
        """See Candidates.check."""
        for name in filter(is_emulated, names):
            EmulatedRelease.parse(name)
        super().check(tuple(name for name in names if not is_emulated(name)))


class _Recorder(Candidate):
    """A candidate whose tensors are kept in a recording."""

    def __init__(self, candidate: Candidate, build: Build, recording: Recording) -> None:
        self.name = candidate.name
        self._candidate = candidate
        self._build = build
        self._recording = recording

    def evaluate(
        self, plan: Plan, feeds: Mapping[str, np.ndarray], *, timing: Timing | None = None
    ) -> Evaluation:
        """See Candidate.evaluate."""
        if self._build.timing_cache is not None:
            options = plan.build.model_copy(update={"timing_cache": self._build.timing_cache})
            plan = replace(plan, build=options)
        try:
            evaluation = self._candidate.evaluate(plan, feeds, timing=timing)
        except CandidateError as error:
            if error.environment is not None:
                error.where = None  # every row names the release itself
            raise
        unobserved = plan.observation is Observation.NONE
        kept = self._recording.unobserved if unobserved else self._recording.observed
        kept.append(dict(evaluation.tensors))
        return evaluation

    def probe(self) -> ProbeReply | None:
        """See Candidate.probe; it decides how layers are observed."""
        return self._candidate.probe()

    def close(self) -> None:
        """See Candidate.close."""
        self._candidate.close()

"""What the judge does not keep: the tensors of each build, long enough to hash them and to hold them against the
first build of the first release.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from harness.backends import Candidate, Evaluation, Observation, Plan
from harness.case import Case, RunSpec
from harness.comparison import compare
from harness.environments import Environment, select
from harness.history.matrix import EmulatedBuild, EmulatedRelease, is_emulated
from harness.judge import Candidates, Cause, Workbench
from harness.tensors import hash_array

HASH_DIGITS = 16

Tensors = Mapping[str, np.ndarray]


@dataclass
class Recording:
    """The tensors of one build, sample by sample: of the unobserved engine, and of the observed one."""

    unobserved: list[Tensors] = field(default_factory=list)
    observed: list[Tensors] = field(default_factory=list)

    def output_hash(self, tensor: str, sample: int) -> str:
        """The hash of an output in one sample."""
        return _hash(self.unobserved[sample], tensor)[:HASH_DIGITS]

    def layer_hash(self, tensor: str) -> str:
        """The hash of an observed tensor over all samples."""
        digests = "".join(_hash(tensors, tensor) for tensors in self.observed)
        return hashlib.sha256(digests.encode()).hexdigest()[:HASH_DIGITS]

    def output_distance(self, other: Recording, tensor: str, sample: int) -> float | None:
        """Root mean square difference of an output from that of `other`; None if `other` lacks it."""
        return _distance(self.unobserved[sample : sample + 1], other.unobserved[sample : sample + 1], tensor)

    def layer_distance(self, other: Recording, tensor: str) -> float | None:
        """Root mean square difference of an observed tensor over all samples; None if `other` lacks it."""
        return _distance(self.observed, other.observed, tensor)


def _hash(tensors: Tensors, tensor: str) -> str:
    """The hash of a tensor; one that could not be computed has the same in every build."""
    found = tensors.get(tensor)
    return hashlib.sha256(b"not computed").hexdigest() if found is None else hash_array(np.asarray(found))


def _distance(mine: Sequence[Tensors], others: Sequence[Tensors], tensor: str) -> float | None:
    if not others or len(mine) != len(others):
        return None
    if any(tensor not in tensors for tensors in (*mine, *others)):
        return None
    total, count = 0.0, 0
    for one, other in zip(mine, others, strict=True):
        difference = compare(np.asarray(one[tensor]), np.asarray(other[tensor]))
        if difference.incomparable:
            return math.inf
        total += difference.rmse**2 * difference.count
        count += difference.count
    return math.sqrt(total / count) if count else 0.0


@dataclass(frozen=True)
class Build:
    """One build that is to be judged: its number, and whether it may use the timing cache (None: no matter)."""

    number: int
    timing_cache: bool | None = None


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

    def lacking(self, name: str, case: Case, spec: RunSpec) -> tuple[Cause, str] | None:
        """See Candidates.lacking; an emulated release lacks nothing."""
        return None if is_emulated(name) else super().lacking(name, case, spec)

    def lanes(self, names: Iterable[str]) -> list[tuple[str, ...]]:
        """See Candidates.lanes; emulated releases share the processor."""
        by_device: dict[int | None, list[str]] = {}
        for name in names:
            device = None if is_emulated(name) else select(name, self.environments).gpu
            by_device.setdefault(device, []).append(name)
        return [tuple(lane) for lane in by_device.values()]

    def check(self, names: tuple[str, ...]) -> None:
        """See Candidates.check."""
        for name in filter(is_emulated, names):
            EmulatedRelease.parse(name)
        super().check(tuple(name for name in names if not is_emulated(name)))


class _Recorder:
    """A candidate whose tensors are kept in a recording."""

    def __init__(self, candidate: Candidate, build: Build, recording: Recording) -> None:
        self.name = candidate.name
        self._candidate = candidate
        self._build = build
        self._recording = recording

    def evaluate(self, plan: Plan, feeds: Tensors) -> Evaluation:
        """See Candidate.evaluate."""
        if self._build.timing_cache is not None:
            options = plan.build.model_copy(update={"timing_cache": self._build.timing_cache})
            plan = replace(plan, build=options)
        evaluation = self._candidate.evaluate(plan, feeds)
        unobserved = plan.observation is Observation.NONE
        kept = self._recording.unobserved if unobserved else self._recording.observed
        kept.append(dict(evaluation.tensors))
        return evaluation

    def close(self) -> None:
        """See Candidate.close."""
        self._candidate.close()

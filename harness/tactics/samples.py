"""Builds that are judged, and the series of builds in which good and bad ones are looked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from harness.backends import Evaluation, Plan
from harness.errors import CandidateError
from harness.search import Outcome, Trial
from harness.tactics.record import TacticRecord, record_of
from harness.tactics.variations import Axis, Variation, forced, noise, sources
from harness.tensors import NEVER, to_json
from harness.worker.protocol import ProbeReply

NOISY_BUILDS = 4
FORCED_BUILDS = 4
ALTERNATIVES = 8
"""Implementations of a layer, beside the one taken, that a build reports."""

Tensors = Mapping[str, np.ndarray]
Evaluate = Callable[[Plan, Tensors], Evaluation]
Judge = Callable[[Tensors, int], float]
"""How far the worst gate of one sample's outputs is beyond its limit, as a multiple of the limit: up to 1 passes."""


@dataclass(frozen=True)
class Sample:
    """One build that was judged.

    Args:
        name: of the variation.
        axis: what was varied.
        outcome: pass or fail; unresolved if there was no engine to judge.
        record: what it chose; None if there was no engine, or nothing was recorded.
        badness: how far the worst gate is beyond its limit, as a multiple of the limit.
        seconds: wall time of the build and its inferences.
        note: why it is unresolved.
    """

    name: str
    axis: Axis
    outcome: Outcome
    record: TacticRecord | None = field(default=None, metadata=NEVER)
    badness: float | None = None
    seconds: float | None = None
    note: str = ""

    ALSO_IN_JSON: ClassVar = ("layers",)

    @property
    def layers(self) -> int | None:
        """How many layers recorded what they chose; None without a record."""
        return None if self.record is None else len(self.record.choices)

    @property
    def evaluation(self) -> Trial:
        """The same as a search sees it; a badness of 1 is the limit."""
        margin = None if self.badness is None else 1.0 - self.badness
        return Trial(self.outcome, self.badness, margin, self.seconds, self.note)

    def to_dict(self) -> dict[str, Any]:
        """JSON that `from_json` reads again, the record included."""
        return {**to_json(self), "record": to_json(self.record)}


Build = Callable[[Variation], Sample]
"""Builds a network as a variation says, and judges it. What it expects to go wrong is an unresolved sample."""


class VariedBuilds:
    """Builds variations of one plan and judges them on all samples, as `find_bad_tactics` needs.

    Args:
        evaluate: evaluates a plan on one sample, such as a candidate's `evaluate`.
        plan: what is varied.
        feeds: the inputs, sample by sample.
        judge: judges the outputs of one sample.
        model: SHA-256 of the model.
    """

    def __init__(
        self, evaluate: Evaluate, plan: Plan, feeds: Sequence[Tensors], judge: Judge, model: str
    ) -> None:
        self.plan, self.feeds, self.model = plan, feeds, model
        self._evaluate, self._judge = evaluate, judge

    def __call__(self, variation: Variation) -> Sample:
        """Build one variation. What fails to build is an unresolved sample."""
        start = time.perf_counter()
        plan = variation.of(self.plan, alternatives=ALTERNATIVES)
        try:
            record, badness = self._run(plan)
        except CandidateError as error:
            seconds = time.perf_counter() - start
            return Sample(
                variation.name, variation.axis, Outcome.UNRESOLVED, seconds=seconds, note=str(error)
            )
        outcome = Outcome.PASS if badness <= 1 else Outcome.FAIL
        seconds = time.perf_counter() - start
        return Sample(variation.name, variation.axis, outcome, record, badness, seconds)

    def _run(self, plan: Plan) -> tuple[TacticRecord | None, float]:
        record, worst = None, 0.0
        for index, feeds in enumerate(self.feeds):
            evaluation = self._evaluate(plan, feeds)
            if record is None:
                record = record_of(evaluation, plan, self.model)
            badness = self._judge(evaluation.tensors, index)
            worst = max(worst, float("inf") if np.isnan(badness) else badness)
        return record, worst


def collect(
    build: Build, series: Callable[[Sequence[Sample]], Iterable[Variation]], known: Sequence[Sample] = ()
) -> tuple[Sample, ...]:
    """Build one variation after the other until there is a build that passes and one that fails, both recorded.

    Args:
        build: makes a sample.
        series: yields what to build; it sees the samples so far, in a list that grows.
        known: builds that were judged before.
    """
    samples = list(known)
    for variation in series(samples):
        if has_both(samples):
            break
        samples.append(build(variation))
    return tuple(samples)


def has_both(samples: Iterable[Sample]) -> bool:
    """Whether a recorded build passed and another one failed."""
    outcomes = {sample.outcome for sample in samples if sample.record is not None}
    return outcomes >= {Outcome.PASS, Outcome.FAIL}


def usual_series(
    probe: ProbeReply, plan: Plan, *, noisy: int = NOISY_BUILDS, enabled: Sequence[str] | None = None
) -> Callable[[Sequence[Sample]], Iterator[Variation]]:
    """Timing noise first, then each tactic source switched off, then alternatives forced.

    Args:
        probe: of the environment.
        plan: what is built without variation.
        noisy: builds that differ in timing noise alone.
        enabled: the tactic sources of the plan; None are those of `plan`, or TensorRT's own.
    """
    chosen = plan.build.tactic_sources if enabled is None else enabled

    def series(samples: Sequence[Sample]) -> Iterator[Variation]:
        yield from noise(noisy)
        if (chosen is None and len(probe.tactic_sources) > 1) or (chosen is not None and len(chosen) > 1):
            yield from sources(probe, chosen)
        recorded = next((sample.record for sample in samples if sample.record is not None), None)
        if recorded is not None:
            yield from forced(recorded, FORCED_BUILDS)

    return series

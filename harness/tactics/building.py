"""Building variations of a plan on a candidate, and judging them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from harness.backends import Evaluation, Plan
from harness.errors import CandidateError
from harness.search import Outcome
from harness.tactics.record import TacticRecord, record_of
from harness.tactics.samples import Sample
from harness.tactics.variations import Variation

Tensors = Mapping[str, np.ndarray]
Evaluate = Callable[[Plan, Tensors], Evaluation]
Judge = Callable[[Tensors, int], float]
"""How far the worst gate of one sample's outputs is beyond its limit, as a multiple of the limit: up to 1 passes."""

ALTERNATIVES = 8
"""Implementations of a layer, beside the one taken, that a build is asked to tell."""


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

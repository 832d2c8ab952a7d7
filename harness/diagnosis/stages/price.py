"""What an island costs in latency: both engines are timed one after the other, on the same GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.backends import Plan
from harness.diagnosis.context import Examiner
from harness.diagnosis.results import Price
from harness.diagnosis.stages.cure import island_key
from harness.diagnosis.stages.gates import BASELINE
from harness.errors import CandidateError

PHASE = "price"
REPEATS, WARMUP = 100, 10


def measure_price(examiner: Examiner, island: Sequence[str]) -> Price | None:
    """Time the engine that fails and the one with `island` in FP32; None where the candidate cannot be timed.

    The engines are those of the stages before: nothing is built for this. Where an earlier process built them,
    there is no price.
    """
    subject, notebook = examiner.subject, examiner.notebook
    key = f"price {' '.join(sorted(island))}"
    kept = None if notebook is None else notebook.recall(key)
    if kept is not None:
        return Price(kept["before_ms"], kept["after_ms"])
    if not hasattr(subject.candidate, "timing") or not examiner.at_hand.issuperset(
        {BASELINE, island_key(island)}
    ):
        return None
    try:
        before = _median_ms(examiner, subject.plan())
        after = _median_ms(examiner, subject.plan(frozenset(island)))
    except CandidateError:
        return None
    if before is None or after is None:
        return None
    if notebook is not None:
        notebook.keep(key, {"before_ms": before, "after_ms": after})
    return Price(before, after)


def _median_ms(examiner: Examiner, plan: Plan) -> float | None:
    from harness.backends import Timing

    candidate: Any = examiner.subject.candidate
    untimed = candidate.timing
    candidate.timing = Timing(repeats=REPEATS, warmup=WARMUP)
    try:
        evaluation = examiner.evaluate(plan, examiner.subject.bench.feeds[0], phase=PHASE)
    finally:
        candidate.timing = untimed
    latency = None if evaluation.engine is None else evaluation.engine.latency
    return None if latency is None else latency.median_ms

"""Whether the fault follows the tactics that the builder chooses, and which.

Ensures: a culprit is named only if a good build with its bad choice failed and the bad build with a good choice
passed, every other choice forced; otherwise the evidence says what was missing.

Timing noise, tactic sources and forced alternatives make builds differ. The search is that of `harness.tactics`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from harness.backends import Computed, Evaluation, Plan
from harness.diagnosis.context import Context, Evaluator, Seen, badness
from harness.diagnosis.results import DiagnosisVerdict, Evidence, EvidenceKind, Stage
from harness.errors import CandidateError
from harness.search import Outcome
from harness.tactics import (
    Axis,
    Sample,
    TacticSearchOptions,
    TacticSearchResult,
    TacticVerdict,
    Variation,
    VariedBuilds,
    brief,
    collect,
    find_bad_tactics,
    usual_series,
)
from harness.tensors import to_json
from harness.worker.protocol import ProbeReply

PHASE = "tactics"
CONFIRM = 1
"""How often the two builds of the proof are repeated, beyond what the search leaves of its builds."""

NOISY = 6
"""Builds that differ in timing noise alone, where repetitions were seen to differ; two where they were not."""


def vary_tactics(seen: Seen, context: Context) -> Seen:
    """Build the unobserved engine otherwise until builds pass and fail, and find the choices that decide.

    Raises:
        BudgetExhaustedError: the budget is spent before there was a build to compare.
    """
    probe = _probe(context)
    if probe is None:
        return seen
    context.report(Stage.ATTRIBUTE, "build with other tactics")
    subject, journal = context.subject, context.journal
    build = _varied_builds(context.evaluator)

    def build_or_recall(variation: Variation) -> Sample:
        key = f"tactics, {variation.name}"
        if (kept := journal.recall(key, Sample)) is not None:
            return kept
        sample = build(variation)
        journal.keep(key, sample.to_dict())
        return sample

    noisy = 2 if seen.unstable is None else NOISY
    series = usual_series(probe, subject.plan(), noisy=noisy, enabled=_sources(context))
    samples = collect(build_or_recall, series)
    if all(sample.record is None for sample in samples):
        return seen
    left = context.spending.left(PHASE)
    options = TacticSearchOptions(
        builds=None if left is None else max(left - context.spending.by_phase.get(PHASE, 0), 0),
        confirm=CONFIRM,
        journal=lambda problem: journal.of_search(f"tactics-{problem.digest[:8]}", problem),
        on_progress=context.follow("search the tactics that are wrong"),
        identity=subject.identity,
    )
    found, unstable = find_bad_tactics(build, samples, options), seen.unstable
    if found.verdict is TacticVerdict.FOUND:
        unstable = DiagnosisVerdict.TACTIC
    elif found.verdict is TacticVerdict.NOT_REPRODUCIBLE and unstable is DiagnosisVerdict.TACTIC:
        # The fault followed the tactics, but forcing them did not bring it back: that proves nothing.
        unstable = DiagnosisVerdict.NONDETERMINISTIC
    text = f"built {len(samples)} times with other tactics: {found.summary}{_by_source(samples)}"
    shown = Evidence.of(EvidenceKind.TACTICS, text, **to_json(found))
    return replace(seen, tactics=found, unstable=unstable).adding(shown)


def why_wrong(found: TacticSearchResult, node: str) -> str | None:
    """What happens at a node of the culprits, in one clause; None where that is not known."""
    for unit in found.culprits:
        if node in unit.onnx_nodes and unit.bad and unit.good:
            return f"{brief(unit.bad)} computes it wrongly at {unit.layer}, and {brief(unit.good)} does not"
    return None


def _probe(context: Context) -> ProbeReply | None:
    """What the environment can do; None if the candidate is no engine that reports tactics."""
    try:
        probe = context.subject.candidate.probe()
    except CandidateError:
        return None
    if probe is None:
        return None
    reports = {"algorithm_selector", "editable_timing_cache"}.intersection(probe.capabilities)
    return probe if reports else None


def _by_source(samples: Sequence[Sample]) -> str:
    """Which tactic source the fault goes with, as far as one build each can say; empty if none does."""
    if any(sample.axis is Axis.NOISE and sample.outcome is Outcome.PASS for sample in samples):
        return ""
    cured = [each.name for each in samples if each.axis is Axis.SOURCE and each.outcome is Outcome.PASS]
    return f"; it passes {' and '.join(cured)}" if cured else ""


def _sources(context: Context) -> tuple[str, ...] | None:
    """The tactic sources of the engine, where its case or its environment names them: others may not be installed."""
    options = context.subject.candidate.build_options(context.subject.plan())
    return None if options.tactic_sources is None else tuple(map(str, options.tactic_sources))


def _varied_builds(evaluator: Evaluator) -> VariedBuilds:
    """Builds variations within the budget, and judges them."""
    subject = evaluator.subject

    def evaluate(plan: Plan, feeds: Mapping[str, np.ndarray]) -> Evaluation:
        evaluator.spending.check()
        return evaluator.run(plan, feeds, phase=PHASE)

    def judge(tensors: Mapping[str, np.ndarray], sample: int) -> float:
        return badness(subject.judge(Computed(tensors), sample, subject.plan()))

    return VariedBuilds(evaluate, subject.plan(), subject.bench.feeds, judge, subject.model.sha256)

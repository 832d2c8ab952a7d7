"""Whether the fault follows the tactics that the builder chooses, and which.

Requires: an engine that fails unobserved, on a candidate that tells tactics.
Ensures: a culprit is named only if a good build with its bad choice failed and the bad build with a good choice
passed, every other choice forced; otherwise it is said what was missing.
Evidence: the builds that were compared, and the hunt with its proof.

Timing noise, tactic sources and forced alternatives make builds differ. The hunt is that of `harness.tactics`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.backends import Evaluation, Plan
from harness.diagnosis.context import Examiner, Lab, badness
from harness.diagnosis.results import Evidence, Stage, Verdict
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
from harness.tensors import from_json, to_json
from harness.worker.protocol import ProbeReply

PHASE = "tactics"
CONFIRM = 1
"""How often the two builds of the proof are repeated, beyond what the search leaves of its builds."""

NOISY = 6
"""Builds that differ in timing noise alone, where repetitions were seen to differ; two where they were not."""


@dataclass(frozen=True)
class Hunted:
    """What came of it.

    Args:
        findings: of the hunt; None if the candidate tells no tactics.
        evidence: what was shown.
    """

    findings: TacticSearchResult | None = None
    evidence: tuple[Evidence, ...] = ()

    @property
    def found(self) -> bool:
        """Whether a culprit was named and proved."""
        return self.findings is not None and self.findings.verdict is TacticVerdict.FOUND

    @property
    def unproved(self) -> bool:
        """Whether outcomes differed, and forced choices did not bring them back."""
        return self.findings is not None and self.findings.verdict is TacticVerdict.NOT_REPRODUCIBLE

    def why(self, node: str) -> str | None:
        """What happens at a node of the culprits, in one clause."""
        for unit in self.findings.culprits if self.findings is not None else ():
            if node in unit.onnx_nodes and unit.bad and unit.good:
                return (
                    f"{brief(unit.bad)} computes it wrongly at {unit.layer}, and {brief(unit.good)} does not"
                )
        return None


def hunt_tactics(lab: Lab, *, repeats: Verdict | None) -> Hunted:
    """Build the unobserved engine otherwise until builds pass and fail, and find the choices that decide.

    Args:
        lab: the diagnosis under way; its candidate is an engine.
        repeats: what repetitions have shown; None if they all failed.

    Raises:
        BudgetExhaustedError: the limits are reached before there was a build to compare.
    """
    probe = _probe(lab)
    if probe is None:
        return Hunted()
    lab.tell(Stage.ATTRIBUTE, "build with other tactics")
    subject = lab.subject
    build = _Building(lab.examiner)
    noisy = 2 if repeats is None else NOISY
    series = usual_series(probe, subject.plan(), noisy=noisy, enabled=_sources(lab))
    samples = collect(build, series)
    if all(sample.record is None for sample in samples):
        return Hunted()
    notebook, left = lab.notebook, lab.spending.left(PHASE)
    hunting = TacticSearchOptions(
        builds=None if left is None else max(left - lab.spending.by_phase.get(PHASE, 0), 0),
        confirm=CONFIRM,
        journal=None
        if notebook is None
        else lambda problem: notebook.journal(f"tactics-{problem.digest[:8]}", problem),
        on_progress=lab.watcher("search the tactics that are wrong"),
        identity=subject.identity,
    )
    found = find_bad_tactics(build, samples, hunting)
    outcomes = {sample.name: sample.outcome.value for sample in samples}
    said = f"built {len(samples)} times with other tactics: {found.summary}{_by_source(samples)}"
    return Hunted(found, (Evidence(Stage.ATTRIBUTE, said, {"samples": outcomes, **to_json(found)}),))


def _probe(lab: Lab) -> ProbeReply | None:
    """What the environment can do; None if the candidate is no engine that tells tactics."""
    supervisor = getattr(lab.subject.candidate, "supervisor", None)
    if supervisor is None:
        return None
    try:
        probe: ProbeReply = supervisor.probe()
    except CandidateError:
        return None
    tells = {"algorithm_selector", "editable_timing_cache"}.intersection(probe.capabilities)
    return probe if tells else None


def _by_source(samples: Sequence[Sample]) -> str:
    """Which tactic source the fault goes with, as far as one build each can say; empty if none does."""
    if any(sample.axis is Axis.NOISE and sample.outcome is Outcome.PASS for sample in samples):
        return ""
    cured = [each.name for each in samples if each.axis is Axis.SOURCE and each.outcome is Outcome.PASS]
    return f"; it passes {' and '.join(cured)}" if cured else ""


def _sources(lab: Lab) -> tuple[str, ...] | None:
    """The tactic sources of the engine, where its case or its environment names them: others may not be installed."""
    options = lab.subject.candidate.requests.options(lab.subject.plan())  # type: ignore[attr-defined]
    return None if options.tactic_sources is None else tuple(map(str, options.tactic_sources))


class _Building:
    """Builds variations within the limits; samples before the search are kept in the notebook."""

    def __init__(self, examiner: Examiner) -> None:
        subject = examiner.subject
        self._examiner = examiner
        self._builds = VariedBuilds(
            self._evaluate, subject.plan(), subject.bench.feeds, self._judge, subject.model.sha256
        )

    def __call__(self, variation: Variation) -> Sample:
        key, notebook = f"tactics, {variation.name}", self._examiner.notebook
        search = variation.axis is Axis.SEARCH
        kept = None if notebook is None or search else notebook.recall(key)
        if kept is not None:
            return from_json(Sample, kept)
        sample = self._builds(variation)
        if notebook is not None and not search:
            notebook.keep(key, sample.to_dict())
        return sample

    def _evaluate(self, plan: Plan, feeds: Mapping[str, np.ndarray]) -> Evaluation:
        self._examiner.spending.check()
        return self._examiner.evaluate(plan, feeds, phase=PHASE)

    def _judge(self, tensors: Mapping[str, np.ndarray], sample: int) -> float:
        return badness(self._examiner.subject.judge(tensors, sample, self._examiner.subject.plan()))

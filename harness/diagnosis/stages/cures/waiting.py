"""What is done while the engine is built that should cure: what is wanted as soon as it passes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from harness.diagnosis.context import Context, CureSearch, Seen
from harness.diagnosis.handover import begin_repro, core_of
from harness.diagnosis.results import DiagnosisVerdict
from harness.diagnosis.stages.attribution import conclude
from harness.diagnosis.stages.observation import observed
from harness.diagnosis.stages.prediction import emulate_cured
from harness.errors import HarnessError


def meanwhile(seen: Seen, context: Context, cure: CureSearch) -> None:
    """While an engine is built that `cure` should cure: look at the one that fails, explain the fault, measure the
    emulator with the cure, and cut out the repro."""
    with suppress(HarnessError):  # whatever goes wrong does so again when it is its turn
        subject = context.subject
        if context.evaluator.has_looked and seen.baseline.tensors:
            seen = replace(seen, observed=observed(context, seen.baseline, frozenset(), inside=False))
        plan = subject.plan(cure.island, fp32_sums=cure.fp32_sums)
        emulate_cured(context, plan, growth=seen.options.growth)
        effects = context.effects(seen.predicted.failing_sample)
        found, _ = conclude(replace(seen, cure=cure), subject, effects)
        if context.out is not None and found.verdict is DiagnosisVerdict.PRECISION:
            begin_repro(context, core_of(subject, found), context.out)

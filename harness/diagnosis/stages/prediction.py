"""Stage 2, predict: what arithmetic alone does to the model, on the emulator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from harness.backends import Observation, Plan
from harness.diagnosis.context import (
    Context,
    Cured,
    GateCheck,
    JudgedEvaluation,
    Prediction,
    Seen,
    Subject,
    emulate,
    emulated_layers,
    introduced_by_tensor,
    introduced_errors,
    outliers,
)
from harness.diagnosis.results import Evidence, EvidenceKind, Stage
from harness.errors import UsageError
from harness.judge import LayerResult, describe_failure, measure_layers
from harness.text import names


def ask_emulator(seen: Seen, context: Context) -> Seen:
    """Measure what arithmetic alone does."""
    assert seen.gates is not None
    text = "measure what each node introduces" if seen.emulated else "evaluate the emulator"
    context.report(Stage.PREDICT, text)
    prediction = predict(context.subject, seen.gates)
    return replace(seen, prediction=prediction).adding(*prediction.evidence)


def predict(subject: Subject, gates: GateCheck) -> Prediction:
    """What the emulator says of a candidate that fails."""
    if gates.verdict is not None or gates.baseline is None:
        raise UsageError(f"predict requires gates without a verdict, these ended with {gates.verdict!r}")
    failing = gates.baseline.failing_sample
    assert failing is not None
    return _predicted(subject, failing, gates.baseline) if subject.emulated else foreseen(subject, failing)


def foreseen(subject: Subject, failing: int) -> Prediction:
    """What is predicted of an engine that fails first in the sample `failing`."""
    return _predicted(subject, failing, emulate(subject, subject.plan()))


def _predicted(subject: Subject, failing: int, emulated: JudgedEvaluation) -> Prediction:
    errors = introduced_errors(subject, failing)
    evidence = tuple(_evidence(subject, emulated, errors))
    layers = partial(emulated_layers, subject, failing)
    return Prediction(emulated.outputs, emulated.trial, layers, evidence, errors)


def emulate_cured(context: Context, plan: Plan, *, growth: bool) -> Cured:
    """The emulator under a plan that cures: its outputs, whether they pass, and with `growth` its layers."""
    subject = context.emulated

    def measured() -> Cured:
        emulated = emulate(subject, plan)
        layers: tuple[LayerResult, ...] = ()
        if growth:
            bench, inside = subject.bench, replace(plan, observation=Observation.TYPED)
            known = introduced_by_tensor(context.subject, 0) if len(bench.feeds) == 1 else None
            layers, _ = measure_layers(
                bench, subject.candidate, inside, bench.case.tolerances, introduced=known, brief=True
            )
        return emulated.outputs, emulated.passed, layers

    return context.cured.of((plan, growth), measured)


def _evidence(
    subject: Subject, emulated: JudgedEvaluation, errors: Mapping[str, float]
) -> Iterator[Evidence]:
    if not subject.emulated:
        fails = not emulated.passed
        text = (
            f"the emulator passes: rounding to {subject.precision} between nodes does not explain the fault"
        )
        if fails:
            text = f"the emulator fails too: {describe_failure(emulated.outputs)}"
        yield Evidence.of(EvidenceKind.EMULATOR, text, fails=fails, badness=emulated.badness)
    outlying = outliers(errors)
    if not outlying:
        yield Evidence.of(EvidenceKind.OUTLIERS, "no node introduces far more error than the others")
        return
    verb = "introduces" if len(outlying) == 1 else "introduce"
    text = f"{names(outlying)} {verb} far more error than the other nodes"
    yield Evidence.of(EvidenceKind.OUTLIERS, text, introduced={node: errors[node] for node in outlying})

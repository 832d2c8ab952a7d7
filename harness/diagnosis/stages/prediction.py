"""Stage 2, predict: what arithmetic alone does to the model, on the emulator."""

from __future__ import annotations

from harness.backends import Observation
from harness.diagnosis.context import GateCheck, Prediction, Subject, emulate, introduced_errors, outliers
from harness.diagnosis.results import Evidence, EvidenceKind, Stage
from harness.errors import UsageError
from harness.judge import LayerResult, OutputResult, describe_failure, measure_layers
from harness.search import Evaluation, Outcome
from harness.text import names


def predict(subject: Subject, gates: GateCheck) -> Prediction:
    """Run the second stage.

    Args:
        subject: what is diagnosed.
        gates: what the first stage found.
    """
    if gates.verdict is not None or gates.baseline is None:
        raise UsageError(f"predict requires gates without a verdict, these ended with {gates.verdict!r}")
    if subject.emulated:
        outputs, trial = gates.baseline.outputs, gates.baseline.trial
    else:
        outputs, trial = emulate(subject, subject.plan())
    failing = next(output.sample for output in gates.baseline.outputs if not output.passed)
    plan, bench = subject.plan(observation=Observation.TYPED), subject.bench

    def measure() -> tuple[LayerResult, ...]:
        return measure_layers(bench, bench.emulator, plan, bench.case.tolerances, samples=[failing])[0]

    errors = introduced_errors(subject, failing)
    return Prediction(outputs, trial, measure, tuple(_evidence(subject, trial, outputs, errors)), errors)


def _evidence(
    subject: Subject, trial: Evaluation, outputs: tuple[OutputResult, ...], errors: dict[str, float]
) -> list[Evidence]:
    found = []
    if not subject.emulated:
        fails = trial.outcome is Outcome.FAIL
        if fails:
            text = f"the emulator fails too: {describe_failure(outputs)}"
        else:
            text = f"the emulator passes: rounding to {subject.precision} between nodes does not explain the fault"
        found.append(
            Evidence(Stage.PREDICT, EvidenceKind.EMULATOR, text, {"fails": fails, "badness": trial.badness})
        )
    outlying = outliers(errors)
    if outlying:
        verb = "introduces" if len(outlying) == 1 else "introduce"
        facts = {"introduced": {node: errors[node] for node in outlying}}
        text = f"{names(outlying)} {verb} far more error than the other nodes"
        found.append(Evidence(Stage.PREDICT, EvidenceKind.OUTLIERS, text, facts))
    else:
        found.append(
            Evidence(
                Stage.PREDICT, EvidenceKind.OUTLIERS, "no node introduces far more error than the others"
            )
        )
    return found

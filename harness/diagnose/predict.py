"""Stage 2, predict: what arithmetic alone does to the model, on the emulator.

Requires: gates that failed without a verdict: a finite reference.
Ensures: every float tensor has its accumulated and introduced error at the precision, in the first sample that
fails; the emulator's own outputs are held against its own gates, in all samples.
Evidence: whether the emulator fails too, where the error starts there, and which nodes introduce much more error
than others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from harness.backends import Observation
from harness.diagnose.gates import Gates
from harness.diagnose.results import Evidence, Stage
from harness.diagnose.subject import Subject
from harness.diagnose.suspects import introduced_by_node, outliers
from harness.errors import UsageError
from harness.judge.judge import describe_failure
from harness.judge.layers import measure_layers
from harness.judge.results import LayerResult, OutputResult
from harness.search import Outcome, Trial


@dataclass(frozen=True)
class Prognosis:
    """What the emulator says.

    Args:
        outputs: its outputs with everything lowered, held against its gates.
        trial: the same as a search sees it.
        layers: every float tensor in the first sample that fails, in topological order.
        evidence: what was shown.
    """

    outputs: tuple[OutputResult, ...]
    trial: Trial
    layers: tuple[LayerResult, ...]
    evidence: tuple[Evidence, ...]

    @property
    def fails(self) -> bool:
        """Whether the emulator fails too: the precision's arithmetic alone explains a fault."""
        return self.trial.outcome is Outcome.FAIL

    @property
    def failing_sample(self) -> int:
        """The first sample that fails; 0 if none does."""
        return next((output.sample for output in self.outputs if not output.passed), 0)

    @cached_property
    def introduced(self) -> dict[str, float]:
        """By node, the nrmse that it introduces."""
        return introduced_by_node(self.layers)

    @property
    def origins(self) -> tuple[LayerResult, ...]:
        """The tensors where the emulator's error starts."""
        return tuple(layer for layer in self.layers if layer.origin)


def predict(subject: Subject, gates: Gates) -> Prognosis:
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
        outputs, trial = emulate(subject)
    plan = subject.plan(observation=Observation.TYPED)
    failing = next(output.sample for output in gates.baseline.outputs if not output.passed)
    layers, _ = measure_layers(
        subject.bench, subject.bench.emulator, plan, subject.bench.case.tolerances, samples=[failing]
    )
    prognosis = Prognosis(outputs, trial, layers, ())
    return Prognosis(outputs, trial, layers, tuple(_evidence(subject, prognosis)))


def emulate(
    subject: Subject, islands: frozenset[str] = frozenset()
) -> tuple[tuple[OutputResult, ...], Trial]:
    """The emulator's outputs of all samples with `islands` in FP32, held against the emulator's own gates."""
    from harness.diagnose.examine import Examination

    plan = subject.plan(islands)
    outputs: tuple[OutputResult, ...] = ()
    for sample, feeds in enumerate(subject.bench.feeds):
        evaluation = subject.bench.emulator.evaluate(plan, feeds)
        outputs += subject.judge(evaluation.tensors, sample, plan, as_emulator=True)
    passed = all(output.passed for output in outputs)
    return outputs, Examination(Outcome.PASS if passed else Outcome.FAIL, outputs).trial


def _evidence(subject: Subject, prognosis: Prognosis) -> list[Evidence]:
    found = []
    if not subject.emulated:
        if prognosis.fails:
            text = f"the emulator fails too: {describe_failure(prognosis.outputs)}"
        else:
            text = f"the emulator passes: rounding to {subject.precision} between nodes does not explain the fault"
        found.append(
            Evidence(Stage.PREDICT, text, {"fails": prognosis.fails, "badness": prognosis.trial.badness})
        )
    if prognosis.origins:
        names = [layer.node for layer in prognosis.origins]
        text = f"on the emulator the error starts at {_listed(names)}"
        found.append(Evidence(Stage.PREDICT, text, {"origins": names}))
    outlying = outliers(prognosis.introduced)
    if outlying:
        text = f"{_listed(outlying)} introduce{'s' if len(outlying) == 1 else ''} far more error than the other nodes"
        found.append(
            Evidence(
                Stage.PREDICT, text, {"introduced": {node: prognosis.introduced[node] for node in outlying}}
            )
        )
    return found


def _listed(names: list[str] | tuple[str, ...], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"

"""Stage 2, predict: what arithmetic alone does to the model, on the emulator.

Requires: gates that failed without a verdict: a finite reference.
Ensures: every node has the error that it introduces at the precision, in the first sample that fails; the
accumulated error of every tensor is there when it is asked for; the emulator's own outputs are held against its own
gates, in all samples.
Evidence: whether the emulator fails too, and which nodes introduce much more error than others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.backends import Observation
from harness.diagnosis.context import Subject, introduced_by_node, outliers
from harness.diagnosis.results import Evidence, Stage
from harness.diagnosis.stages.gates import Gates
from harness.errors import UsageError
from harness.judge import COPIES, LayerResult, OutputResult, describe_failure, measure_layers
from harness.search import Outcome, Trial
from harness.text import names

Layers = tuple[LayerResult, ...]


@dataclass(frozen=True)
class Prognosis:
    """What the emulator says.

    Args:
        outputs: its outputs with everything lowered, held against its gates.
        trial: the same as a search sees it.
        measured: every float tensor in the first sample that fails; or what measures them when they are asked for.
        evidence: what was shown.
        errors: by node, the nrmse that it introduces; None takes it from the layers.
    """

    outputs: tuple[OutputResult, ...]
    trial: Trial
    measured: Layers | Callable[[], Layers]
    evidence: tuple[Evidence, ...]
    errors: Mapping[str, float] | None = None

    @property
    def fails(self) -> bool:
        """Whether the emulator fails too: the precision's arithmetic alone explains a fault."""
        return self.trial.outcome is Outcome.FAIL

    @property
    def failing_sample(self) -> int:
        """The first sample that fails; 0 if none does."""
        return next((output.sample for output in self.outputs if not output.passed), 0)

    @cached_property
    def layers(self) -> Layers:
        """Every float tensor in the first sample that fails, in topological order."""
        return self.measured() if callable(self.measured) else self.measured

    @cached_property
    def introduced(self) -> dict[str, float]:
        """By node, the nrmse that it introduces."""
        return introduced_by_node(self.layers) if self.errors is None else dict(self.errors)

    @property
    def origins(self) -> Layers:
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
    failing = next(output.sample for output in gates.baseline.outputs if not output.passed)
    plan, bench = subject.plan(observation=Observation.TYPED), subject.bench

    def measure() -> Layers:
        return measure_layers(bench, bench.emulator, plan, bench.case.tolerances, samples=[failing])[0]

    errors = introduced_errors(subject, failing)
    return Prognosis(outputs, trial, measure, tuple(_evidence(subject, trial, outputs, errors)), errors)


def introduced_errors(subject: Subject, sample: int) -> dict[str, float]:
    """By node, the nrmse of what it writes when it is lowered alone on the reference's tensors; infinite where it
    is not finite. What `measure_layers` measures in full, without all the other metrics."""
    bench, emulator = subject.bench, subject.bench.emulator
    units = set(subject.units)
    found: dict[str, float] = {}
    for chunk in bench.tensor_chunks(bench.model.float_tensors, copies=COPIES):
        producers = (bench.model.producer(name) for name in chunk)
        nodes = list(
            dict.fromkeys(node.name for node in producers if node is not None and node.name in units)
        )
        if not nodes:
            continue
        exact, low = emulator.introduced(bench.feeds[sample], subject.precision, nodes)
        failing = set(nodes) - {node.name for node in map(bench.model.producer, low) if node is not None}
        found |= dict.fromkeys(failing, math.inf)
        for name, value in low.items():
            writer = bench.model.producer(name)
            assert writer is not None
            found[writer.name] = max(found.get(writer.name, 0.0), _nrmse(value, exact[name]))
    return found


@np.errstate(invalid="ignore")  # infinities are subtracted from each other
def _nrmse(value: np.ndarray, reference: np.ndarray) -> float:
    if value.shape != reference.shape:
        return math.inf
    exact = reference.astype(np.float64).reshape(-1)
    apart = value.astype(np.float64).reshape(-1) - exact
    squares, power = float(apart @ apart), float(exact @ exact)
    if math.isfinite(squares) and power > 0:
        return math.sqrt(squares / power)
    # Where both sides are infinite alike, the difference is NaN: such elements are compared for equality instead.
    with np.errstate(invalid="ignore"):
        difference = np.where(value == reference, 0.0, value.astype(np.float64) - reference)
    if not np.isfinite(difference).all():
        return math.inf
    error = float(np.sqrt(np.mean(difference * difference))) if difference.size else 0.0
    finite = reference[np.isfinite(reference)].astype(np.float64)
    scale = float(np.sqrt(np.mean(finite * finite))) if finite.size else 0.0
    return error / scale if scale else (math.inf if error else 0.0)


def emulate(
    subject: Subject, islands: frozenset[str] = frozenset()
) -> tuple[tuple[OutputResult, ...], Trial]:
    """The emulator's outputs of all samples with `islands` in FP32, held against the emulator's own gates."""
    from harness.diagnosis.context import Examination

    plan = subject.plan(islands)
    outputs: tuple[OutputResult, ...] = ()
    for sample, feeds in enumerate(subject.bench.feeds):
        evaluation = subject.bench.emulator.evaluate(plan, feeds)
        outputs += subject.judge(
            evaluation.tensors, sample, plan, as_emulator=True, failures=evaluation.failures
        )
    passed = all(output.passed for output in outputs)
    return outputs, Examination(Outcome.PASS if passed else Outcome.FAIL, outputs).trial


def _evidence(
    subject: Subject, trial: Trial, outputs: tuple[OutputResult, ...], errors: dict[str, float]
) -> list[Evidence]:
    found = []
    if not subject.emulated:
        fails = trial.outcome is Outcome.FAIL
        if fails:
            text = f"the emulator fails too: {describe_failure(outputs)}"
        else:
            text = f"the emulator passes: rounding to {subject.precision} between nodes does not explain the fault"
        found.append(Evidence(Stage.PREDICT, text, {"fails": fails, "badness": trial.badness}))
    outlying = outliers(errors)
    if outlying:
        verb = "introduces" if len(outlying) == 1 else "introduce"
        facts = {"introduced": {node: errors[node] for node in outlying}}
        text = f"{names(outlying)} {verb} far more error than the other nodes"
        found.append(Evidence(Stage.PREDICT, text, facts))
    else:
        found.append(Evidence(Stage.PREDICT, "no node introduces far more error than the others"))
    return found

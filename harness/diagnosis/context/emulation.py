"""What arithmetic alone does: outputs of the emulator with its own gates, and the error that each node introduces."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from harness.backends import Emulator, Observation, Plan
from harness.comparison import RelativeErrorSum
from harness.diagnosis.context.evaluator import JudgedEvaluation
from harness.diagnosis.context.subject import Subject
from harness.judge import COPIES, LayerResult, OutputResult, measure_layers
from harness.search import Evaluation, Outcome


def introduced_errors(subject: Subject, sample: int, emulator: Emulator | None = None) -> Mapping[str, float]:
    """By node, the nrmse of what it writes when it is lowered alone on the reference's tensors; infinite where it
    is not finite. `measure_layers` measures the same for all samples together.

    Args:
        subject: what is diagnosed.
        sample: position of the sample.
        emulator: that of the subject by default, whose answer is kept.
    """
    if emulator is not None:
        return _introduced_errors(subject, sample, emulator)
    key = (subject.bench.assumed, sample)
    if key not in subject.known_errors:
        subject.known_errors[key] = _introduced_errors(subject, sample, subject.bench.emulator)
    return subject.known_errors[key]


def emulated_layers(subject: Subject, sample: int) -> tuple[LayerResult, ...]:
    """Every float tensor of one sample on the emulator, in topological order; kept for whoever asks again."""
    bench = subject.bench
    key = (bench.assumed, sample)
    if key not in subject.known_layers:
        plan = subject.plan(observation=Observation.TYPED)
        layers, _ = measure_layers(bench, bench.emulator, plan, bench.case.tolerances, samples=[sample])
        subject.known_layers[key] = layers
    return subject.known_layers[key]


def _introduced_errors(subject: Subject, sample: int, emulator: Emulator) -> dict[str, float]:
    bench = subject.bench
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
            found[writer.name] = max(found.get(writer.name, 0.0), _error(value, exact[name]))
    return found


def _error(value: np.ndarray, reference: np.ndarray) -> float:
    total = RelativeErrorSum()
    total.update(value, reference)
    return total.result().error


def emulate(subject: Subject, plan: Plan) -> tuple[tuple[OutputResult, ...], Evaluation]:
    """The emulator's outputs of all samples under `plan`, with the emulator's own gates."""
    outputs: tuple[OutputResult, ...] = ()
    for sample, feeds in enumerate(subject.bench.feeds):
        evaluation = subject.bench.emulator.evaluate(plan, feeds)
        outputs += subject.judge(
            evaluation.tensors, sample, plan, as_emulator=True, failures=evaluation.failures
        )
    passed = all(output.passed for output in outputs)
    return outputs, JudgedEvaluation(Outcome.PASS if passed else Outcome.FAIL, outputs).trial

"""What arithmetic alone does: outputs of the emulator with its own gates, and the error that each node introduces."""

from __future__ import annotations

import math
from collections.abc import Mapping

from harness.backends import Emulator, Observation, Plan
from harness.comparison import RelativeError
from harness.diagnosis.context.evaluator import JudgedEvaluation
from harness.diagnosis.context.subject import Subject
from harness.judge import COPIES, LayerResult, OutputResult, measure_layers, relative_errors
from harness.search import Outcome
from harness.tensors import Precision


def introduced_errors(subject: Subject, sample: int, emulator: Emulator | None = None) -> Mapping[str, float]:
    """By node, the nrmse of what it writes when it is lowered alone on the reference's tensors; infinite where it is
    not finite, or where it fails. `measure_layers` measures the same for all samples together. What the subject's own
    emulator says is kept."""
    if emulator is not None:
        return _by_node(subject, _introduced_errors(subject, sample, emulator))
    return _by_node(subject, introduced_by_tensor(subject, sample))


def emulated_layers(subject: Subject, sample: int) -> tuple[LayerResult, ...]:
    """Every float tensor of one sample on the emulator, in topological order; kept for whoever asks again."""
    bench = subject.bench
    key = (bench.assumed, sample)
    if key not in subject.known_layers:
        plan = subject.plan(observation=Observation.TYPED)
        layers, _ = measure_layers(
            bench,
            bench.emulator,
            plan,
            bench.case.tolerances,
            samples=[sample],
            introduced=introduced_by_tensor(subject, sample),
            keep=True,
        )
        subject.known_layers[key] = layers
    return subject.known_layers[key]


def introduced_by_tensor(subject: Subject, sample: int) -> Mapping[str, RelativeError]:
    """As `introduced_errors`, by tensor."""
    key = (subject.bench.assumed, sample)
    if key not in subject.known_errors:
        subject.known_errors[key] = _introduced_errors(subject, sample, subject.bench.emulator)
    return subject.known_errors[key]


def _introduced_errors(subject: Subject, sample: int, emulator: Emulator) -> dict[str, RelativeError]:
    """By tensor, what the node that writes it introduces; infinite where the node fails."""
    bench, units = subject.bench, set(subject.units)
    found: dict[str, RelativeError] = {}
    for chunk in bench.memory.chunks(bench.model.float_tensors, copies=COPIES):
        written = {
            name: node for name in chunk if (node := bench.model.producer(name)) and node.name in units
        }
        if not written:
            continue
        reference = None
        if bench.reference is bench.itself:
            reference = bench.reference_tensors(sample, chunk, copies=COPIES)
        nodes = list(dict.fromkeys(node.name for node in written.values()))
        exact, low = emulator.introduced(bench.feeds[sample], subject.precision, nodes, reference)
        ran = {node.name for node in map(bench.model.producer, low) if node is not None}
        found |= relative_errors({name: (low[name], exact[name]) for name in written if name in low})
        failed = (name for name, node in written.items() if node.name not in ran)
        found |= dict.fromkeys(failed, RelativeError(math.inf, 0))
    return found


def _by_node(subject: Subject, errors: Mapping[str, RelativeError]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, error in errors.items():
        writer = subject.model.producer(name)
        assert writer is not None
        found[writer.name] = max(found.get(writer.name, 0.0), error.error)
    return found


def emulate(subject: Subject, plan: Plan, emulator: Emulator | None = None) -> JudgedEvaluation:
    """All samples under `plan` on the emulator, or on another one than that of the subject, with the emulator's own
    gates."""
    # An engine is judged by what the emulator says of the plan that is deployed: that is known.
    known = emulator is None and plan == subject.plan() and plan.precision is not Precision.TF32
    emulator = emulator or subject.bench.emulator
    outputs: tuple[OutputResult, ...] = ()
    for sample, feeds in enumerate(subject.bench.feeds):
        found = subject.emulation(plan.precision, sample) if known else emulator.evaluate(plan, feeds)
        outputs += subject.judge(found, sample, plan, as_emulator=True)
    passed = all(output.passed for output in outputs)
    return JudgedEvaluation(Outcome.PASS if passed else Outcome.FAIL, outputs)

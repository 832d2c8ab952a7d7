"""What an engine's own arithmetic explains: products of FP32 in TF32, and products of FP16 that accumulate in FP16.

TensorRT for RTX obeys no flag about TF32, and 1.4 runs nothing without. What the emulated TF32 explains there is no
fault of the conversion.

The emulator rounds what a product writes; tensor cores round each partial sum, too (`harness.model.accumulation`). What
that adds is computed for a sample of rows and columns of each product, from the reference's tensors, and put into the
graph as noise of that size: one evaluation of the emulator says what becomes of the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from harness.backends import Emulator, chunks
from harness.comparison import DEFAULT_GATES
from harness.diagnosis.context import Accumulation, JudgedEvaluation, Prediction, Subject, badness
from harness.diagnosis.results import Evidence, EvidenceKind, Fact, Stage
from harness.errors import HarnessError
from harness.judge import OutputResult
from harness.model import PRODUCTS, accumulation_error, sampled_product, with_noise
from harness.search import Outcome
from harness.tensors import Precision
from harness.text import magnitude, plural
from harness.worker.protocol import TF32_STAYS

FACTOR = DEFAULT_GATES[Precision.TF32].factor
"""By how much more than the emulated TF32 an engine may err, as at the gates."""

CLOSE = 1.5
"""An engine may err by so many times as much as the estimate."""

MATTERS = 0.25
"""A product is named if its own error is at least this share of the largest."""


def held_to_tf32(subject: Subject, strict: JudgedEvaluation) -> tuple[JudgedEvaluation, str]:
    """`strict`, judged beside the emulated TF32, and what came of it, in words.

    It passes if each of its outputs passes the gates of TF32, or errs at most by `FACTOR` times as much as the emulated
    TF32, which may not pass them itself.

    Args:
        subject: whose engine it is.
        strict: the engine in FP32, which fails, with its outputs of all samples.
    """
    plan = subject.plan(precision=Precision.TF32)
    outputs: list[OutputResult] = []
    explained = True
    for sample, tensors in enumerate(strict.tensors):
        judged = subject.judge(tensors, sample, plan, failures=_missing(subject, sample, tensors))
        emulator = subject.bench.beside_engine(Precision.TF32)
        found = emulator.attempt(subject.bench.feeds[sample], Precision.TF32)
        emulated = subject.judge(found.tensors, sample, plan, failures=found.failures)
        for output, beside in zip(judged, emulated, strict=True):
            explained &= output.passed or badness([output]) <= FACTOR * badness([beside])
        outputs += judged
    outcome = Outcome.PASS if explained else Outcome.FAIL
    why = "this release cannot turn it off" if strict.tf32 == TF32_STAYS else "nothing turned it off"
    word = "no more" if explained else "more"
    text = (
        f"in FP32 the engine computes products in TF32, as {why}, and errs {word} than the emulated TF32 does"
    )
    return replace(strict, outcome=outcome, outputs=tuple(outputs), judged_as=Precision.TF32), text


def _missing(subject: Subject, sample: int, tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    return {name: "it was not computed" for name in subject.bench.expected[sample] if name not in tensors}


def estimate_accumulation(
    subject: Subject, prediction: Prediction, baseline: JudgedEvaluation
) -> Accumulation | None:
    """What FP16 accumulation adds to the error of an engine; None if there is no product, or nothing to say.

    Args:
        subject: whose engine it is; the precision is FP16.
        prediction: what the emulator says, which passes.
        baseline: the engine that fails.
    """
    sample = next(output.sample for output in baseline.outputs if not output.passed)
    try:
        errors = product_errors(subject, sample)
        if not any(error for error, _ in errors.values()):
            return None
        finite = {node: error for node, (error, _) in errors.items() if 0 < error < math.inf}
        estimated = _emulated(subject, finite, sample)
    except (HarnessError, MemoryError):  # an estimate is not worth a diagnosis
        return None
    shares = {node: error / size if size else 0.0 for node, (error, size) in errors.items()}
    least = MATTERS * max(shares.values())
    nodes = tuple(node for node in subject.units if shares.get(node, 0.0) >= least and shares.get(node))
    overflows = tuple(node for node in subject.units if errors.get(node, (0.0, 0.0))[0] == math.inf)
    failing = {output.tensor: output for output in baseline.outputs if output.sample == sample}
    explains = all(
        failing[output.tensor].passed or _explains(failing[output.tensor], output, bool(overflows))
        for output in estimated
        if output.tensor in failing
    )
    emulated = [output for output in prediction.outputs if output.sample == sample]
    return Accumulation(
        overflows or nodes, explains, _worst(estimated), _worst(failing.values()), _worst(emulated), overflows
    )


def accumulation_evidence(found: Accumulation) -> Evidence:
    """What the estimate came to."""
    word = "explains" if found.explains else "does not explain"
    if found.overflows:
        how = f"partial sums of {plural(len(found.overflows), 'product')} overflow"
    else:
        how = (
            f"it makes the error of the outputs {magnitude(found.estimated)} (nrmse), where the engine has "
            f"{magnitude(found.seen)} and the emulator {magnitude(found.emulated)}"
        )
    text = f"that FP16 products accumulate in FP16 {word} the engine: {how}"
    facts: dict[str, Fact] = {
        "explains": found.explains,
        "estimated": found.estimated,
        "seen": found.seen,
        "products": list(found.nodes),
    }
    return Evidence(Stage.ATTRIBUTE, EvidenceKind.ACCUMULATION, text, facts)


def _explains(seen: OutputResult, estimated: OutputResult, overflows: bool) -> bool:
    if seen.metrics.incomparable is not None:
        return False
    if seen.metrics.nonfinite:
        return overflows
    return badness([seen]) <= CLOSE * badness([estimated])


def _worst(outputs: Iterable[OutputResult]) -> float:
    found = [output.metrics.nrmse for output in outputs]
    return max((value for value in found if not math.isnan(value)), default=0.0)


def _emulated(subject: Subject, errors: Mapping[str, float], sample: int) -> tuple[OutputResult, ...]:
    """The outputs of the emulator with noise of these sizes on what the products write."""
    noisy = with_noise(subject.model, errors)
    emulator = Emulator(noisy)
    try:
        found = emulator.attempt(subject.bench.feeds[sample], subject.precision, lowered=subject.units)
    finally:
        emulator.close()
    return subject.judge(found.tensors, sample, subject.plan(), failures=found.failures)


def product_errors(subject: Subject, sample: int) -> dict[str, tuple[float, float]]:
    """By product that FP16 lowers: the rms of what its accumulator errs by, and of what it writes."""
    model, feeds = subject.model, subject.bench.feeds[sample]
    units = set(subject.units)
    protos = {
        node.name: node
        for node in model.skeleton.graph.node
        if node.op_type in PRODUCTS and node.name in units
    }
    constants = {
        name: value.const_value
        for name, value in model.ir.graph.initializers.items()
        if value.const_value is not None
    }
    reads = {
        name: [each for each in proto.input[:2] if each not in constants and each not in feeds]
        for name, proto in protos.items()
    }
    sizes = {
        name: sum(
            4 * math.prod(int(size) for size in model.shapes.get(each, ()) if isinstance(size, int))
            for each in names
        )
        for name, names in reads.items()
    }
    found: dict[str, tuple[float, float]] = {}
    for group in chunks(tuple(protos), sizes, subject.bench.memory_budget):
        wanted = list(dict.fromkeys(each for name in group for each in reads[name]))
        values = dict(subject.bench.reference.run(feeds, wanted)) if wanted else {}
        for name in group:
            arrays = [
                values[each] if each in values else feeds[each] if each in feeds else constants[each].numpy()
                for each in protos[name].input[:2]
            ]
            errors = [accumulation_error(*pair) for pair in sampled_product(protos[name], *arrays)]
            if errors:
                found[name] = (_mean([error for error, _ in errors]), _mean([size for _, size in errors]))
    return found


def _mean(values: list[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / len(values))

"""What an engine's own arithmetic explains: products of FP32 in TF32, and products of FP16 that accumulate in FP16.

TensorRT for RTX obeys no flag about TF32, and 1.4 runs nothing without. What the emulated TF32 explains there is no
fault of the conversion.

Where the emulator was told to add up in FP32, tensor cores may round each partial sum all the same: one evaluation of
an emulator that adds up in FP16 says what becomes of the outputs then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from harness.backends import Computed
from harness.comparison import DEFAULT_GATES
from harness.diagnosis.context import (
    GATES_PHASE,
    Accumulation,
    Context,
    JudgedEvaluation,
    Prediction,
    Seen,
    Subject,
    badness,
    introduced_errors,
)
from harness.diagnosis.results import Evidence, EvidenceKind, Stage
from harness.judge import OutputResult
from harness.search import Outcome
from harness.tensors import Accumulate, Precision
from harness.text import magnitude, plural
from harness.worker.protocol import TF32_STAYS

FACTOR = DEFAULT_GATES[Precision.TF32].factor
"""By how much more than the emulated TF32 an engine may err, as at the gates."""

CLOSE = 1.5
"""An engine may err by so many times as much as the estimate."""

MATTERS = 0.5
"""A product is named if it introduces at least this share of what the worst one does."""


def build_fp32(seen: Seen, context: Context) -> Seen:
    """FP32 without TF32 on the unobserved engine: one build, unless that is what failed."""
    context.report(Stage.GATES, "build in FP32")
    build = context.subject.bench.case.build
    if seen.precision is Precision.FP32 and not build.tf32:
        engine = seen.baseline
    else:
        plan = context.subject.plan(precision=Precision.FP32, build=build.model_copy(update={"tf32": False}))
        engine = context.evaluator.evaluate(plan, phase=GATES_PHASE, key="strict", thorough=True)
    word = {Outcome.PASS: "passes", Outcome.FAIL: "fails"}.get(engine.outcome, "cannot be built")
    text = f"in FP32 without TF32 the unobserved engine {word}"
    if engine.in_tf32 and engine.outcome is Outcome.FAIL:
        engine, text = held_to_tf32(context.subject, engine)
    known = dict(seen.known)
    if engine.passed:
        known[frozenset(context.subject.units)] = engine.trial
    shown = Evidence.of(EvidenceKind.FP32, text, outcome=engine.outcome)
    return replace(seen, fp32_engine=engine, known=known).adding(shown)


def held_to_tf32(subject: Subject, engine: JudgedEvaluation) -> tuple[JudgedEvaluation, str]:
    """An engine in FP32 that fails, judged beside the emulated TF32, and what came of it, in words.

    It passes if each of its outputs passes the gates of TF32, or errs at most by `FACTOR` times as much as the emulated
    TF32, which may not pass them itself.
    """
    plan = subject.plan(precision=Precision.TF32)
    outputs: list[OutputResult] = []
    explained = True
    for sample, tensors in enumerate(engine.tensors):
        judged = subject.judge(_computed(subject, sample, tensors), sample, plan)
        emulator = subject.bench.beside_engine(Precision.TF32)
        found = emulator.attempt(subject.bench.feeds[sample], Precision.TF32)
        emulated = subject.judge(found, sample, plan)
        for output, beside in zip(judged, emulated, strict=True):
            explained &= output.passed or badness([output]) <= FACTOR * badness([beside])
        outputs += judged
    outcome = Outcome.PASS if explained else Outcome.FAIL
    why = "this release cannot turn it off" if engine.tf32 == TF32_STAYS else "nothing turned it off"
    word = "no more" if explained else "more"
    text = (
        f"in FP32 the engine computes products in TF32, as {why}, and errs {word} than the emulated TF32 does"
    )
    return replace(engine, outcome=outcome, outputs=tuple(outputs), judged_as=Precision.TF32), text


def _computed(subject: Subject, sample: int, tensors: Mapping[str, np.ndarray]) -> Computed:
    missing = [name for name in subject.bench.expected[sample] if name not in tensors]
    return Computed(tensors, dict.fromkeys(missing, "it was not computed"))


def estimate_sums(seen: Seen, context: Context) -> Seen:
    """The emulator adds up in FP32: does the engine err because it adds up in FP16?"""
    context.report(Stage.ATTRIBUTE, "estimate what FP16 accumulation adds")
    found = estimate_accumulation(context.subject, seen.predicted, seen.baseline)
    if found is None:
        return seen
    return replace(seen, accumulation=found).adding(_accumulation_evidence(found))


def estimate_accumulation(
    subject: Subject, prediction: Prediction, baseline: JudgedEvaluation
) -> Accumulation | None:
    """What FP16 accumulation adds to the error of an FP16 engine that fails where the emulator passes; None if nothing
    is added up in FP16, or it is assumed."""
    bench = subject.bench
    sample = baseline.failing_sample
    assert sample is not None
    if bench.assumed.accumulate is Accumulate.FP16:
        return None
    emulator = bench.emulator_with(replace(bench.assumed, accumulate=Accumulate.FP16))
    summed = emulator.arithmetic(subject.precision, bench.feeds[sample]).sums
    if not summed:
        return None
    found = emulator.attempt(bench.feeds[sample], subject.precision)
    estimated = subject.judge(found, sample, subject.plan())
    errors = introduced_errors(subject, sample, emulator)
    products = {node: errors.get(node, 0.0) for node in subject.units if node in summed}
    overflows = tuple(node for node, error in products.items() if error == math.inf)
    least = MATTERS * max(products.values())
    nodes = tuple(node for node, error in products.items() if error >= least)
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


def _accumulation_evidence(found: Accumulation) -> Evidence:
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
    return Evidence.of(
        EvidenceKind.ACCUMULATION,
        text,
        explains=found.explains,
        estimated=found.estimated,
        seen=found.seen,
        products=list(found.nodes),
    )


def _explains(seen: OutputResult, estimated: OutputResult, overflows: bool) -> bool:
    if seen.metrics.incomparable is not None:
        return False
    if seen.metrics.nonfinite:
        return overflows
    return badness([seen]) <= CLOSE * badness([estimated])


def _worst(outputs: Iterable[OutputResult]) -> float:
    found = [output.metrics.nrmse for output in outputs]
    return max((value for value in found if not math.isnan(value)), default=0.0)

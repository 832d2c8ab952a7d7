"""Conversion: the candidate is wrong in FP32 already. Where does it first differ?

By typed observation if the observed engine shows the same fault; else by engines of the graph cut at one tensor,
found by bisection over the order of execution. Where the engine computes FP32 in TF32 and cannot do without, tensors
are held to the gates of TF32, beside the emulated TF32: what rounds as TF32 must is not where it differs. What is
found is then built alone, fed the reference's tensors: a node that is wrong by itself is a culprit, one that is not
stays a suspicion.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from harness.backends import Emulator, Observation
from harness.diagnosis.context import Context, Divergence, Evaluator, Seen, cut, tensor_gates
from harness.diagnosis.results import Evidence, EvidenceKind, Stage
from harness.diagnosis.stages.observation import observation_evidence, observe
from harness.errors import BudgetExhaustedError, CandidateError, ModelError
from harness.model import NodeInfo
from harness.tensors import Precision

PHASE = "convert"


def trace_fp32(seen: Seen, context: Context) -> Seen:
    """Find the first tensor that differs in FP32, and try its node alone."""
    engine, evaluator = seen.fp32_engine, context.evaluator
    assert engine is not None
    context.report(Stage.ATTRIBUTE, "find the first tensor that differs in FP32")
    judged_as = engine.judged_as or Precision.FP32
    nodes: tuple[str, ...] = ()
    culprits: list[str] = []
    try:
        observed = observe(evaluator, engine, precision=Precision.FP32, judged_as=judged_as)
        seen = replace(seen, observed=observed).adding(*observation_evidence(observed, Precision.FP32))
        if observed.passes:
            return replace(seen, divergence=Divergence())
        if observed.faithful:
            nodes = tuple(dict.fromkeys(layer.node for layer in observed.origins))
        if not nodes and (first := _first_failing_prefix(evaluator, judged_as)) is not None:
            nodes = (first.name,)
            text = f"the graph cut behind {first.name} is wrong, and right when it is cut before"
            seen = seen.adding(Evidence.of(EvidenceKind.DIVERGENCE, text, node=first.name))
        for node in nodes:
            wrong, shown = _try_alone(evaluator, node, judged_as)
            seen = seen.adding(*shown)
            culprits += [node] if wrong else []
    except BudgetExhaustedError as error:
        culprits = []
        text = f"the search for the first difference stopped: {error.message}"
        seen = seen.adding(Evidence.of(EvidenceKind.STOPPED, text))
    return replace(seen, divergence=Divergence(nodes, tuple(culprits)))


def _first_failing_prefix(evaluator: Evaluator, judged_as: Precision) -> NodeInfo | None:
    """The node of the first tensor, in the order of execution, whose prefix engine is wrong at it."""
    model = evaluator.subject.model
    order = model.float_tensors
    if not order or not _prefix_fails(evaluator, order[-1], judged_as):
        return None
    first = bisect_left(order[:-1], True, key=lambda tensor: _prefix_fails(evaluator, tensor, judged_as))
    return model.producer(order[first])


def _prefix_fails(evaluator: Evaluator, tensor: str, judged_as: Precision) -> bool:
    """Whether the engine of the graph cut at `tensor` gives another tensor than the reference."""
    subject = evaluator.subject
    key = f"prefix {tensor}"
    if (kept := evaluator.journal.recall(key, bool)) is not None:
        return kept
    evaluator.spending.check()
    plan = subject.plan(precision=Precision.FP32, observation=Observation.PREFIX, marks=[tensor])
    sample = evaluator.failing_sample
    feeds = subject.bench.feeds[sample]
    expected = subject.bench.reference.run(feeds, [tensor])
    emulated = expected
    if judged_as is not Precision.FP32:
        emulated = subject.bench.beside_engine(judged_as).run(feeds, judged_as, tensors=[tensor])
    try:
        evaluation = evaluator.run(plan, feeds, phase=PHASE)
        fails = not _holds(evaluator, {tensor: evaluation.tensors[tensor]}, expected, emulated, judged_as)
    except (CandidateError, KeyError):
        fails = False  # a prefix that cannot be built shows nothing
    evaluator.journal.keep(key, fails)
    return fails


def _try_alone(evaluator: Evaluator, name: str, judged_as: Precision) -> tuple[bool, tuple[Evidence, ...]]:
    """Whether an FP32 engine of this node alone, fed the reference's tensors, is wrong, and what shows it."""
    subject = evaluator.subject
    if subject.engine_for is None:
        return False, ()
    key = f"alone {name}"
    kept = evaluator.journal.recall(key, bool)
    if kept is None:
        evaluator.spending.check()
        try:
            part = cut(subject, [name], evaluator.failing_sample)
            candidate = subject.engine_for(part.model)
            try:
                plan = subject.plan(precision=Precision.FP32)
                evaluation = candidate.evaluate(plan, part.feeds)
            finally:
                candidate.close()
            evaluator.charge(PHASE, evaluation.builds)
            emulated = part.expected
            if judged_as is not Precision.FP32:
                emulated = Emulator(part.model, as_kernels=True).run(part.feeds, judged_as)
            kept = not _holds(evaluator, evaluation.tensors, part.expected, emulated, judged_as)
        except (CandidateError, ModelError) as error:
            text = f"{name} could not be tried alone: {error}"
            return False, (Evidence.of(EvidenceKind.ALONE, text),)
        evaluator.journal.keep(key, kept)
    verb = "is wrong, too" if kept else "is right"
    text = f"{name} alone, in FP32 and fed the reference's tensors, {verb}"
    return kept, (Evidence.of(EvidenceKind.ALONE, text, node=name, wrong=kept),)


def _holds(
    evaluator: Evaluator,
    tensors: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    emulated: Mapping[str, np.ndarray],
    judged_as: Precision,
) -> bool:
    """Whether tensors of an FP32 engine pass the gates of intermediate tensors at `judged_as`."""
    return all(
        gate.passed
        for name, value in expected.items()
        for gate in tensor_gates(
            evaluator.subject, name, tensors[name], value, judged_as, emulated=emulated[name]
        )
    )

"""Conversion: the candidate is wrong in FP32 already. Where does it first differ?

By typed observation if the observed engine shows the same fault; else by engines of the graph cut at one tensor,
found by bisection over the order of execution. Where the engine computes FP32 in TF32 and cannot do without, tensors
are held to the gates of TF32, beside the emulated TF32: what rounds as TF32 must is not where it differs. What is
found is then built alone, fed the reference's tensors: a node that is wrong by itself is a culprit, one that is not
stays a suspicion.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harness.backends import Emulator, Observation
from harness.comparison import check, compare, gates_for
from harness.diagnosis.context import Divergence, EngineObservation, Evaluator, JudgedEvaluation, cut
from harness.diagnosis.results import Evidence, EvidenceKind, Stage
from harness.diagnosis.stages.observation import observation_evidence, observe
from harness.errors import BudgetExhaustedError, CandidateError, ModelError
from harness.model import NodeInfo
from harness.tensors import Precision

PHASE = "convert"


def find_divergence(evaluator: Evaluator, strict: JudgedEvaluation) -> Divergence:
    """Find the first tensor that differs in FP32, and try its node alone.

    Args:
        evaluator: of a subject whose candidate is an engine.
        strict: the unobserved FP32 engine, which fails, with its outputs of all samples.
    """
    evidence: list[Evidence] = []
    observed: EngineObservation | None = None
    judged_as = strict.judged_as or Precision.FP32
    nodes: tuple[str, ...] = ()
    try:
        observed = observe(evaluator, strict, precision=Precision.FP32, judged_as=judged_as)
        evidence += observation_evidence(observed, Precision.FP32)
        if observed.passes:
            return Divergence((), (), observed, tuple(evidence))
        if observed.faithful:
            nodes = tuple(dict.fromkeys(layer.node for layer in observed.origins))
        if not nodes:
            first = _first_failing_prefix(evaluator, judged_as)
            nodes = () if first is None else (first.name,)
            if first is not None:
                text = f"the graph cut behind {first.name} is wrong, and right when it is cut before"
                evidence.append(
                    Evidence(Stage.ATTRIBUTE, EvidenceKind.DIVERGENCE, text, {"node": first.name})
                )
        culprits = tuple(node for node in nodes if _wrong_alone(evaluator, node, judged_as, evidence))
    except BudgetExhaustedError as error:
        text = f"the search for the first difference stopped: {error.message}"
        evidence.append(Evidence(Stage.ATTRIBUTE, EvidenceKind.STOPPED, text))
        culprits = ()
    return Divergence(nodes, culprits, observed, tuple(evidence))


def _first_failing_prefix(evaluator: Evaluator, judged_as: Precision) -> NodeInfo | None:
    """The node of the first tensor, in the order of execution, whose prefix engine is wrong at it."""
    model = evaluator.subject.model
    order = model.float_tensors
    low, high = -1, len(order) - 1
    if not order or not _prefix_fails(evaluator, order[high], judged_as):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if _prefix_fails(evaluator, order[middle], judged_as):
            high = middle
        else:
            low = middle
    return model.producer(order[high])


def _prefix_fails(evaluator: Evaluator, tensor: str, judged_as: Precision) -> bool:
    """Whether the engine of the graph cut at `tensor` gives another tensor than the reference."""
    subject = evaluator.subject
    key = f"prefix {tensor}"
    if (kept := evaluator.journal.recall(key, bool)) is not None:
        return kept
    evaluator.spending.check()
    plan = subject.plan(precision=Precision.FP32, observation=Observation.PREFIX, marks=frozenset({tensor}))
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


def _wrong_alone(evaluator: Evaluator, name: str, judged_as: Precision, evidence: list[Evidence]) -> bool:
    """Whether an FP32 engine of this node alone, fed the reference's tensors, is wrong."""
    subject = evaluator.subject
    if subject.engine_for is None:
        return False
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
            evidence.append(Evidence(Stage.ATTRIBUTE, EvidenceKind.ALONE, text))
            return False
        evaluator.journal.keep(key, kept)
    verb = "is wrong, too" if kept else "is right"
    text = f"{name} alone, in FP32 and fed the reference's tensors, {verb}"
    evidence.append(Evidence(Stage.ATTRIBUTE, EvidenceKind.ALONE, text, {"node": name, "wrong": kept}))
    return kept


def _holds(
    evaluator: Evaluator,
    tensors: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    emulated: Mapping[str, np.ndarray],
    judged_as: Precision,
) -> bool:
    """Whether tensors of an FP32 engine pass the gates of intermediate tensors at `judged_as`."""
    subject = evaluator.subject
    for name, reference in expected.items():
        dtype = "float32" if reference.dtype.kind == "f" else None
        metrics = compare(np.asarray(tensors[name]), reference, dtype=dtype)
        node = subject.model.producer(name)
        gates = gates_for(
            subject.bench.case.tolerances,
            precision=judged_as,
            tensor=name,
            node=node.name if node else None,
            is_output=False,
            metrics_of_emulator=compare(np.asarray(emulated[name]), reference, dtype=dtype),
            reference_rms=metrics.reference_rms,
        )
        if not all(gate.passed for gate in check(metrics, gates)):
            return False
    return True

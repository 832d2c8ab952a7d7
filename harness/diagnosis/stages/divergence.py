"""Conversion: the candidate is wrong in FP32 already. Where does it first differ?

By typed observation if the observed engine shows the same fault; else by engines of the graph cut at one tensor,
found by bisection over the order of execution. What is found is then built alone, fed the reference's tensors: a
node that is wrong by itself is a culprit, one that is not stays a suspicion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.backends import Observation
from harness.comparison import check, compare, gates_for
from harness.diagnosis.context import Examination, Examiner, cut
from harness.diagnosis.results import Evidence, Stage
from harness.diagnosis.stages.observation import Observed, observe
from harness.errors import BudgetExhaustedError, CandidateError, ModelError
from harness.model import NodeInfo
from harness.tensors import Precision

PHASE = "convert"


@dataclass(frozen=True)
class Diverged:
    """Where an FP32 engine first differs.

    Args:
        nodes: the nodes where it does, in topological order; empty if that could not be found.
        culprits: those of them that are wrong alone, too.
        observed: the observed FP32 engine; None if there was none.
        evidence: what was shown.
    """

    nodes: tuple[str, ...]
    culprits: tuple[str, ...]
    observed: Observed | None
    evidence: tuple[Evidence, ...]


def find_divergence(examiner: Examiner, strict: Examination) -> Diverged:
    """Find the first tensor that differs in FP32, and try its node alone.

    Args:
        examiner: of a subject whose candidate is an engine.
        strict: the unobserved FP32 engine, which fails; its outputs of all samples.
    """
    evidence: list[Evidence] = []
    observed: Observed | None = None
    nodes: tuple[str, ...] = ()
    try:
        observed = observe(examiner, strict, precision=Precision.FP32)
        evidence += observed.evidence
        if observed.passes:
            return Diverged((), (), observed, tuple(evidence))
        if observed.faithful:
            nodes = tuple(dict.fromkeys(layer.node for layer in observed.origins))
        if not nodes:
            first = _first_failing_prefix(examiner)
            nodes = () if first is None else (first.name,)
            if first is not None:
                text = f"the graph cut behind {first.name} is wrong, and right when it is cut before"
                evidence.append(Evidence(Stage.ATTRIBUTE, text, {"node": first.name}))
        culprits = tuple(node for node in nodes if _wrong_alone(examiner, node, evidence))
    except BudgetExhaustedError as error:
        evidence.append(
            Evidence(Stage.ATTRIBUTE, f"the search for the first difference stopped: {error.message}")
        )
        culprits = ()
    return Diverged(nodes, culprits, observed, tuple(evidence))


def _first_failing_prefix(examiner: Examiner) -> NodeInfo | None:
    """The node of the first tensor, in the order of execution, whose prefix engine is wrong at it."""
    model = examiner.subject.model
    order = model.float_tensors
    low, high = -1, len(order) - 1
    if not order or not _prefix_fails(examiner, order[high]):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if _prefix_fails(examiner, order[middle]):
            high = middle
        else:
            low = middle
    return model.producer(order[high])


def _prefix_fails(examiner: Examiner, tensor: str) -> bool:
    """Whether the engine of the graph cut at `tensor` gives another tensor than the reference."""
    subject = examiner.subject
    key = f"prefix {tensor}"
    kept = None if examiner.notebook is None else examiner.notebook.recall(key)
    if kept is not None:
        return bool(kept)
    examiner.spending.check()
    plan = subject.plan(precision=Precision.FP32, observation=Observation.PREFIX, marks=frozenset({tensor}))
    sample = examiner.failing_sample
    feeds = subject.bench.feeds[sample]
    expected = subject.bench.reference.run(feeds, [tensor])
    try:
        evaluation = examiner.evaluate(plan, feeds, phase=PHASE)
        fails = not _holds(examiner, {tensor: evaluation.tensors[tensor]}, expected)
    except (CandidateError, KeyError):
        fails = False  # a prefix that cannot be built convicts nobody
    if examiner.notebook is not None:
        examiner.notebook.keep(key, fails)
    return fails


def _wrong_alone(examiner: Examiner, name: str, evidence: list[Evidence]) -> bool:
    """Whether an FP32 engine of this node alone, fed the reference's tensors, is wrong."""
    subject = examiner.subject
    if subject.engine_for is None:
        return False
    key = f"alone {name}"
    kept = None if examiner.notebook is None else examiner.notebook.recall(key)
    if kept is None:
        examiner.spending.check()
        try:
            part = cut(subject, [name], examiner.failing_sample)
            candidate = subject.engine_for(part.model)
            try:
                plan = subject.plan(precision=Precision.FP32)
                evaluation = candidate.evaluate(plan, part.feeds)
            finally:
                candidate.close()
            examiner.charge(PHASE, evaluation.builds)
            kept = not _holds(examiner, evaluation.tensors, part.expected)
        except (CandidateError, ModelError) as error:
            evidence.append(Evidence(Stage.ATTRIBUTE, f"{name} could not be tried alone: {error}"))
            return False
        if examiner.notebook is not None:
            examiner.notebook.keep(key, kept)
    verb = "is wrong, too" if kept else "is right"
    text = f"{name} alone, in FP32 and fed the reference's tensors, {verb}"
    evidence.append(Evidence(Stage.ATTRIBUTE, text, {"node": name, "wrong": kept}))
    return bool(kept)


def _holds(examiner: Examiner, tensors: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> bool:
    """Whether tensors of an FP32 engine pass the gates of intermediate tensors."""
    subject = examiner.subject
    for name, reference in expected.items():
        dtype = "float32" if reference.dtype.kind == "f" else None
        metrics = compare(np.asarray(tensors[name]), reference, dtype=dtype)
        node = subject.model.producer(name)
        gates = gates_for(
            subject.bench.case.tolerances,
            precision=Precision.FP32,
            tensor=name,
            node=node.name if node else None,
            is_output=False,
            metrics_of_emulator=compare(reference, reference, dtype=dtype),
            reference_rms=metrics.reference_rms,
        )
        if not all(gate.passed for gate in check(metrics, gates)):
            return False
    return True

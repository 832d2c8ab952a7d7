"""A reference that cannot judge a candidate: where it stops being finite, reproducible or stable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from harness.backends import DoubleReference, Reference
from harness.comparison import DEFAULT_GATES, compare_tensors, find_origins
from harness.diagnosis.context import Conclusion, GateCheck, Subject
from harness.diagnosis.explain import TensorsAround, why
from harness.diagnosis.results import DiagnosisVerdict, Evidence, EvidenceKind, Origin
from harness.errors import ModelError
from harness.judge import Overflow, OwnRoundings, as_float32
from harness.model import Model
from harness.tensors import Precision
from harness.text import magnitude, plural

REFERENCE = DiagnosisVerdict.REFERENCE

LOST = 0.1
"""An element that is off by this share of itself has lost its digits."""

DRAWS = "it draws random numbers, different ones in each run"
"""Why a reference starts to differ from run to run."""


def own_types(overflow: Overflow) -> str:
    """Why a model whose own float16 or bfloat16 overflows is no reference."""
    largest = magnitude(overflow.largest)
    return f"the file itself computes in {overflow.dtype} here, and values up to {largest} do not fit"


def explain_reference(subject: Subject, gates: GateCheck) -> tuple[Conclusion, tuple[Evidence, ...]]:
    """The origins of an unsound reference, and what more was shown."""
    if gates.own is not None:
        if gates.reference_fault is not None and not gates.own.overflows:
            reasons = _not_finite_reasons(subject, gates.reference_fault)
        else:
            reasons = _file_reasons(subject, gates.own)
        return Conclusion(
            DiagnosisVerdict.FILE, origins=_origins(subject, reasons, reasons), own=gates.own
        ), ()
    if gates.reference_fault is not None:
        nodes = [node.name for node in [subject.model.producer(gates.reference_fault)] if node is not None]
        reasons = dict.fromkeys(nodes, how_it_came(subject, gates.reference_fault))
        return Conclusion(REFERENCE, origins=_origins(subject, nodes, reasons)), ()
    if gates.drawing:
        origins = _origins(subject, gates.drawing, dict.fromkeys(gates.drawing, DRAWS))
        return Conclusion(REFERENCE, origins=tuple(replace(origin, draws=True) for origin in origins)), ()
    try:
        reasons = _unstable_nodes(subject)
    except ModelError as error:
        text = f"where the reference loses its digits could not be found: {error.message}"
        return Conclusion(REFERENCE), (Evidence.of(EvidenceKind.REFERENCE, text),)
    return Conclusion(REFERENCE, origins=_origins(subject, reasons, reasons)), ()


def how_it_came(subject: Subject, tensor: str) -> str:
    """How the first value that is not finite came about in FP32, from what its node reads there."""
    node = subject.model.producer(tensor)
    plain = "its output is not finite in FP32 already"
    if node is None:
        return plain
    for feeds in subject.bench.feeds:
        inputs = subject.model.skeleton.graph.node[node.index].input
        reads = [name for name in inputs if _is_float(subject.model, name)]
        wanted = [name for name in dict.fromkeys((*reads, tensor)) if name not in feeds]
        found = {**feeds, **subject.bench.itself.run(feeds, wanted)}
        values = np.asarray(found[tensor], dtype=np.float64)
        if not np.isnan(values).any():
            continue
        return (
            _nan_of(node.op, [np.asarray(found[name], dtype=np.float64) for name in reads], values) or plain
        )
    return plain


def _nan_of(op: str, reads: Sequence[np.ndarray], values: np.ndarray) -> str | None:
    """Which of the sums and products that are no number made a NaN, in words; None if it was read, or not seen."""
    if any(np.isnan(each).any() for each in reads):
        return None
    infinite = [np.isinf(each) for each in reads]
    if op in ("Softmax", "LogSoftmax") and bool((reads[0] == -np.inf).all(axis=-1).any()):
        rows = int((reads[0] == -np.inf).all(axis=-1).sum())
        return (
            f"{plural(rows, 'row')} of what it reads {'is' if rows == 1 else 'are'} −∞ throughout, masked in every "
            "place: their softmax is 0/0"
        )
    if op in ("Div", "Reciprocal") and len(reads) > 1:
        zero = bool(((reads[0] == 0) & (reads[1] == 0)).any()) if reads[0].shape == reads[1].shape else True
        return "it divides 0 by 0" if zero and not infinite[0].any() else "it divides ∞ by ∞"
    if op in ("Add", "Sub", "Sum") and any(each.any() for each in infinite):
        return "it takes ∞ from ∞"
    if op in ("Mul", "MatMul", "Gemm", "Conv", "Einsum") and any(each.any() for each in infinite):
        return "it multiplies 0 by ∞, or takes ∞ from ∞"
    if op in ("Sqrt", "Log") and bool((reads[0] < 0).any()):
        return f"it takes the {'root' if op == 'Sqrt' else 'logarithm'} of numbers below 0"
    return None


def _file_reasons(subject: Subject, own: OwnRoundings) -> dict[str, str]:
    """By node, in topological order, what the file's own roundings do there.

    What overflows, vanishes or saturates comes first; else the tensors that fail the gate of their own type against
    the same model without, while those behind them pass.
    """
    reasons = {each.node: own_types(each) for each in own.overflows}
    for node, text in [
        *((each.node, each.what) for each in own.vanishings),
        *((each.node, each.what) for each in own.saturations),
    ]:
        reasons.setdefault(node, f"it {text}")
    return reasons or _file_origins(subject, own)


def _not_finite_reasons(subject: Subject, tensor: str) -> dict[str, str]:
    """What makes `tensor` not finite though nothing overflows: mostly a divisor that the file's own types make 0."""
    model, node = subject.model, subject.model.producer(tensor)
    if node is None:
        return {}
    if node.op not in ("Div", "Reciprocal", "Log", "Pow"):
        return {node.name: how_it_came(subject, tensor)}
    tensors = [name for each in model.nodes[: node.index] for name in each.outputs if _is_float(model, name)]
    without = Reference(model, own=False)
    try:
        feeds = subject.bench.feeds[0]
        exact, kept = without.run(feeds, tensors), subject.bench.itself.run(feeds, tensors)
    finally:
        without.close()
    gone = {name: (kept[name] == 0) & (exact[name] != 0) for name in tensors}
    read = next((name for name in reversed(node.inputs) if name in gone and gone[name].any()), None)
    if read is None:
        return {node.name: how_it_came(subject, tensor)}
    while (before := model.producer(read)) is not None:
        further = next((name for name in before.inputs if name in gone and gone[name].any()), None)
        if further is None:
            break
        read = further
    assert before is not None, "a node of the model writes it"
    lost = magnitude(float(np.abs(exact[read][gone[read]]).max()))
    text = f"values of up to {lost} become 0 in the file's own {model.dtypes[read]}, and {node.name} divides by them"
    return {before.name: text}


def _file_origins(subject: Subject, own: OwnRoundings) -> dict[str, str]:
    model, bound = subject.model, DEFAULT_GATES[own.precision].bound
    tensors = [name for node in model.nodes for name in node.outputs if _is_float(model, name)]
    without = Reference(model, own=False)
    errors = dict.fromkeys(tensors, 0.0)
    try:
        for feeds in subject.bench.feeds:
            exact, kept = without.run(feeds, tensors), subject.bench.itself.run(feeds, tensors)
            for name in tensors:
                found = compare_tensors(as_float32(kept[name]), as_float32(exact[name]), dtype="float32")
                errors[name] = max(errors[name], found.error)
    finally:
        without.close()
    failed = {name: not error <= bound for name, error in errors.items()}
    reasons = {}
    for name in find_origins(tensors, failed, model.predecessors):
        node = model.producer(name)
        if node is not None:
            error = magnitude(errors[name])
            reasons[node.name] = (
                f"its {own.subject} {own.makes} {name} err by {error} (nrmse) against the same model without"
            )
    return reasons


def _is_float(model: Model, tensor: str) -> bool:
    return model.dtypes.get(tensor) in ("float32", "float16", "bfloat16")


def _unstable_nodes(subject: Subject) -> dict[str, str]:
    """Nodes where FP32 and FP64 part by more than the FP32 gate, while they agree on all that is read there.

    A tensor may agree as a whole and have lost its small elements, which a logarithm then makes large: from the worst
    element of a tensor that does not agree, elements that have lost their digits are followed back to the first.

    Returns:
        By node, what is wrong there; empty where its numbers say it.
    """
    model, bound = subject.model, DEFAULT_GATES[Precision.FP32].bound
    tensors = model.float_tensors
    double = DoubleReference(model, tensors)
    failed = dict.fromkeys(tensors, False)
    lost: dict[str, tuple[str, str]] = {}
    for feeds in subject.bench.feeds:
        wide = double.run(feeds).tensors
        narrow = subject.bench.reference.run(feeds, tensors)
        for name in tensors:
            metrics = compare_tensors(wide[name].astype(np.float32), narrow[name], dtype="float32")
            if (metrics.nonfinite or not metrics.nrmse <= bound) and not failed[name]:
                failed[name] = True
                lost[name] = _followed(name, metrics.worst_index, wide, narrow, model.predecessors)
    reasons: dict[str, str] = {}
    for name in find_origins(tensors, failed, model.predecessors):
        tensor, reason = lost[name]
        node = model.producer(tensor)
        if node is not None:
            reasons.setdefault(node.name, reason)
    return reasons


def _followed(
    name: str,
    place: tuple[int, ...] | None,
    wide: Mapping[str, np.ndarray],
    narrow: Mapping[str, np.ndarray],
    predecessors: Mapping[str, tuple[str, ...]],
) -> tuple[str, str]:
    """The first tensor whose element at `place` has lost its digits, back from `name`, and what it holds there."""
    tensor, reason, shape = name, "", narrow[name].shape
    while place is not None:
        reads = [
            read
            for read in predecessors.get(tensor, ())
            if read in narrow and wide[read].shape == narrow[read].shape == shape
        ]
        worse = [read for read in reads if _relative(wide[read][place], narrow[read][place]) > LOST]
        if not worse:
            break
        tensor = worse[0]
        held, exact = float(narrow[tensor][place]), float(wide[tensor][place])
        reason = f"ONNX Runtime's FP32 kernel gives {magnitude(held)} where FP64 gives {magnitude(exact)}"
    return tensor, reason


def _relative(exact: float, held: float) -> float:
    """|exact - held| over the larger of both; infinite where only one is finite."""
    if exact == held or (np.isnan(exact) and np.isnan(held)):
        return 0.0
    if not (np.isfinite(exact) and np.isfinite(held)):
        return float("inf")
    return abs(float(exact) - float(held)) / max(abs(float(exact)), abs(float(held)))


def _origins(subject: Subject, nodes: Iterable[str], reasons: Mapping[str, str]) -> tuple[Origin, ...]:
    infos = [subject.model.node(name) for name in nodes]
    around = TensorsAround(subject, infos, Precision.FP32)
    return tuple(
        Origin(
            info.name,
            info.op,
            around.output_of(info),
            reasons.get(info.name) or why(around.measured(info, None, 0.0), Precision.FP32),
        )
        for info in infos
    )

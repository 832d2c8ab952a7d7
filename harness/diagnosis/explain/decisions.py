"""Nodes that decide by differences: a rounding far too small to matter as an error changes what they answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np
import onnx

from harness.diagnosis.context import Subject
from harness.diagnosis.explain.measured import Decision
from harness.model import EXACT, TRANSPARENT, Model, NodeInfo

COMPARISONS = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"})
RANKINGS = frozenset({"ArgMax", "ArgMin", "TopK"})
STEPS = frozenset({"Floor", "Ceil", "Round", "Sign", "NonZero", "NonMaxSuppression", "Unique"})

MOST_READERS = 4
"""So many are tested, the first in the graph: each costs a session of the reference and one of the emulator."""


def decision_of(subject: Subject, node: NodeInfo, sample: int) -> Decision | None:
    """What reads the output of `node`, as it is or moved, and answers otherwise when `node` alone is lowered.

    Returns:
        Of several readers, the one of whose answers the largest share changes; None if no answer changes.
    """
    readers = islice(_deciding(subject.model, node), MOST_READERS)
    found = [_measured(subject, node, reader, sample) for reader in readers]
    return max((each for each in found if each is not None), key=lambda each: each.changed, default=None)


def _deciding(model: Model, node: NodeInfo) -> Iterator[NodeInfo]:
    """The nodes that decide by the output of `node`."""
    reached = {name for name in node.outputs if name}
    for each in model.nodes[node.index + 1 :]:
        if reached.isdisjoint(each.inputs):
            continue
        if _decides(model, each):
            yield each
        elif each.op in TRANSPARENT:
            reached.update(name for name in each.outputs if name)


def _decides(model: Model, node: NodeInfo) -> bool:
    if node.op == "Cast":
        return model.dtypes.get(node.outputs[0], "float").startswith(("int", "uint", "bool"))
    return node.op in COMPARISONS | RANKINGS | STEPS


def _measured(subject: Subject, node: NodeInfo, reader: NodeInfo, sample: int) -> Decision | None:
    model, feeds = subject.model, subject.bench.feeds[sample]
    proto = next(each for each in model.skeleton.graph.node if each.name == reader.name)
    answer = proto.output[-1]  # TopK writes values first, and then the places that it chose
    reads = [name for name in proto.input if name]
    exact = subject.bench.reference.run(feeds, [*reads, answer])
    alone = [node.name, EXACT]
    low = subject.bench.emulator.run(feeds, subject.precision, lowered=alone, tensors=[answer])[answer]
    if low.shape != exact[answer].shape:  # as many as were chosen
        kept = min(low.size, exact[answer].size) / max(low.size, exact[answer].size)
        return Decision(reader.name, reader.op, 1 - kept, _typical(exact[reads[0]]))
    other = low != exact[answer]
    if not other.any():
        return None
    changed = float(np.mean(other))
    magnitude, apart, whole = _differences(proto, exact, other)
    return Decision(reader.name, reader.op, changed, magnitude, apart, whole)


def _differences(
    proto: onnx.NodeProto, exact: Mapping[str, np.ndarray], other: np.ndarray
) -> tuple[float, float | None, bool]:
    """Typical magnitude where answers change, how far apart values are there, and whether they are whole numbers."""
    values = exact[proto.input[0]].astype(np.float64)
    if proto.op_type in COMPARISONS:
        return _compared(values, exact[proto.input[1]].astype(np.float64), other)
    if proto.op_type in RANKINGS:
        return _ranked(proto, values, other)
    if values.shape != other.shape:
        return _typical(values), None, False
    return _typical(values[other]), None, bool((values == np.round(values)).all())


def _compared(left: np.ndarray, right: np.ndarray, other: np.ndarray) -> tuple[float, float | None, bool]:
    left, right = np.broadcast_arrays(left, right)
    return _typical(left[other]), float(np.median(np.abs(left - right)[other])), False


def _ranked(proto: onnx.NodeProto, values: np.ndarray, other: np.ndarray) -> tuple[float, float | None, bool]:
    """The distance from each value to the next smaller one along the axis, near where answers change."""
    attributes = {each.name: each.i for each in proto.attribute}
    axis = attributes.get("axis", -1 if proto.op_type == "TopK" else 0)
    ordered = np.moveaxis(np.sort(values, axis=axis), axis, -1)
    if proto.op_type == "ArgMin" or not attributes.get("largest", 1):
        ordered = -ordered[..., ::-1]
    rows = other if proto.op_type == "TopK" or attributes.get("keepdims", 1) else np.expand_dims(other, axis)
    count = rows.shape[axis]  # how many are chosen: 1, or k
    touched = np.moveaxis(rows, axis, -1).any(axis=-1)
    best = ordered[touched][:, -count - 1 :] if ordered.ndim > 1 else ordered[None, -count - 1 :]
    if best.shape[-1] < 2:
        return _typical(best), None, False
    return _typical(best[:, -1]), float(np.median(np.diff(best, axis=-1).min(axis=-1))), False


def _typical(values: np.ndarray) -> float:
    magnitudes = np.abs(values[np.isfinite(values)]) if values.size else values
    return float(np.median(magnitudes)) if magnitudes.size else 0.0

"""The smallest part of the model that still fails, fed the reference's own tensors.

Grown from the culprits until it fails, then shrunk by halves, quarters and at last node by node: whatever can be
replaced by the reference's tensors goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from harness.backends import Assumed, Emulator
from harness.comparison import DEFAULT_GATES, EQUAL, Gate, GateResult
from harness.diagnosis.context import GraphPart, Subject, cut, tensor_gates, tensors_of
from harness.errors import CandidateError, ModelError
from harness.tensors import Precision

MOST_SHRUNK = 40
"""Larger parts are not shrunk: each attempt costs a session, or a build."""

Fails = Callable[[GraphPart], bool]


def shrink(
    subject: Subject, core: Sequence[str], sample: int, fails: Fails, *, most: int | None = None
) -> GraphPart | None:
    """The smallest failing part around the nodes of `core`; None if no part of the model fails by itself, or none of
    the first `most`."""
    left = [most if most is not None else 1 << 30]
    known = tensors_of(subject, core, sample) if len(core) <= MOST_SHRUNK else {}

    def attempt(nodes: Sequence[str]) -> GraphPart | None:
        if left[0] <= 0:
            return None
        left[0] -= 1
        try:
            part = cut(subject, nodes, sample, known=known)
            return part if fails(part) else None
        except (ModelError, CandidateError):
            return None

    for nodes in _growing(subject, core):
        part = attempt(nodes)
        if part is not None:
            if 1 < len(nodes) <= MOST_SHRUNK and not set(core).issuperset(nodes):
                known = tensors_of(subject, nodes, sample)
            return _shrunk(part, attempt)
    return None


def _shrunk(part: GraphPart, attempt: Callable[[Sequence[str]], GraphPart | None]) -> GraphPart:
    """Leave out what is not needed: halves, then parts half as large, until no node can be left out alone."""
    size = len(part.nodes) // 2 if len(part.nodes) <= MOST_SHRUNK else 0
    while size:
        before, start = len(part.nodes), 0
        while start < len(part.nodes):
            smaller = (*part.nodes[:start], *part.nodes[start + size :])
            found = attempt(smaller) if smaller else None
            if found is None:
                start += size
            else:
                part = found
        again = size == 1 and 1 < len(part.nodes) < before
        size = size if again else min(size, len(part.nodes)) // 2
    return part


def _growing(subject: Subject, core: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Parts to try, the smallest first: each node of the core, the core, its neighbourhood, all before the output."""
    model = subject.model
    order = {node.name: node.index for node in model.nodes}
    inside = set(core)
    for node in sorted(inside, key=order.__getitem__)[:8]:
        yield (node,)
    seen: set[frozenset[str]] = set()
    for _ in range(5):
        if frozenset(inside) not in seen and len(inside) > 1:
            seen.add(frozenset(inside))
            yield tuple(sorted(inside, key=order.__getitem__))
        written = {name for node in inside for name in model.node(node).outputs}
        inside = inside | {node.name for node in model.nodes if written.intersection(node.inputs)}
    everything = tuple(node.name for node in model.nodes)
    if len(everything) > 1:
        yield everything


def part_emulator(subject: Subject, part: GraphPart) -> Emulator:
    """The emulator of a part, which adds up products as that of the whole does; kernels are those of the whole."""
    return Emulator(part.model, assumed=Assumed(subject.bench.assumed.accumulate))


def fails_emulated(subject: Subject) -> Fails:
    """Whether a part fails on the emulator with all its nodes lowered."""

    def fails(part: GraphPart) -> bool:
        emulator = part_emulator(subject, part)
        try:
            found = emulator.attempt(part.feeds, subject.precision, tensors=list(part.expected))
        finally:
            emulator.close()
        return bool(found.failures) or not holds(subject, found.tensors, part, subject.precision)

    return fails


def holds(subject: Subject, values: Mapping[str, np.ndarray], part: GraphPart, precision: Precision) -> bool:
    """Whether the outputs of a part pass the gates of intermediate tensors, as the emulator must."""
    return all(
        gate.passed
        for name, reference in part.expected.items()
        for gate in _gates(subject, name, values[name], reference, precision)
    )


def nrmse_limits(subject: Subject, part: GraphPart, precision: Precision) -> dict[str, float]:
    """For each output of a part, the nrmse that its gates let pass; gates on other metrics are left out.

    Outputs of the model that hold integers or bools and must be equal have a limit of 0.
    """
    limits = {}
    for name, reference in part.expected.items():
        found = list(_gates(subject, name, reference, reference, precision))
        finite = reference[np.isfinite(reference)]
        scale = float(np.sqrt(np.mean(np.square(finite, dtype=np.float64)))) if finite.size else 0.0
        bounds = [gate.limit for gate in found if gate.metric == "nrmse"]
        bounds += [gate.limit / scale for gate in found if gate.metric == "rmse" and scale]
        equal = reference.dtype.kind in "biu" and EQUAL in {Gate(gate.metric, gate.limit) for gate in found}
        limits[name] = 0.0 if equal else min(bounds, default=DEFAULT_GATES[precision].bound)
    return limits


def _gates(
    subject: Subject, name: str, value: np.ndarray, reference: np.ndarray, precision: Precision
) -> tuple[GateResult, ...]:
    is_output = any(info.name == name for info in subject.model.outputs)
    return tensor_gates(subject, name, value, reference, precision, is_output=is_output)

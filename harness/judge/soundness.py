"""Whether there is a reference to hold anything against: finite, the same in every run, and not empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.backends import Reference
from harness.errors import InputDataError, ReferenceNotReproducibleError
from harness.model import Model, needed_nodes

REDRAWS = 4
"""How often the reference of a model that draws random numbers is run again: few draws agree so often by chance."""

Tensors = Mapping[str, np.ndarray]


def check_reproducible(
    model: Model, reference: Reference, feeds: Tensors, first: Tensors, where: str
) -> None:
    """Run the reference again if random numbers reach an output; without such a node nothing is run.

    A seed is no way out: it fixes the first run of a session only, and ONNX leaves the generator to each runtime.

    Args:
        model: the model.
        reference: its reference.
        feeds: the inputs.
        first: what the reference computed from them.
        where: the case, for the message.

    Raises:
        ReferenceNotReproducibleError: an output differs in a single bit.
    """
    needed = needed_nodes(model, [info.name for info in model.outputs])
    drawing = [name for name in model.drawing_nodes if name in needed]
    if not drawing:
        return
    for _ in range(REDRAWS):
        again = reference.run(feeds)
        for name, value in first.items():
            if not _same(value, again[name]):
                behind = needed_nodes(model, [name])
                nodes = [(node, model.node(node).op) for node in drawing if node in behind]
                raise ReferenceNotReproducibleError(where, tensor=name, nodes=nodes)


def check_not_empty(expected: Sequence[Tensors], feeds: Sequence[Tensors], where: str) -> None:
    """Raise InputDataError if no output has an element in any sample: a comparison of nothing passes every gate."""
    if any(value.size for outputs in expected for value in outputs.values()):
        return
    outputs, inputs = _shapes(expected[0]), _shapes(feeds[0])
    raise InputDataError(
        f"there is nothing to compare: no output has an element, {outputs} for inputs of {inputs or 'no shape'}",
        where=where,
        hint="give the inputs shapes without a 0",
    )


def empty_outputs(expected: Sequence[Tensors]) -> tuple[str, ...]:
    """A warning for each output that has no element in some samples."""
    empty: dict[str, list[int]] = {}
    for sample, outputs in enumerate(expected):
        for name, value in outputs.items():
            if not value.size:
                empty.setdefault(name, []).append(sample)
    return tuple(
        f"output {name!r} has no element"
        + ("" if len(samples) == len(expected) else f" in sample {', '.join(map(str, samples))}")
        + ": nothing of it was compared"
        for name, samples in empty.items()
    )


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the bits are the same; texts are compared as such."""
    if one.dtype == object or one.shape != other.shape:
        return np.array_equal(one, other)
    return one.tobytes() == other.tobytes()


def _shapes(tensors: Tensors) -> str:
    return ", ".join(f"{name} {list(value.shape)}" for name, value in tensors.items())

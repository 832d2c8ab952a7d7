"""Whether there is a reference to compare with: finite, the same in every run, and not empty.

A language model that masks its logits gives −inf by intent. An infinity of an output is meant where

- the model in double precision gives the same one at the same place, so that no number of FP32 was too large, and
- it enters by an input, by a constant, or where a function has a pole (log 0, 1/0): no node that it is computed from
  makes infinities of finite numbers, which in double precision may be too large, too.

NaN is never meant. All this is looked at only where an output is not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from harness.backends import Answers, DoubleReference, Emulator, Reference, Tensors
from harness.errors import InputDataError, ModelError, ReferenceNotFiniteError, ReferenceNotReproducibleError
from harness.judge.memory import TensorMemory
from harness.model import Model, Part, needed_nodes

CONSTANTS = frozenset({"Constant", "ConstantOfShape"})
POLES = frozenset({"Log", "Div", "Reciprocal", "Atanh"})
"""Operators that are infinite for some finite numbers, whatever the precision."""

REDRAWS = 4
"""How often the reference of a model that draws random numbers is run again: few draws agree so often by chance."""


class Bench(Protocol):
    """What is needed of a workbench: see harness.judge.workbench."""

    @property
    def model(self) -> Model:
        """The model."""

    @property
    def where(self) -> str:
        """The case, for messages."""

    @property
    def feeds(self) -> Sequence[Tensors]:
        """The inputs, sample by sample."""

    @property
    def reference(self) -> Reference:
        """The FP32 reference."""

    @property
    def itself(self) -> Reference:
        """The model in FP32, whatever the case is compared with."""

    @property
    def answers(self) -> Answers | None:
        """Where the reference's tensors come from; None for the model itself."""

    @property
    def emulator(self) -> Emulator:
        """The emulator."""

    @property
    def own_outputs(self) -> Sequence[Tensors]:
        """Its outputs, sample by sample."""

    @property
    def expected(self) -> Sequence[Tensors]:
        """The reference's outputs, sample by sample."""

    def parts(self, sample: int) -> Mapping[str, tuple[Part, ...]]:
        """By output, the tensors that were joined in it."""

    def parts_of(self, tensor: str, sample: int) -> tuple[Part, ...]:
        """The tensors that were joined in another one."""

    @property
    def memory(self) -> TensorMemory:
        """Which tensors are in memory."""


def check_finite(bench: Bench, feeds: Tensors, outputs: Tensors, own: Callable[[str], str | None]) -> None:
    """See that the outputs of the reference are finite, but for infinities that the model means.

    Args:
        bench: the case.
        feeds: the inputs of one sample.
        outputs: what the reference computed from them.
        own: says of a tensor that it overflows the model's own float16 or bfloat16, or None.

    Raises:
        ReferenceNotFiniteError: an output has NaN, or an infinity that is not meant.
    """
    model = bench.model
    broken = {
        name: value
        for name, value in outputs.items()
        if value.dtype.kind == "f" and not np.isfinite(value).all()
    }
    if not broken:
        return
    entries, first, first_nan = _entries(bench, feeds, broken)
    overflowing = [name for name in entries if not _may_be_infinite(model, name)]
    wide = {} if overflowing else _in_double(model, feeds, tuple(broken))
    for name, value in broken.items():
        wrong = ~np.isfinite(value)
        if name in wide:
            wrong &= wide[name] != value  # NaN is equal to nothing
        if wrong.any():
            # NaN is never meant; infinities before it, as those of a mask, may be.
            nan = first_nan if np.isnan(value).any() else None
            start = next(iter(overflowing), None) or nan or next(iter(entries), None) or first or name
            count = int(wrong.sum())
            raise ReferenceNotFiniteError(
                bench.where, tensor=name, first_tensor=start, count=count, own=own(start)
            )


def _entries(
    bench: Bench, feeds: Tensors, outputs: Iterable[str]
) -> tuple[list[str], str | None, str | None]:
    """The tensors that are not finite although all that their node reads is; the first that is not, and that is NaN."""
    model = bench.model
    needed = needed_nodes(model, outputs)
    written = [name for node in model.nodes if node.name in needed for name in node.outputs]
    tensors = [name for name in written if model.dtypes.get(name) == "float32" or name in model.own_tensors]
    broken: dict[str, None] = {}
    nan: str | None = None
    for chunk in bench.memory.chunks(tensors, copies=1):
        values = bench.reference.run(feeds, chunk)
        broken |= dict.fromkeys(name for name in chunk if not np.isfinite(values[name]).all())
        nan = nan or next((name for name in chunk if np.isnan(values[name]).any()), None)

    def finite(name: str) -> bool:
        known = feeds[name] if name in feeds else _initializer(model, name)
        if known is None or known.dtype.kind != "f":
            return name not in broken
        return bool(np.isfinite(known).all())

    entries = []
    for name in broken:
        node = model.producer(name)
        if node is not None and all(finite(read) for read in node.inputs):
            entries.append(name)
    return entries, next(iter(broken), None), nan


def _initializer(model: Model, name: str) -> np.ndarray | None:
    initializer = model.ir.graph.initializers.get(name)
    if initializer is None or initializer.const_value is None:
        return None
    return np.asarray(initializer.const_value.numpy())


def _may_be_infinite(model: Model, tensor: str) -> bool:
    node = model.producer(tensor)
    return node is not None and node.op in CONSTANTS | POLES


def _in_double(model: Model, feeds: Tensors, names: tuple[str, ...]) -> Tensors:
    """The outputs in double precision; none where ONNX Runtime cannot."""
    try:
        return DoubleReference(model, names).run(feeds).tensors
    except ModelError:
        return {}


def check_reproducible(bench: Bench, feeds: Tensors, first: Tensors) -> None:
    """Run the reference again if random numbers reach an output; without such a node nothing is run.

    A seed is no way out: it fixes the first run of a session only, and ONNX leaves the generator to each runtime.

    Args:
        bench: the case.
        feeds: the inputs of one sample.
        first: what the reference computed from them.

    Raises:
        ReferenceNotReproducibleError: an output differs in a single bit.
    """
    model = bench.model
    needed = needed_nodes(model, [info.name for info in model.outputs])
    drawing = [name for name in model.drawing_nodes if name in needed]
    if not drawing:
        return
    for _ in range(REDRAWS):
        again = bench.reference.run(feeds)
        for name, value in first.items():
            if not _same(value, again[name]):
                behind = needed_nodes(model, [name])
                nodes = [(node, model.node(node).op) for node in drawing if node in behind]
                raise ReferenceNotReproducibleError(bench.where, tensor=name, nodes=nodes)


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

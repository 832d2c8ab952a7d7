"""Whether a reference that is not finite everywhere can be held against: infinities that a model means can.

A language model that masks its logits gives −inf by intent. An infinity of an output is meant where

- the model in double precision gives the same one at the same place, so that no number of FP32 was too large, and
- it enters by an input, by a constant, or where a function has a pole (log 0, 1/0): no node that it is computed from
  makes infinities of finite numbers, which in double precision may be too large, too.

NaN is never meant. All this is looked at only where an output is not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from harness.backends import DoubleReference, Reference
from harness.errors import ModelError, ReferenceNotFiniteError
from harness.model import Model, needed_nodes

CONSTANTS = frozenset({"Constant", "ConstantOfShape"})
POLES = frozenset({"Log", "Div", "Reciprocal", "Atanh"})
"""Operators that are infinite for some finite numbers, whatever the precision."""

Tensors = Mapping[str, np.ndarray]
Chunked = Callable[[Sequence[str]], Iterable[Sequence[str]]]


def check_finite(
    model: Model,
    reference: Reference,
    feeds: Tensors,
    outputs: Tensors,
    where: str,
    chunked: Chunked,
    own: Callable[[str], str | None],
) -> None:
    """See that the outputs of the reference are finite, but for infinities that the model means.

    Args:
        model: the model.
        reference: its reference.
        feeds: the inputs.
        outputs: what the reference computed from them.
        where: the case, for the message.
        chunked: splits tensors into chunks that fit into memory together.
        own: says of a tensor that it overflows the model's own float16 or bfloat16, or None.

    Raises:
        ReferenceNotFiniteError: an output has NaN, or an infinity that is not meant.
    """
    broken = {
        name: value
        for name, value in outputs.items()
        if value.dtype.kind == "f" and not np.isfinite(value).all()
    }
    if not broken:
        return
    entries, first = _entries(model, reference, feeds, broken, chunked)
    overflowing = [name for name in entries if not _may_be_infinite(model, name)]
    wide = {} if overflowing else _in_double(model, feeds, tuple(broken))
    for name, value in broken.items():
        wrong = ~np.isfinite(value)
        if name in wide:
            wrong &= wide[name] != value  # NaN is equal to nothing
        if wrong.any():
            start = next(iter([*overflowing, *entries]), None) or first or name
            count = int(wrong.sum())
            raise ReferenceNotFiniteError(where, tensor=name, first_tensor=start, count=count, own=own(start))


def _entries(
    model: Model, reference: Reference, feeds: Tensors, outputs: Iterable[str], chunked: Chunked
) -> tuple[list[str], str | None]:
    """The tensors that are not finite although all that their node reads is; and the first that is not finite."""
    needed = needed_nodes(model, outputs)
    written = [name for node in model.nodes if node.name in needed for name in node.outputs]
    tensors = [name for name in written if model.dtypes.get(name) == "float32" or name in model.own_tensors]
    broken: dict[str, None] = {}
    for chunk in chunked(tensors):
        values = reference.run(feeds, chunk)
        broken |= dict.fromkeys(name for name in chunk if not np.isfinite(values[name]).all())

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
    return entries, next(iter(broken), None)


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

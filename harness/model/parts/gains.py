"""How large the slices of a tensor are beside each other, by the constants that they are computed with.

A product with a weight of which one row is a hundredth of the others writes a channel that is a hundredth of the
others, and what rounding leaves there is a hundredth, too. So it is for a Mul by a constant, a norm's scale, and what
passes values on. Where a slice is small because its numbers cancel, no constant says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import onnx
from onnx import helper

from harness.model.model import Model
from harness.model.own_roundings import Constants

_BLOCK = 1 << 15  # numbers that fit the cache of a core
PASSES_ON = frozenset({"Identity", "Cast", "Relu", "LeakyRelu", "Dropout", "Clip"})


@dataclass(frozen=True)
class Gains:
    """What the slices along one axis are multiplied by.

    Args:
        axis: the axis, from the front.
        factors: one for each slice, 0 or more; only their ratios mean something.
        offsets: the magnitude of what is added to each.
    """

    axis: int
    factors: tuple[float, ...]
    offsets: tuple[float, ...]


_KNOWN: WeakKeyDictionary[Model, tuple[Constants, dict[str, Gains | None]]] = WeakKeyDictionary()


class _UnknownError(Exception):
    """The gains of a tensor are needed first: a chain of thousands of nodes is deeper than calls may be."""

    def __init__(self, tensor: str) -> None:
        self.tensor = tensor


def gains_of(model: Model, tensor: str) -> Gains | None:
    """The gains of `tensor`, which a node of the main graph writes; None where no constant tells its slices apart."""
    if model not in _KNOWN:  # not setdefault, which would look at all nodes for every tensor
        _KNOWN[model] = (Constants(model.ir), {})
    constants, known = _KNOWN[model]
    wanted = [] if tensor in known else [tensor]
    while wanted:
        try:
            known[wanted[-1]] = _find(model, constants, wanted[-1], known)
        except _UnknownError as error:
            wanted.append(error.tensor)
        else:
            wanted.pop()
    return known[tensor]


def _find(model: Model, constants: Constants, tensor: str, known: Mapping[str, Gains | None]) -> Gains | None:
    rank = len(model.shapes.get(tensor, ()))
    node = model.producer(tensor)
    made = None if node is None or node.domain or not rank else _OPERATORS.get(node.op)
    if node is None or made is None:
        return None
    gains = made(_Finding(model, constants, known, model.skeleton.graph.node[node.index], rank))
    return None if gains is None or len(gains.factors) < 2 or max(gains.factors) == 0 else gains


@dataclass(frozen=True)
class _Finding:
    model: Model
    constants: Constants
    known: Mapping[str, Gains | None]
    node: onnx.NodeProto
    rank: int

    def constant(self, place: int) -> np.ndarray | None:
        """The values of a constant input, in float64."""
        value = self.weight(place)
        return None if value is None else value.astype(np.float64)

    def weight(self, place: int) -> np.ndarray | None:
        """The values of a constant input, as they are."""
        name = self.node.input[place] if len(self.node.input) > place else ""
        value = self.constants.get(name) if name else None
        return None if value is None else np.asarray(value)

    def behind(self, place: int = 0) -> Gains | None:
        """The gains of an input."""
        tensor = self.node.input[place]
        if tensor not in self.known:
            raise _UnknownError(tensor)
        return self.known[tensor]

    @property
    def attributes(self) -> Mapping[str, object]:
        return {each.name: helper.get_attribute_value(each) for each in self.node.attribute}

    def along(self, values: np.ndarray) -> tuple[int, np.ndarray] | None:
        """The one axis of the result along which a constant differs, and its values there."""
        if values.ndim > self.rank or values.ndim == 0:
            return None
        shape = (1,) * (self.rank - values.ndim) + values.shape
        axes = [axis for axis, length in enumerate(shape) if length > 1]
        return (axes[0], values.reshape(-1)) if len(axes) == 1 else None


def _made(axis: int, factors: np.ndarray, offsets: np.ndarray | None = None) -> Gains | None:
    offsets = np.zeros(len(factors)) if offsets is None else np.abs(offsets).reshape(-1)
    factors = np.abs(factors)
    if len(offsets) != len(factors) or not (np.isfinite(factors).all() and np.isfinite(offsets).all()):
        return None
    return Gains(axis, tuple(factors.tolist()), tuple(offsets.tolist()))


def _scaled(found: _Finding, axis: int, by: np.ndarray, offsets: np.ndarray | None = None) -> Gains | None:
    """What is behind input 0, times `by` along `axis`, and something added."""
    by, before = np.abs(by), found.behind()
    if before is None or before.axis != axis or len(before.factors) != len(by):
        return _made(axis, by, offsets)
    added = np.array(before.offsets) * by + (0.0 if offsets is None else np.abs(offsets))
    return _made(axis, np.array(before.factors) * by, added)


def _passed_on(found: _Finding) -> Gains | None:
    return found.behind()


def _transposed(found: _Finding) -> Gains | None:
    before, perm = found.behind(), found.attributes.get("perm", list(range(found.rank))[::-1])
    if before is None:
        return None
    return Gains(list(perm).index(before.axis), before.factors, before.offsets)  # type: ignore[call-overload]


def _multiplied(found: _Finding) -> Gains | None:
    place = next((place for place in (1, 0) if found.constant(place) is not None), None)
    if place is None or (found.node.op_type == "Div" and place == 0):
        return None
    values = found.constant(place)
    assert values is not None
    if values.size == 1:
        before = found.behind(1 - place)
        size = abs(float(values.reshape(-1)[0])) ** (-1 if found.node.op_type == "Div" else 1)
        if before is None or not np.isfinite(size):
            return before
        return Gains(before.axis, before.factors, tuple(each * size for each in before.offsets))
    along = found.along(values)
    if along is None or place == 0:
        return None if along is None else _made(*along)
    with np.errstate(divide="ignore"):
        return _scaled(found, along[0], 1 / along[1] if found.node.op_type == "Div" else along[1])


def _added(found: _Finding) -> Gains | None:
    place = next((place for place in (1, 0) if found.constant(place) is not None), None)
    before = None if place is None else found.behind(1 - place)
    if before is None or place is None:
        return None
    values = found.constant(place)
    assert values is not None
    if values.size == 1:
        return _made(
            before.axis, np.array(before.factors), np.array(before.offsets) + abs(values.reshape(-1)[0])
        )
    along = found.along(values)
    if along is None or along[0] != before.axis or len(along[1]) != len(before.factors):
        return None
    return _made(before.axis, np.array(before.factors), np.array(before.offsets) + np.abs(along[1]))


def _lengths(rows: np.ndarray) -> np.ndarray:
    """The Euclidean length of each row, in float64, some rows at a time."""
    if not rows.size:
        return np.zeros(len(rows))
    step = max(1, _BLOCK // rows.shape[1])
    blocks = (rows[start : start + step].astype(np.float64) for start in range(0, len(rows), step))
    lengths: np.ndarray = np.sqrt(np.concatenate([np.vecdot(block, block) for block in blocks]))
    return lengths


def _convolved(found: _Finding) -> Gains | None:
    weight = found.weight(1)
    if weight is None or weight.ndim < 3:
        return None
    if found.node.op_type == "ConvTranspose":
        group = int(str(found.attributes.get("group", 1)))
        split = weight.reshape(group, weight.shape[0] // group, weight.shape[1], -1)
        sizes = _lengths(split.transpose(0, 2, 1, 3).reshape(group * weight.shape[1], -1))
    else:
        sizes = _lengths(weight.reshape(len(weight), -1))
    return _made(1, sizes, found.constant(2))


def _gemm(found: _Finding) -> Gains | None:
    weight = found.weight(1)
    if weight is None:
        return None
    rows = weight if found.attributes.get("transB", 0) else weight.T
    added = found.constant(2)
    fits = added is not None and added.size == len(rows)
    return _made(1, _lengths(rows), added if fits else None)


def _product(found: _Finding) -> Gains | None:
    weight = found.weight(1)
    if weight is None or weight.ndim != 2 or found.rank < 2:
        return None
    return _made(found.rank - 1, _lengths(weight.T))


def _batch_norm(found: _Finding) -> Gains | None:
    scale, bias, mean, variance = map(found.constant, (1, 2, 3, 4))
    if scale is None or bias is None or mean is None or variance is None:
        return None
    epsilon = float(str(found.attributes.get("epsilon", 1e-5)))
    by = scale / np.sqrt(np.maximum(variance, 0) + epsilon)
    return _scaled(found, 1, by, np.abs(bias) + np.abs(by * mean))


def _layer_norm(found: _Finding) -> Gains | None:
    scale = found.constant(1)
    if scale is None or scale.ndim != 1:
        return None
    return _made(found.rank - 1, scale, found.constant(2))


_OPERATORS: Mapping[str, Callable[[_Finding], Gains | None]] = {
    **dict.fromkeys(PASSES_ON, _passed_on),
    "Transpose": _transposed,
    "Mul": _multiplied,
    "Div": _multiplied,
    "Add": _added,
    "Sub": _added,
    "Conv": _convolved,
    "ConvTranspose": _convolved,
    "Gemm": _gemm,
    "MatMul": _product,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
}

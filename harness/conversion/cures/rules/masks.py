"""Masks of −inf or of the lowest float before a Softmax: numbers that 16 bits hold, and whose sums they hold.

A mask that is chosen (`Where(keep, scores, low)`) gets the safe number. One that is added gets twice that, and the sum
is bounded by the safe number: so a row that is masked throughout is even, as where the lowest float absorbs the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import onnx_ir as ir

from harness.case import MaskFill
from harness.conversion.cures.applying import with_shapes
from harness.conversion.cures.building import given
from harness.conversion.cures.cure import Transformed
from harness.model import Model, guess_fills

#: exp(−10000 + any logit that 16 bits hold without harm) is 0 in FP32, as exp(−inf) is.
SAFE = -1e4
_ADDED = 2 * SAFE
_MASKING = -1e9
_MOVES = frozenset(
    {
        "Cast",
        "CastLike",
        "Expand",
        "Identity",
        "Reshape",
        "Slice",
        "Squeeze",
        "Tile",
        "Transpose",
        "Trilu",
        "Unsqueeze",
    }
)
"""Operators that hand on elements of their first input."""
_ATTENTION_MASK = 3
_TO_SOFTMAX = _MOVES | {"Add", "Concat", "Max", "Where"}


@dataclass
class _Uses:
    """Where a masking number goes.

    Args:
        switches: inputs of the model that are masks of 0 and 1.
        chosen: inputs that stand beside scores in a Where or a Max.
        added: nodes that add a mask to scores.
        multiplied: whether a switch that depends on inputs multiplies it on the way.
    """

    switches: frozenset[str]
    chosen: set[tuple[ir.Node, int]] = field(default_factory=set)
    added: set[ir.Node] = field(default_factory=set)
    multiplied: bool = False


class Breaks(StrEnum):
    """What becomes NaN where a number that masks is infinite."""

    NOTHING = "nothing"
    """The mask is made of constants, and leaves something in each row."""
    ROWS = "rows"
    """Rows that are masked throughout."""
    PRODUCT = "product"
    """Its product with a mask that is 0."""
    RAISED = "raised"
    """Rows with a score that it raises."""


@dataclass(frozen=True)
class MaskingNumber:
    """A large constant that lowers scores before a Softmax, or raises them, and the node that reads or repeats it.

    Args:
        node: name of the node.
        value: the largest of its finite numbers, by magnitude.
        breaks: what becomes NaN where it is infinite.
    """

    node: str
    value: float
    breaks: Breaks


@dataclass(frozen=True)
class _Masking:
    """A constant that masks: the node that reads it, as which input (-1: it repeats it), and where it goes."""

    node: ir.Node
    index: int
    turned: bool
    values: np.ndarray
    uses: _Uses
    raises: bool = False


def masking_numbers(model: Model) -> tuple[MaskingNumber, ...]:
    """Every large finite number that lowers scores or raises them, where all that it comes to is a Softmax."""
    found = []
    for each in _masking(with_shapes(model), switches_of(model), raising=True):
        finite = each.values[np.isfinite(each.values)].astype(np.float64)
        if finite.size:
            largest = float(finite[np.abs(finite).argmax()])
            found.append(MaskingNumber(str(each.node.name), largest, _breaks(each)))
    return tuple(found)


def _breaks(masking: _Masking) -> Breaks:
    uses = masking.uses
    if uses.multiplied:
        return Breaks.PRODUCT
    if masking.raises:
        return Breaks.RAISED
    masks = [each for node in uses.added for each in node.inputs if _is_mask(each, uses.switches)]
    masks += [node.inputs[index] for node, index in uses.chosen if node.op_type == "Attention"]
    rows = [_masks_a_row(each, lambda values: values.astype(np.float32) < SAFE) for each in masks]
    where = [(node.inputs[0], index == 1) for node, index in uses.chosen if node.op_type == "Where"]
    rows += [_masks_a_row(each, np.asarray if taken else np.logical_not) for each, taken in where]
    return Breaks.ROWS if any(rows) else Breaks.NOTHING


def _masks_a_row(mask: ir.Value | None, is_masked: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Whether a mask may leave nothing in a row: a constant that is known does or does not, what is computed from
    constants and sizes alone is made not to, and of what depends on inputs nobody knows."""
    tensor = None if mask is None else ir.convenience.get_const_tensor(mask)
    if tensor is None:
        return _depends_on_inputs(mask)
    values = tensor.numpy()
    return bool(values.ndim and values.size and is_masked(values).all(axis=-1).any())


def _depends_on_inputs(value: ir.Value | None) -> bool:
    """Whether a value is computed from what inputs hold, not from constants and sizes alone."""
    waiting, seen = [value] if value is not None else [], set()
    while waiting:
        each = waiting.pop()
        node = each.producer()
        if each in seen or each.is_initializer() or (node is not None and node.op_type in ("Shape", "Size")):
            continue
        if node is None:
            return True
        seen.add(each)
        waiting += [source for source in node.inputs if source is not None]
    return False


def safe_masks(model: Model, refused: frozenset[str] | None) -> Transformed | None:
    """Every number that masks, where all that it comes to is a Softmax."""
    graph = with_shapes(model)
    lowered = list(_masking(graph, switches_of(model)))
    if not lowered:
        return None
    chosen = set().union(*(each.uses.chosen for each in lowered))
    added = dict.fromkeys(node for each in lowered for node in each.uses.added)
    for each in lowered:
        number = SAFE if (each.node, each.index) in chosen else _ADDED
        _lower(graph.graph, each.node, each.index, number, turned=each.turned)
    for node in added:
        _bound(graph.graph, node)
    names = [str(each.node.name) for each in lowered] + [str(node.name) for node in added]
    return Transformed(graph, tuple(dict.fromkeys(names)))


def _masking(graph: ir.Model, switches: frozenset[str], *, raising: bool = False) -> Iterator[_Masking]:
    """The constants that mask; with `raising`, also those that raise what is left."""
    for node in graph.graph:
        if node.op_type == "ConstantOfShape":
            values, uses = _filled(node), _Uses(switches)
            if values is not None and _masks(values) and _follow(node.outputs[0], uses, set()):
                yield _Masking(node, -1, False, values, uses)
            continue
        for index, value in enumerate(node.inputs):
            values = None if value is None else _constant(value)
            if values is None:
                continue
            turned = node.op_type == "Mul" and is_less_one(node.inputs[1 - index], switches)
            uses = _Uses(switches)
            raises = not _masks(-values if turned else values)
            large = not raises or (raising and _masks(values if turned else -values))
            if large and _reaches(node, index, uses, turned=turned):
                yield _Masking(node, index, turned, values, uses, raises)


def switches_of(model: Model) -> frozenset[str]:
    """Names of the inputs that are meant to be masks of 0 and 1."""
    return frozenset(name for name, fill in guess_fills(model).items() if isinstance(fill, MaskFill))


def _constant(value: ir.Value) -> np.ndarray | None:
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None or value.dtype not in _FLOATS else tensor.numpy()


_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def _filled(node: ir.Node) -> np.ndarray | None:
    value = node.attributes.get("value")
    return None if value is None or value.as_tensor().dtype not in _FLOATS else value.as_tensor().numpy()


def _masks(values: np.ndarray | None) -> bool:
    """Whether these mask, or leave numbers as they are nearly: nothing between."""
    if values is None:
        return False
    lowest = (
        _MASKING
        if values.dtype.itemsize > 2 or values.dtype.kind == "V"
        else float(np.finfo(values.dtype).min)
    )
    wide = values.astype(np.float32)
    return bool(np.any(wide <= lowest) and np.all((wide <= lowest) | (wide >= SAFE)))


def _reaches(node: ir.Node, index: int, uses: _Uses, *, turned: bool) -> bool:
    """Whether a masking number that `node` reads masks scores, and nothing else; where is noted in `uses`.

    Args:
        node: reads it.
        index: as this input.
        uses: gets where.
        turned: whether it is positive, and times mask − 1.
    """
    if not turned:
        return _passes(node, index, uses, set())
    uses.multiplied = any(map(_depends_on_inputs, node.inputs))
    return _follow(node.outputs[0], uses, set())


def _follow(value: ir.Value, uses: _Uses, seen: set[ir.Value]) -> bool:
    """Whether all that a mask comes to is scores that a Softmax reads."""
    if value in seen:
        return True
    seen.add(value)
    return (
        not value.is_graph_output()
        and all(_passes(node, index, uses, seen) for node, index in value.uses())
        and bool(value.uses())
    )


def _passes(node: ir.Node, index: int, uses: _Uses, seen: set[ir.Value]) -> bool:
    if node.op_type in _MOVES:
        return index == 0 and _follow(node.outputs[0], uses, seen)
    if node.op_type == "Concat":
        return _are_masks(node.inputs, uses) and _follow(node.outputs[0], uses, seen)
    others = [each for place, each in enumerate(node.inputs) if place != index and each is not None]
    if node.op_type == "Where" and index:
        if _is_mask(other := node.inputs[3 - index], uses.switches) or is_switch(other, uses.switches):
            return _follow(node.outputs[0], uses, seen)
    elif node.op_type == "Add":
        if _are_masks(others, uses):
            return _follow(node.outputs[0], uses, seen)
        uses.added.add(node)
        return _only_softmax(node.outputs[0], set())
    elif node.op_type == "Mul":
        uses.multiplied |= any(map(_depends_on_inputs, others))
        return all(is_switch(each, uses.switches) for each in others) and _follow(node.outputs[0], uses, seen)
    elif node.op_type == "Equal":
        return _are_masks(others, uses)
    elif node.op_type == "Attention":
        return index == _ATTENTION_MASK
    elif node.op_type != "Max":
        return False
    uses.chosen.add((node, index))
    return _only_softmax(node.outputs[0], set())


def _only_softmax(value: ir.Value, seen: set[ir.Value]) -> bool:
    if value in seen:
        return True
    seen.add(value)
    if value.is_graph_output() or not value.uses():
        return False
    return all(
        (node.op_type == "Softmax" and not _is_guarded(node))
        or (node.op_type in _TO_SOFTMAX and all(_only_softmax(output, seen) for output in node.outputs))
        for node, _ in value.uses()
    )


def _is_guarded(softmax: ir.Node) -> bool:
    """Whether the model looks for the rows of NaN that a mask of −inf throughout gives: then it is meant."""
    return any(reader.op_type == "IsNaN" for reader, _ in softmax.outputs[0].uses())


def _are_masks(values: Sequence[ir.Value | None], uses: _Uses) -> bool:
    return all(_is_mask(value, uses.switches) for value in values)


def _is_mask(value: ir.Value | None, switches: frozenset[str]) -> bool:
    """Whether a value is made of constants and of what switches them, and not of scores."""
    if value is None:
        return False
    if ir.convenience.get_const_tensor(value) is not None:
        return True
    node = value.producer()
    if node is None:
        return False
    inputs = node.inputs
    if node.op_type == "ConstantOfShape":
        return True
    if node.op_type in _MOVES:
        return _is_mask(inputs[0], switches)
    if node.op_type == "Where":
        return all(_is_mask(each, switches) or is_switch(each, switches) for each in inputs[1:])
    if node.op_type in ("Add", "Concat"):
        return all(_is_mask(each, switches) for each in inputs)
    return node.op_type == "Mul" and any(
        _is_mask(one, switches) and (is_switch(other, switches) or is_less_one(other, switches))
        for one, other in (inputs, reversed(inputs))
    )


def is_switch(value: ir.Value | None, switches: frozenset[str]) -> bool:
    """Whether a value is meant to be 0 or 1: a mask of the user, as it is or inverted."""
    if value is None:
        return False
    node = value.producer()
    if node is None:
        return value.name in switches
    source = given(node, 0)
    if node.op_type == "Sub":
        return _constant_one(source) and is_switch(node.inputs[1], switches)
    if node.op_type == "Cast" and source is not None and source.dtype == ir.DataType.BOOL:
        return True
    return node.op_type in _MOVES and is_switch(source, switches)


def is_less_one(value: ir.Value | None, switches: frozenset[str]) -> bool:
    """Whether a value is meant to be 0 or −1: a mask of the user less 1."""
    node = None if value is None else value.producer()
    if node is None:
        return False
    if node.op_type == "Sub":
        return _constant_one(node.inputs[1]) and is_switch(node.inputs[0], switches)
    if node.op_type == "Neg":
        return is_switch(node.inputs[0], switches)
    return node.op_type in _MOVES and is_less_one(given(node, 0), switches)


def _constant_one(value: ir.Value | None) -> bool:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return tensor is not None and bool(np.all(np.asarray(tensor.numpy(), np.float64) == 1))


def _lower(graph: ir.Graph, node: ir.Node, index: int, number: float, *, turned: bool) -> None:
    """Write `number` for what masks in an input of `node`; −1: in the constant that it repeats.

    Where it is `turned` the sign of both is.
    """
    if index < 0:
        filled = _filled(node)
        assert filled is not None
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.full_like(filled, number)))
        return
    value = node.inputs[index]
    assert value is not None
    values = _constant(value)
    assert values is not None
    wide = values.astype(np.float32)
    safe = np.where(wide > -SAFE, -number, wide) if turned else np.where(wide < SAFE, number, wide)
    safe = safe.astype(values.dtype)
    tensor = ir.tensor(safe, dtype=value.dtype)
    constant = ir.node("Constant", [], {"value": tensor}, name=f"{node.name}/safe_{index}")
    constant.outputs[0].dtype, constant.outputs[0].shape = tensor.dtype, ir.Shape(safe.shape)
    graph.insert_before(node, constant)
    node.replace_input_with(index, constant.outputs[0])


def _bound(graph: ir.Graph, node: ir.Node) -> None:
    """Bound the sum of scores and a mask by the number that masks."""
    total = node.outputs[0]
    assert total.dtype is not None
    array = np.asarray(SAFE, total.dtype.numpy())
    low = ir.node("Constant", [], {"value": ir.tensor(array, dtype=total.dtype)}, name=f"{node.name}/lowest")
    bounded = ir.node("Max", [total, low.outputs[0]], name=f"{node.name}/bounded")
    bounded.outputs[0].dtype, bounded.outputs[0].shape = total.dtype, total.shape
    graph.insert_after(node, [low, bounded])
    for reader, index in list(total.uses()):
        if reader is not bounded:
            reader.replace_input_with(index, bounded.outputs[0])

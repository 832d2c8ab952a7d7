"""The parts of a tensor that only moves data: where each element of it was before it was joined with others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from harness.model.model import Model

RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
KEEPS = frozenset({"Identity", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear"})
"""Shape and order stay; a pair of Q and DQ moves what it rounds."""
MOVES = RESHAPES | KEEPS | {"Concat", "Transpose", "Slice", "Split"}
LARGEST = 1 << 26
"""A tensor of more elements is not taken apart: its map would take half a gigabyte."""

Read = Callable[[Sequence[str]], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Part:
    """A tensor that another one holds, as it was.

    Args:
        tensor: its name, as the Concat that joins it reads it; where it is flat there, as it was before.
        shape: its shape there.
        places: for each of its elements, the flat index in the tensor that holds it; int64.
    """

    tensor: str
    shape: tuple[int, ...]
    places: np.ndarray = field(repr=False, compare=False)

    def of(self, values: np.ndarray) -> np.ndarray:
        """The part of `values`, in its own shape."""
        taken: np.ndarray = values.reshape(-1)[self.places].reshape(self.shape)
        return taken


def parts_of(model: Model, tensor: str, read: Read) -> tuple[Part, ...]:
    """The parts of `tensor`; none if it is computed, or was neither joined nor reshaped.

    Args:
        model: the model.
        tensor: its name.
        read: tensors by name, for shapes and for the inputs of Slice.
    """
    leaves, nodes = _walk(model, tensor)
    moved = {name: label for name, label in leaves.items() if name not in model.ir.graph.initializers}
    joined = any(node.op_type == "Concat" for node in nodes)
    if not nodes or not (joined or any(node.op_type in RESHAPES for node in nodes)):
        return ()
    arrays = read(list(dict.fromkeys([*leaves, *_others(nodes)])))
    whole, first = arrays[tensor], arrays[next(iter(leaves))]
    if whole.size > LARGEST or (not joined and _squeezed(whole.shape) == _squeezed(first.shape)):
        return ()
    offsets, start, maps = {}, 0, {}
    for name in leaves:
        count = arrays[name].size
        offsets[name], maps[name] = start, np.arange(start, start + count).reshape(arrays[name].shape)
        start += count
    for node in reversed(nodes):
        _move(node, maps, arrays)
    codes, parts = maps[tensor].reshape(-1), []
    for name, label in moved.items():
        places = np.flatnonzero((codes >= offsets[name]) & (codes < offsets[name] + arrays[name].size))
        taken, shape = codes[places] - offsets[name], arrays[name].shape
        if _tells_as_much(maps[label].shape, shape) and maps[label].size == arrays[name].size:
            order = np.empty(maps[label].size, np.int64)
            order[maps[label].reshape(-1) - offsets[name]] = np.arange(order.size)
            taken, name, shape = order[taken], label, maps[label].shape
        part = _part(name, shape, taken, places)
        parts += [] if part is None else [part]
    return tuple(parts)


def is_joined(model: Model, tensor: str) -> bool:
    """Whether a Concat joined `tensor` of others, and it was only moved since: else `parts_of` gives no two parts."""
    return any(node.op_type == "Concat" for node in _walk(model, tensor)[1])


def _walk(model: Model, tensor: str) -> tuple[dict[str, str], list[onnx.NodeProto]]:
    """Leaves with their labels, and the nodes that move, the last one first."""
    protos = model.skeleton.graph.node
    leaves: dict[str, str] = {}
    nodes: dict[int, onnx.NodeProto] = {}
    stack = [(tensor, "")]
    while stack:
        name, label = stack.pop()
        producer = model.producer(name)
        proto = None if producer is None else protos[producer.index]
        if producer is None or proto is None or proto.op_type not in MOVES or producer.domain:
            leaves.setdefault(name, label or name)
            continue
        nodes[producer.index] = proto
        joins = proto.op_type == "Concat"
        reads = list(proto.input) if joins else [proto.input[0]]
        stack += [(each, each if joins else label) for each in reversed(reads)]
    return leaves, [nodes[index] for index in sorted(nodes, reverse=True)]


def _others(nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    """What must be read beside the leaves: outputs, for their shapes, and the bounds of slices."""
    for node in nodes:
        yield from (name for name in node.output[: None if node.op_type == "Split" else 1] if name)
        if node.op_type == "Slice":
            yield from (name for name in node.input[1:] if name)


def _move(node: onnx.NodeProto, maps: dict[str, np.ndarray], arrays: Mapping[str, np.ndarray]) -> None:
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    values = maps[node.input[0]]
    written = node.output[0]
    if node.op_type == "Concat":
        maps[written] = np.concatenate([maps[name] for name in node.input], axis=attributes["axis"])
    elif node.op_type == "Transpose":
        maps[written] = np.transpose(values, attributes.get("perm"))
    elif node.op_type == "Slice":
        maps[written] = values[_bounds(node, attributes, values.ndim, arrays)]
    elif node.op_type == "Split":
        axis, start = attributes.get("axis", 0), 0
        for name in filter(None, node.output):
            length = arrays[name].shape[axis]
            maps[name] = np.take(values, np.arange(start, start + length), axis=axis)
            start += length
    else:
        maps[written] = values.reshape(arrays[written].shape)


def _bounds(
    node: onnx.NodeProto, attributes: Mapping[str, Sequence[int]], rank: int, arrays: Mapping[str, np.ndarray]
) -> tuple[slice, ...]:
    def numbers(place: int, name: str) -> list[int] | None:
        if name in attributes:
            return list(attributes[name])
        given = len(node.input) > place and node.input[place]
        return [int(each) for each in arrays[node.input[place]].reshape(-1)] if given else None

    starts, ends = numbers(1, "starts") or [], numbers(2, "ends") or []
    axes = numbers(3, "axes") or list(range(len(starts)))
    steps = numbers(4, "steps") or [1] * len(starts)
    taken = [slice(None)] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        far = step < 0 and end < -(1 << 30)
        taken[axis] = slice(start, None if far else end, step)
    return tuple(taken)


def _part(label: str, shape: tuple[int, ...], codes: np.ndarray, places: np.ndarray) -> Part | None:
    """The part whose elements `codes` (flat indices in it) are at `places`; what was cut away is left out."""
    if not codes.size:
        return None
    order = np.argsort(codes, kind="stable")
    codes, places = codes[order], places[order]
    if codes.size < math.prod(shape):
        lengths = tuple(np.unique(axis).size for axis in np.unravel_index(codes, shape))
        shape = lengths if math.prod(lengths) == codes.size else (codes.size,)
    elif codes.size > math.prod(shape):  # it stands there more than once
        shape = (codes.size,)
    return Part(label, shape, places)


def _tells_as_much(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Whether a tensor of `shape` still has the axes that matter of one of shape `other`: it was not made flat."""
    return len(_squeezed(shape)) >= min(2, len(_squeezed(other)))


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)

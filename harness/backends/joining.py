"""The ONNX names of tensors that an engine calls by names of its own: debug tensors at the borders of kernels.

A kernel says which nodes it computes and which tensors it reads and writes. So what it writes for another kernel is
what its nodes write for nodes of that kernel, if only one tensor is that. A node in several kernels is written by the
last of them; what no kernel names was folded, or is computed by kernels that name nothing. Nothing is guessed: a
tensor has no ONNX name where two are possible, or where it has another size.

Debug tensors have the order of their shape, however they lie in memory: TensorRT for RTX gives those between
convolutions, which lie there by channels last, with channels second. (On an H200 with 1.4 and 1.6, all 342 tensors of
four axes in 11 models agreed with the reference so, but for those from a GridSample on that 1.4 computes wrongly.)
Where a kernel has joined axes, these may be in another order: from the second fused attention of a network on, 1.4 and
1.6 carry [48, 64] as 24 × 2 × 64 where the model has 2 × 24 × 64. No kernel says so, and the values do: see `arrange`.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.model import Model, NodeInfo
from harness.worker.protocol import Kernel, KernelList, KernelTensor, tensor_in

#: They give on what they read, in another shape at most.
_GIVING_ON = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})
#: These do, too, where the other operand is this.
_NEUTRAL = {"Mul": 1.0, "Div": 1.0, "Add": 0.0, "Sub": 0.0}

Shapes = Mapping[str, Sequence[int | str | None]]
ALIKE = 0.1
"""A tensor that errs by at most this nrmse is in the order that it is read in."""
APART = 0.5
"""One that errs by this nrmse in every order has no known one, if its values are right when they are sorted."""
BETTER = 4
"""Another order than that of the reference must be so many times better."""


def onnx_names(kernels: KernelList | None, model: Model, shapes: Shapes) -> dict[str, tuple[str, ...]]:
    """The ONNX tensors that each engine tensor is, by the engine's name; the first is what its kernel writes.

    Args:
        kernels: of the engine.
        model: the model that it was built from; nodes that only a typed graph has do not count.
        shapes: of the model's tensors, as far as they are known.
    """
    if kernels is None:
        return {}
    graph = _Graph(kernels.kernels, model, shapes)
    found = dict(graph.joined())
    claims = Counter(found.values())
    joined = {
        name: (tensor, *graph.given_on(tensor)) for name, tensor in found.items() if claims[tensor] == 1
    }
    short = Counter(tensor_in(tensor.name) for kernel in kernels.kernels for tensor in kernel.outputs)
    for name, tensors in tuple(joined.items()):
        without = tensor_in(name)
        if short[without] == 1 and without not in model.dtypes:
            joined[without] = tensors
    return joined


def as_shaped(value: np.ndarray, shape: Sequence[int | str | None] | None) -> np.ndarray | None:
    """`value` in this shape, if kernels only joined or parted axes that are neighbours; None if they did more."""
    return value.reshape(_sizes(shape)) if _fits(value.shape, shape) else None


def joins_axes(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether axes longer than one of `wanted` are one axis in `shape`."""
    return _edges(shape) < _edges(wanted)


def arrange(value: np.ndarray, reference: np.ndarray, shape: Sequence[int]) -> np.ndarray | None:
    """`value` in the order of `reference`; None if nobody can say in which order it is.

    Where it is right in the order of the reference, or in another one, it is in that. Where it errs in every order, and
    its values are right when they are sorted, its order is unknown. Else it is taken to be wrong.

    Args:
        value: of an engine, in the shape of the reference.
        reference: what it should be.
        shape: as the engine gave it, with axes joined.
    """
    exact, found = reference.astype(np.float64), np.asarray(value, np.float64)
    error = _nrmse(found, exact)
    if error <= ALIKE or not np.isfinite(found).any():
        return value
    for order in itertools.permutations(range(exact.ndim)):
        sizes = [exact.shape[axis] for axis in order]
        if _edges(shape) <= _edges(sizes):
            back = np.argsort(order)
            if _nrmse(found.reshape(sizes).transpose(back), exact) <= min(ALIKE, error / BETTER):
                return value.reshape(sizes).transpose(back)
    alike = _nrmse(np.sort(found, axis=None), np.sort(exact, axis=None)) <= ALIKE
    return None if alike and error >= APART else value


def _nrmse(value: np.ndarray, reference: np.ndarray) -> float:
    """Over what is finite on both sides."""
    finite = np.isfinite(value) & np.isfinite(reference)
    apart, exact = value[finite] - reference[finite], reference[finite]
    power = float(np.square(exact).sum())
    return math.sqrt(float(np.square(apart).sum()) / power) if power else math.inf


@dataclass(frozen=True)
class _Graph:
    kernels: Sequence[Kernel]
    model: Model
    shapes: Shapes

    def joined(self) -> Iterator[tuple[str, str]]:
        """The engine's name and the ONNX name of each tensor where there is no doubt."""
        for place, kernel in enumerate(self.kernels):
            for tensor in kernel.outputs:
                if tensor.name not in self.model.dtypes:
                    possible = [name for name in self.written_by(place, tensor) if self.fits(name, tensor)]
                    if len(possible) == 1:
                        yield tensor.name, possible[0]

    def written_by(self, place: int, tensor: KernelTensor) -> Iterator[str]:
        """What the kernel at `place` computes last, and those that read `tensor` read."""
        inside = self.computed[place]
        reading = frozenset().union(
            *(
                nodes
                for kernel, nodes in zip(self.kernels, self.computed, strict=True)
                if any(tensor.name == each.name for each in kernel.inputs)
            )
        )
        for node in inside:
            if self.last.get(node, place) != place or not self.in_order(node, place):
                continue
            for name in filter(None, self.model.node(node).outputs):
                read_inside = inside.issuperset(self.readers.get(name, ()))
                if not read_inside and not self.read_by(name).isdisjoint(reading - inside):
                    yield name

    def fits(self, name: str, tensor: KernelTensor) -> bool:
        """Whether `tensor` may be `name`, which is no output of the model, by their sizes as far as they are known."""
        if any(name == info.name for info in self.model.outputs):
            return False
        open_ = min(tensor.shape, default=0) < 0 or name not in self.shapes
        return open_ or _fits(tensor.shape, self.shapes[name])

    def in_order(self, node: str, place: int) -> bool:
        """Whether nothing that `node` is computed from is named by later kernels alone.

        TensorRT for RTX 1.4 moves the scale of attention behind a transposition, into the fused attention: the tensor
        between is not what the node writes.
        """
        stack, seen = [node], {node}
        while stack:
            for name in self.model.node(stack.pop()).inputs:
                before = self.model.producer(name)
                if before is None or before.name in seen:
                    continue
                seen.add(before.name)
                if before.name in self.computed[place] or before.name in self.folded:
                    stack.append(before.name)
                elif self.first.get(before.name, place) > place:
                    return False
        return True

    def given_on(self, tensor: str) -> Iterator[str]:
        """What nodes that were folded away made of `tensor`: the same values."""
        for node in self.readers.get(tensor, ()):
            if node in self.folded:
                (written,) = self.model.node(node).outputs
                yield written
                yield from self.given_on(written)

    def read_by(self, tensor: str) -> set[str]:
        """The nodes that read `tensor`, also through nodes that were folded away."""
        return {node for name in (tensor, *self.given_on(tensor)) for node in self.readers.get(name, ())}

    @cached_property
    def listed(self) -> tuple[frozenset[str], ...]:
        """The nodes that each kernel names."""
        known = {node.name for node in self.model.nodes}
        return tuple(frozenset(kernel.onnx_nodes) & known for kernel in self.kernels)

    @cached_property
    def computed(self) -> tuple[frozenset[str], ...]:
        """The nodes that each kernel may compute: of kernels that name none, all that no kernel names."""
        unnamed = self.unlisted - self.folded
        return tuple(nodes or unnamed for nodes in self.listed)

    @cached_property
    def unlisted(self) -> frozenset[str]:
        return frozenset(node.name for node in self.model.nodes).difference(*self.listed)

    @cached_property
    def folded(self) -> frozenset[str]:
        """The nodes that no kernel names, and none needs to."""
        return frozenset(name for name in self.unlisted if self._gives_on(self.model.node(name)))

    @cached_property
    def last(self) -> Mapping[str, int]:
        """By node, the place of the last kernel that names it."""
        return {node: place for place, nodes in enumerate(self.listed) for node in nodes}

    @cached_property
    def first(self) -> Mapping[str, int]:
        """By node, the place of the first kernel that names it."""
        found: dict[str, int] = {}
        for place, nodes in enumerate(self.listed):
            for node in nodes:
                found.setdefault(node, place)
        return found

    @cached_property
    def readers(self) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for node in self.model.nodes:
            for name in dict.fromkeys(node.inputs):
                found[name] = (*found.get(name, ()), node.name)
        return found

    def _gives_on(self, node: NodeInfo) -> bool:
        if node.op in _GIVING_ON:
            return len(node.outputs) == 1
        if node.op not in _NEUTRAL:
            return False
        value = self.model.ir.graph.initializers.get(node.inputs[1])
        constant = None if value is None else value.const_value
        return constant is not None and constant.size == 1 and float(constant.numpy()) == _NEUTRAL[node.op]


def _fits(shape: Sequence[int], wanted: Sequence[int | str | None] | None) -> bool:
    """Whether the one becomes the other when neighbouring axes are joined or parted."""
    if wanted is None or not all(isinstance(size, int) for size in wanted):
        return False
    few, many = sorted((_edges(shape), _edges(_sizes(wanted))), key=len)
    return few <= many and max(few) == max(many)


def _sizes(shape: Sequence[int | str | None] | None) -> tuple[int, ...]:
    return tuple(int(size or 0) for size in shape or ())


def _edges(shape: Sequence[int]) -> set[int]:
    """How many elements the last axes have together: of one, of two, …"""
    return {math.prod(shape[place:]) for place in range(len(shape) + 1)}

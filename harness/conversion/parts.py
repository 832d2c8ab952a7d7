"""Parts of a model that a compiler can be asked about: with some nodes, or without some."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import onnx

from harness.backends import Reference
from harness.errors import HarnessError, ModelError
from harness.model import Model, bodies, extract, graph_shapes, infer

Shape = tuple[int, ...]
_QUANTIZED = frozenset({"int8", "uint8", "int4", "float8_e4m3fn", "float4_e2m1fn"})


class Parts:
    """Cuts parts out of a model. Where a part begins, tensors keep their dtype, and the shape that they are fed with.

    Args:
        model: the model.
        fed: shapes of its inputs with open sizes.
        feeds: makes its inputs, where a size depends on what is in them.
    """

    def __init__(
        self,
        model: Model,
        fed: Mapping[str, Shape],
        feeds: Callable[[], Mapping[str, np.ndarray]] | None = None,
    ) -> None:
        self.model = model
        self._fed, self._feeds = fed, feeds
        self.order = tuple(node.name for node in model.nodes)

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int | str | None, ...]]:
        """Shapes of the tensors as they are when the inputs have the shapes that they are fed with."""
        if not self._fed:
            return self.model.shapes
        proto = onnx.ModelProto()
        proto.CopyFrom(self.model.skeleton)
        for value in proto.graph.input:
            dims = value.type.tensor_type.shape.dim
            for dim, size in zip(dims, self._fed.get(value.name, ()), strict=False):
                dim.dim_value = size
        del proto.graph.value_info[:]
        return {**self.model.shapes, **graph_shapes(infer(proto).graph)}

    @cached_property
    def owners(self) -> Mapping[str, str]:
        """By the name of a node, in a body too: the node of the main graph that it is, or is in."""
        found: dict[str, str] = {}
        for node in self.model.skeleton.graph.node:
            for inner in _with_bodies(node):
                found.setdefault(inner.name, node.name)
        return found | {name: name for name in self.order}

    @cached_property
    def pairs(self) -> Mapping[str, frozenset[str]]:
        """By the name of a node, those that it cannot be parted from: no engine has quantized inputs and outputs."""
        found = {name: frozenset({name}) for name in self.order}
        for node in self.model.nodes:
            for tensor in node.inputs:
                writer = self.model.producer(tensor)
                if writer is not None and self.model.dtypes.get(tensor) in _QUANTIZED:
                    merged = found[node.name] | found[writer.name]
                    found.update(dict.fromkeys(merged, merged))
        return found

    def of(self, nodes: Collection[str], label: str = "part", *, closed: bool = True) -> Model | None:
        """The part with `nodes`: what they read from elsewhere are its inputs, what others read its outputs.

        None if it computes nothing that is read, or begins with a tensor of unknown size.

        Args:
            nodes: names of nodes.
            label: ends the name of the part.
            closed: give its inputs the shapes that they are fed with; otherwise open sizes stay open.
        """
        wanted = {name for node in nodes for name in self.pairs[node]}
        inside = [node for node in self.model.nodes if node.name in wanted]
        data = self._data.difference(*(node.outputs for node in inside))
        results = {info.name for info in self.model.outputs}
        read_elsewhere = {
            name for node in self.model.nodes if node.name not in wanted for name in node.inputs
        }
        reads = dict.fromkeys(name for node in inside for name in node.inputs if name in data)
        outputs = [
            name
            for node in inside
            for name in node.outputs
            if name in results or name in read_elsewhere or name not in self._read
        ]
        shapes = {name: self._closed(name) if closed else self.model.shapes.get(name) for name in reads}
        if not outputs or (closed and None in shapes.values()):
            return None
        known = self.shapes if closed else self.model.shapes
        declared: dict[str, Sequence[int | str | None]] = {
            name: known[name] for name in outputs if name in known
        }
        declared.update((name, shape) for name, shape in shapes.items() if shape is not None)
        try:
            return extract(
                self.model, list(reads), outputs, shapes=declared, name=f"{self.model.name}-{label}"
            )
        except ModelError:
            return None

    def _closed(self, tensor: str) -> Shape | None:
        """The shape of a tensor, as it is computed where inference does not know it; None if it cannot be had."""
        shape = self.shapes.get(tensor)
        if shape is not None and all(isinstance(size, int) for size in shape):
            return tuple(size for size in shape if isinstance(size, int))
        return self._computed.get(tensor)

    @cached_property
    def _computed(self) -> Mapping[str, Shape]:
        names = [
            name
            for node in self.model.nodes
            for name in node.outputs
            if not all(isinstance(size, int) for size in self.shapes.get(name, (None,)))
        ]
        if self._feeds is None:
            return {}
        try:
            found = Reference(self.model).run(self._feeds(), names)
        except HarnessError:
            return {}
        return {name: tuple(array.shape) for name, array in found.items()}

    def without(self, nodes: Collection[str]) -> Model | None:
        """All but `nodes`: what they write are inputs."""
        left_out = {name for node in nodes for name in self.pairs[node]}
        return self.of([name for name in self.order if name not in left_out], "rest")

    def all_in(self, nodes: Collection[str]) -> bool:
        """Whether there is no node beside `nodes`, and those that they cannot be parted from."""
        return {name for node in nodes for name in self.pairs[node]}.issuperset(self.order)

    def alone(self, node: str) -> Model | None:
        """`node` with what computes the sizes and axes that it reads."""
        wanted, waiting = {node}, [node]
        while waiting:
            for name in self.model.node(waiting.pop()).inputs:
                writer = self.model.producer(name)
                if writer is not None and writer.name not in wanted and self._steers(name):
                    wanted.add(writer.name)
                    waiting.append(writer.name)
        return self.of(wanted, "alone")

    def _steers(self, tensor: str) -> bool:
        """Whether a tensor is small and of integers: it may decide a shape."""
        shape = self.shapes.get(tensor)
        return self.model.dtypes.get(tensor) in ("int64", "int32") and shape is not None and len(shape) <= 1

    @cached_property
    def _data(self) -> frozenset[str]:
        """The tensors that are fed or computed."""
        return frozenset(self.model.feed_names()).union(*(node.outputs for node in self.model.nodes))

    @cached_property
    def _read(self) -> frozenset[str]:
        return frozenset(name for node in self.model.nodes for name in node.inputs)


def _with_bodies(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    yield node
    for body in bodies(node):
        for inner in body.node:
            yield from _with_bodies(inner)

"""What is computed from sizes that are known at run time only: positions, masks and scales from a dynamic Shape.

Where every size is known when an engine is built, TensorRT folds such arithmetic in FP32. Where one is not, its float
part runs in the engine, at the precision of the engine, as arithmetic on the inputs does. What goes back to integers,
or only says how large a tensor is to be, stays exact in either case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from harness.model.analysis import NEVER_LOWERED, SHAPE_OPS, bodies, node_reads, numeric_inputs, outer_reads

# The sizes of what they write depend on what is in their inputs.
DATA_SIZED = frozenset({"NonZero", "NonMaxSuppression", "Unique", "Compress", "Loop", "Scan", "If"})
# They pass the elements of a shape on, one by one.
PASSING = frozenset({"Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten"})
Shape = tuple[int | str | None, ...]
Elements = tuple[bool, ...] | None
"""Of a flat tensor: which of its elements vary from run to run; None: any may."""


def sized_nodes(
    graph: onnx.GraphProto,
    dtypes: Mapping[str, str],
    shapes: Mapping[str, Shape],
    on_data: Iterable[str],
    fed: Iterable[str],
) -> frozenset[str]:
    """Names of the nodes that compute float32 tensors from sizes of the run, for arithmetic on the inputs.

    Args:
        graph: the main graph, with its small initializers.
        dtypes: dtype names of its tensors.
        shapes: shapes of its tensors, where they are known.
        on_data: names of the nodes that compute with what is in the inputs.
        fed: the inputs that carry run-time data.
    """
    fixed = all(isinstance(size, int) for name in fed for size in shapes.get(name, (None,)))
    if fixed and not any(node.op_type in DATA_SIZED for node in graph.node):
        return frozenset()
    data = frozenset(on_data)
    varying = _Varying(graph, shapes)
    sized = []
    for node in graph.node:
        if (node.name not in data or node.op_type in SHAPE_OPS) and varying.follow(node):
            sized.append(node)
    reached = {value.name for value in graph.output}
    for node in graph.node:
        if node.name in data and node.op_type not in SHAPE_OPS:
            reached.update(_computed_with(node))
    found = set()
    for node in reversed(sized):
        if node.op_type in NEVER_LOWERED:
            continue
        if any(dtypes.get(name) == "float32" and name in reached for name in node.output):
            found.add(node.name)
            reached.update(_computed_with(node))
    return frozenset(found)


def _computed_with(node: onnx.NodeProto) -> set[str]:
    """Names of the tensors that a node, or one in its subgraphs, computes with."""
    read = {node.input[position] for position in numeric_inputs(node)}
    return read.union(*(outer_reads(body) for body in bodies(node)))


class _Varying:
    """Which tensors hold sizes of the run, or what was computed from them; of shapes, which elements."""

    def __init__(self, graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> None:
        self._shapes = shapes
        self._found: dict[str, Elements] = {}
        self._constants = {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in graph.initializer
            if tensor.data_type in (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
        }

    def follow(self, node: onnx.NodeProto) -> bool:
        """Take note of what `node` writes; whether it varies."""
        if node.op_type == "Constant":
            self._keep_constant(node)
            return False
        if node.op_type not in SHAPE_OPS and not any(name in self._found for name in node_reads(node)):
            return False
        elements = self._elements(node)
        if elements is not None and not any(elements):
            return False
        self._found.update(dict.fromkeys(filter(None, node.output), elements))
        return True

    def _keep_constant(self, node: onnx.NodeProto) -> None:
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type == onnx.TensorProto.INT64:
                self._constants[node.output[0]] = numpy_helper.to_array(attribute.t)
            elif attribute.name in ("value_int", "value_ints"):
                values = attribute.i if attribute.name == "value_int" else list(attribute.ints)
                self._constants[node.output[0]] = np.asarray(values, np.int64)

    def _elements(self, node: onnx.NodeProto) -> Elements:
        if node.op_type in SHAPE_OPS:
            return self._of_shape(node)
        first = self._found.get(node.input[0]) if node.input else None
        if node.op_type == "Concat":
            return self._joined(node)
        if first is None:
            return None
        if node.op_type in PASSING:
            return first if len(self._shapes.get(node.output[0], ())) < 2 else None
        if node.op_type == "Gather" and (chosen := self._constants.get(node.input[1])) is not None:
            return _taken(first, chosen)
        if node.op_type == "Slice" and (bounds := self._slice(node)) is not None:
            return first[bounds]
        return None

    def _of_shape(self, node: onnx.NodeProto) -> Elements:
        shape = self._shapes.get(node.input[0])
        if shape is None:
            return None
        elements = tuple(not isinstance(size, int) for size in shape)
        if node.op_type == "Size":
            return (any(elements),)
        numbers = {attribute.name: attribute.i for attribute in node.attribute}
        return elements[numbers.get("start", 0) : numbers.get("end", len(elements))]

    def _joined(self, node: onnx.NodeProto) -> Elements:
        joined: list[bool] = []
        for name in node.input:
            if name in self._found:
                elements = self._found[name]
                if elements is None:
                    return None
                joined += elements
                continue
            shape = self._shapes.get(name, (None,))
            if len(shape) != 1 or not isinstance(shape[0], int):
                return None
            joined += [False] * shape[0]
        return tuple(joined)

    def _slice(self, node: onnx.NodeProto) -> slice | None:
        """The one slice of a flat tensor; None where it is not constant."""
        if len(node.input) < 3:  # before opset 10 they were attributes
            numbers = {attribute.name: list(attribute.ints) for attribute in node.attribute}
            given: Sequence[Sequence[int] | None] = [numbers.get("starts"), numbers.get("ends"), [1]]
        else:
            steps = node.input[4] if len(node.input) > 4 else ""
            given = [
                None if constant is None else constant.reshape(-1).tolist()
                for constant in (
                    self._constants.get(node.input[1]),
                    self._constants.get(node.input[2]),
                    self._constants.get(steps) if steps else np.ones(1, np.int64),
                )
            ]
        if any(each is None or len(each) != 1 for each in given):
            return None
        start, end, step = (each[0] for each in given if each is not None)
        # The largest negative end means "before the first element" with a negative step.
        return slice(start, None if step < 0 and end < -(1 << 30) else end, step)


def _taken(elements: tuple[bool, ...], chosen: np.ndarray) -> Elements:
    try:
        return tuple(elements[int(position)] for position in chosen.reshape(-1))
    except IndexError:
        return None

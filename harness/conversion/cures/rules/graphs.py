"""Rewrites of a whole graph: constants folded, an older opset, no float64, a batch that is free."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from harness.conversion.cures.applying import cleaned, with_shapes
from harness.conversion.cures.building import Inapplicable, constant_of
from harness.conversion.cures.cure import Transformed
from harness.conversion.cures.evaluator import first_line
from harness.conversion.cures.rules.masks import is_switch, switches_of
from harness.model import Model, add_constant, with_weights

#: What ONNX's checker raises of a model that it does not take.
NOT_TAKEN = (RuntimeError, ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError)
_OLD_MODES = {"linear": "bilinear", "cubic": "bicubic"}
_LAST_OPSET_OF_OLD_MODES = 19
_SINGLE = np.finfo(np.float32)
_BOUNDED_BY = ("Clip", "Max", "Min", "Where")
"""Operators that choose between a number and a constant: which one they choose stays where that is clamped."""


def folded(model: Model, refused: frozenset[str] | None) -> Transformed | None:
    """What does not depend on the inputs computed, branches that are never taken and what nothing reads left out."""
    graph = with_shapes(model)
    common_passes.RemoveUnusedNodesPass()(graph)
    read = {node.name for node in graph.graph}
    graph = cleaned(graph)
    left = {node.name for node in graph.graph}
    gone = tuple(
        node.name
        for node in model.nodes
        if node.name not in read or (node.name not in left and node.op not in ("Constant", "Identity"))
    )
    return Transformed(graph, gone) if gone else None


def older_grid_sample(model: Model, refused: frozenset[str] | None) -> Transformed | None:
    """The file at opset 19, whose GridSample calls its modes bilinear and bicubic."""
    if model.opset <= _LAST_OPSET_OF_OLD_MODES:
        return None
    proto = onnx.ModelProto()
    proto.CopyFrom(model.skeleton)
    found = []
    for node in proto.graph.node:
        for attribute in node.attribute if node.op_type == "GridSample" else ():
            if attribute.name == "mode" and attribute.s.decode() in _OLD_MODES:
                attribute.s = _OLD_MODES[attribute.s.decode()].encode()
                found.append(node.name)
        if node.op_type == "GridSample" and not any(each.name == "mode" for each in node.attribute):
            node.attribute.append(onnx.helper.make_attribute("mode", "bilinear"))
            found.append(node.name)
    for opset in proto.opset_import:
        if not opset.domain:
            opset.version = _LAST_OPSET_OF_OLD_MODES
    if not found:
        return None
    try:
        onnx.checker.check_model(proto, full_check=True)
    except NOT_TAKEN as reason:
        older = f"the model is not of opset {_LAST_OPSET_OF_OLD_MODES}"
        raise Inapplicable(f"{older}: {first_line(reason)}", tuple(found)) from reason
    return Transformed(with_weights(proto, model), tuple(found))


def without_float64(model: Model, refused: frozenset[str] | None) -> Transformed | None:
    """Every float64 tensor between the inputs and the outputs in float32; bounds and masks beyond it are clamped.

    Raises:
        Inapplicable: another constant is not within the range of float32.
    """
    graph = with_shapes(model)
    double, single = ir.DataType.DOUBLE, ir.DataType.FLOAT
    values = [value for node in graph.graph for value in node.outputs]
    if any(value.dtype == double for value in (*graph.graph.inputs, *graph.graph.outputs)):
        return None
    found = [str(value.producer().name) for value in values if value.dtype == double]  # type: ignore[union-attr]
    if not found:
        return None
    for value in graph.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype == double:
            array = _narrowed(value, value.const_value.numpy(), model, tuple(found))
            value.const_value = ir.tensor(array, name=value.name)
            value.dtype = single
    for node in ir.traversal.RecursiveGraphIterator(graph.graph):
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == double:
                array = _narrowed(node.outputs[0], attribute.as_tensor().numpy(), model, tuple(found))
                node.attributes[name] = ir.AttrTensor(name, ir.tensor(array))
            if name in ("to", "dtype", "output_dtype") and attribute.value == int(double):
                node.attributes[name] = ir.AttrInt64(name, int(single))
        for value in node.outputs:
            if value.dtype == double:
                value.dtype = single
    return Transformed(graph, tuple(found))


def _narrowed(value: ir.Value, array: np.ndarray, model: Model, nodes: tuple[str, ...]) -> np.ndarray:
    """A float64 constant in float32: finite numbers that only bound or mask are clamped to its range."""
    size = np.abs(array)
    wide = array[np.isfinite(array) & (size > _SINGLE.max)]
    small = array[(size > 0) & (size < _SINGLE.tiny)]
    if small.size or (wide.size and not _only_bounds(value, switches_of(model))):
        number = small[0] if small.size else wide[0]
        raise Inapplicable(f"float32 does not hold {number:g} of {value.name}", nodes)
    clamped = np.where(np.isfinite(array), np.clip(array, _SINGLE.min, _SINGLE.max), array)
    return np.asarray(clamped, np.float32)


def _only_bounds(value: ir.Value, switches: frozenset[str]) -> bool:
    return all(
        node.op_type in _BOUNDED_BY
        or (
            node.op_type == "Mul"
            and any(is_switch(each, switches) for each in node.inputs if each is not value)
        )
        for node, _ in value.uses()
    )


def free_batch(model: Model, refused: frozenset[str] | None) -> Transformed | None:
    """The batch from the shape of the input where an export wrote down the number that it was traced with."""
    graph = with_shapes(model)
    weights = {value.name for value in graph.graph.initializers.values()}
    inputs = [value for value in graph.graph.inputs if value.name not in weights]
    leading = [value for value in inputs if value.shape and not isinstance(value.shape[0], int)]
    if not leading:
        return None
    symbol = _first(leading[0])
    found = {batch: names for batch in _batches(graph) if (names := _baked(graph, symbol, batch))}
    if len(found) != 1:
        return None
    (batch, nodes) = found.popitem()
    size = ir.node("Shape", [leading[0]], name="batch_shape")
    zero = add_constant(graph.graph, "batch_axis", np.array([0]))
    first = ir.node("Gather", [size.outputs[0], zero], {"axis": 0}, name="batch")
    graph.graph.insert_before(graph.graph[0], [size, first])
    for node in nodes:
        _free(graph, node, first.outputs[0])
    for node in graph.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None  # inferred anew: they were of the one batch
    return Transformed(graph, tuple(str(node.name) for node in nodes), batch)


def _batches(graph: ir.Model) -> set[int]:
    """The numbers that stand where a shape begins and could be a batch."""
    found = set()
    for node in graph.graph:
        shape = constant_of(node, 1) if node.op_type in ("Reshape", "Tile", "Expand") else None
        if shape is not None and shape.ndim == 1 and shape.size > 1 and shape[0] > 0:
            found.add(int(shape[0]))
    return found


def _baked(graph: ir.Model, symbol: int | str | None, batch: int) -> list[ir.Node]:
    """The nodes whose shape begins with `batch`: a Reshape of data with a free batch, or constants repeated."""
    found = []
    for node in graph.graph:
        shape = constant_of(node, 1) if node.op_type in ("Reshape", "Tile", "Expand") else None
        if shape is None or shape.ndim != 1 or shape.size < 2 or int(shape[0]) != batch:
            continue
        data = node.inputs[0]
        assert data is not None
        first = _first(data)
        if node.op_type == "Reshape":
            if first == symbol:
                found.append(node)
        elif batch > 1 and first == 1 and ir.convenience.get_const_tensor(data) is not None:
            found.append(node)
    return found


def _first(value: ir.Value) -> int | str | None:
    """The size of the first axis: a number, its name, or None where it has neither."""
    size = value.shape[0] if value.shape is not None and len(value.shape) else None
    return size if isinstance(size, int) or size is None else size.value


def _free(graph: ir.Model, node: ir.Node, batch: ir.Value) -> None:
    shape = constant_of(node, 1)
    assert shape is not None
    if node.op_type == "Reshape":
        free = [-1 if -1 not in shape[1:] else 0, *map(int, shape[1:])]
        node.replace_input_with(1, add_constant(graph.graph, f"{node.name}/shape", np.array(free)))
        return
    rest = add_constant(graph.graph, f"{node.name}/rest", shape[1:].astype(np.int64))
    joined = ir.node("Concat", [batch, rest], {"axis": 0}, name=f"{node.name}/shape")
    graph.graph.insert_before(node, joined)
    node.replace_input_with(1, joined.outputs[0])

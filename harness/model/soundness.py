"""What a model must not have, so that loading it ends and every tensor can exist."""

from __future__ import annotations

import graphlib
from collections import Counter
from pathlib import Path

import onnx_ir as ir

from harness.errors import ModelError

MOST_NODES = 1_000_000
"""Of a model once its functions are inlined."""
MOST_AXES = 64
"""Of an array of NumPy."""


def check_declared(value: ir.Value, where: Path | str) -> None:
    """Check the type of an input or output of a graph; sizes below 0, as some exporters write them, become unknown.

    Raises:
        ModelError: it has no dtype, or more axes than an array can have.
    """
    if value.dtype is not None and value.dtype == ir.DataType.UNDEFINED:
        raise ModelError(f"tensor {value.name!r} has no dtype", where=where, hint="export the model again")
    if value.shape is None:
        return
    if len(value.shape) > MOST_AXES:
        raise ModelError(
            f"tensor {value.name!r} has {len(value.shape)} axes, more than {MOST_AXES}", where=where
        )
    if any(isinstance(size, int) and size < 0 for size in value.shape):
        value.shape = ir.Shape([None if isinstance(size, int) and size < 0 else size for size in value.shape])


MANY_BYTES = 1 << 20


def check_tensors(model: ir.Model, where: Path | str) -> None:
    """Check types and sizes of the tensors that a model holds, as initializers and in attributes, in functions, too.

    Raises:
        ModelError: one has no dtype, or one that ONNX does not have, or not as many values as its shape says.
    """
    tops = [model.graph, *(function.graph for function in model.functions.values())]
    held = [
        (value.name, value.const_value)
        for top in tops
        for graph in (top, *top.subgraphs())
        for value in graph.initializers.values()
    ]
    for top in tops:
        for node in top.all_nodes():
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    # Not as_tensor, which looks at everything that a tensor has.
                    held.append((attribute.value.name or node.outputs[0].name, attribute.value))
    for name, tensor in held:
        try:
            sound = tensor is None or tensor.dtype != ir.DataType.UNDEFINED
        except ValueError:  # of the enumeration of dtypes
            sound = False
        if not sound:
            raise ModelError(
                f"tensor {name!r} has no dtype of ONNX", where=where, hint="export the model again"
            )
        if isinstance(tensor, ir.TensorProtoTensor) and not _fills_its_shape(tensor):
            raise ModelError(
                f"tensor {name!r} does not hold as many values as its shape {list(tensor.raw.dims)} says",
                where=where,
                hint="export the model again",
            )


def _fills_its_shape(tensor: ir.TensorProtoTensor) -> bool:
    """Whether a tensor has its number of values; of many raw bytes, which would be copied, nearly that is enough."""
    proto = tensor.raw
    if any(length < 0 for length in proto.dims):
        return False
    if tensor.dtype == ir.DataType.STRING:
        return bool(len(proto.string_data) == tensor.size)
    if proto.HasField("raw_data"):
        if proto.ByteSize() > MANY_BYTES:
            return bool(0 <= proto.ByteSize() - tensor.nbytes < MANY_BYTES)
        return bool(len(proto.raw_data) == tensor.nbytes)
    typed = (proto.float_data, proto.double_data, proto.int32_data, proto.int64_data, proto.uint64_data)
    if tensor.size and not any(map(len, typed)):
        return False  # which onnx_ir reads as zeros
    try:
        return tensor.numpy().size == tensor.size
    except (TypeError, ValueError):
        return False


def check_calls(model: ir.Model, where: Path | str) -> None:
    """Check that the local functions of `model` can be inlined.

    Raises:
        ModelError: a function calls itself, or inlining makes more than MOST_NODES nodes.
    """
    called = {
        identifier: Counter(node.op_identifier() for node in ir.traversal.RecursiveGraphIterator(function))
        for identifier, function in model.functions.items()
    }
    sorter = graphlib.TopologicalSorter({name: called.keys() & calls for name, calls in called.items()})
    try:
        order = tuple(sorter.static_order())
    except graphlib.CycleError as error:
        chain = " → ".join(name for _, name, _ in error.args[1])
        raise ModelError(f"a function calls itself: {chain}", where=where) from error
    sizes: dict[ir.OperatorIdentifier, int] = {}
    for name in order:
        sizes[name] = sum(sizes.get(callee, 1) * times for callee, times in called[name].items())
    nodes = sum(
        sizes.get(node.op_identifier(), 1) for node in ir.traversal.RecursiveGraphIterator(model.graph)
    )
    if nodes > MOST_NODES:
        raise ModelError(
            f"with its functions inlined the model has {nodes:,} nodes, more than {MOST_NODES:,}", where=where
        )


def cycle(model: ir.Model) -> tuple[str, ...]:
    """First outputs of nodes that wait for each other, in the first graph or body of `model` that has such nodes."""
    for graph in model.graphs():
        waits = {
            node: {value.producer() for value in node.inputs if value is not None} - {None} for node in graph
        }
        try:
            graphlib.TopologicalSorter(waits).prepare()
        except graphlib.CycleError as error:
            return tuple(str(node.outputs[0].name) for node in error.args[1])
    return ()


def check_written(model: ir.Model, where: Path | str) -> None:
    """Check that something writes each tensor that a node reads or a graph gives.

    Raises:
        ModelError: a tensor is read, or given, that no node writes and that is neither an input nor an initializer.
    """
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.inputs:
            if value is not None and _is_missing(value):
                raise ModelError(
                    f"node {node.name!r} reads {value.name!r}, which nothing writes", where=where
                )
    for graph in model.graphs():
        for value in graph.outputs:
            if _is_missing(value):
                raise ModelError(f"nothing writes the output {value.name!r}", where=where)


def _is_missing(value: ir.Value) -> bool:
    return value.producer() is None and not value.is_graph_input() and not value.is_initializer()

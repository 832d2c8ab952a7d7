"""Nodes into which an export has written the batch as a constant."""

from __future__ import annotations

import onnx_ir as ir

from harness.judge.results import Baked
from harness.model import Model

_TAKING = {"Reshape": 1, "Tile": 1, "Expand": 1, "ConstantOfShape": 0}


def find_baked(model: Model, batch: int) -> tuple[Baked, ...]:
    """The Reshape, Tile, Expand and ConstantOfShape nodes whose constant begins with `batch`, in topological order.

    Of batch 1 only a Reshape that leaves another axis open, [1, -1]: it takes in the rows of any batch.
    """
    found = []
    graph = model.ir.graph
    for node in graph:
        place = _TAKING.get(node.op_type)
        value = node.inputs[place] if place is not None and len(node.inputs) > place else None
        constant = None if value is None else _constant(value)
        if not constant or constant[0] != batch:
            continue
        if batch == 1 and (node.op_type != "Reshape" or -1 not in constant[1:]):
            continue
        reads = node.inputs[0].name if place and node.inputs[0] is not None else None
        found.append(Baked(str(node.name), node.op_type, constant, str(reads or "")))
    return tuple(found)


def find_baked_behind(model: Model, node: str) -> tuple[Baked, ...]:
    """The nodes into which a batch of several rows is written, if `node`, which failed, is one of them."""
    for batch in {constant[0] for constant in _constants(model, node) if constant[0] > 1}:
        found = find_baked(model, batch)
        if any(each.node == node for each in found):
            return found
    return ()


def _constants(model: Model, name: str) -> list[tuple[int, ...]]:
    return [
        constant
        for node in model.ir.graph
        if node.name == name
        for value in node.inputs
        if value is not None and (constant := _constant(value))
    ]


def _constant(value: ir.Value) -> tuple[int, ...]:
    """The whole numbers of a constant; empty for anything else."""
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or not tensor.dtype.is_integer() or tensor.size > 16:
        return ()
    return tuple(int(each) for each in tensor.numpy().reshape(-1))

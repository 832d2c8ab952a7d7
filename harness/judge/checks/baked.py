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
    values = (
        value for each in model.ir.graph if each.name == node for value in each.inputs if value is not None
    )
    constants = filter(None, map(_constant, values))
    found = (find_baked(model, batch) for batch in {each[0] for each in constants} if batch > 1)
    return next((every for every in found if any(each.node == node for each in every)), ())


def _constant(value: ir.Value) -> tuple[int, ...]:
    """The whole numbers of a constant; empty for anything else."""
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or not tensor.dtype.is_integer() or tensor.size > 16:
        return ()
    return tuple(int(each) for each in tensor.numpy().reshape(-1))

"""Masks of −inf or of the lowest float before a Softmax: a number that 16 bits hold."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from harness.conversion.cures.building import Ops, constant_of

#: exp(−10000 + any logit that 16 bits hold without harm) is 0 in FP32, as exp(−inf) is.
SAFE = -1e4
_MASKING = -1e9
_PASSED = {"Add", "Where", "Cast", "Expand", "Unsqueeze", "Reshape", "Slice", "Squeeze", "Concat"}


def safe_mask(ops: Ops, node: ir.Node) -> ir.Value | None:
    """The same node with the safe number for each that masks."""
    inputs = list(node.inputs)
    changed = False
    for index in range(len(inputs)):
        values = constant_of(node, index)
        if values is None or values.dtype.kind not in "fV" or values.dtype.itemsize > 4:
            continue
        wide = values.astype(np.float32)
        if not np.any(wide <= _MASKING) or not np.all((wide <= _MASKING) | (wide >= SAFE)):
            continue
        value = inputs[index]
        assert value is not None
        inputs[index] = ops.constant(np.where(wide <= _MASKING, SAFE, wide).astype(values.dtype), value.dtype)
        changed = True
    if not changed or not _only_masks(node.outputs[0], set()):
        return None
    masked: ir.Value = ops.op(node.op_type, *inputs, **dict(node.attributes))
    return masked


def _only_masks(value: ir.Value, seen: set[int]) -> bool:
    """Whether all that `value` comes to is a Softmax."""
    if id(value) in seen:
        return True
    seen.add(id(value))
    if value.is_graph_output() or not value.uses():
        return False
    return all(
        node.op_type == "Softmax"
        or (node.op_type in _PASSED and all(_only_masks(output, seen) for output in node.outputs))
        for node, _ in value.uses()
    )

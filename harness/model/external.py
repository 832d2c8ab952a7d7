"""External data: tensors of which the values stand in a file beside the model, memory-mapped."""

from __future__ import annotations

import onnx_ir as ir


def embedded(model: ir.Model) -> ir.Model:
    """`model`, a copy of another, with its external tensors turned into tensors that are written with it.

    They share the memory maps of the original's: nothing is copied, and nothing is closed that others still read.
    """
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
    return model

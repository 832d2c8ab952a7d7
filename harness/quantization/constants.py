"""Values that a model holds, also where a few nodes stand between: scales that are quantised themselves, say."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from harness.model import Model
from harness.quantization.arithmetic import spread
from harness.quantization.types import Scale


class Constants:
    """The constant tensors of the main graph of a model, by name, computed when they are asked for."""

    def __init__(self, model: Model) -> None:
        self._values = {
            str(value.name): value
            for value in (
                *model.ir.graph.initializers.values(),
                *(v for n in model.ir.graph for v in n.outputs),
            )
        }
        self._known: dict[str, np.ndarray | None] = {}

    def get(self, name: str) -> np.ndarray | None:
        """The value of `name`, in its own dtype; None where it is not constant."""
        if name not in self._known:
            value = self._values.get(name)
            self._known[name] = None if value is None else self._compute(value)
        return self._known[name]

    def _compute(self, value: ir.Value) -> np.ndarray | None:
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None:
            return np.asarray(tensor.numpy())
        node = value.producer()
        if node is None or node.op_type not in (
            "DequantizeLinear",
            "Identity",
            "Cast",
            "Transpose",
            "Reshape",
        ):
            return None
        read = [None if each is None else self.get(str(each.name)) for each in node.inputs]
        first = read[0] if read else None
        if first is None or any(each is None for each in read[1:]):
            return None
        if node.op_type == "Cast":
            return first.astype(ir.DataType(node.attributes["to"].as_int()).numpy())
        if node.op_type == "Transpose":
            return np.transpose(
                first, node.attributes["perm"].as_ints() if "perm" in node.attributes else None
            )
        if node.op_type == "Reshape":
            return first.reshape([int(size) for size in np.asarray(read[1])])
        if node.op_type == "Identity":
            return first
        scale = scale_of(node, np.asarray(read[1]), read[2] if len(read) > 2 else None)
        found = first.astype(np.float32)
        if scale.zero_point is not None:
            found = found - spread(scale.zero_point, scale, found.shape)
        return np.asarray(found * spread(scale.values, scale, found.shape), dtype=np.float32)


def scale_of(node: ir.Node, values: np.ndarray, zero_point: np.ndarray | None) -> Scale:
    """The scale of a QuantizeLinear or DequantizeLinear that reads these values."""
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    block = node.attributes["block_size"].as_int() if "block_size" in node.attributes else 0
    zero = None if zero_point is None else zero_point.astype(np.float32)
    return Scale(
        values.astype(np.float32),
        zero if zero is not None and zero.any() else None,
        axis if values.size > 1 else None,
        block,
    )

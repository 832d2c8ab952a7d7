"""A small writer of ONNX graphs: every node has a name, and its output carries that name."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
INT64 = TensorProto.INT64
BOOL = TensorProto.BOOL

#: Opset 13 and IR version 8 are read by every TensorRT release from 8.5 on.
DEFAULT_OPSET = 13
IR_VERSION = 8


def seeded_uniform(seed: int, name: str, shape: Sequence[int], std: float, mean: float = 0.0) -> np.ndarray:
    """Float32 values with the given mean and standard deviation that depend on `seed` and `name` alone.

    Adding or removing one weight leaves all others as they are. `RandomState` is used because its stream is
    frozen across NumPy releases, and the uniform distribution because it needs no libm function that could
    differ between platforms: goldens and hashes stay valid everywhere.
    """
    rng = np.random.RandomState([seed, zlib.crc32(name.encode())])
    values = (rng.random_sample(tuple(shape)) * 2 - 1) * (np.sqrt(3.0) * std) + mean
    return values.astype(np.float32)


class Graph:
    """Collects nodes and initializers in the order in which they are written.

    Args:
        name: name of the graph.
        seed: seed of every weight.
        opset: opset of the default domain; above 17, TensorRT 8 does not read the model.
    """

    def __init__(self, name: str, *, seed: int = 0, opset: int = DEFAULT_OPSET) -> None:
        self.name = name
        self.seed = seed
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}

    def input(self, name: str, shape: Iterable[int | str | None], dtype: int = FLOAT) -> str:
        """Declare an input of the graph; a string in `shape` is a dynamic axis."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """Add an initializer with this value, or find it again when it was added before."""
        tensor = numpy_helper.from_array(np.array(value, dtype=dtype, order="C"), name)
        known = self._initializers.setdefault(name, tensor)
        if known.SerializeToString() != tensor.SerializeToString():
            raise ValueError(f"the initializer {name!r} exists with another value")
        return name

    def initializer(self, name: str) -> np.ndarray:
        """The value of an initializer."""
        return numpy_helper.to_array(self._initializers[name])

    def weight(self, name: str, shape: Sequence[int], std: float, mean: float = 0.0) -> str:
        """Add an initializer of seeded values, see `seeded_uniform`."""
        return self.constant(name, seeded_uniform(self.seed, name, shape, std, mean))

    def node(self, op: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output, which is named after the node and returned."""
        return self.node_with_outputs(op, name, inputs, [name], **attributes)[0]

    def node_with_outputs(
        self, op: str, name: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> list[str]:
        """Append a node with any number of outputs; an empty string omits one."""
        self.nodes.append(helper.make_node(op, list(inputs), list(outputs), name=name, **attributes))
        return list(outputs)

    def body(self, name: str, outputs: Mapping[str, Sequence[int]]) -> onnx.GraphProto:
        """The graph as the body of an If or a Loop: float outputs of these shapes."""
        return self._graph(name, [helper.make_tensor_value_info(t, FLOAT, s) for t, s in outputs.items()])

    def model(self, outputs: Mapping[str, Sequence[int | str]]) -> onnx.ModelProto:
        """The finished model with these float outputs."""
        infos = [helper.make_tensor_value_info(t, FLOAT, list(shape)) for t, shape in outputs.items()]
        opset = helper.make_opsetid("", self.opset)
        return helper.make_model(
            self._graph(self.name, infos),
            opset_imports=[opset],
            ir_version=max(IR_VERSION, helper.find_min_ir_version_for([opset], ignore_unknown=True)),
            producer_name="harness-cases",
        )

    def _graph(self, name: str, outputs: Sequence[onnx.ValueInfoProto]) -> onnx.GraphProto:
        return helper.make_graph(
            self.nodes, name, self._inputs, outputs, initializer=list(self._initializers.values())
        )

"""A large graph as a chain of sessions of ONNX Runtime, so that each node costs the same, however many there are.

What ONNX Runtime takes to load a graph grows faster than the graph where thousands of inputs are fed or thousands of
outputs asked for (benchmarks/results/scale.json has it beside the chain). So the nodes go, in their order, to sessions
of NODES each. What one gives, the next ones read where it lies, and it is freed behind the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from harness.backends.partitioned import Needed, to_runtime
from harness.model import node_reads

NODES = 1500
"""Of a session: with fewer, what each session costs by itself shows; with more, how costs grow with the graph."""
THREADS = 256
"""All sessions of a chain together have about as many threads: each has a pool of its own."""

_NOT_PLACED = frozenset(
    getattr(onnx.TensorProto, name)
    for name in ("UNDEFINED", "STRING", "UINT4", "INT4", "UINT2", "INT2", "FLOAT4E2M1")
)
"""Element types that ONNX Runtime makes no OrtValue of; sequences and the like have none at all."""

MakePart = Callable[[onnx.ModelProto, int], ort.InferenceSession]


def is_large(proto: onnx.ModelProto) -> bool:
    """Whether a graph is better a chain."""
    return len(proto.graph.node) > 2 * NODES


@dataclass
class _Part:
    session: ort.InferenceSession
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    frees: tuple[str, ...]


class NotChainedError(Exception):
    """Something else than a tensor would go from one session to another."""


class ChainedSession:
    """As an InferenceSession, as far as harness uses one.

    Raises:
        NotChainedError: sequences, optional tensors or maps would cross between sessions.
        Exception: what ONNX Runtime says of a part.
    """

    def __init__(self, proto: onnx.ModelProto, make: MakePart) -> None:
        graph = proto.graph
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._inputs = {value.name: value for value in graph.input if value.name not in self._initializers}
        given = frozenset(value.name for value in graph.output)
        self._constants = {
            node.output[0]: node
            for node in graph.node
            if node.op_type == "Constant" and node.output[0] not in given
        }
        nodes = [node for node in graph.node if not node.output or node.output[0] not in self._constants]
        pieces = [nodes[start : start + NODES] for start in range(0, len(nodes), NODES)]
        reads = [dict.fromkeys(name for node in piece for name in node_reads(node)) for piece in pieces]
        last = {name: place for place, names in enumerate(reads) for name in names}
        known = dict(self._inputs)
        for name, value in known.items():
            if value.type.tensor_type.elem_type in _NOT_PLACED:
                raise NotChainedError(f"{name} cannot be fed where it lies")
        self._parts: list[_Part] = []
        for place, piece in enumerate(pieces):
            written = [name for node in piece for name in node.output if name]
            writes = tuple(name for name in written if last.get(name, 0) > place or name in given)
            taken = tuple(name for name in reads[place] if name in known)
            frees = tuple(name for name in taken if last[name] == place and name not in given)
            if not writes:
                continue
            part = self._part(proto, piece, reads[place], [known[name] for name in taken], writes)
            session = make(part, len(pieces))
            for value in session.get_outputs():
                if not value.type.startswith("tensor("):
                    raise NotChainedError(f"{value.name} is {value.type}")
                if last.get(value.name, 0) > place:
                    known[value.name] = _value_info(value)
            self._parts.append(_Part(session, taken, writes, frees))

    def get_inputs(self) -> list[Needed]:
        """What must be fed."""
        return [Needed(name) for name in self._inputs]

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, Any], options: ort.RunOptions | None = None
    ) -> list[np.ndarray]:
        """The tensors `outputs`, in order.

        Raises:
            Exception: whatever ONNX Runtime raises.
        """
        values = {name: _placed(value) for name, value in feeds.items()}
        for part in self._parts:
            fed = {name: values[name] for name in part.reads}
            found = part.session.run_with_ort_values(part.writes, fed, options)
            values.update(zip(part.writes, found, strict=True))
            del fed, found
            for name in part.frees:
                del values[name]
        arrays = {name: values.pop(name).numpy() for name in dict.fromkeys(outputs)}
        return [arrays[name] for name in outputs]

    def _part(
        self,
        proto: onnx.ModelProto,
        nodes: Sequence[onnx.NodeProto],
        reads: Mapping[str, None],
        inputs: Sequence[onnx.ValueInfoProto],
        writes: Sequence[str],
    ) -> onnx.ModelProto:
        """The model of one session; what is constant is in each that reads it."""
        part = onnx.ModelProto(ir_version=proto.ir_version)
        part.opset_import.extend(proto.opset_import)
        part.functions.extend(proto.functions)
        part.graph.name = proto.graph.name
        part.graph.node.extend(self._constants[name] for name in reads if name in self._constants)
        part.graph.node.extend(nodes)
        part.graph.initializer.extend(
            self._initializers[name] for name in reads if name in self._initializers
        )
        part.graph.input.extend(inputs)
        part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in writes)
        return part


def _placed(value: Any) -> ort.OrtValue:
    """What is fed, where it lies."""
    value = to_runtime(value) if isinstance(value, np.ndarray) else value
    return value if isinstance(value, ort.OrtValue) else ort.OrtValue.ortvalue_from_numpy(value)


def _value_info(value: ort.NodeArg) -> onnx.ValueInfoProto:
    """What a session says of an output, as an input of the next ones.

    With sizes that have no name, what ONNX Runtime takes to load a graph grows with the square of its nodes.
    """
    inner = value.type.removeprefix("tensor(").removesuffix(")")
    # An empty shape is that of a scalar, or is not known.
    dtype = onnx.TensorProto.DataType.Value(inner.upper())
    shape = [f"{value.name}::{axis}" if size is None else size for axis, size in enumerate(value.shape)]
    return helper.make_tensor_value_info(value.name, dtype, shape or None)

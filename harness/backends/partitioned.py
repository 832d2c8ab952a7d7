"""A graph of which ONNX Runtime runs what it has kernels for, and onnx.reference, which is NumPy, the rest.

The graph is cut into segments that alternate between the two. Each tensor that crosses is an array of its own type.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from harness.backends.runtime_words import GraphRefusedError, first_line, missing_in
from harness.case import Operators
from harness.errors import HarnessError, NodeFailedError
from harness.model import LOWERED, bodies, element_type, node_reads

Values = dict[str, np.ndarray]
Compute = Callable[[Values], Values]
_FEW_BITS = {"int4", "uint4", "int2", "uint2", "float4_e2m1fn"}
_WIDE = "::wide"


def to_runtime(values: np.ndarray) -> np.ndarray | ort.OrtValue:
    """`values` as ONNX Runtime takes them: of the types beyond NumPy's own it knows the bits alone."""
    name = values.dtype.name
    if name not in ml_dtypes.__all__:
        return values
    bits = _packed(values) if name in _FEW_BITS else values.view(np.dtype(f"u{values.dtype.itemsize}"))
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, element_type(name))


def _packed(values: np.ndarray) -> np.ndarray:
    """Numbers of 2 or 4 bits side by side in bytes, the first in the lowest bits, and what is left of as many bytes as
    there are numbers: ONNX Runtime looks at the shape."""
    width = 2 if "int2" in values.dtype.name else 4
    each = 8 // width
    bits = values.reshape(-1).view(np.uint8) & ((1 << width) - 1)
    bits = np.pad(bits, (0, -bits.size % each)).reshape(-1, each)
    filled = np.bitwise_or.reduce(bits << np.arange(0, 8, width, dtype=np.uint8), axis=1)
    packed = np.zeros(values.size, np.uint8)
    packed[: filled.size] = filled
    return packed.reshape(values.shape)


class Session(Protocol):
    """What harness needs of an InferenceSession."""

    def get_inputs(self) -> Sequence[Any]:
        """Objects with the names of what must be fed."""
        ...

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any], options: Any = None) -> list[np.ndarray]:
        """The tensors `outputs`, in order."""
        ...


MakeSession = Callable[[onnx.ModelProto], Session]


@dataclass(frozen=True)
class Needed:
    """The name of an input of a session."""

    name: str


@dataclass
class _Segment:
    foreign: bool
    nodes: list[onnx.NodeProto]
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    session: Session | None = None


class PartitionedSession:
    """As an InferenceSession, as far as harness uses one.

    Nodes that ONNX Runtime turns out to have no kernel for go to onnx.reference, too.

    Args:
        proto: the graph.
        foreign: names of the nodes of the main graph that operators of the user's own compute.
        operators: those operators.
        dtypes: dtype name of each tensor, as far as it is known.
        make: makes a session of a segment.
        where: the model, for messages.

    Attributes:
        missing: names of the model's nodes that ONNX Runtime should run, and has no kernel for.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        foreign: frozenset[str],
        operators: Operators | None,
        dtypes: Mapping[str, str],
        make: MakeSession,
        where: str,
    ) -> None:
        self._proto, self._operators, self._make, self._where = proto, operators, make, where
        self._dtypes = dtypes
        self._constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._arrays: Values = {}
        self._computes: dict[str, Compute] = {}
        self._foreign = foreign
        self.missing: frozenset[str] = frozenset()
        self.leave_out(frozenset())

    def leave_out(self, missing: frozenset[str], why: str = "") -> None:
        """Have onnx.reference run nodes that ONNX Runtime refused, and said `why`.

        Raises:
            ModelError: onnx.reference does not know the operator of one of them either.
        """
        self._foreign |= missing
        self.missing |= frozenset(map(_unlowered, missing))
        self._segments = _segments(self._proto, self._foreign)
        for node in self._proto.graph.node:
            if node.name in self._foreign and node.name not in self._computes:
                try:
                    self._computes[node.name] = self._prepare(node)
                except HarnessError:
                    raise
                except Exception as error:
                    raise GraphRefusedError(why or first_line(error), self._where) from error

    def get_inputs(self) -> list[Needed]:
        """What must be fed."""
        return [Needed(value.name) for value in self._proto.graph.input if value.name not in self._constants]

    def run(
        self,
        outputs: Sequence[str],
        feeds: Mapping[str, Any],
        options: ort.RunOptions | None = None,
    ) -> list[np.ndarray]:
        """The tensors `outputs`, in order; stops between segments where `options` say so.

        Raises:
            NodeFailedError: a node that onnx.reference runs failed.
            BuilderError: an operator of the user's own raised, or wrote something other than the graph says.
            Exception: whatever ONNX Runtime raises.
        """
        values: Values = dict(feeds)
        while True:
            try:
                self._carry_out(values, options)
                return [self._value(name, values) for name in outputs]
            except _NoKernelError as refusal:
                if refusal.nodes <= self._foreign:
                    raise GraphRefusedError(str(refusal), self._where) from refusal
                self.leave_out(refusal.nodes, str(refusal))

    def _carry_out(self, values: Values, options: ort.RunOptions | None) -> None:
        for segment in self._segments:
            if all(name in values for name in segment.writes):
                continue  # by a session that was left behind
            if options is not None and options.terminate:
                break
            if segment.foreign:
                for node in segment.nodes:
                    fed = {name: self._value(name, values) for name in node_reads(node)}
                    values |= self._computes[node.name](fed)
            else:
                self._infer(segment, values, options)

    def _value(self, name: str, values: Values) -> np.ndarray:
        if name in values:
            return values[name]
        if name not in self._arrays:
            self._arrays[name] = numpy_helper.to_array(self._constants[name])
        return self._arrays[name]

    def _infer(self, segment: _Segment, values: Values, options: ort.RunOptions | None) -> None:
        fed = {name: values[name] for name in segment.reads if name not in self._constants}
        if segment.session is None:
            segment.session = self._session(segment, fed)
        given = {name: to_runtime(value) for name, value in fed.items()}
        arrays = segment.session.run([self._given(name) for name in segment.writes], given, options)
        for name, array in zip(segment.writes, arrays, strict=True):
            values[name] = array if name == self._given(name) else array.astype(np.dtype(self._dtypes[name]))

    def _given(self, name: str) -> str:
        """What a segment calls an output: it is wider where ONNX Runtime gives nobody its type."""
        return name + _WIDE if self._dtypes.get(name) in ml_dtypes.__all__ else name

    def _session(self, segment: _Segment, fed: Values) -> Session:
        """The session of a segment, whose inputs have the types of the arrays that come."""
        inputs = [
            helper.make_tensor_value_info(name, element_type(value.dtype.name), None)
            for name, value in fed.items()
        ]
        constants = [self._constants[name] for name in segment.reads if name in self._constants]
        nodes, outputs = list(segment.nodes), []
        for name in segment.writes:
            given = self._given(name)
            outputs.append(onnx.ValueInfoProto(name=given))
            if given != name:
                nodes.append(helper.make_node("Cast", [name], [given], given, to=onnx.TensorProto.FLOAT))
        graph = helper.make_graph(nodes, "segment", inputs, outputs, constants)
        model = self._as_model(graph)
        try:
            return self._make(model)
        except HarnessError:
            raise
        except Exception as error:
            text = first_line(error)
            if missing := without_kernel(model, text, self._dtypes):
                raise _NoKernelError(text, missing) from error
            raise GraphRefusedError(text, self._where) from error

    def _as_model(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        imports = {entry.domain: entry.version for entry in self._proto.opset_import}
        # What nobody imports, ONNX does not take.
        imports |= {node.domain: 1 for node in graph.node if node.domain not in imports}
        opsets = [helper.make_opsetid(domain, version) for domain, version in imports.items()]
        return helper.make_model(
            graph, ir_version=self._proto.ir_version, opset_imports=opsets, functions=self._proto.functions
        )

    def _model(self, node: onnx.NodeProto) -> onnx.ModelProto:
        graph = helper.make_graph(
            [node],
            node.name,
            [onnx.ValueInfoProto(name=name) for name in node_reads(node)],
            [onnx.ValueInfoProto(name=name) for name in node.output if name],
        )
        return self._as_model(graph)

    def _prepare(self, node: onnx.NodeProto) -> Compute:
        """How a node is run without ONNX Runtime."""
        model, shown = self._model(node), _unlowered(node.name)
        written = [name for name in node.output if name]
        operators = self._operators
        if operators is not None and holds(node, operators.kinds):
            data = model.SerializeToString()
            if why := operators.check(data):
                raise ValueError(why)
            wanted = {name: self._dtypes.get(name, self._dtypes.get(_unlowered(name))) for name in written}
            return lambda fed: operators.compute(data, shown, fed, wanted)
        from onnx.reference import ReferenceEvaluator

        from harness.backends.trt_operators import TRT_OPERATORS

        evaluator = ReferenceEvaluator(model, new_ops=[*TRT_OPERATORS])

        def compute(fed: Values) -> Values:
            try:
                return dict(zip(written, evaluator.run(written, fed), strict=True))
            except Exception as error:
                reason = f"onnx.reference: {first_line(error)}"
                raise NodeFailedError(
                    node=shown, op=node.op_type, reason=reason, where=self._where
                ) from error

        return compute


class _NoKernelError(Exception):
    """ONNX Runtime has no kernel for `nodes` of a segment."""

    def __init__(self, text: str, nodes: frozenset[str]) -> None:
        super().__init__(text)
        self.nodes = nodes


def node_lists(proto: onnx.ModelProto) -> Iterator[MutableSequence[onnx.NodeProto]]:
    """The nodes of the graph, of its functions and of every body, innermost first."""

    def inside(nodes: MutableSequence[onnx.NodeProto]) -> Iterator[MutableSequence[onnx.NodeProto]]:
        for node in nodes:
            for body in bodies(node):
                yield from inside(body.node)
        yield nodes

    for owner in (proto.graph, *proto.functions):
        yield from inside(owner.node)


def nodes_of(proto: onnx.ModelProto, kinds: Collection[tuple[str, str]]) -> frozenset[str]:
    """The nodes of the main graph whose domain and type, or those of one in their bodies, are among `kinds`."""
    return frozenset(node.name for node in proto.graph.node if holds(node, kinds))


def holds(node: onnx.NodeProto, kinds: Collection[tuple[str, str]]) -> bool:
    """Whether a node, or one in its bodies, is among `kinds`."""
    inside = (each for body in bodies(node) for each in body.node)
    return (node.domain, node.op_type) in kinds or any(holds(each, kinds) for each in inside)


def without_kernel(proto: onnx.ModelProto, text: str, dtypes: Mapping[str, str]) -> frozenset[str]:
    """The nodes of the main graph that ONNX Runtime refused with `text`, and those like them: of the same operator,
    with inputs of the same types."""

    def like(node: onnx.NodeProto) -> tuple[str, str, tuple[str, ...]]:
        return node.domain, node.op_type, tuple(dtypes.get(name, "") for name in node.input)

    missing = missing_in(text)
    if missing is None:
        return frozenset()
    if missing.domain is not None:
        return nodes_of(proto, {(missing.domain, missing.op)})
    every = (node for nodes in node_lists(proto) for node in nodes)
    kinds = {like(node) for node in every if node.name == missing.node}
    return _nodes(proto, lambda node: like(node) in kinds)


def _nodes(proto: onnx.ModelProto, condition: Callable[[onnx.NodeProto], bool]) -> frozenset[str]:
    def holds(node: onnx.NodeProto) -> bool:
        return condition(node) or any(holds(each) for body in bodies(node) for each in body.node)

    return frozenset(node.name for node in proto.graph.node if holds(node))


def left_out(sessions: Iterable[Session]) -> frozenset[str]:
    """The nodes that ONNX Runtime should run in any of `sessions`, and has no kernel for."""
    return frozenset[str]().union(
        *(each.missing for each in sessions if isinstance(each, PartitionedSession))
    )


def _unlowered(name: str) -> str:
    return name.removesuffix(LOWERED)


def _segments(proto: onnx.ModelProto, foreign: Collection[str]) -> list[_Segment]:
    """The nodes in as few segments as their order allows, each with the tensors that it reads and that others need."""
    levels: dict[str, int] = {}
    found: dict[int, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        level = max((levels.get(name, 0) for name in node_reads(node)), default=0)
        level += (level % 2 == 1) != (node.name in foreign)
        levels |= dict.fromkeys(filter(None, node.output), level)
        found.setdefault(level, []).append(node)
    segments = [_Segment(level % 2 == 1, nodes) for level, nodes in sorted(found.items())]
    needed = {value.name for value in proto.graph.output}
    for segment in reversed(segments):
        written = dict.fromkeys(name for node in segment.nodes for name in node.output if name)
        reads = dict.fromkeys(name for node in segment.nodes for name in node_reads(node))
        segment.writes = tuple(name for name in written if name in needed)
        segment.reads = tuple(name for name in reads if name not in written)
        needed |= set(segment.reads)
    return segments

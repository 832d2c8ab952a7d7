"""An LSTM in steps, as compilers unroll it: each product, gate and state is a tensor that is rounded.

Measured on an H200 with TensorRT for RTX 1.4.0.76 and 1.6.1.120, bit by bit: what is read times its weights, and the
state times its own, are rounded and added; then comes the sum of both biases. A new cell is rounded once, when what is
left of the old one is added to the rounded product of its gate and its candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from harness.model.rounding import Emitter

Round = Callable[[Emitter, str], str]

_DIRECTIONS = {"forward": (0,), "reverse": (1,), "bidirectional": (0, 1)}
_GATES = 4


def emit_lstm(
    emit: Emitter, node: onnx.NodeProto, opset: int, round: Round, *, depth: int, one_row: bool, width: int
) -> tuple[str, str, str]:
    """Emit an LSTM in steps; the names of all states, the last one and the last cell.

    Args:
        emit: where to.
        node: the node, with the names that it reads.
        opset: of the graph.
        round: emits a rounding to the precision.
        depth: so many terms are added up exactly, and the sum is rounded after each; 0 adds up in FP32.
        one_row: each product of the state with a weight is rounded: generated code for one row.
        width: how many numbers it reads in each step.
    """
    return _Lstm(emit, node, opset, round, depth, one_row).emitted(width)


class _Lstm:
    def __init__(
        self, emit: Emitter, node: onnx.NodeProto, opset: int, round: Round, depth: int, one_row: bool
    ) -> None:
        self.emit, self.opset, self.round, self.depth, self.one_row = emit, opset, round, depth, one_row
        self.given = [*node.input, *[""] * 8]
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        self.hidden = int(attributes["hidden_size"])
        self.directions = _DIRECTIONS[attributes.get("direction", b"forward").decode()]

    def emitted(self, width: int) -> tuple[str, str, str]:
        found = [self.direction(place, reverse, width) for place, reverse in enumerate(self.directions)]
        shapes = ([0, 1, -1, self.hidden], [1, -1, self.hidden], [1, -1, self.hidden])
        joined = []
        for number, (shape, axis) in enumerate(zip(shapes, (1, 0, 0), strict=True)):
            parts = [self.emit.add("Reshape", each[number], self.integers(shape)) for each in found]
            joined.append(self.emit.add("Concat", *parts, axis=axis))
        return joined[0], joined[1], joined[2]

    def direction(self, place: int, reverse: int, width: int) -> tuple[str, str, str]:
        weights = [self.emit.add("Transpose", self.of(place, number), perm=[1, 0]) for number in (1, 2)]
        read = self.product(self.emit, self.given[0], self.blocks(weights[0], width), 2)
        state = self.blocks(weights[1], self.hidden)
        scanned = [f"{self.emit.fresh()}/{name}" for name in ("state", "cell", "read")]
        body = Emitter(prefix=f"{self.emit.fresh()}/step", constants=self.emit.constants)
        kept = self.row(body, scanned[0], weights[1]) if self.one_row else None
        kept = kept or self.product(body, scanned[0], state, 1)
        gates = self.rounded(body, "Add", scanned[2], kept)
        if self.given[3]:
            gates = self.rounded(body, "Add", gates, self.bias(place))
        new = self.cell(body, gates, scanned[1])
        outputs = [*new, body.add("Identity", new[0])]
        sizes = {scanned[2]: _GATES * self.hidden}  # ONNX Runtime wants to know how many axes the states have
        values = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, sizes.get(name, self.hidden)])
            for name in (*scanned, *outputs)
        ]
        graph = helper.make_graph(body.nodes, body.prefix, values[:3], values[3:])
        names = [self.emit.fresh() for _ in range(3)]
        start = [self.first(place, number) for number in (5, 6)]
        options = {"scan_input_directions": [reverse], "scan_output_directions": [reverse]}
        self.emit.nodes.append(
            helper.make_node(
                "Scan", [*start, read], names, f"{names[0]}/Scan", body=graph, num_scan_inputs=1, **options
            )
        )
        return names[2], names[0], names[1]

    def cell(self, body: Emitter, gates: str, cell: str) -> tuple[str, str]:
        size = self.hidden
        parts = [self.part(body, gates, 1, number * size, (number + 1) * size) for number in range(_GATES)]
        entry, leave, forget = (self.rounded(body, "Sigmoid", name) for name in parts[:3])
        added = self.rounded(body, "Mul", entry, self.rounded(body, "Tanh", parts[3]))
        new = self.rounded(body, "Add", body.add("Mul", forget, cell), added)
        return self.rounded(body, "Mul", leave, self.rounded(body, "Tanh", new)), new

    def product(self, emit: Emitter, left: str, right: Sequence[str], axis: int) -> str:
        """Rows times the blocks of a matrix, rounded, also after each block."""
        if len(right) == 1:
            return self.rounded(emit, "MatMul", left, right[0])
        total = ""
        for number, block in enumerate(right):
            terms = self.part(emit, left, axis, number * self.depth, (number + 1) * self.depth)
            made = emit.add("MatMul", terms, block)
            total = self.round(emit, emit.add("Add", total, made) if total else made)
        return total

    def row(self, emit: Emitter, left: str, right: str) -> str:
        turned = emit.add("Transpose", left, perm=[1, 0])
        ones = emit.constant(f"ones{self.hidden}", np.ones((1, self.hidden), np.float32))
        return self.rounded(emit, "MatMul", ones, self.rounded(emit, "Mul", turned, right))

    def blocks(self, weights: str, terms: int) -> list[str]:
        if not self.depth or terms <= self.depth:
            return [weights]
        starts = range(0, terms, self.depth)
        return [self.part(self.emit, weights, 0, start, min(start + self.depth, terms)) for start in starts]

    def bias(self, place: int) -> str:
        size = _GATES * self.hidden
        both = self.of(place, 3)
        halves = (self.part(self.emit, both, 0, start, start + size) for start in (0, size))
        return self.rounded(self.emit, "Add", *halves)

    def first(self, place: int, number: int) -> str:
        if self.given[number]:
            return self.of(place, number)
        batch = self.part(self.emit, self.emit.add("Shape", self.given[0]), 0, 1, 2)
        shape = self.emit.add("Concat", batch, self.integers([self.hidden]), axis=0)
        zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
        return self.emit.add("ConstantOfShape", shape, value=zero)

    def of(self, place: int, number: int) -> str:
        """What an input has for one direction."""
        chosen = self.emit.constant(f"number{place}", np.array(place, np.int64))
        return self.emit.add("Gather", self.given[number], chosen, axis=0)

    def rounded(self, emit: Emitter, op: str, *names: str) -> str:
        return self.round(emit, emit.add(op, *names))

    def integers(self, values: Sequence[int]) -> str:
        return self.emit.constant("integers" + "_".join(map(str, values)), np.array(values, np.int64))

    def part(self, emit: Emitter, name: str, axis: int, start: int, end: int) -> str:
        if self.opset < 10:
            return emit.add("Slice", name, starts=[start], ends=[end], axes=[axis])
        return emit.add("Slice", name, *(self.integers([value]) for value in (start, end, axis)))


def is_plain_lstm(node: ir.Node) -> bool:
    """Whether an LSTM has the usual functions, sequences of one length, and nothing that its steps lack."""
    given = [*node.inputs, *[None] * 8]
    return {"hidden_size", "direction"}.issuperset(node.attributes) and given[4] is None and given[7] is None

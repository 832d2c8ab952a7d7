"""Recurrent layers in steps, as compilers unroll them: each product, gate and state is a tensor that is rounded.

Measured on an H200 with TensorRT for RTX 1.6.1.120, and for LSTM with 1.4.0.76, bit by bit: what is read times its
weights, and the state times its own, are rounded and added; then comes the sum of both biases, or, of the gates of a
GRU, one after the other. What is multiplied and then added to something is rounded once: of an LSTM, what is left of
the old cell, to which its new part is added; of a GRU, the new part of its state, and what its reset gate leaves of the
product of the state. Of a GRU 99.4 to 99.7 % of the elements of a step come out as they do on an engine that had the
same state before, of an RNN 99.4 to 100 % of all steps.

Each product of one row is added up in FP32, or is generated code that rounds each product of two numbers: see OneRow.
With one direction, and with two before 1.6, an LSTM or RNN both of whose products are generated adds up both at once:
number by number what is read times its weights to the state times its own, rounded, and then all of these. Is one as
long as the other, it is a fused multiplication and addition that does not round what is read times its weights. So 98.9
to 100 % of the elements of a step come out as on 1.6; of four steps of two directions 95 to 100 % as on 1.4 and 1.5.

With 2 to 32 rows, 1.4 and 1.6 alike, products of an LSTM come out bit by bit, its cells in 99.8 % and its states in
99.7 % of the elements of a step. What differs are Sigmoids near the middle between two numbers of FP16. At BF16 on 1.4
and 1.5, where a Sigmoid is a Tanh, whole LSTMs of 16 steps have all bits of the engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from harness.model.rounding import Emitter

Round = Callable[[Emitter, str], str]

_DIRECTIONS = {"forward": (0,), "reverse": (1,), "bidirectional": (0, 1)}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
RECURRENT = frozenset(_GATES)


@dataclass(frozen=True)
class OneRow:
    """Which products of a layer of one row are generated code, which rounds each product of two numbers.

    Args:
        read: what is read times its weights; elsewhere it is added up in FP32, as the others are.
        state: the state times its weights, of a GRU those of both gates or, if the reset gate comes behind, of all.
        new: of a GRU, what its reset gate leaves of the state times the weights of what is new.
        together: `read` and `state` are added up at once.
    """

    read: bool
    state: bool
    new: bool = False
    together: bool = False


def emit_recurrent(
    emit: Emitter,
    node: onnx.NodeProto,
    opset: int,
    round: Round,
    *,
    depth: int,
    one_row: OneRow | None,
    width: int,
    halves: bool = False,
) -> tuple[str, ...]:
    """Emit a recurrent layer in steps; the names of all states, the last one and, of an LSTM, the last cell.

    Args:
        emit: where to.
        node: the node, with the names that it reads.
        opset: of the graph.
        round: emits a rounding to the precision.
        depth: so many terms are added up exactly, and the sum is rounded after each; 0 adds up in FP32.
        one_row: what is generated code, of one row; None with more rows.
        width: how many numbers it reads in each step.
        halves: how its Sigmoids are computed, see `emit_sigmoid`.
    """
    kinds: dict[str, type[_Lstm | _Gru | _Rnn]] = {"LSTM": _Lstm, "GRU": _Gru, "RNN": _Rnn}
    return kinds[node.op_type](
        emit, node, opset, round, depth, one_row or _GENERATED_NOTHING, width, halves
    ).emitted()


def emit_sigmoid(emit: Emitter, name: str, round: Round, *, halves: bool) -> str:
    """Emit a Sigmoid, or with `halves` half of a Tanh of half of `name`, rounded, and a half; not rounded yet."""
    if not halves:
        return emit.add("Sigmoid", name)
    half = emit.constant("half", np.array(0.5, np.float32))
    tanh = round(emit, emit.add("Tanh", emit.add("Mul", name, half)))
    return emit.add("Add", emit.add("Mul", tanh, half), half)


_GENERATED_NOTHING = OneRow(read=False, state=False)


class _Recurrent(ABC):
    """A layer with one state."""

    def __init__(
        self,
        emit: Emitter,
        node: onnx.NodeProto,
        opset: int,
        round: Round,
        depth: int,
        one_row: OneRow,
        width: int,
        halves: bool,
    ) -> None:
        self.emit, self.opset, self.round, self.depth = emit, opset, round, depth
        self.one_row, self.width, self.halves = one_row, width, halves
        self.given = [*node.input, *[""] * 8]
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        self.hidden = int(attributes["hidden_size"])
        self.gates = _GATES[node.op_type] * self.hidden
        self.states = (5, 6) if node.op_type == "LSTM" else (5,)
        self.before = bool(attributes.get("linear_before_reset", 0))
        self.directions = _DIRECTIONS[attributes.get("direction", b"forward").decode()]

    def emitted(self) -> tuple[str, ...]:
        found = [self.direction(place, reverse) for place, reverse in enumerate(self.directions)]
        shapes = [[0, 1, -1, self.hidden], *([1, -1, self.hidden] for _ in self.states)]
        joined = []
        for number, shape in enumerate(shapes):
            parts = [self.emit.add("Reshape", each[number], self.emit.integers(shape)) for each in found]
            joined.append(self.emit.add("Concat", *parts, axis=0 if number else 1))
        return tuple(joined)

    def direction(self, place: int, reverse: int) -> tuple[str, ...]:
        weights = [self.emit.add("Transpose", self.of(place, number), perm=[1, 0]) for number in (1, 2)]
        read = self.given[0]
        if not self.one_row.read:  # of all steps at once
            read = self.product(self.emit, read, self.blocks(weights[0], self.width), 2)
        scanned = [f"{self.emit.fresh()}/{name}" for name in ("state", "cell")[: len(self.states)]]
        scanned.append(f"{self.emit.fresh()}/read")
        body = self.emit.within(f"{self.emit.fresh()}/step")
        new = self.step(body, scanned[-1], scanned[:-1], weights, place)
        outputs = [*new, body.add("Identity", new[0])]
        # ONNX Runtime wants to know how many axes the states have.
        sizes = {scanned[-1]: self.width if self.one_row.read else self.gates}
        values = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, sizes.get(name, self.hidden)])
            for name in (*scanned, *outputs)
        ]
        graph = helper.make_graph(body.nodes, body.prefix, values[: len(scanned)], values[len(scanned) :])
        names = [self.emit.fresh() for _ in outputs]
        start = [self.first(place, number) for number in self.states]
        options = {"scan_input_directions": [reverse], "scan_output_directions": [reverse]}
        self.emit.nodes.append(
            helper.make_node(
                "Scan", [*start, read], names, f"{names[0]}/Scan", body=graph, num_scan_inputs=1, **options
            )
        )
        return names[-1], *names[:-1]

    @abstractmethod
    def step(
        self, body: Emitter, read: str, states: Sequence[str], weights: Sequence[str], place: int
    ) -> tuple[str, ...]:
        """Emit one step; the names of the new states.

        Args:
            body: where to.
            read: what is read in it, times its weights unless that is generated code.
            states: the states before.
            weights: of what is read, and of the state.
            place: which direction it is.
        """

    def added(self, body: Emitter, read: str, state: str, weights: Sequence[str], place: int) -> str:
        """What is read and the state, each times its weights, and the sum of both biases."""
        if self.one_row.together:
            gates = self.together(body, read, state, weights)
        else:
            kept = self.of_state(body, state, weights[1], generated=self.one_row.state)
            gates = self.rounded(body, "Add", self.of_read(body, read, weights[0]), kept)
        return self.rounded(body, "Add", gates, self.bias(place)) if self.given[3] else gates

    def of_read(self, body: Emitter, read: str, weights: str) -> str:
        """What is read times its weights."""
        return self.row(body, read, weights, self.width) if self.one_row.read else read

    def of_state(self, body: Emitter, state: str, weights: str, *, generated: bool) -> str:
        """The state, or what is left of it, times some of its weights."""
        if generated:
            return self.row(body, state, weights, self.hidden)
        return self.product(body, state, self.blocks(weights, self.hidden), 1)

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

    def row(self, emit: Emitter, left: str, right: str, terms: int) -> str:
        """One row times a matrix, each product of two numbers rounded."""
        return self.summed(emit, self.rounded(emit, "Mul", self.column(emit, left), right), terms)

    def together(self, emit: Emitter, read: str, state: str, weights: Sequence[str]) -> str:
        """What is read and the state, each times its weights, added up at once."""
        kept = self.rounded(emit, "Mul", self.column(emit, state), weights[1])
        made = emit.add("Mul", self.column(emit, read), weights[0])
        if self.width == self.hidden:
            return self.summed(emit, self.rounded(emit, "Add", made, kept), self.width)
        made = self.round(emit, made)
        (few, fewer), (rest, most) = sorted(
            ((kept, self.hidden), (made, self.width)), key=lambda each: each[1]
        )
        both = self.rounded(emit, "Add", few, self.part(emit, rest, 0, 0, fewer))
        return self.summed(
            emit, emit.add("Concat", both, self.part(emit, rest, 0, fewer, most), axis=0), most
        )

    def column(self, emit: Emitter, row: str) -> str:
        return emit.add("Transpose", row, perm=[1, 0])

    def summed(self, emit: Emitter, products: str, terms: int) -> str:
        """The sums of columns, each rounded once."""
        ones = emit.constant(f"ones{terms}", np.ones((1, terms), np.float32))
        return self.rounded(emit, "MatMul", ones, products)

    def blocks(self, weights: str, terms: int) -> list[str]:
        if not self.depth or terms <= self.depth:
            return [weights]
        starts = range(0, terms, self.depth)
        return [self.part(self.emit, weights, 0, start, min(start + self.depth, terms)) for start in starts]

    def biases(self, place: int, start: int = 0, end: int | None = None) -> list[str]:
        """What is added to what is read and to the state, of these gates."""
        both, end = self.of(place, 3), self.gates if end is None else end
        return [self.part(self.emit, both, 0, half + start, half + end) for half in (0, self.gates)]

    def bias(self, place: int, start: int = 0, end: int | None = None) -> str:
        return self.rounded(self.emit, "Add", *self.biases(place, start, end))

    def first(self, place: int, number: int) -> str:
        if self.given[number]:
            return self.of(place, number)
        batch = self.part(self.emit, self.emit.add("Shape", self.given[0]), 0, 1, 2)
        shape = self.emit.add("Concat", batch, self.emit.integers([self.hidden]), axis=0)
        zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
        return self.emit.add("ConstantOfShape", shape, value=zero)

    def of(self, place: int, number: int) -> str:
        """What an input has for one direction."""
        chosen = self.emit.constant(f"number{place}", np.array(place, np.int64))
        return self.emit.add("Gather", self.given[number], chosen, axis=0)

    def rounded(self, emit: Emitter, op: str, *names: str) -> str:
        return self.round(emit, emit.add(op, *names))

    def sigmoid(self, emit: Emitter, name: str) -> str:
        return self.round(emit, emit_sigmoid(emit, name, self.round, halves=self.halves))

    def part(self, emit: Emitter, name: str, axis: int, start: int, end: int) -> str:
        return emit.part(name, axis, start, end, opset=self.opset)


class _Rnn(_Recurrent):
    def step(
        self, body: Emitter, read: str, states: Sequence[str], weights: Sequence[str], place: int
    ) -> tuple[str, ...]:
        return (self.rounded(body, "Tanh", self.added(body, read, states[0], weights, place)),)


class _Lstm(_Recurrent):
    def step(
        self, body: Emitter, read: str, states: Sequence[str], weights: Sequence[str], place: int
    ) -> tuple[str, ...]:
        return self.cell(body, self.added(body, read, states[0], weights, place), states[1])

    def cell(self, body: Emitter, gates: str, cell: str) -> tuple[str, str]:
        size = self.hidden
        parts = [self.part(body, gates, 1, number * size, (number + 1) * size) for number in range(4)]
        entry, leave, forget = (self.sigmoid(body, name) for name in parts[:3])
        added = self.rounded(body, "Mul", entry, self.rounded(body, "Tanh", parts[3]))
        new = self.rounded(body, "Add", body.add("Mul", forget, cell), added)
        return self.rounded(body, "Mul", leave, self.rounded(body, "Tanh", new)), new


class _Gru(_Recurrent):
    def step(
        self, body: Emitter, read: str, states: Sequence[str], weights: Sequence[str], place: int
    ) -> tuple[str, ...]:
        state, size, ends = states[0], self.hidden, (0, 2 * self.hidden, 3 * self.hidden)
        of_both, of_new = (
            self.part(self.emit, weights[1], 1, *ends[number : number + 2]) for number in (0, 1)
        )
        read = self.of_read(body, read, weights[0])
        kept = self.of_state(body, state, of_both, generated=self.one_row.state)
        both = self.rounded(body, "Add", self.part(body, read, 1, *ends[:2]), kept)
        if self.given[3]:
            for bias in self.biases(place, *ends[:2]):
                both = self.rounded(body, "Add", both, bias)
        both = self.sigmoid(body, both)
        update, reset = (self.part(body, both, 1, start, start + size) for start in (0, size))
        new = self.part(body, read, 1, *ends[1:])
        if self.before:
            kept, biases = (
                self.of_state(body, state, of_new, generated=self.one_row.state),
                self.biases(place, *ends[1:]) if self.given[3] else [],
            )
            kept = self.rounded(body, "Add", kept, biases[1]) if biases else kept
            kept = body.add("Mul", reset, kept)
            kept = self.round(body, body.add("Add", kept, biases[0]) if biases else kept)
            new = self.rounded(body, "Add", kept, new)
        else:
            left = self.rounded(body, "Mul", reset, state)
            kept = self.of_state(body, left, of_new, generated=self.one_row.new)
            new = self.rounded(body, "Add", new, kept)
            new = self.rounded(body, "Add", new, self.bias(place, *ends[1:])) if self.given[3] else new
        new = self.rounded(body, "Tanh", new)
        rest = self.rounded(body, "Sub", body.constant("one", np.array(1.0, np.float32)), update)
        left = self.rounded(body, "Mul", update, state)
        return (self.rounded(body, "Add", left, body.add("Mul", rest, new)),)


def is_plain_recurrent(node: ir.Node) -> bool:
    """Whether a recurrent layer has the usual functions, sequences of one length, and nothing that its steps lack."""
    given = [*node.inputs, *[None] * 8]
    usual = {"hidden_size", "direction", "linear_before_reset"}
    return usual.issuperset(node.attributes) and given[4] is None and given[7] is None

"""What kernels compute otherwise than a graph says, as ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from harness.model.rounding import Emitter
from harness.model.sums.products import emit_sum
from harness.model.sums.recurrent import RECURRENT, emit_recurrent, emit_sigmoid
from harness.model.sums.summation import DEPTH, Summation

Round = Callable[[Emitter, str], str]


@dataclass(frozen=True)
class Arithmetic:
    """What kernels do otherwise than a graph of which each tensor is rounded once and products are added up in FP32.

    Args:
        sums: by node, how a product is added up where that is not in FP32.
        unrounded: tensors that no kernel rounds, as they never leave one.
        steps: nodes that are computed in several steps, by whether each of these is rounded: see `emit_steps`.
        tf32: products that read TF32 where they are in FP32.
        fused: by product of which a compiler fuses Casts away, the nodes that read it: it keeps them where one of these
            is in FP32, too.
        halves: a Sigmoid is half of a Tanh of half of what it reads, rounded, and a half.
    """

    sums: Mapping[str, Summation] = field(default_factory=dict)
    unrounded: frozenset[str] = frozenset()
    steps: Mapping[str, bool] = field(default_factory=dict)
    tf32: frozenset[str] = frozenset()
    fused: Mapping[str, frozenset[str]] = field(default_factory=dict)
    halves: bool = False

    def kept(
        self, island: frozenset[str], fp32_sums: frozenset[str]
    ) -> tuple[frozenset[str], frozenset[str]]:
        """What is in FP32, and added up in FP32, of what is asked for: without products whose Casts are fused away."""
        alone = frozenset(node for node, readers in self.fused.items() if readers.isdisjoint(island))
        return island - alone, fp32_sums - alone

    def changes(self, node: str) -> bool:
        """Whether a node is computed otherwise when it is lowered."""
        return node in self.steps or (node in self.sums and not self.sums[node].recurrent)

    def with_fp32_sums(self, products: frozenset[str]) -> Arithmetic:
        """The same with `products` added up in FP32."""
        left = {node: how for node, how in self.sums.items() if node not in products}
        return replace(self, sums=left) if len(left) < len(self.sums) else self

    def emit(
        self, emit: Emitter, node: onnx.NodeProto, name: str, opset: int, round: Round, rank: int
    ) -> tuple[str, ...]:
        """Emit a node that is computed otherwise; the names of its results, which need not be rounded yet.

        Args:
            emit: where to.
            node: the node, with the names that it reads.
            name: its name in the model.
            opset: of the graph.
            round: emits a rounding to the precision.
            rank: how many axes it writes.
        """
        how = self.sums.get(name)
        if node.op_type in RECURRENT:
            one_row = None if how is None else how.one_row
            depth = DEPTH if how is not None and one_row is None else 0
            width = how.reads[0][-1] if how is not None else 0
            return emit_recurrent(
                emit, node, opset, round, depth=depth, one_row=one_row, width=width, halves=self.halves
            )
        if how is not None:
            return (emit_sum(emit, node, how, opset, round),)
        return (emit_steps(emit, node, opset, round, rank, rounds=self.steps[name]),)


PLAIN = Arithmetic()


def emit_steps(
    emit: Emitter, node: onnx.NodeProto, opset: int, round: Round, rank: int, *, rounds: bool
) -> str:
    """Emit a node as several: a BatchNormalization as a multiplication and an addition of constants that are rounded, a
    LayerNormalization as one without weights and the multiplication and addition of these, a Softmax as its primitives,
    a LogSoftmax as the logarithm of one, a Div as a multiplication by the reciprocal, a ReduceL2
    as the square root of a sum of squares, a Sigmoid as a Tanh. Of a Softmax whose steps are not
    rounded, the powers are, before they are divided by their sum: fused attention divides last.

    Args:
        emit: where to.
        node: the node, with the names that it reads.
        opset: of the graph.
        round: emits a rounding to the precision.
        rank: how many axes the node writes.
        rounds: whether what one step hands to the next is rounded.
    """

    def between(emit: Emitter, name: str) -> str:
        return round(emit, name) if rounds else name

    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if node.op_type == "Div":
        one = emit.constant("one", np.array(1.0, np.float32))
        return emit.add("Mul", node.input[0], between(emit, emit.add("Div", one, node.input[1])))
    if node.op_type == "Sigmoid":
        return emit_sigmoid(emit, node.input[0], between, halves=True)
    if node.op_type == "ReduceL2":
        squares = between(emit, emit.add("Mul", node.input[0], node.input[0]))
        total = emit.add("ReduceSum", squares, *_given_axes(emit, node, attributes, opset), **attributes)
        return emit.add("Sqrt", between(emit, total))
    if node.op_type == "BatchNormalization":
        image, (gain, offset, mean, variance) = node.input[0], (round(emit, each) for each in node.input[1:5])
        epsilon = emit.constant("epsilon", np.array(attributes.get("epsilon", 1e-5), np.float32))
        factor = round(emit, emit.add("Div", gain, emit.add("Sqrt", emit.add("Add", variance, epsilon))))
        shift = round(emit, emit.add("Sub", offset, emit.add("Mul", mean, factor)))
        shape = emit.constant(f"channels{rank}", np.array([-1, *[1] * (rank - 2)], np.int64))
        factor, shift = (emit.add("Reshape", each, shape) for each in (factor, shift))
        return emit.add("Add", between(emit, emit.add("Mul", image, factor)), shift)
    if node.op_type == "LayerNormalization":
        one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
        ones = emit.add("ConstantOfShape", emit.add("Shape", node.input[1]), value=one)
        normed = between(emit, emit.add("LayerNormalization", node.input[0], ones, **attributes))
        scaled = emit.add("Mul", normed, node.input[1])
        return emit.add("Add", scaled, node.input[2]) if len(node.input) > 2 else scaled
    first = int(attributes.get("axis", -1 if opset >= 13 else 1)) % rank
    axes = [first] if opset >= 13 else list(range(first, rank))
    given = emit.integers(axes)

    def reduced(op: str, name: str, since: int) -> str:
        return emit.add(op, name, given) if opset >= since else emit.add(op, name, axes=axes)

    less = between(emit, emit.add("Sub", node.input[0], reduced("ReduceMax", node.input[0], 18)))
    powers = between(emit, emit.add("Exp", less))
    total = between(emit, reduced("ReduceSum", powers, 13))
    shares = emit.add("Div", powers if rounds else round(emit, powers), total)
    return shares if node.op_type == "Softmax" else emit.add("Log", between(emit, shares))


def _given_axes(emit: Emitter, node: onnx.NodeProto, attributes: dict[str, Any], opset: int) -> Sequence[str]:
    """The axes of a reduction as ReduceSum takes them, which has had them as an input for longer than others."""
    if len(node.input) > 1:
        return [node.input[1]]
    if opset < 13 or "axes" not in attributes:
        return ()
    return [emit.integers(attributes.pop("axes"))]

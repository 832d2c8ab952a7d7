"""What the integer and boolean inputs of a model are for, read from its graph: what to fill them with.

Zeros and ones are valid everywhere, and prove little: a table of which two rows are read, positions that never count
up (a rotary embedding in bfloat16 fails at 257, not at 1), a mask that masks at random, or whole rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import onnx

from harness.case import DrawnFill, IntegersFill, MaskFill, PositionsFill
from harness.model.analysis import all_nodes
from harness.model.model import Model
from harness.model.own_roundings import Constants

MOVERS = frozenset(
    {"Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Expand", "Slice", "Flatten", "Transpose"}
)
"""Operators that hand on what they read, element by element."""

_TURNED = frozenset({"Sin", "Cos"})
_SELECTING = frozenset({"Where", "Not", "And", "Or"})
_STEPS = 8  # arithmetic nodes on the way from positions to a sine
_FLOATS = ("float32", "float16", "bfloat16")
_MASKING = 1e3
"""What masks is at least so large: −1000 in BERT, −10000, −1e9, the lowest float, −inf."""
_WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def guess_fills(model: Model) -> dict[str, DrawnFill]:
    """For each input whose use the graph shows, what to fill it with.

    - ids, which Gather rows of a table, or are one-hot encoded: the rows of the table;
    - positions, which end in a sine or cosine, or Gather by that name: counted up;
    - masks, which choose (Where, And, Not), or scale a number too large to be one: ones, with a padded end. A float
      input is one only where 1 - mask scales such a number, or is read as a choice.
    """
    graph = _Uses(model)
    return {
        info.name: fill
        for info in model.inputs
        if (info.dtype in (*_WHOLE, *_FLOATS, "bool"))
        and (fill := graph.fill(info.name, info.dtype)) is not None
    }


class _Uses:
    def __init__(self, model: Model) -> None:
        self.model = model
        self._constants = Constants(model.ir)
        self.readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in all_nodes(model.skeleton.graph):
            for place, name in enumerate(node.input):
                self.readers.setdefault(name, []).append((node, place))

    def fill(self, name: str, dtype: str) -> DrawnFill | None:
        """What an input is to be filled with; None where its use does not show."""
        if dtype in _FLOATS:
            return MaskFill() if self._switches(name) else None
        if dtype == "bool":
            if self._selects(name) or "mask" in name.lower():
                return MaskFill(inverted=True) if self._leaves_out(name) else MaskFill()
            return None
        rows = self._rows(name)
        if self._turns(name) or (rows and "pos" in name.lower()):
            return PositionsFill(high=rows)
        if rows:
            return IntegersFill(low=0, high=rows)
        return MaskFill() if self._selects(name) or "mask" in name.lower() else None

    def _moved(self, name: str) -> Iterator[tuple[onnx.NodeProto, int]]:
        """The nodes that read the input, itself or moved."""
        waiting, seen = deque([name]), {name}
        while waiting:
            for node, place in self.readers.get(waiting.popleft(), ()):
                if node.op_type in MOVERS and place == 0:
                    waiting += [each for each in node.output if each not in seen]
                    seen.update(node.output)
                else:
                    yield node, place

    def _rows(self, name: str) -> int | None:
        """How many rows the smallest table has that the input selects from."""
        found = []
        for node, place in self._moved(name):
            if node.op_type == "Gather" and place == 1:
                axis = next((each.i for each in node.attribute if each.name == "axis"), 0)
                shape = self.model.shapes.get(node.input[0])
                rows = shape[axis] if shape and node.input[0] in self.model.ir.graph.initializers else None
                found += [rows] if isinstance(rows, int) and rows > 0 else []
            elif node.op_type == "OneHot" and place == 0:
                depth = self._number(node.input[1])
                found += [] if depth is None else [int(depth)]
        return min(found, default=None)

    def _turns(self, name: str) -> bool:
        """Whether a sine or cosine is taken of the input, after products at most."""
        level, steps = [name], 0
        seen = {name}
        while level and steps < _STEPS:
            following = []
            for tensor in level:
                for node, _ in self.readers.get(tensor, ()):
                    if node.op_type in _TURNED:
                        return True
                    if node.op_type in MOVERS | {"Mul", "MatMul", "Einsum", "Div", "Concat", "Gemm"}:
                        following += [each for each in node.output if each not in seen]
                        seen.update(node.output)
            level, steps = following, steps + 1
        return False

    def _switches(self, name: str) -> bool:
        """Whether a float input is inverted (1 - mask) for nothing but to scale a number that masks, or to choose."""
        inverted = list(self._moved(name))
        return bool(inverted) and all(
            node.op_type == "Sub"
            and self._number(node.input[1 - place]) == 1
            and all(
                self._masks(reader) or reader.op_type in _SELECTING
                for reader, _ in self._moved(node.output[0])
            )
            for node, place in inverted
        )

    def _leaves_out(self, name: str, *, turned: bool = False) -> bool:
        """Whether a Where puts a number that masks where a bool input is true, and not where it is false."""
        for node, place in self._moved(name):
            if node.op_type == "Not" and self._leaves_out(node.output[0], turned=not turned):
                return True
            if node.op_type == "Where" and place == 0:
                low = [(self._number(each) or 0.0) <= -_MASKING for each in node.input[1:]]
                if low == [not turned, turned]:
                    return True
        return False

    def _masks(self, node: onnx.NodeProto) -> bool:
        numbers = [self._number(each) for each in node.input] if node.op_type == "Mul" else []
        return any(number is not None and abs(number) >= _MASKING for number in numbers)

    def _number(self, name: str) -> float | None:
        """The value of a constant that is one number; None of others."""
        value = self._constants.get(name)
        return float(value.astype(np.float64).reshape(())) if value is not None and value.size == 1 else None

    def _selects(self, name: str) -> bool:
        """Whether the input chooses, or is turned into 1 - mask or compared with 0 before it does."""
        for node, place in self._moved(name):
            if node.op_type in _SELECTING and place in (0, 1) and not (node.op_type == "Where" and place):
                return True
            if node.op_type in ("Equal", "Greater", "Sub", "And") and any(
                reader.op_type in _SELECTING | MOVERS | {"Mul", "Softmax"}
                for reader, _ in self.readers.get(node.output[0], ())
            ):
                return True
        return False

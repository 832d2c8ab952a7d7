"""Nodes of a replacement: written for the opset of the model, with sizes that may be known at run time only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from onnxscript.rewriter import RewriterContext

#: A size: known, or a tensor of one int64.
Size = int | ir.Value
Attribute = int | float | str | Sequence[int] | Sequence[float] | ir.Attr | ir.TensorProtocol
LAST = np.iinfo(np.int64).max


class Ops:
    """Writes nodes into a replacement: `ops.Add(a, b)` as onnxscript does, and what differs between opsets.

    Args:
        tape: where onnxscript's rewriter collects the nodes.
        opset: that of the model; 13 or later.
    """

    def __init__(self, tape: RewriterContext, opset: int) -> None:
        self.tape, self.opset = tape, opset

    def __getattr__(self, operator: str) -> Callable[..., ir.Value]:
        def write(*inputs: ir.Value | None, **attributes: Attribute) -> ir.Value:
            return self.op(operator, *inputs, **attributes)

        return write

    def op(self, operator: str, *inputs: ir.Value | None, **attributes: Attribute) -> ir.Value:
        """A node with one output."""
        value: ir.Value = self.tape.op(operator, *inputs, **attributes)
        return value

    def outputs(
        self, operator: str, count: int, *inputs: ir.Value | None, **attributes: Attribute
    ) -> Sequence[ir.Value]:
        """A node with several outputs."""
        values: Sequence[ir.Value] = self.tape.op(operator, *inputs, _outputs=count, **attributes)
        return values

    def constant(
        self, values: np.ndarray | Sequence[int] | float, dtype: ir.DataType | None = None
    ) -> ir.Value:
        """A constant; int64 where neither `values` nor `dtype` says otherwise."""
        array = np.asarray(values)
        if dtype is not None:
            array = array.astype(dtype.numpy())
        tensor = ir.tensor(array, dtype=dtype)
        value = self.Constant(value=tensor)
        value.dtype, value.shape, value.const_value = tensor.dtype, ir.Shape(array.shape), tensor
        return value

    def ints(self, *values: int) -> ir.Value:
        """A constant of int64, one dimension."""
        return self.constant(np.array(values, np.int64))

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """`value` as `dtype`."""
        return value if value.dtype == dtype else self.Cast(value, to=int(dtype))

    def reduce(self, kind: str, value: ir.Value, *axes: int, keepdims: bool = False) -> ir.Value:
        """`Reduce<kind>` over `axes`, which are an input from opset 18 on (`Sum`: 13)."""
        if self.opset >= (13 if kind == "Sum" else 18):
            return self.op(f"Reduce{kind}", value, self.ints(*axes), keepdims=int(keepdims))
        return self.op(f"Reduce{kind}", value, axes=list(axes), keepdims=int(keepdims))

    def slice(self, value: ir.Value, axis: int, start: int, end: int = LAST, step: int = 1) -> ir.Value:
        """`value[start:end:step]` along `axis`."""
        return self.Slice(value, *map(self.ints, (start, end, axis, step)))

    def pick(self, value: ir.Value, axis: int, index: int) -> ir.Value:
        """`value` at `index` of `axis`, which goes."""
        return self.Gather(value, self.constant(np.array(index)), axis=axis)

    def unsqueeze(self, value: ir.Value, *axes: int) -> ir.Value:
        """`value` with an axis of size 1 at each of `axes`."""
        return self.Unsqueeze(value, self.ints(*axes)) if axes else value

    def squeeze(self, value: ir.Value, *axes: int) -> ir.Value:
        """`value` without `axes`, each of size 1."""
        return self.Squeeze(value, self.ints(*axes))

    def dim(self, value: ir.Value, axis: int) -> Size:
        """The size of an axis: a number where it is known."""
        known = sizes(value)[axis]
        if known is not None:
            return known
        return self.Gather(self.Shape(value), self.ints(axis), axis=0)

    def dims(self, value: ir.Value) -> list[Size]:
        """The size of every axis."""
        return [self.dim(value, axis) for axis in range(rank(value))]

    def vector(self, parts: Sequence[Size]) -> ir.Value:
        """Sizes as a tensor of int64, one dimension."""
        if all(isinstance(part, int) for part in parts):
            return self.constant(np.array(parts, np.int64))
        values = [self.ints(part) if isinstance(part, int) else part for part in parts]
        return values[0] if len(values) == 1 else self.Concat(*values, axis=0)

    def times(self, parts: Sequence[Size]) -> Size:
        """The product of sizes."""
        known = int(np.prod([part for part in parts if isinstance(part, int)], dtype=np.int64))
        unknown = [part for part in parts if not isinstance(part, int)]
        if not unknown:
            return known
        product = unknown[0]
        for part in unknown[1:]:
            product = self.Mul(product, part)
        return product if known == 1 else self.Mul(product, self.ints(known))

    def reshape(self, value: ir.Value, parts: Sequence[Size]) -> ir.Value:
        """`value` with these sizes."""
        return self.Reshape(value, self.vector(parts))

    def upto(self, size: Size) -> ir.Value:
        """0, 1, … below `size`: int64, one dimension."""
        if isinstance(size, int):
            return self.constant(np.arange(size, dtype=np.int64))
        zero, one = (self.constant(np.array(number)) for number in (0, 1))
        return self.Range(zero, self.squeeze(size, 0), one)

    def like(self, number: float, value: ir.Value) -> ir.Value:
        """A scalar constant in the dtype of `value`."""
        return self.constant(np.array(number), value.dtype)


def sizes(value: ir.Value) -> list[int | None]:
    """The sizes of the axes of `value`; None for those that are known at run time only.

    Raises:
        Inapplicable: its rank is unknown.
    """
    if value.shape is None:
        raise Inapplicable(f"the rank of {value.name} is unknown")
    return [size if isinstance(size, int) else None for size in value.shape]


def rank(value: ir.Value) -> int:
    """How many axes `value` has."""
    return len(sizes(value))


def known_sizes(value: ir.Value, first: int = 0) -> list[int]:
    """The sizes of the axes of `value` from `first` on.

    Raises:
        Inapplicable: one of them is known at run time only.
    """
    found = sizes(value)[first:]
    if None in found:
        raise Inapplicable(f"the shape of {value.name} is known at run time only")
    return [size for size in found if size is not None]


def constant_of(node: ir.Node, index: int) -> np.ndarray | None:
    """The values of an input of `node` if it is there and constant."""
    value = node.inputs[index] if index < len(node.inputs) else None
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def needed_constant(node: ir.Node, index: int) -> np.ndarray:
    """The values of an input that must be constant.

    Raises:
        Inapplicable: it is not.
    """
    values = constant_of(node, index)
    if values is None:
        raise Inapplicable(f"input {index} of {node.op_type} is not constant")
    return values


def given(node: ir.Node, index: int) -> ir.Value | None:
    """An optional input of `node`; None if it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def read(node: ir.Node, index: int) -> ir.Value:
    """An input that every such node has."""
    value = given(node, index)
    assert value is not None
    return value


def attributes_but(node: ir.Node, *names: str) -> dict[str, ir.Attr]:
    """The attributes of `node` without some."""
    return {name: attribute for name, attribute in node.attributes.items() if name not in names}


def steps_of(node: ir.Node, axes: int) -> tuple[list[int], list[int], list[int]]:
    """The strides and dilations of a window over so many axes, and its pads: the beginnings, then the ends."""
    found = (node.attributes.get_ints(name) for name in ("strides", "dilations", "pads"))
    strides, dilations, pads = (None if each is None else list(each) for each in found)
    return strides or [1] * axes, dilations or [1] * axes, pads or [0] * 2 * axes


def along(axis: int, axes: int) -> list[int]:
    """The shape of what has a value for each place of an axis of `axes`."""
    return [-1 if each == axis else 1 for each in range(axes)]


class Inapplicable(Exception):
    """A cure does not apply, for a reason.

    Args:
        reason: one clause.
        nodes: names of the nodes that it does not apply to; empty: of those that it is for.
    """

    def __init__(self, reason: str, nodes: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.nodes = nodes

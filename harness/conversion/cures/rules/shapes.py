"""Shapes that are taken apart and put together again, and products of more than two tensors."""

from __future__ import annotations

import onnx_ir as ir

from harness.conversion.cures.building import Inapplicable, Ops, constant_of, rank, read

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def flatten(ops: Ops, node: ir.Node) -> ir.Value | None:
    """`view(size(0), -1)` without the size."""
    data, shape = read(node, 0), read(node, 1).producer()
    if (
        shape is None
        or shape.op_type != "Concat"
        or len(shape.inputs) != 2
        or bool(node.attributes.get_int("allowzero", 0))
    ):
        return None
    rest = constant_of(shape, 1)
    if rest is None or rest.reshape(-1).tolist() != [-1] or not _is_first_size(read(shape, 0), data):
        return None
    return ops.Flatten(data, axis=1)


def _is_first_size(value: ir.Value, data: ir.Value) -> bool:
    """Whether `value` is the size of the first axis of `data`."""
    node = value.producer()
    if node is None:
        return False
    if node.op_type == "Shape":
        whole = "start" not in node.attributes and "end" not in node.attributes
        first = node.attributes.get_int("start", 0) == 0 and node.attributes.get_int("end", 0) == 1
        return node.inputs[0] is data and (first or (whole and rank(data) == 1))
    if node.op_type == "Gather":
        index, source = constant_of(node, 1), read(node, 0).producer()
        zero = index is not None and index.reshape(-1).tolist() == [0]
        return zero and source is not None and source.op_type == "Shape" and source.inputs[0] is data
    return node.op_type in ("Unsqueeze", "Squeeze", "Cast", "Identity") and _is_first_size(
        read(node, 0), data
    )


def einsum(ops: Ops, node: ir.Node) -> ir.Value | None:
    """Two tensors at a time, without an ellipsis."""
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    terms, arrow, result = equation.partition("->")
    inputs = [value for value in node.inputs if value is not None]
    if len(inputs) < 3 and "..." not in equation:
        return None
    if not arrow:
        raise Inapplicable("its equation does not name the axes of its result")
    subscripts, result = _spelled(terms.split(","), result, inputs)
    current, value = subscripts[0], inputs[0]
    for at in range(1, len(inputs)):
        needed = set(result).union(*subscripts[at + 1 :])
        last = at == len(inputs) - 1
        together = [letter for letter in dict.fromkeys(current + subscripts[at]) if letter in needed]
        target = result if last else "".join(together)
        value = ops.Einsum(value, inputs[at], equation=f"{current},{subscripts[at]}->{target}")
        current = target
    if len(inputs) == 1:
        value = ops.Einsum(value, equation=f"{current}->{result}")
    return value


def _spelled(terms: list[str], result: str, inputs: list[ir.Value]) -> tuple[list[str], str]:
    """The subscripts with letters instead of the ellipsis."""
    free = [letter for letter in _LETTERS if letter not in "".join(terms) + result]
    counts = [
        rank(value) - len(term.replace("...", "")) if "..." in term else 0
        for term, value in zip(terms, inputs, strict=True)
    ]
    most = max(counts)
    letters = "".join(free[:most])
    spelled = [
        term.replace("...", letters[most - count :]) for term, count in zip(terms, counts, strict=True)
    ]
    return spelled, result.replace("...", letters)

"""AutoCast, of ModelOpt: its command, and whether the nodes that it is to leave out still have their names by then.

It mends the graph before it looks for names: it converts the model to the opset that the low type asks for, and
replaces a LayerNormalization that is written out as other operators by the operator. What is replaced gets another
name, and is lowered with all the rest. (Source: its GraphSanitizer.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import onnx

from harness.model import Model, NodeInfo
from harness.tensors import Precision
from harness.text import command, names, plural

LEAST_OPSET = {Precision.FP16: 13, Precision.BF16: 22}
QUANTIZED_OPSET = 19
QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
NORM = ("Sub", "Pow", "ReduceMean", "Add", "Sqrt")
"""The operators of a written-out LayerNormalization from the mean to the standard deviation."""


def autocast(precision: Precision, island: Sequence[str], path: str) -> str:
    """The command that keeps `island` in FP32, and the types of the model's inputs and outputs."""
    arguments = ["python", "-m", "modelopt.onnx.autocast", "--onnx_path", path]
    arguments += ["--low_precision_type", precision.value, "--keep_io_types"]
    arguments += ["--nodes_to_exclude", *(f"^{re.escape(name)}$" for name in island)]
    return command(*arguments)


def autocast_obstacle(model: Model, precision: Precision, island: Sequence[str]) -> str:
    """Why AutoCast does not find all of `island` by name, one sentence; empty if it does."""
    renamed = [name for name in island if name in _written_out_norms(model)]
    if renamed:
        return f"it first replaces {names(renamed)} by LayerNormalization nodes, which have other names"
    opset, least = _opset(model), LEAST_OPSET[precision]
    if any(node.op in QUANTIZERS for node in model.nodes):
        least = max(least, QUANTIZED_OPSET)
    changed = [name for name in island if _changes(model.node(name), opset, least)] if opset < least else []
    if changed:
        those = f"{plural(len(changed), 'node')} ({names(changed)})"
        return f"it first converts the model from opset {opset} to {least}, where {those} may get other names"
    return ""


def _opset(model: Model) -> int:
    found = [each.version for each in model.skeleton.opset_import if each.domain in ("", "ai.onnx")]
    return max(found, default=1)


def _changes(node: NodeInfo, opset: int, target: int) -> bool:
    """Whether the operator has another definition at `target`: what keeps its definition is not converted."""
    try:
        before, after = (onnx.defs.get_schema(node.op, version) for version in (opset, target))
    except onnx.defs.SchemaError:
        return False  # of another domain
    return bool(before.since_version != after.since_version)


def _written_out_norms(model: Model) -> frozenset[str]:
    """Names of the nodes that may be replaced: more, if anything, than those that are."""
    readers: dict[str, list[NodeInfo]] = {}
    for node in model.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    return frozenset(
        name
        for node in model.nodes
        if node.op == "ReduceMean"
        for chain in _chains(node, NORM, readers)
        for name in _norm(node, chain, readers)
    )


def _chains(
    node: NodeInfo, ops: Sequence[str], readers: dict[str, list[NodeInfo]]
) -> Iterator[tuple[NodeInfo, ...]]:
    """The paths behind `node` along readers of these operators."""
    if not ops:
        yield ()
        return
    for reader in readers.get(node.outputs[0], ()):
        if reader.op == ops[0]:
            for rest in _chains(reader, ops[1:], readers):
                yield (reader, *rest)


def _norm(mean: NodeInfo, chain: tuple[NodeInfo, ...], readers: dict[str, list[NodeInfo]]) -> Iterator[str]:
    """The nodes of a norm, with the scale and the bias that may follow; none if nothing is divided."""
    difference, deviation = chain[0].outputs[0], chain[-1].outputs[0]
    for divide in readers.get(deviation, ()):
        if divide.op != "Div" or divide.inputs[:2] != (difference, deviation):
            continue
        yield from (node.name for node in (mean, *chain, divide))
        last = divide
        for op in ("Mul", "Add"):
            behind = readers.get(last.outputs[0], [])
            if len(behind) == 1 and behind[0].op == op:
                last = behind[0]
                yield last.name

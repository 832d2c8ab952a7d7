"""What became of each node in an engine: its kernels and datatypes, what was asked and not done, and what changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from harness.compiler import FindingKind, GraphView
from harness.conversion.findings import Finding, FoundBy, NodeFate
from harness.model import LOW_DTYPE, PRODUCTS, Model
from harness.tensors import Precision
from harness.worker.protocol import MOVES, Kernel, KernelList, Work

QUANTIZED = frozenset({"int8", "int4", "float8_e4m3fn", "float4_e2m1fn"})
_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
_JOINS = frozenset({"Relu", "Add", "Clip", "LeakyRelu", "Sigmoid"})
KERNEL_CODES = _NOT_AS_ASKED, _NOTHING_QUANTIZED, _PARTS = "not-as-asked", "quantized-nothing", "qdq-parts"
"""The codes of what kernels tell."""


def fates_of(model: Model, listed: KernelList, precision: Precision | None) -> tuple[NodeFate, ...]:
    """What became of each node of `model`.

    Args:
        model: the model that was compiled.
        listed: the kernels of its engine.
        precision: of the typed graph; None for the file as it is written.
    """
    by_node: dict[str, list[int]] = {}
    for position, kernel in enumerate(listed.kernels):
        for name in kernel.onnx_nodes:
            by_node.setdefault(name, []).append(position)
    asked = _asked(model, precision)
    return tuple(
        NodeFate(
            node.name,
            node.op,
            tuple(by_node.get(node.name, ())),
            asked.get(node.name),
            _dtypes([listed.kernels[position] for position in by_node.get(node.name, ())]),
        )
        for node in model.nodes
    )


def _asked(model: Model, precision: Precision | None) -> Mapping[str, str]:
    """By node: what it is to be computed in. Products of dequantized tensors: what these were quantized to."""
    low = LOW_DTYPE.get(precision) if precision is not None else None
    found = {} if low is None else {node.name: str(low.numpy()) for node in model.lowerable}
    for node in model.nodes:
        if node.op not in PRODUCTS and node.op != "ConvTranspose":
            continue
        quantized = []
        for tensor in node.inputs[:2]:
            writer = model.producer(tensor)
            if writer is not None and writer.op == "DequantizeLinear":
                quantized.append(model.dtypes.get(writer.inputs[0], ""))
        if len(quantized) == 2 and quantized[0] in QUANTIZED:
            found[node.name] = quantized[0]
    return found


def _dtypes(kernels: list[Kernel]) -> tuple[str, ...]:
    found = {tensor.dtype for kernel in kernels for tensor in kernel.inputs or kernel.outputs}
    found |= {dtype for kernel in kernels for dtype in kernel.constants if dtype in QUANTIZED}
    return tuple(sorted(dtype for dtype in found if dtype is not None))


def kernel_findings(
    model: Model, graph: GraphView, listed: KernelList, fates: tuple[NodeFate, ...], environment: str
) -> Iterator[Finding]:
    """What was asked and not done, and quantizers that cost a round trip through memory."""
    finding = partial(Finding, found_by=FoundBy.KERNELS, environment=environment)
    for fate in fates:
        if not fate.is_done and fate.asked is not None:
            built = " and ".join(fate.built)
            yield finding(
                _NOT_AS_ASKED,
                FindingKind.RISKY,
                node=graph.facts(fate.node),
                explanation=f"{fate.asked} was asked, and {built} built",
                advice="see which kernels of the release take it (`--list-kernels`), "
                "or leave it in the wider type on purpose",
            )
    touched = {
        dtype
        for kernel in listed.kernels
        for dtype in (*(tensor.dtype for tensor in (*kernel.inputs, *kernel.outputs)), *kernel.constants)
    }
    if model.quantized and not touched & QUANTIZED:
        yield finding(
            _NOTHING_QUANTIZED,
            FindingKind.RISKY,
            explanation="it has Q/DQ nodes, and no kernel of the engine reads or writes a quantized tensor",
            advice="put QuantizeLinear and DequantizeLinear in front of both inputs of products",
        )
    for product, joined in parted(model, listed, fates):
        yield finding(
            _PARTS,
            FindingKind.IMPROVABLE,
            node=graph.facts(joined),
            explanation=f"a Q/DQ pair separates it from {product}, whose result makes a round trip through memory",
            advice=f"leave out the Q/DQ pair between {product} and {joined}",
        )


def parted(model: Model, listed: KernelList, fates: tuple[NodeFate, ...]) -> Iterator[tuple[str, str]]:
    """Products and the sums or activations behind them, where a Q/DQ pair between them keeps them in two kernels."""
    kernels = {fate.node: fate.kernels for fate in fates}
    for node in model.nodes:
        if node.op not in _JOINS:
            continue
        for tensor in node.inputs:
            chain, writer = [], model.producer(tensor)
            while writer is not None and writer.op in _QDQ:
                chain.append(writer.op)
                writer = model.producer(writer.inputs[0])
            if len(chain) < 2 or writer is None or writer.op not in PRODUCTS:
                continue
            own = [
                position
                for position in kernels[writer.name]
                if listed.kernels[position].work is not Work.GENERATED
            ]
            if own and kernels[node.name] and not set(own) & set(kernels[node.name]):
                yield writer.name, node.name


class Change(StrEnum):
    """How a node differs between two engines, what matters most first."""

    DATATYPE = "datatype"
    FUSION = "fusion"
    MISSING = "only in one"
    CODE = "code"


@dataclass(frozen=True)
class KernelChange:
    """A node that became something else in another engine.

    Args:
        node: its name.
        change: in which respect.
        before: its datatypes, what it is fused with, or what its kernel does; empty: no kernel has it.
        after: likewise in the other engine.
    """

    node: str
    change: Change
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True)
class _Made:
    dtypes: tuple[str, ...] = ()
    partners: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()


def changes_between(before: KernelList, after: KernelList) -> tuple[KernelChange, ...]:
    """The nodes that two engines compute in other datatypes, fused otherwise or by other code.

    The engines are of two releases, or of two models with the same names.
    """
    one, other = _by_node(before), _by_node(after)
    found = []
    for name in dict.fromkeys((*one, *other)):
        old, new = one.get(name, _Made()), other.get(name, _Made())
        if name not in one or name not in other:
            found.append(KernelChange(name, Change.MISSING, old.partners, new.partners))
        elif old.dtypes != new.dtypes:
            found.append(KernelChange(name, Change.DATATYPE, old.dtypes, new.dtypes))
        elif old.partners != new.partners:
            found.append(KernelChange(name, Change.FUSION, old.partners, new.partners))
        elif old.operations != new.operations:
            found.append(KernelChange(name, Change.CODE, old.operations, new.operations))
    return tuple(sorted(found, key=lambda change: list(Change).index(change.change)))


def _by_node(listed: KernelList) -> dict[str, _Made]:
    kernels: dict[str, list[Kernel]] = {}
    for kernel in listed.kernels:
        for name in kernel.onnx_nodes:
            kernels.setdefault(name, []).append(kernel)
    return {
        name: _Made(
            _dtypes(own),
            tuple(sorted({each for kernel in own for each in kernel.onnx_nodes} - {name})),
            tuple(operation for kernel in own for operation in kernel.operations),
        )
        for name, own in kernels.items()
    }


@dataclass(frozen=True)
class Movement:
    """How many kernels compute nothing: what they do instead.

    Args:
        casts: kernels that only cast or reformat.
        quantizers: kernels of QuantizeLinear and DequantizeLinear alone.
        regions: kernels that the compiler takes as a whole, and does not show (`{ForeignNode[…]}`).
    """

    casts: int
    quantizers: int
    regions: int


def movement(listed: KernelList, fates: tuple[NodeFate, ...]) -> Movement:
    """How many kernels move data alone."""
    ops = {fate.node: fate.op for fate in fates}
    casts = quantizers = regions = 0
    for kernel in listed.kernels:
        inside = {ops[name] for name in kernel.onnx_nodes if name in ops}
        if kernel.work is Work.REGION:
            regions += 1
        elif inside and inside <= _QDQ:
            quantizers += 1
        elif kernel.work is Work.MOVEMENT or (kernel.operations and MOVES.issuperset(kernel.operations)):
            casts += 1
    return Movement(casts, quantizers, regions)

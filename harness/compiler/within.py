"""What stays within the kernels of an engine: tensors that none rounds, and products that are added up in FP32.

Measured on an H200 with TensorRT for RTX 1.4.0.76, 1.5.0.114 and 1.6.1.120: generated code rounds each tensor as the
graph says, though it does not leave the kernel, and a product is rounded before what is fused behind it. A division by
a constant, or behind which generated code multiplies once more than the graph, is a multiplication by the reciprocal
before 1.6, a Softmax that is not in attention consists of its
primitives, and a LayerNormalization is rounded before its weights come to it. There are exceptions:

- A product that is only converted to FP32, as the output of a model is, gives its FP32 sum and is never FP16.
- What is computed last behind a product, and then converted to FP32, is not rounded.
- One row that is added up in FP32 is not rounded before what is fused behind it.
- A product by itself takes the constant that what it reads is multiplied or divided by behind its sum: partial sums are
  those of what was not scaled. (Seen in what an island of linear attention needed, on 1.6.)
- In fused attention, scales that differ by head, and all scales if the queries or keys are scaled within, are taken
  together and go before the product, so that raw logits beyond 65504 are not there. One scale behind the product
  stays behind it, and such logits overflow. In BF16 nothing is rounded there but the weights, and these are rounded
  in both before they are divided by their sum. So it is in FP16 where a mask is a Where, with FP32 sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnx_ir import TensorProtocol

from harness.model import Arithmetic, Model, NodeInfo, Summation, is_plain_recurrent, rounds_products
from harness.tensors import Precision
from harness.worker.protocol import (
    CAST,
    DIVISION,
    EXACT_OPERATIONS,
    MULTIPLICATION,
    TENSORRT_RTX,
    Kernel,
    KernelList,
    Work,
    fused_behind,
    operations_in,
)

RECIPROCALS_BEFORE = (1, 6)
"""The release since which a division is one, or its reciprocal is not rounded."""

_MULTIPLIES = {"Mul": 1, "Pow": 1, "ReduceL2": 1, "BatchNormalization": 1, "LayerNormalization": 2}
"""By operator, how often generated code multiplies for it."""

SIGMOIDS_SINCE = (1, 6)
"""The release since which a Sigmoid at BF16 is rounded once. Before it is half of a Tanh, which is rounded, and a half:
so all gates of LSTMs come out bit by bit."""

WIDE_NORMS_SINCE = (1, 5)
"""The release since which ReduceL2 is computed in FP32."""

CASTS_KEPT_SINCE = (1, 6)
"""The release of TensorRT for RTX since which Casts around a product are kept, whatever reads it. 1.4 and 1.5 compute
as without them, bit by bit, unless a reader is in FP32, too (benchmarks/results/casts_obeyed.json)."""

KEYS = 64
"""Fused attention adds up so many weighted values in one accumulator, and then adds these sums."""

_SCALES = frozenset({"Mul", "Div"})
_PRODUCTS = frozenset({"MatMul", "Gemm"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


@dataclass(frozen=True)
class Within:
    """What stays within kernels.

    Args:
        unrounded: tensors that no kernel rounds.
        fp32: nodes whose product is added up in FP32.
        mixed: products of fused attention with its weights, which are added up tile by tile of keys.
        steps: nodes that are computed in several steps, by whether each of these is rounded.
        scales: by product, which of its inputs is scaled behind its sum, and by how much.
        halves: see `Arithmetic`.
    """

    unrounded: frozenset[str]
    fp32: frozenset[str]
    steps: Mapping[str, bool] = field(default_factory=dict)
    mixed: frozenset[str] = frozenset()
    scales: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    halves: bool = False

    def arithmetic(self, sums: Mapping[str, Summation]) -> Arithmetic:
        """With products that are added up as `sums` says, where they are not in FP32 after all."""
        left = {node: how for node, how in sums.items() if node not in self.fp32}
        for node in self.mixed & left.keys():
            parts = math.ceil(left[node].reads[0][-1] / KEYS)
            left[node] = replace(left[node], parts=parts)
        for node in self.scales.keys() & left.keys():
            place, scale = self.scales[node]
            left[node] = replace(left[node], scaled=place, scale=scale)
        return Arithmetic(left, self.unrounded, self.steps, halves=self.halves)


def fused_casts(kernels: KernelList, model: Model) -> dict[str, frozenset[str]]:
    """The matrix products whose Casts a compiler fuses away, with the nodes that read each of them."""
    if kernels.product != TENSORRT_RTX or _since(kernels) >= CASTS_KEPT_SINCE:
        return {}
    readers: dict[str, set[str]] = {}
    for node in model.lowerable:
        for name in node.inputs:
            readers.setdefault(name, set()).add(node.name)
    products = (node for node in model.lowerable if node.op in _PRODUCTS)
    return {node.name: frozenset(readers[node.outputs[0]]) for node in products if node.outputs[0] in readers}


def within_kernels(kernels: KernelList, model: Model, precision: Precision) -> Within:
    """What stays within the kernels that a compiler made of `model` at `precision`."""
    known = {node.name: node for node in model.nodes}
    unrounded: set[str] = set()
    fp32: set[str] = set()
    steps: dict[str, bool] = {}
    mixed: set[str] = set()
    scales: dict[str, tuple[int, float]] = {}
    halves = precision is Precision.BF16 and _since(kernels) < SIGMOIDS_SINCE
    for kernel in kernels.kernels:
        nodes = [known[name] for name in kernel.onnx_nodes if name in known]
        found = [node for node in nodes if node.op in _PRODUCTS]
        if kernel.work is Work.ATTENTION:
            wide = any(node.op == "Where" for node in nodes)
            free = [] if (logits := _free_logits(nodes, model)) is None else [logits]
            found = found if wide else free
            kept = found if precision is Precision.FP16 and not wide else nodes
            unrounded |= {name for node in kept for name in node.outputs if _is_read_by(name, nodes)}
            softmax = [node for node in nodes if node.op == "Softmax" and node.lowerable]
            steps |= {node.name: False for node in softmax}
            weights = {name for node in softmax for name in node.outputs}
            mixed |= {
                node.name for node in nodes if node.op in _PRODUCTS and weights.intersection(node.inputs)
            }
            unrounded |= {name for node in softmax for name in node.outputs if _is_read_by(name, nodes)}
        elif _is_converted(kernel):
            unrounded |= {name for node in nodes for name in node.outputs}
        else:
            unrounded |= set(_not_rounded(kernel, nodes, model))
            for product, place, scale in _scaled_behind(kernel, nodes, model):
                scales[product.name] = place, scale
                unrounded.add(product.inputs[place])
            found = []
            steps |= _steps(kernel, nodes, model, _since(kernels), halves)
        fp32 |= {node.name for node in found}
    # The kernels of a layer that is unrolled need not name it.
    unrolled = (node for node in model.lowerable if node.op in _RECURRENT and _in_steps(node, model))
    steps |= {node.name: True for node in unrolled}
    return Within(frozenset(unrounded), frozenset(fp32), steps, frozenset(mixed), scales, halves)


def _not_rounded(kernel: Kernel, nodes: Sequence[NodeInfo], model: Model) -> Iterator[str]:
    """What is not rounded in a kernel that begins with a product: one row, and what is converted to FP32 in the end."""
    operations = operations_of(kernel)
    product = fused_behind(operations)
    if product is None or len(operations) < 2 or not nodes:
        return
    if operations[-1] == CAST and (product is Work.MATRIX_PRODUCT or len(operations) == 2):
        yield from max(nodes, key=lambda node: node.index).outputs
    for node in nodes:
        if node.op in _PRODUCTS and _is_one_row(node, model):
            yield from node.outputs


def _scaled_behind(
    kernel: Kernel, nodes: Sequence[NodeInfo], model: Model
) -> Iterator[tuple[NodeInfo, int, float]]:
    """The product of a kernel of its own, which of its inputs a constant scales that goes behind it, and by what."""
    products = [node for node in nodes if node.op in _PRODUCTS]
    if operations_of(kernel) or len(products) != 1:
        return
    (product,) = products
    for node in nodes:
        places = [place for place, name in enumerate(product.inputs[:2]) if name in node.outputs]
        factor = _factor(node, model)
        alone = sum(node.outputs[0] in each.inputs for each in model.nodes) == 1
        if len(places) == 1 and factor and alone and node.lowerable:
            yield product, places[0], factor


def _factor(node: NodeInfo, model: Model) -> float | None:
    """What a node multiplies by, if that is one finite number."""
    if node.op not in _SCALES or _elements(node, model) != 1:
        return None
    constants = [_constant(name, model) for name in node.inputs]
    found = next((constant for constant in constants if constant is not None), None)
    if found is None or (node.op == "Div" and constants[1] is None):
        return None
    value = float(found.numpy().reshape(()))
    value = 1.0 / value if node.op == "Div" and value else value
    return value if math.isfinite(value) and value else None


def _is_one_row(node: NodeInfo, model: Model) -> bool:
    """Whether a product has one row, and is not generated code that rounds each product of two numbers."""
    left, out = (model.shapes.get(name, ()) for name in (node.inputs[0], node.outputs[0]))
    if not left or not out or not all(isinstance(size, int) for size in (*left, *out)):
        return False
    terms, columns = left[-1], out[-1]
    alone = all(size == 1 for size in (*left[:-1], *out[:-1]))
    return alone and not rounds_products(int(terms or 0), int(columns or 0))


def _since(kernels: KernelList) -> tuple[int, ...]:
    return tuple(map(int, kernels.release.split(".")[:2]))


def _steps(
    kernel: Kernel, nodes: Sequence[NodeInfo], model: Model, since: tuple[int, ...], halves: bool
) -> dict[str, bool]:
    """The nodes that generated code computes in several steps. It contracts a multiplication and an addition, unless
    they are fused behind a product."""
    operations = operations_of(kernel)
    contracts = fused_behind(operations) is None
    known = {"BatchNormalization": not contracts, "Softmax": True, "LogSoftmax": True}
    known["LayerNormalization"] = True
    if halves:
        known["Sigmoid"] = True
    multiplied = sum(_MULTIPLIES.get(node.op, 0) for node in nodes)
    more = operations.count(MULTIPLICATION) > multiplied
    if since < RECIPROCALS_BEFORE and (more or DIVISION not in operations):
        known["Div"] = True
    if since < WIDE_NORMS_SINCE and CAST not in operations[1:-1]:
        known["ReduceL2"] = True
    return {
        node.name: known[node.op]
        for node in nodes
        if node.op in known and node.lowerable and _in_steps(node, model)
    }


def _in_steps(node: NodeInfo, model: Model) -> bool:
    """Whether the steps of a node are known: not of one with statistics as outputs, nor of an unusual layer."""
    if node.op in _RECURRENT:
        return is_plain_recurrent(model.ir_nodes[node.name])
    return not any(node.outputs[1:])


def _is_read_by(tensor: str, nodes: Sequence[NodeInfo]) -> bool:
    return any(tensor in node.inputs for node in nodes)


def operations_of(kernel: Kernel) -> tuple[str, ...]:
    """What generated code does, as its name says where a release does not list it."""
    return kernel.operations or operations_in(kernel.name, whole=False)


def _is_converted(kernel: Kernel) -> bool:
    operations = operations_of(kernel)
    begins = fused_behind(operations) is Work.MATRIX_PRODUCT
    return begins and operations[-1:] == (CAST,) and EXACT_OPERATIONS.issuperset(operations[1:-1])


def _free_logits(nodes: Sequence[NodeInfo], model: Model) -> NodeInfo | None:
    """The product of queries and keys whose scale goes before it; None if it stays behind."""
    products = [node for node in nodes if node.op in _PRODUCTS]
    first = min(products, key=lambda node: node.index, default=None)
    if first is None:
        return None
    scales = [node for node in nodes if node.op in _SCALES]
    by_head = any(_elements(node, model) > 1 for node in scales)
    before = any(node.index < first.index for node in scales)
    behind = any(first.outputs[0] in node.inputs for node in scales)
    return first if behind and (by_head or before) else None


def _elements(node: NodeInfo, model: Model) -> int:
    """How many elements the constant that a node scales by has; 0 without one."""
    constants = (_constant(name, model) for name in node.inputs)
    return max((int(constant.size) for constant in constants if constant is not None), default=0)


def _constant(name: str, model: Model) -> TensorProtocol | None:
    value = model.ir.graph.initializers.get(name)
    return None if value is None else value.const_value

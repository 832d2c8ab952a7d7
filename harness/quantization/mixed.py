"""Models that are quantised in part: how much of the work, what error, and which products stay in float."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.backends import Reference, tensor_shapes
from harness.model import Model
from harness.quantization.placement import PRODUCTS, product_of_sum
from harness.quantization.ranking import Ranking
from harness.quantization.types import QdqPair

POINTS = 12
"""About so many points make a curve."""


@dataclass(frozen=True)
class Point:
    """A model of which some products stay in float.

    Args:
        share: of the model's multiply-adds, those whose operands are both dequantised.
        error: nrmse of the worst output; measured by running it.
        unseen: the same on samples that nothing was chosen on; None if there are none.
        floats: names of the nodes that stay in float.
    """

    share: float
    error: float
    unseen: float | None
    floats: tuple[str, ...]


def multiply_adds(model: Model, feeds: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The multiply-adds of each product of the main graph, by name of the node; sizes that are computed are looked at.

    Raises:
        ModelError: sizes are computed, and the model does not run.
    """
    products = [node for node in model.ir.graph if node.op_type in PRODUCTS and len(node.inputs) > 1]
    around = {
        str(value.name): None
        for node in products
        for value in (*node.inputs[:2], node.outputs[0])
        if value is not None
    }
    shapes = dict(tensor_shapes(model, feeds))
    written = {name for node in model.nodes for name in node.outputs}
    open_ones = [
        name for name in around if name in written and None in map(_size, shapes.get(name) or (None,))
    ]
    if open_ones:
        reference = Reference(model)
        shapes |= {name: values.shape for name, values in reference.run(feeds, open_ones).items()}
        reference.close()
    found = {}
    for node in products:
        first, second = (shapes.get(str(value.name)) if value else None for value in node.inputs[:2])
        output = shapes.get(str(node.outputs[0].name))
        if first is None or second is None or output is None:
            continue
        if node.op_type == "Conv":
            size = math.prod(_known(output)) * math.prod(_known(second)[1:])
        elif node.op_type == "ConvTranspose":
            size = math.prod(_known(first)) * math.prod(_known(second)[1:])
        else:
            transposed = (
                node.op_type == "Gemm" and "transA" in node.attributes and node.attributes["transA"].as_int()
            )
            size = math.prod(_known(output)) * _known(first)[0 if transposed else -1]
        found[str(node.name)] = size
    return found


def _size(size: int | str | None) -> int | None:
    return size if isinstance(size, int) else None


def _known(shape: Sequence[int | str | None]) -> list[int]:
    return [size if isinstance(size, int) else 1 for size in shape]


def quantized_products(pairs: Sequence[QdqPair], products: Mapping[str, int]) -> tuple[str, ...]:
    """The products that read both operands dequantised; of those in blocks, the weight alone."""
    operands: dict[str, set[int]] = {}
    blocks = set()
    for pair in pairs:
        for reader in pair.readers:
            operands.setdefault(reader.node, set()).add(reader.position)
            if pair.scale.block_size:
                blocks.add(reader.node)
    return tuple(name for name in products if {0, 1} <= operands.get(name, set()) or name in blocks)


class Mixing:
    """Which products stay in float, in which order.

    Args:
        model: the quantised model.
        pairs: its pairs.
        ranking: what they cost.
        feeds: one sample, for the shapes.
    """

    def __init__(
        self, model: Model, pairs: Sequence[QdqPair], ranking: Ranking, feeds: Mapping[str, np.ndarray]
    ) -> None:
        self.products = multiply_adds(model, feeds)
        self.total = sum(self.products.values()) or 1
        self.quantized = quantized_products(pairs, self.products)
        self.sums = product_of_sum(model)
        squares = dict.fromkeys(self.quantized, 0.0)
        cost = {each.pair: each.estimate for each in ranking.pairs}
        for pair in pairs:
            readers = {reader.node for reader in pair.readers} & squares.keys()
            for name in readers:
                squares[name] += cost[pair.name] ** 2 / len(readers)
        self.order = tuple(
            sorted(self.quantized, key=lambda name: -squares[name] / max(self.products[name], 1))
        )

    def share(self, floats: Sequence[str]) -> float:
        """The share of the multiply-adds that are quantised when `floats` are not."""
        left = set(self.quantized) - set(floats)
        return sum(self.products[name] for name in left) / self.total

    def with_sums(self, floats: Sequence[str]) -> tuple[str, ...]:
        """`floats`, and the sums that are computed in their kernels, whose residual needs no pair then."""
        return (*floats, *(add for add, product in self.sums.items() if product in floats))

    def keeping(self, share: float) -> tuple[str, ...]:
        """The costliest products that make up at most `share` of all multiply-adds."""
        kept: list[str] = []
        used = 0
        for name in self.order:
            if used + self.products[name] <= share * self.total:
                kept.append(name)
                used += self.products[name]
        return tuple(kept)

    def within(self, limit: float, error: Callable[[Sequence[str]], float]) -> tuple[str, ...] | None:
        """The fewest of the costliest products that bring the error below `limit`; None if all do not."""
        low, high = -1, len(self.order)
        if error(self.order) > limit:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if error(self.order[:middle]) <= limit else (middle, high)
        return self.order[:high]

    def points(self) -> list[tuple[str, ...]]:
        """Sets of products for the points of a curve, from none to all."""
        counts = np.unique(np.linspace(0, len(self.order), POINTS).round().astype(int))
        return [self.order[:count] for count in counts]

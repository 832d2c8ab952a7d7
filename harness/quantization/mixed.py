"""Models that are quantised in part: how much of the work, what error, and which products stay in float."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from harness.backends import Reference, tensor_shapes
from harness.model import Model
from harness.quantization.placement import PRODUCTS, product_of_sum, readers_of_joined
from harness.quantization.ranking import Ranking
from harness.quantization.types import QdqPair

POINTS = 12
"""About so many points make a curve."""
TILE = 16
"""Rows and terms of the products of one instruction of tensor cores; its columns are 8 (PTX ISA, `mma.m16n8k16`)."""


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


@dataclass(frozen=True)
class ProductSize:
    """A product as one of matrices.

    Args:
        rows: of the first operand; of a convolution, the places of its output.
        columns: of the second operand; of a convolution, the output channels of a group.
        terms: how many are added up for an element.
        count: how many such products it is: of stacked matrices, or groups.
        convolves: whether it is a convolution.
    """

    rows: int
    columns: int
    terms: int
    count: int = 1
    convolves: bool = False

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all of them."""
        return self.rows * self.columns * self.terms * self.count

    @property
    def small(self) -> bool:
        """Whether it fills no tile of the tensor cores: 16 rows, columns and terms; a convolution, 8 channels.

        Convolutions in groups are computed in another way, and never small.
        """
        if self.convolves and self.count > 1:
            return False
        return min(self.rows, self.terms) < TILE or self.columns < (TILE // 2 if self.convolves else TILE)


def product_sizes(model: Model, feeds: Mapping[str, np.ndarray]) -> dict[str, ProductSize]:
    """The size of each product of the main graph, by name of the node; sizes that are computed are looked at.

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
        if first is not None and second is not None and output is not None:
            found[str(node.name)] = _product_size(node, _known(first), _known(second), _known(output))
    return found


def _product_size(node: ir.Node, first: list[int], second: list[int], output: list[int]) -> ProductSize:
    if node.op_type in ("Conv", "ConvTranspose"):
        groups = node.attributes.get_int("group", 1)
        of = output if node.op_type == "Conv" else first
        rows = math.prod(of) // max(of[1], 1)
        if node.op_type == "Conv":
            return ProductSize(rows, second[0] // groups, math.prod(second[1:]), groups, convolves=True)
        return ProductSize(rows, math.prod(second[1:]), second[0] // groups, groups, convolves=True)
    if node.op_type == "Gemm":
        transposed = node.attributes.get_int("transA", 0)
        return ProductSize(output[0], output[1], first[0 if transposed else -1])
    columns = second[-1] if len(second) > 1 else 1
    if len(second) > 2:
        rows = first[-2] if len(first) > 1 else 1
        return ProductSize(rows, columns, first[-1], math.prod(output) // max(rows * columns, 1))
    return ProductSize(math.prod(first[:-1]), columns, first[-1])


def multiply_adds(model: Model, feeds: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The multiply-adds of each product of the main graph, by name of the node; see `product_sizes`."""
    return {name: size.multiply_adds for name, size in product_sizes(model, feeds).items()}


def small_products(
    model: Model,
    feeds: Mapping[str, np.ndarray],
    *,
    exclude: Collection[str] = (),
    share: float | None = None,
) -> tuple[str, ...]:
    """The products that are too small for INT8 and FP8 to pay, the smallest first; none where all are.

    A pair in front of one costs a kernel that rounds and buys nothing.

    Args:
        model: the float model.
        feeds: a sample, for the sizes.
        exclude: names of nodes that stay in float anyway.
        share: of all multiply-adds, that they may make up at most.

    Raises:
        ModelError: sizes are computed, and the model does not run.
    """
    sizes = product_sizes(model, feeds)
    total = sum(size.multiply_adds for size in sizes.values())
    small = {name: size.multiply_adds for name, size in sizes.items() if size.small and name not in exclude}
    if len(small) == len(sizes.keys() - set(exclude)):
        return ()
    order = sorted(small, key=small.__getitem__)
    used = np.cumsum([small[name] for name in order])
    return tuple(order[: int(np.searchsorted(used, (1 if share is None else share) * total, side="right"))])


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
        small: the products that stay in float before all others, and have no pairs.
    """

    def __init__(
        self,
        model: Model,
        pairs: Sequence[QdqPair],
        ranking: Ranking,
        feeds: Mapping[str, np.ndarray],
        small: Sequence[str] = (),
    ) -> None:
        self.products = multiply_adds(model, feeds)
        self.total = sum(self.products.values()) or 1
        self.small = sum(self.products[name] for name in small)
        self.quantized = quantized_products(pairs, self.products)
        self.sums, self.joins = product_of_sum(model), readers_of_joined(model, pairs)
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
        """`floats`, and what needs no pairs then: the sums in their kernels, and what is joined for them alone."""
        sums = (add for add, product in self.sums.items() if product in floats)
        joins = (concat for concat, readers in self.joins.items() if readers.issubset(floats))
        return (*floats, *sums, *joins)

    def keeping(self, share: float) -> tuple[str, ...]:
        """The costliest products that, with the small ones, make up at most `share` of all multiply-adds."""
        kept: list[str] = []
        used = self.small
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

"""The sweep of products and the probes that tell how an engine adds up and where it rounds.

A sweep of accumulation needs many sizes: few rows or columns split the terms, one row is no tensor core's work, and a
convolution has other tiles than a matrix product. A probe is a small graph whose output says what a kernel does inside.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from cases.models.graph import Graph

MOST_WEIGHTS = 1 << 23
MOST_TERMS = 1 << 36


@dataclass(frozen=True)
class Product:
    """One product of the sweep: `rows` × `terms` by `terms` × `columns`, `batch` times.

    Args:
        kind: `weights` (times a constant), `both` (of two inputs), `bias` (and a bias behind it), `residual` (and
            another input behind it), `last` (nothing behind it but the Cast of the output, with which it is fused),
            `conv` (3 × 3 over an image of `rows` pixels, `terms` = channels · 9), `pointwise` (1 × 1), `depthwise`,
            `transposed`.
        rows: rows of the result; pixels of a convolution.
        terms: so many products are added up.
        columns: columns of the result; channels that a convolution writes.
        batch: how many products.
    """

    kind: str
    rows: int
    terms: int
    columns: int
    batch: int = 1

    @property
    def name(self) -> str:
        """`weights-64x1024x256`."""
        return f"{self.kind}-{self.batch}x{self.rows}x{self.terms}x{self.columns}"

    def model(self) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
        """The product as a model of one input or two, with Gaussian values of FP16."""
        return _convolution(self) if self.kind in CONVOLUTIONS else _matrices(self)


CONVOLUTIONS = frozenset({"conv", "pointwise", "depthwise", "transposed"})


def sweep() -> Iterator[Product]:
    """The products, the same ones every time."""
    rows, terms, columns = (
        (1, 2, 8, 16, 64, 128, 512, 2048),
        (64, 256, 1024, 4096, 16384),
        (8, 64, 256, 1024, 4096),
    )
    for k, m, n in itertools.product(terms, rows, columns):
        if k * n <= MOST_WEIGHTS and m * n * k <= MOST_TERMS and m * k <= MOST_WEIGHTS:
            yield Product("weights", m, k, n)
    for m, k, n in itertools.product((16, 128, 1024), (64, 1024, 4096), (64, 256, 1024)):
        yield Product("bias", m, k, n)
        yield Product("last", m, k, n)
    for b, m, k, n in itertools.product((2, 16), (24, 128, 512), (16, 64, 512, 2048), (24, 64, 512)):
        if b * m * k <= MOST_WEIGHTS:
            yield Product("both", m, k, n, b)
    for size, channels, out in itertools.product((4, 8, 32, 56), (4, 16, 64, 256), (8, 64, 256)):
        yield Product("conv", size * size, channels * 9, out)
    for size, channels, out in itertools.product((8, 32), (64, 512, 2048), (64, 512)):
        yield Product("pointwise", size * size, channels, out)
    for channels in (16, 128):
        yield Product("depthwise", 32 * 32, 9, channels)
        yield Product("transposed", 16 * 16, channels, 64)


def _gaussian(name: str, *shape: int, scale: float = 1.0) -> np.ndarray:
    values = np.random.RandomState(len(name) + sum(shape)).standard_normal(shape) * scale
    return values.astype(np.float16).astype(np.float32)


def _matrices(product: Product) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    graph = Graph(product.name, opset=17)
    batch = [product.batch] if product.batch > 1 else []
    left, right = [*batch, product.rows, product.terms], [*batch, product.terms, product.columns]
    feeds = {"x": _gaussian("x", *left)}
    x = graph.input("x", left)
    weights = _gaussian("right", *right, scale=product.terms**-0.5)
    if product.kind == "both":
        feeds["y"] = weights
        other = graph.input("y", right)
    else:
        other = graph.constant("right", weights)
    made = graph.node("MatMul", "product", x, other)
    if product.kind == "residual":
        feeds["residual"] = _gaussian("residual", *batch, product.rows, product.columns)
        residual = graph.input("residual", [*batch, product.rows, product.columns])
        made = graph.node("Add", "added", residual, made)
    if product.kind == "bias":
        made = graph.node("Add", "biased", made, graph.constant("bias", _gaussian("bias", product.columns)))
    outputs = {made: [*batch, product.rows, product.columns]}
    if product.kind in ("weights", "both"):  # something else that reads it keeps the Cast out of its kernel
        largest = graph.node("ReduceMax", "largest", made, axes=[-1], keepdims=1)
        outputs[largest] = [*batch, product.rows, 1]
    return graph.model(outputs), feeds


def _convolution(product: Product) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    graph = Graph(product.name, opset=17)
    side = round(product.rows**0.5)
    kernel = 3 if product.kind in ("conv", "depthwise") else 2 if product.kind == "transposed" else 1
    depthwise, transposed = product.kind == "depthwise", product.kind == "transposed"
    channels = product.columns if depthwise else product.terms if kernel < 3 else product.terms // 9
    x = graph.input("x", [1, channels, side, side])
    shape = (channels, product.columns) if transposed else (product.columns, 1 if depthwise else channels)
    weights = _gaussian("filters", *shape, kernel, kernel, scale=product.terms**-0.5)
    op, strides = ("ConvTranspose", [2, 2]) if transposed else ("Conv", [1, 1])
    made = graph.node(
        op,
        "product",
        x,
        graph.constant("filters", weights),
        kernel_shape=[kernel] * 2,
        strides=strides,
        pads=[kernel // 2 if kernel == 3 else 0] * 4,
        group=channels if depthwise else 1,
    )
    size = side * strides[0]
    return graph.model({made: [1, product.columns, size, size]}), {
        "x": _gaussian("x", 1, channels, side, side)
    }

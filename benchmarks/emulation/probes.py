"""Small graphs that tell by their output what a kernel does inside: finite or not, right or not."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import onnx

from cases.models.graph import Graph
from cases.models.layers import batch_norm, conv, layer_norm, rms_norm

Feeds = dict[str, np.ndarray]
Built = tuple[onnx.ModelProto, Feeds]
ROWS, WIDTH = 16, 64


def gaussian(name: str, *shape: int) -> np.ndarray:
    """Seeded Gaussian values."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def _chain(ops: tuple[tuple[str, float | None], ...], scale: float = 1.0) -> Built:
    """Operators one after the other, each with a constant or none."""
    graph = Graph("chain", opset=17)
    x = graph.input("x", [ROWS, WIDTH])
    for number, (op, value) in enumerate(ops):
        more = [] if value is None else [graph.constant(f"c{number}", value)]
        x = graph.node(op, f"{op.lower()}{number}", x, *more)
    return graph.model({x: [ROWS, WIDTH]}), {"x": gaussian("x", ROWS, WIDTH) * np.float32(scale)}


def _reduced(op: str, divide: float, terms: int = 4096, value: float = 100.0) -> Built:
    graph = Graph("reduced", opset=13)
    axes = {} if op == "ReduceSum" else {"axes": [-1]}
    last = [graph.constant("last", [-1], np.int64)] if op == "ReduceSum" else []
    x = graph.node(op, "reduced", graph.input("x", [ROWS, terms]), *last, keepdims=1, **axes)
    if divide != 1:
        x = graph.node("Div", "divided", x, graph.constant("count", divide))
    feeds = {"x": value * (1 + np.abs(gaussian("x", ROWS, terms)) * 0.01).astype(np.float32)}
    return graph.model({x: [ROWS, 1]}), feeds


def _product(value: float, op: str, constant: float, *, convolution: bool = False) -> Built:
    """A product of `value` in each element, and an epilogue that brings it back into range."""
    graph = Graph("epilogue", opset=17)
    terms = 256
    if convolution:
        x, shape = graph.input("x", [1, terms, 8, 8]), [1, 16, 8, 8]
        weights = graph.constant("weights", np.full((16, terms, 1, 1), value / terms))
        inputs = [x, weights, *([graph.constant("bias", np.full(16, constant))] if op == "bias" else [])]
        made = graph.node("Conv", "product", *inputs, kernel_shape=[1, 1])
    else:
        x, shape = graph.input("x", [ROWS, terms]), [ROWS, 32]
        made = graph.node(
            "MatMul", "product", x, graph.constant("weights", np.full((terms, 32), value / terms))
        )
    if op != "bias":
        made = graph.node(op, "epilogue", made, graph.constant("constant", constant))
    size = (1, terms, 8, 8) if convolution else (ROWS, terms)
    return graph.model({made: shape}), {"x": 1 + 0.01 * gaussian("x", *size)}


def _cancelling(terms: int, size: float, *, rows: int = 128, period: int = 2) -> Built:
    """Terms that sum up to much more than the result: `period` blocks of plus, then of minus."""
    graph = Graph("cancelling", opset=17)
    x = graph.input("x", [rows, terms])
    signs = np.where(np.arange(terms) * period // terms % 2, -1.0, 1.0)
    weights = np.repeat((size / terms * signs)[:, None], 64, axis=1)
    made = graph.node("MatMul", "product", x, graph.constant("weights", weights))
    x_values = np.ones((rows, terms)) + 0.001 * gaussian("x", rows, terms)
    return graph.model({made: [rows, 64]}), {"x": x_values.astype(np.float32)}


def _norm(kind: str, scale: float) -> Built:
    graph = Graph("norm", opset=17)
    raw = graph.input("x", [ROWS, 256])
    x = graph.node("Mul", "scale", raw, graph.constant("factor", scale))
    if kind == "layer":
        gamma, beta = graph.weight("gamma", (256,), 0.1, 1.0), graph.weight("beta", (256,), 0.1)
        x = graph.node("LayerNormalization", "norm", x, gamma, beta)
    elif kind == "rms":
        x = rms_norm(graph, x, "norm")
    else:
        x = layer_norm(graph, x, "norm", 256)
    return graph.model({x: [ROWS, 256]}), {"x": gaussian("x", ROWS, 256)}


def _image(kind: str, scale: float = 1.0) -> Built:
    graph = Graph("image", opset=13)
    channels, shape = 16, [1, 16, 16, 16]
    raw = graph.input("x", shape)
    x = graph.node("Mul", "scale", raw, graph.constant("factor", scale))
    if kind == "batch":
        x = batch_norm(graph, conv(graph, x, "conv", channels, channels), "bn", channels)
    elif kind == "instance":
        ones, zeros = graph.constant("ones", np.ones(channels)), graph.constant("zeros", np.zeros(channels))
        x = graph.node("InstanceNormalization", "norm", x, ones, zeros)
    elif kind == "average":
        x = graph.node("AveragePool", "pool", x, kernel_shape=[3, 3], pads=[1] * 4)
    elif kind == "global":
        x, shape = graph.node("GlobalAveragePool", "pool", x), [1, channels, 1, 1]
    feeds = {"x": np.abs(gaussian("x", 1, 16, 16, 16)) + 1}
    return graph.model({x: shape}), feeds


def _attention(
    depth: int, tokens: int, gain: float, *, scaled: str = "after", mask: float | None = None
) -> Built:
    """Queries, keys and values as inputs; logits `gain` times as large as usual, scaled before or after."""
    graph = Graph("attention", opset=17)
    shape = [1, 4, tokens, depth]
    q, k, v = (graph.input(name, shape) for name in "qkv")
    factor = graph.constant("factor", depth**-0.5 / gain**2)
    q = graph.node("Mul", "q_gain", q, graph.constant("gain", gain))
    k = graph.node("Mul", "k_gain", k, graph.constant("gain", gain))
    if scaled == "before":
        q = graph.node("Mul", "q_scaled", q, factor)
    logits = graph.node("MatMul", "qk", q, graph.node("Transpose", "turned", k, perm=[0, 1, 3, 2]))
    if scaled == "after":
        logits = graph.node("Mul", "scaled", logits, factor)
    if mask is not None:
        upper = np.triu(np.ones((tokens, tokens)), 1) > 0
        logits = graph.node("Add", "masked", logits, graph.constant("mask", np.where(upper, mask, 0.0)))
    weights = graph.node("Softmax", "softmax", logits, axis=-1)
    made = graph.node("MatMul", "av", weights, v)
    return graph.model({made: shape}), {name: gaussian(name, *shape) for name in "qkv"}


def _softmax(kind: str, scale: float) -> Built:
    graph = Graph("softmax", opset=17)
    x = graph.node("Mul", "scale", graph.input("x", [ROWS, 512]), graph.constant("factor", scale))
    if kind == "primitives":
        powers = graph.node("Exp", "exp", x)
        total = graph.node("ReduceSum", "sum", powers, graph.constant("last", [-1], np.int64))
        x = graph.node("Div", "softmax", powers, total)
    else:
        x = graph.node(kind, "softmax", x, axis=-1)
    return graph.model({x: [ROWS, 512]}), {"x": gaussian("x", ROWS, 512)}


PROBES: Mapping[str, Callable[[], Built]] = {
    "mul-div": partial(_chain, (("Mul", 300.0), ("Div", 300.0)), 300.0),
    "mul-relu-mul": partial(_chain, (("Mul", 300.0), ("Relu", None), ("Mul", 0.01)), 300.0),
    "add-sub": partial(_chain, (("Add", 2048.0), ("Sub", 2048.0))),
    "square-sqrt": partial(_chain, (("Pow", 2.0), ("Sqrt", None)), 300.0),
    "exp-log": partial(_chain, (("Abs", None), ("Exp", None), ("Log", None)), 6.0),
    "reciprocal-mul": partial(
        _chain, (("Abs", None), ("Add", 1e-7), ("Reciprocal", None), ("Mul", 1e-3)), 1e-4
    ),
    "div-small": partial(_chain, (("Div", 3e-6), ("Mul", 1e-3)), 1e-4),
    "sigmoid-mul": partial(_chain, (("Sigmoid", None), ("Mul", 3.0)), 8.0),
    "mean": partial(_reduced, "ReduceMean", 1.0),
    "sum-div": partial(_reduced, "ReduceSum", 4096.0),
    "sum": partial(_reduced, "ReduceSum", 1.0, value=1.0),
    "norm-l2": partial(_reduced, "ReduceL2", 1.0),
    "sum-square": partial(_reduced, "ReduceSumSquare", 1.0, value=2.0),
    "product-scaled": partial(_product, 102400.0, "Mul", 0.01),
    "product-bias": partial(_product, 102400.0, "Add", -65000.0),
    "product-limited": partial(_product, 102400.0, "Min", 60000.0),
    "conv-bias": partial(_product, 129600.0, "bias", -65000.0, convolution=True),
    "conv-scaled": partial(_product, 102400.0, "Mul", 0.01, convolution=True),
    "cancelling-1024": partial(_cancelling, 1024, 1.0e6),
    "cancelling-1024-one-row": partial(_cancelling, 1024, 1.0e6, rows=1),
    "cancelling-8192": partial(_cancelling, 8192, 1.0e6),
    "cancelling-in-blocks": partial(_cancelling, 1024, 1.0e6, period=64),
    "cancelling-half": partial(_cancelling, 1024, 1.0e5),
    "cancelling-1024-tall": partial(_cancelling, 1024, 1.0e6, rows=4096),
    **{
        f"{kind}-norm-{scale:g}": partial(_norm, kind, scale)
        for kind in ("layer", "rms", "primitive")
        for scale in (1.0, 300.0, 3000.0)
    },
    **{
        f"image-{kind}-{scale:g}": partial(_image, kind, scale)
        for kind, scale in (
            ("batch", 1.0),
            ("instance", 1.0),
            ("instance", 3000.0),
            ("average", 1.0),
            ("average", 20000.0),
            ("global", 1.0),
            ("global", 3000.0),
        )
    },
    **{
        f"attention-{depth}-{tokens}-{gain:g}": partial(_attention, depth, tokens, gain)
        for depth, tokens, gain in (
            (16, 24, 1.0),
            (32, 64, 1.0),
            (64, 128, 1.0),
            (64, 512, 1.0),
            (128, 128, 1.0),
            (80, 77, 1.0),
            (64, 128, 100.0),
            (16, 24, 100.0),
            (128, 128, 100.0),
        )
    },
    "attention-before": partial(_attention, 64, 128, 100.0, scaled="before"),
    "attention-unscaled": partial(_attention, 64, 128, 4.0, scaled="not"),
    "attention-masked": partial(_attention, 64, 128, 1.0, mask=-60000.0),
    "attention-masked-large": partial(_attention, 64, 128, 100.0, mask=-1e4),
    "attention-masked-infinite": partial(_attention, 64, 128, 1.0, mask=-np.inf),
    **{
        f"softmax-{kind.lower()}-{scale:g}": partial(_softmax, kind, scale)
        for kind in ("Softmax", "LogSoftmax", "primitives")
        for scale in (1.0, 8.0)
    },
}

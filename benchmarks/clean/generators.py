"""Seeded models with what public models have: heads that join boxes and scores, dead channels, masks, residuals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import onnx

from cases.models.convolutional import conv_bn_act, dense_layer, residual_block
from cases.models.graph import Graph
from cases.models.layers import conv, linear
from cases.models.transformer import encoder_layer

Make = Callable[[], onnx.ModelProto]


def models(count: int) -> Iterator[tuple[str, Make]]:
    """`count` models of each kind, by name."""
    for kind in (
        detector,
        dead_channels,
        masked_encoder,
        dense_net,
        two_towers,
        regression,
        decoder_head,
        gated,
    ):
        for seed in range(count):
            yield f"{kind.__name__}-{seed}", partial(kind, seed)


def detector(seed: int) -> onnx.ModelProto:
    """Boxes in pixels and scores below 1, joined on the channels or on the anchors."""
    graph = Graph("detector", seed=seed, opset=17)
    rng = np.random.default_rng(seed)
    classes, width = int(rng.integers(2, 21)), 16
    x = graph.input("image", [1, 3, 32, 32])
    levels = []
    for level in range(int(rng.integers(1, 4))):
        x = conv_bn_act(graph, x, f"s{level}", 3 if level == 0 else width, width)
        x = graph.node("MaxPool", f"s{level}_pool", x, kernel_shape=[2, 2], strides=[2, 2])
        boxes = graph.node(
            "Sigmoid", f"l{level}_box_sig", conv(graph, x, f"l{level}_box", width, 4, kernel=1)
        )
        size = graph.constant(f"l{level}_size", 32.0 * 2 ** int(rng.integers(0, 5)))
        boxes = graph.node("Mul", f"l{level}_px", boxes, size)
        scores = conv(graph, x, f"l{level}_cls", width, classes, kernel=1)
        scores = graph.node("Sigmoid", f"l{level}_scores", scores)
        shapes = {"b": (boxes, 4), "c": (scores, classes)}
        flat = [
            graph.node(
                "Reshape", f"l{level}_{k}_flat", t, graph.constant(f"{k}_shape{level}", [1, n, -1], np.int64)
            )
            for k, (t, n) in shapes.items()
        ]
        levels.append(graph.node("Concat", f"l{level}_joined", *flat, axis=1))
    y = levels[0] if len(levels) == 1 else graph.node("Concat", "all", *levels, axis=2)
    if seed % 2:
        y = graph.node("Transpose", "by_anchor", y, perm=[0, 2, 1])
    return graph.model({y: [1, "rows", "columns"]})


def dead_channels(seed: int) -> onnx.ModelProto:
    """Channels that are nothing, or nearly so, beside others: weights of 0 and of 1e-5."""
    graph = Graph("dead", seed=seed, opset=17)
    x = graph.input("x", [2, 8, 12, 12])
    for block in range(3):
        name, width = f"b{block}", 16
        weight = (
            np.random.default_rng([seed, block]).normal(size=(width, 8 if block == 0 else width, 3, 3)) * 0.15
        )
        weight[::5] = 0
        weight[1::5] *= 1e-5
        x = graph.node("Conv", f"{name}_conv", x, graph.constant(f"{name}_w", weight), pads=[1, 1, 1, 1])
        x = graph.node("Relu", f"{name}_relu", x)
    return graph.model({x: [2, 16, 12, 12]})


def masked_encoder(seed: int) -> onnx.ModelProto:
    """A transformer encoder on a stream with outlier channels, as trained ones have."""
    graph = Graph("encoder", seed=seed, opset=17)
    x = graph.input("x", [2, 12, 32])
    gain = np.ones(32, np.float32)
    gain[seed % 32] = 40.0
    gain[(seed * 7 + 3) % 32] = 1e-3
    x = graph.node("Mul", "outliers", x, graph.constant("gain", gain))
    for layer in range(2 + seed % 3):
        x = encoder_layer(graph, x, f"l{layer}", (2, 12, 32), np.ones(4))
    return graph.model({x: [2, 12, 32]})


def dense_net(seed: int) -> onnx.ModelProto:
    """Everything joined with everything before it."""
    graph = Graph("dense", seed=seed, opset=17)
    x, width = graph.input("x", [1, 8, 16, 16]), 8
    for layer in range(3 + seed % 3):
        x = dense_layer(graph, x, f"d{layer}", width, 6)
        width += 6
    return graph.model({x: [1, width, 16, 16]})


def two_towers(seed: int) -> onnx.ModelProto:
    """Logits, an embedding and a tiny confidence, joined flat."""
    graph = Graph("towers", seed=seed, opset=17)
    x = graph.input("x", [4, 24])
    hidden = graph.node("Tanh", "hidden", linear(graph, x, "in", 24, 32))
    logits = graph.node("Mul", "logits", linear(graph, hidden, "cls", 32, 10), graph.constant("sharp", 8.0))
    embedding = graph.node(
        "Mul", "embedding", linear(graph, hidden, "emb", 32, 16), graph.constant("small", 1e-2)
    )
    confidence = graph.node(
        "Mul", "confidence", linear(graph, hidden, "conf", 32, 1), graph.constant("tiny", 1e-3)
    )
    y = graph.node("Concat", "joined", logits, embedding, confidence, axis=1)
    return graph.model({y: [4, 27]})


def regression(seed: int) -> onnx.ModelProto:
    """Quantities of many sizes in one output, as a de-normalisation leaves them."""
    graph = Graph("regression", seed=seed, opset=17)
    x = graph.input("x", [16, 12])
    for layer in range(3):
        x = graph.node("Relu", f"h{layer}", linear(graph, x, f"l{layer}", 12 if layer == 0 else 32, 32))
    y = linear(graph, x, "out", 32, 6)
    scale = 10.0 ** np.random.default_rng(seed).uniform(-3, 3, 6)
    y = graph.node("Mul", "scaled", y, graph.constant("scale", scale))
    return graph.model({graph.node("Add", "shifted", y, graph.constant("mean", scale * 0.5)): [16, 6]})


def decoder_head(seed: int) -> onnx.ModelProto:
    """Log-probabilities of a few rows, and their maximum."""
    graph = Graph("decoder", seed=seed, opset=17)
    x = graph.input("x", [3, 5, 32])
    logits = linear(graph, x, "vocabulary", 32, 200)
    logits = graph.node("Mul", "sharp", logits, graph.constant("temperature", 2.0 + seed % 4))
    probabilities = graph.node("LogSoftmax", "log_probabilities", logits, axis=-1)
    return graph.model({probabilities: [3, 5, 200]})


def gated(seed: int) -> onnx.ModelProto:
    """Residual blocks behind gates that close some channels."""
    graph = Graph("gated", seed=seed, opset=17)
    x = graph.input("x", [1, 8, 10, 10])
    for block in range(2 + seed % 3):
        pooled = graph.node("GlobalAveragePool", f"g{block}_pool", x)
        gate = conv(graph, pooled, f"g{block}_se", 8, 8, kernel=1)
        gate = graph.node("Mul", f"g{block}_sharp", gate, graph.constant("sharp", 30.0))
        gate = graph.node("Sigmoid", f"g{block}_gate", gate)
        branch = residual_block(graph, x, f"b{block}", 8)
        x = graph.node("Mul", f"b{block}_gated", branch, gate)
    return graph.model({x: [1, 8, 10, 10]})

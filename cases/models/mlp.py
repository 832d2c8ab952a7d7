"""Residual multilayer perceptrons: pre-norm with RMSNorm, and one without any normalisation."""

from __future__ import annotations

import numpy as np
import onnx

from .graph import Graph, seeded_uniform
from .layers import ACTIVATIONS, linear, rms_norm


def rmsnorm_mlp(
    *,
    seed: int = 0,
    blocks: int = 12,
    width: int = 256,
    batch: int = 64,
    scale: float = 1.0,
    scaled_block: int = 7,
    epsilon: float = 1e-5,
    activation: str = "relu",
) -> onnx.ModelProto:
    """A pre-norm MLP: 11 nodes a block, 132 by default, with one of `ACTIVATIONS`.

    The activations that enter one block's RMSNorm are multiplied by `scale`, which the norm takes away again:
    the function stays (nearly) the same, but at 600 the squares pass FP16's 65504, and at 5e-5, without an
    epsilon, they fall below its smallest number. (A small epsilon would do, too, but whether FP16 has it depends
    on what TensorRT fuses.)
    """
    graph = Graph("rmsnorm_mlp", seed=seed)
    x = graph.input("x", [batch, width])
    for index in range(blocks):
        factor = scale if index == scaled_block else 1.0
        x = rmsnorm_block(graph, x, f"b{index}", width, scale=factor, epsilon=epsilon, activation=activation)
    return graph.model({x: [batch, width]})


def rmsnorm_block(
    graph: Graph,
    x: str,
    name: str,
    width: int,
    *,
    scale: float = 1.0,
    epsilon: float = 1e-5,
    activation: str = "relu",
) -> str:
    """`x + down(act(up(rmsnorm(scale · x))))`."""
    scaled = graph.node("Mul", f"{name}_scale", x, graph.constant(f"{name}_factor", scale))
    normed = rms_norm(graph, scaled, name, epsilon=epsilon)
    gained = graph.node("Mul", f"{name}_gain", normed, graph.weight(f"{name}_gamma", (width,), 0.1, 1.0))
    up = graph.node(
        "MatMul", f"{name}_up", gained, graph.weight(f"{name}_up_weight", (width, width), width**-0.5)
    )
    active = ACTIVATIONS[activation](graph, up, name)
    down = graph.node(
        "MatMul", f"{name}_down", active, graph.weight(f"{name}_down_weight", (width, width), width**-0.5)
    )
    return graph.node("Add", f"{name}_add", x, down)


def residual_growth(
    *, seed: int = 0, blocks: int = 16, width: int = 64, batch: int = 8, growth: float = 1.0
) -> onnx.ModelProto:
    """A residual net without normalisation: the stream grows `growth`-fold a block, and the end undoes it.

    At a growth of 2 each branch is as large as the stream that it is added to: for inputs within ±1 both are
    within FP16's range in the last block, and their sum is not.
    """
    graph = Graph("residual_growth", seed=seed)
    x = graph.input("x", [batch, width])
    for index in range(blocks):
        x = growing_block(graph, x, f"b{index}", width, growth=growth)
    shrunk = graph.node("Mul", "shrink", x, graph.constant("shrink_factor", growth**-blocks))
    return graph.model({linear(graph, shrunk, "head", width, width // 4): [batch, width // 4]})


def growing_block(graph: Graph, x: str, name: str, width: int, *, growth: float) -> str:
    """`x + x @ W`, where `W` is `growth - 1` times the identity and a little noise."""
    noise = seeded_uniform(graph.seed, f"{name}_weight", (width, width), 0.1 * width**-0.5)
    weight = graph.constant(f"{name}_weight", noise + (growth - 1) * np.eye(width))
    return graph.node("Add", f"{name}_add", x, graph.node("MatMul", f"{name}_mix", x, weight))

"""Pre-norm transformer encoders, written out in elementary operators."""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np
import onnx

from .graph import Graph
from .layers import gelu, layer_norm, linear


class Softmax(StrEnum):
    """How the attention weights are normalised."""

    STABLE = "stable"
    #: `exp(x) / Σ exp(x)` without subtracting the maximum: exp overflows FP16 from 11.09 on.
    NAIVE = "naive"


def attention_encoder(
    *,
    seed: int = 0,
    layers: int = 3,
    width: int = 64,
    heads: int = 4,
    tokens: int = 24,
    batch: int = 2,
    softmax: str = Softmax.STABLE,
    logit_scale: float = 1.0,
    logit_layer: int = 1,
    logit_head: int = 2,
) -> onnx.ModelProto:
    """An encoder whose attention logits are scaled per head and scaled back after the product.

    In one head of one layer the queries and keys are each multiplied by `√logit_scale`, and the logits
    divided by `logit_scale`: the function stays the same, but from about 2e4 on the raw logits pass FP16's
    65504.
    """
    graph = Graph("attention_encoder", seed=seed)
    x = graph.input("tokens", [batch, tokens, width])
    for index in range(layers):
        scales = np.ones(heads)
        if index == logit_layer:
            scales[logit_head] = logit_scale
        x = encoder_layer(
            graph,
            x,
            f"l{index}",
            (batch, tokens, width),
            logit_scales=scales,
            naive_softmax=Softmax(softmax) is Softmax.NAIVE and index == logit_layer,
        )
    return graph.model({layer_norm(graph, x, "final", width): [batch, tokens, width]})


def encoder_layer(
    graph: Graph,
    x: str,
    name: str,
    shape: tuple[int, int, int],
    *,
    logit_scales: np.ndarray,
    naive_softmax: bool = False,
) -> str:
    """Attention and a feed-forward pair, each with its norm and residual. `shape` is batch, tokens, width."""
    width = shape[2]
    normed = layer_norm(graph, x, f"{name}_ln1", width)
    mixed = self_attention(graph, normed, name, shape, logit_scales, naive_softmax)
    x = graph.node("Add", f"{name}_attention_add", x, mixed)
    hidden = linear(graph, layer_norm(graph, x, f"{name}_ln2", width), f"{name}_fc1", width, 2 * width)
    projected = linear(graph, gelu(graph, hidden, f"{name}_gelu"), f"{name}_fc2", 2 * width, width)
    return graph.node("Add", f"{name}_mlp_add", x, projected)


def self_attention(
    graph: Graph,
    x: str,
    name: str,
    shape: tuple[int, int, int],
    logit_scales: np.ndarray,
    naive_softmax: bool,
) -> str:
    """Multi-head self-attention; `logit_scales` has one entry a head."""
    batch, tokens, width = shape
    heads = len(logit_scales)
    depth = width // heads
    split = graph.constant("heads_shape", [batch, tokens, heads, depth], np.int64)
    roots = np.sqrt(logit_scales).reshape(1, heads, 1, 1)
    parts = {}
    for part, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        projected = linear(graph, x, f"{name}_{part}", width, width)
        folded = graph.node("Reshape", f"{name}_{part}_split", projected, split)
        turned = graph.node("Transpose", f"{name}_{part}_heads", folded, perm=order)
        if part != "v":
            turned = graph.node(
                "Mul", f"{name}_{part}_gain", turned, graph.constant(f"{name}_{part}_root", roots)
            )
        parts[part] = turned
    logits = graph.node("MatMul", f"{name}_qk", parts["q"], parts["k"])
    back = (1 / (logit_scales * math.sqrt(depth))).reshape(1, heads, 1, 1)
    scaled = graph.node("Mul", f"{name}_qk_scale", logits, graph.constant(f"{name}_qk_factor", back))
    weights = _naive_softmax(graph, scaled, name) if naive_softmax else _softmax(graph, scaled, name)
    mixed = graph.node("MatMul", f"{name}_av", weights, parts["v"])
    merged = graph.node("Transpose", f"{name}_merge_heads", mixed, perm=[0, 2, 1, 3])
    flat = graph.node(
        "Reshape", f"{name}_merge", merged, graph.constant("tokens_shape", [batch, tokens, width], np.int64)
    )
    return linear(graph, flat, f"{name}_out", width, width)


def _softmax(graph: Graph, x: str, name: str) -> str:
    return graph.node("Softmax", f"{name}_softmax", x, axis=-1)


def _naive_softmax(graph: Graph, x: str, name: str) -> str:
    # A softmax does not see a constant that is added to its input; without the maximum subtracted, exp does.
    shifted = graph.node("Add", f"{name}_bias", x, graph.constant(f"{name}_logit_bias", 10.0))
    powers = graph.node("Exp", f"{name}_exp", shifted)
    total = graph.node("ReduceSum", f"{name}_sum", powers, graph.constant("last_axis", [-1], np.int64))
    return graph.node("Div", f"{name}_softmax", powers, total)

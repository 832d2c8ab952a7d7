"""Pre-norm transformer encoders, written out in elementary operators."""

from __future__ import annotations

import math

import numpy as np
import onnx

from .graph import Graph
from .layers import gelu, layer_norm, linear, naive_softmax


def attention_encoder(
    *,
    seed: int = 0,
    layers: int = 3,
    width: int = 64,
    heads: int = 4,
    tokens: int = 24,
    batch: int = 2,
    planted_layer: int = 1,
    logit_scale: float = 1.0,
    logit_head: int = 2,
    softmax_shift: float | None = None,
) -> onnx.ModelProto:
    """An encoder with moderate attention logits, and room for two faults in `planted_layer`.

    In one head the queries and keys are each multiplied by `√logit_scale`, and the logits divided by
    `logit_scale`: the function stays the same, but from about 2e4 on the raw logits pass FP16's 65504. With a
    `softmax_shift` that layer's softmax is a naive one: with a shift of 10, exp overflows.
    """
    graph = Graph("attention_encoder", seed=seed)
    x = graph.input("tokens", [batch, tokens, width])
    for index in range(layers):
        scales = np.ones(heads)
        shift = None
        if index == planted_layer:
            scales[logit_head] = logit_scale
            shift = softmax_shift
        x = encoder_layer(graph, x, f"l{index}", (batch, tokens, width), scales, softmax_shift=shift)
    return graph.model({layer_norm(graph, x, "final", width): [batch, tokens, width]})


def encoder_layer(
    graph: Graph,
    x: str,
    name: str,
    shape: tuple[int, int, int],
    logit_scales: np.ndarray,
    *,
    softmax_shift: float | None = None,
) -> str:
    """Attention and a feed-forward pair, each with its norm and residual. `shape` is batch, tokens, width."""
    width = shape[2]
    normed = layer_norm(graph, x, f"{name}_ln1", width)
    mixed = self_attention(graph, normed, name, shape, logit_scales, softmax_shift=softmax_shift)
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
    *,
    softmax_shift: float | None = None,
) -> str:
    """Multi-head self-attention; `logit_scales` has one entry a head; a shift asks for a naive softmax."""
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
    if softmax_shift is None:
        weights = graph.node("Softmax", f"{name}_softmax", scaled, axis=-1)
    else:
        weights = naive_softmax(graph, scaled, name, shift=softmax_shift)
    mixed = graph.node("MatMul", f"{name}_av", weights, parts["v"])
    merged = graph.node("Transpose", f"{name}_merge_heads", mixed, perm=[0, 2, 1, 3])
    flat = graph.node(
        "Reshape", f"{name}_merge", merged, graph.constant("tokens_shape", [batch, tokens, width], np.int64)
    )
    return linear(graph, flat, f"{name}_out", width, width)

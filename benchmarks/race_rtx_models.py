"""The eight models of benchmarks.race_rtx, each with a fault at FP16 that an engine of TensorRT for RTX shows.

Seeded, in primitives of opset 13 unless a fault needs another one. The sizes are those of small deployed models: large
enough that kernels are those of a real one, small enough that eight of them race in minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from benchmarks.race_polygraphy import bundled, mlp
from cases.models.graph import Graph
from cases.models.layers import gelu, layer_norm, linear, relu
from cases.models.transformer import self_attention


@dataclass(frozen=True)
class Racer:
    """A model and the gate that it fails at FP16.

    Args:
        build: makes the model.
        gate: lines of the case; empty for the default gate.
    """

    build: Callable[[], onnx.ModelProto]
    gate: str = ""


def massive_vit(
    *, blocks: int = 6, width: int = 192, heads: int = 3, tokens: int = 64, massive: float = 3000.0
) -> onnx.ModelProto:
    """A vision transformer of which one token has one massive channel between two blocks, as trained ones do.

    Block 1 writes it to the residual stream and block 3 takes it away again; the norms between square it.
    """
    graph = Graph("massive_vit", seed=4)
    image = graph.input("image", [1, 3, 128, 128])
    kernel = graph.weight("patch_weight", (width, 3, 16, 16), 1 / math.sqrt(3 * 16 * 16))
    patches = graph.node("Conv", "patch", image, kernel, kernel_shape=[16, 16], strides=[16, 16])
    flat = graph.node("Reshape", "patch_flat", patches, graph.constant("flat", [1, width, tokens], np.int64))
    x = graph.node("Transpose", "patch_tokens", flat, perm=[0, 2, 1])
    x = graph.node("Add", "embed", x, graph.weight("positions", (1, tokens, width), 0.5))
    spike = np.zeros((1, tokens, width), np.float32)
    spike[0, 0, 17] = massive
    for block in range(blocks):
        name = f"b{block}"
        mixed = self_attention(
            graph, layer_norm(graph, x, f"{name}_ln1", width), name, (1, tokens, width), np.ones(heads)
        )
        x = graph.node("Add", f"{name}_attention_add", x, mixed)
        hidden = linear(graph, layer_norm(graph, x, f"{name}_ln2", width), f"{name}_fc1", width, 2 * width)
        out = linear(graph, gelu(graph, hidden, f"{name}_gelu"), f"{name}_fc2", 2 * width, width)
        if block in (1, 3):
            sign = 1.0 if block == 1 else -1.0
            out = graph.node("Add", f"{name}_massive", out, graph.constant(f"{name}_spike", sign * spike))
        x = graph.node("Add", f"{name}_mlp_add", x, out)
    return graph.model({layer_norm(graph, x, "final", width): [1, tokens, width]})


def linear_attention(
    *, blocks: int = 4, width: int = 128, heads: int = 4, tokens: int = 2048, hot: int = 2
) -> onnx.ModelProto:
    """Attention without a softmax: keys are summed over all tokens, in block `hot` beyond what FP16 holds."""
    graph = Graph("linear_attention", seed=5)
    x = graph.input("tokens", [tokens, width])
    depth = width // heads
    split = graph.constant("split", [tokens, heads, depth], np.int64)
    whole = graph.constant("whole", [tokens, width], np.int64)
    for block in range(blocks):
        name = f"b{block}"
        normed = layer_norm(graph, x, f"{name}_ln", width)
        parts = {}
        for part in ("q", "k", "v"):
            projected = linear(graph, normed, f"{name}_{part}", width, width)
            folded = graph.node("Reshape", f"{name}_{part}_split", projected, split)
            parts[part] = graph.node("Transpose", f"{name}_{part}_heads", folded, perm=[1, 0, 2])
        gain = graph.constant(f"{name}_gain", 120.0 if block == hot else 1.0)
        # The features: relu, made larger where the model is hot; what is divided by grows alike.
        for part in ("q", "k"):
            positive = graph.node("Relu", f"{name}_{part}_relu", parts[part])
            parts[part] = (
                graph.node("Mul", f"{name}_{part}_features", positive, gain) if part == "k" else positive
            )
        turned = graph.node("Transpose", f"{name}_k_turned", parts["k"], perm=[0, 2, 1])
        mean = graph.constant("tokens_count", float(tokens))
        memory = graph.node(
            "MatMul", f"{name}_memory", graph.node("Div", f"{name}_k_mean", turned, mean), parts["v"]
        )
        total = graph.node(
            "ReduceSum", f"{name}_k_sum", parts["k"], graph.constant("over_tokens", [1], np.int64), keepdims=1
        )
        norm = graph.node("ReduceSum", f"{name}_norm", graph.node("Mul", f"{name}_qk", parts["q"], total),
                          graph.constant("last", [-1], np.int64), keepdims=1)  # fmt: skip
        share = graph.node("Div", f"{name}_norm_mean", norm, mean)
        shifted = graph.node("Add", f"{name}_norm_eps", share, graph.constant("eps", 1e-3))
        mixed = graph.node(
            "Div", f"{name}_mixed", graph.node("MatMul", f"{name}_read", parts["q"], memory), shifted
        )
        merged = graph.node("Transpose", f"{name}_merge_heads", mixed, perm=[1, 0, 2])
        out = linear(
            graph, graph.node("Reshape", f"{name}_merge", merged, whole), f"{name}_out", width, width
        )
        x = graph.node("Add", f"{name}_add", x, out)
    return graph.model({x: [tokens, width]})


def opposed_sums(*, blocks: int = 6, width: int = 256, rows: int = 256, hot: int = 3) -> onnx.ModelProto:
    """An MLP with a product whose partial sums overflow FP16 and cancel: its result is small.

    In block `hot` the product reads constants, too, of which one half goes one way and the other half back.
    """
    graph = Graph("opposed_sums", seed=6)
    x = graph.input("x", [rows, width])
    inner = 4 * width
    for block in range(blocks):
        name = f"b{block}"
        normed = layer_norm(graph, x, f"{name}_ln", width)
        hidden = relu(graph, linear(graph, normed, f"{name}_up", width, inner), name)
        weight = graph.weight(f"{name}_down_weight", (inner, width), inner**-0.5)
        if block == hot:
            registers = graph.constant("registers", np.full((rows, 2 * width), 256.0))
            hidden = graph.node("Concat", f"{name}_registers", registers, hidden, axis=-1)
            there = np.full((width, width), 2.0, np.float32)
            weight = graph.constant(
                f"{name}_down_opposed", np.concatenate([there, -there, graph.initializer(weight)])
            )
        x = graph.node("Add", f"{name}_add", x, graph.node("MatMul", f"{name}_down", hidden, weight))
    return graph.model({layer_norm(graph, x, "final", width): [rows, width]})


def deep_mlp(*, blocks: int = 10, width: int = 384, rows: int = 256) -> onnx.ModelProto:
    """A healthy deep MLP, under a gate that FP16 sums miss and FP32 sums pass."""
    from benchmarks.wide_mlp import wide_mlp

    return wide_mlp(seed=7, blocks=blocks, width=width, inner=4 * width, rows=rows)


MODELS = {
    "rmsnorm-overflow": Racer(lambda: mlp((7,))),
    "two-faults": Racer(lambda: mlp((2, 9))),
    # A clean model under a gate that FP16 misses, so that no single node is at fault.
    "accumulated": Racer(lambda: mlp(()), "tolerances: [{precision: fp16, nrmse: 7.0e-4}]\n"),
    # The logits of attention-overflow never leave its fused kernel on these engines: this softmax is written out.
    "attention": Racer(bundled("softmax-overflow")),
    "massive-vit": Racer(massive_vit),
    "linear-attention": Racer(linear_attention),
    "opposed-sums": Racer(opposed_sums),
    "deep-mlp": Racer(deep_mlp, "tolerances: [{precision: fp16, nrmse: 1.5e-3}]\n"),
}


def write_case(name: str, folder: Path) -> Path:
    """The model and its case in `folder`."""
    onnx.save(MODELS[name].build(), folder / "model.onnx")
    path = folder / f"{name}.case.yaml"
    path.write_text(f"model: {{path: model.onnx}}\nruns: [fp16]\n{MODELS[name].gate}")
    return path

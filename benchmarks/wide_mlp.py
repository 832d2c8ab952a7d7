"""A healthy MLP whose products are wide: FP16 accumulation alone brings its engines over the gate at FP16.

Each of its blocks is `x + down(relu(up(LayerNormalization(x))))`. Nothing overflows and nothing cancels; the emulator,
which adds up in FP32, passes, and so does every engine whose products accumulate in FP32.
"""

from __future__ import annotations

import onnx

from cases.models.graph import Graph
from cases.models.layers import relu


def wide_mlp(
    *, seed: int = 0, blocks: int = 6, width: int = 1024, inner: int = 4096, rows: int = 2048
) -> onnx.ModelProto:
    """`blocks` blocks of two products, `width` to `inner` and back, over `rows` rows."""
    graph = Graph("wide_mlp", seed=seed, opset=17)
    x = graph.input("x", [rows, width])
    for number in range(blocks):
        name = f"b{number}"
        gain = graph.weight(f"{name}_gamma", (width,), 0.1, 1.0)
        normed = graph.node(
            "LayerNormalization",
            f"{name}_norm",
            x,
            gain,
            graph.weight(f"{name}_beta", (width,), 0.1),
            axis=-1,
        )
        up = graph.node(
            "MatMul", f"{name}_up", normed, graph.weight(f"{name}_up_weight", (width, inner), width**-0.5)
        )
        weight = graph.weight(f"{name}_down_weight", (inner, width), inner**-0.5)
        x = graph.node(
            "Add", f"{name}_add", x, graph.node("MatMul", f"{name}_down", relu(graph, up, name), weight)
        )
    return graph.model({x: [rows, width]})

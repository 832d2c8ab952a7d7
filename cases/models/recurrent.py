"""Models with state or control flow: LSTM, If and Loop."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from .graph import BOOL, FLOAT, INT64, Graph
from .layers import linear


def lstm(
    *, seed: int = 0, layers: int = 2, width: int = 32, steps: int = 16, batch: int = 2
) -> onnx.ModelProto:
    """Stacked bidirectional LSTMs over `[steps, batch, width]` and a linear head on the last states."""
    graph = Graph("lstm", seed=seed)
    x = graph.input("sequence", [steps, batch, width])
    for index in range(layers):
        x, last = lstm_layer(graph, x, f"lstm{index}", width, width // 2)
    turned = graph.node("Transpose", "last_transpose", last, perm=[1, 0, 2])
    flat = graph.node("Reshape", "last_state", turned, graph.constant("flat", [batch, width], np.int64))
    return graph.model({linear(graph, flat, "logits", width, 8): [batch, 8]})


def lstm_layer(graph: Graph, x: str, name: str, width_in: int, hidden: int) -> tuple[str, str]:
    """A bidirectional LSTM: its sequence `[steps, batch, 2·hidden]` and last states `[2, batch, hidden]`."""
    sequence, last = graph.node_with_outputs(
        "LSTM",
        name,
        [
            x,
            graph.weight(f"{name}_w", (2, 4 * hidden, width_in), width_in**-0.5),
            graph.weight(f"{name}_r", (2, 4 * hidden, hidden), hidden**-0.5),
            graph.weight(f"{name}_b", (2, 8 * hidden), 0.1),
        ],
        [name, f"{name}_last"],
        hidden_size=hidden,
        direction="bidirectional",
    )
    turned = graph.node("Transpose", f"{name}_transpose", sequence, perm=[0, 2, 1, 3])
    shape = graph.constant("merge_directions", [0, 0, 2 * hidden], np.int64)
    return graph.node("Reshape", f"{name}_merge", turned, shape), last


def branches(*, seed: int = 0, width: int = 32, batch: int = 4) -> onnx.ModelProto:
    """An If that sends the hidden state through a wide or a narrow branch, as the input `wide` says."""
    graph = Graph("branches", seed=seed)
    x = graph.input("x", [batch, width])
    wide = graph.input("wide", [1], INT64)
    hidden = graph.node("Tanh", "stem_tanh", linear(graph, x, "stem", width, width))
    condition = graph.node("Greater", "is_wide", wide, graph.constant("zero", [0], np.int64))
    flag = graph.node("Squeeze", "is_wide_scalar", condition)
    bodies = {}
    for branch, factor in (("wide", 4), ("narrow", 1)):
        inner = Graph(f"{branch}_branch", seed=seed)
        up = inner.node(
            "Relu", f"{branch}_relu", linear(inner, hidden, f"{branch}_up", width, factor * width)
        )
        down = linear(inner, up, f"{branch}_down", factor * width, width)
        bodies[branch] = inner.body(f"{branch}_branch", {down: [batch, width]})
    chosen = graph.node("If", "choose", flag, then_branch=bodies["wide"], else_branch=bodies["narrow"])
    merged = graph.node("Add", "merge", hidden, chosen)
    return graph.model({linear(graph, merged, "head", width, 8): [batch, 8]})


def refinement_loop(*, seed: int = 0, width: int = 32, batch: int = 4, steps: int = 5) -> onnx.ModelProto:
    """A Loop that moves its state towards `tanh(state @ W + x)` in a fixed number of steps."""
    graph = Graph("refinement_loop", seed=seed)
    x = graph.input("x", [batch, width])
    start = linear(graph, x, "stem", width, width)
    inner = Graph("refine_body", seed=seed)
    mixed = inner.node(
        "MatMul", "refine_mix", "state", inner.weight("refine_weight", (width, width), width**-0.5)
    )
    target = inner.node("Tanh", "refine_tanh", inner.node("Add", "refine_input", mixed, start))
    difference = inner.node("Sub", "refine_difference", target, "state")
    step = inner.node("Mul", "refine_step", difference, inner.constant("refine_rate", 0.5))
    inner.node("Add", "refined", "state", step)
    inner.node("Identity", "keep_going", "condition")
    body = _loop_body(inner, [batch, width])
    limit = graph.constant("steps", steps, np.int64)
    always = graph.constant("always", True, np.bool_)
    state = graph.node("Loop", "refine", limit, always, start, body=body)
    return graph.model({linear(graph, state, "head", width, 8): [batch, 8]})


def _loop_body(inner: Graph, shape: list[int]) -> onnx.GraphProto:
    body = inner.body("refine_body", {"refined": shape})
    body.input.extend(
        [
            helper.make_tensor_value_info("iteration", INT64, []),
            helper.make_tensor_value_info("condition", BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, shape),
        ]
    )
    body.output.insert(0, helper.make_tensor_value_info("keep_going", BOOL, []))
    return body

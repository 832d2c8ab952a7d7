"""Layers that several models share. Each writes nodes whose names begin with `name`, and returns a tensor."""

from __future__ import annotations

import math

import numpy as np

from .graph import Graph


def linear(graph: Graph, x: str, name: str, width_in: int, width_out: int, *, gain: float = 1.0) -> str:
    """`x @ W + b` over the last axis; the output has `gain` times the input's root mean square."""
    weight = graph.weight(f"{name}_weight", (width_in, width_out), gain / math.sqrt(width_in))
    bias = graph.weight(f"{name}_bias", (width_out,), 0.05 * gain)
    return graph.node("Add", name, graph.node("MatMul", f"{name}_matmul", x, weight), bias)


def layer_norm(graph: Graph, x: str, name: str, width: int, *, epsilon: float = 1e-5) -> str:
    """Layer normalisation over the last axis, written out in elementary operators."""
    centred = graph.node("Sub", f"{name}_centre", x, _mean(graph, x, f"{name}_mean"))
    squared = graph.node("Mul", f"{name}_sq", centred, centred)
    shifted = graph.node(
        "Add", f"{name}_addeps", _mean(graph, squared, f"{name}_var"), graph.constant(f"{name}_eps", epsilon)
    )
    scaled = graph.node("Div", f"{name}_norm", centred, graph.node("Sqrt", f"{name}_sqrt", shifted))
    gained = graph.node("Mul", f"{name}_gain", scaled, graph.weight(f"{name}_gamma", (width,), 0.1, 1.0))
    return graph.node("Add", name, gained, graph.weight(f"{name}_beta", (width,), 0.1))


def rms_norm(graph: Graph, x: str, name: str, *, epsilon: float = 1e-5) -> str:
    """`x` over its root mean square along the last axis, without a gain."""
    squared = graph.node("Pow", f"{name}_sq", x, graph.constant("two", 2.0))
    mean = _mean(graph, squared, f"{name}_mean")
    shifted = graph.node("Add", f"{name}_addeps", mean, graph.constant(f"{name}_eps", epsilon))
    return graph.node("Div", f"{name}_norm", x, graph.node("Sqrt", f"{name}_sqrt", shifted))


def naive_softmax(graph: Graph, x: str, name: str, *, shift: float) -> str:
    """A softmax over the last axis that adds `shift` to its input instead of subtracting the maximum.

    A softmax does not see a constant that is added to its input, but exp does: beyond 11.09 it overflows FP16.
    """
    shifted = graph.node("Add", f"{name}_shift", x, graph.constant(f"{name}_shift_by", shift))
    powers = graph.node("Exp", f"{name}_exp", shifted)
    total = graph.node("ReduceSum", f"{name}_sum", powers, graph.constant("last_axis", [-1], np.int64))
    return graph.node("Div", f"{name}_softmax", powers, total)


def relu(graph: Graph, x: str, name: str) -> str:
    """`max(x, 0)`; what it makes of NaN is TensorRT's choice: 0 in a layer of its own, NaN where it is fused."""
    return graph.node("Relu", f"{name}_relu", x)


def silu(graph: Graph, x: str, name: str) -> str:
    """`x · sigmoid(x)`; NaN stays NaN, however it is fused."""
    return graph.node("Mul", f"{name}_silu", x, graph.node("Sigmoid", f"{name}_sigmoid", x))


ACTIVATIONS = {"relu": relu, "silu": silu}


def gelu(graph: Graph, x: str, name: str) -> str:
    """The exact GELU, `x · (1 + erf(x / √2)) / 2`."""
    scaled = graph.node("Div", f"{name}_scaled", x, graph.constant("sqrt_two", math.sqrt(2.0)))
    raised = graph.node("Add", f"{name}_raised", graph.node("Erf", f"{name}_erf", scaled), one(graph))
    return graph.node("Mul", name, x, graph.node("Mul", f"{name}_half", raised, graph.constant("half", 0.5)))


def conv(
    graph: Graph,
    x: str,
    name: str,
    channels_in: int,
    channels_out: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    gain: float = 1.0,
    bias: bool = True,
) -> str:
    """A padded 2-D convolution; `gain` √2 keeps the variance over a following ReLU (He et al. 2015)."""
    fan_in = channels_in * kernel * kernel
    shape = (channels_out, channels_in, kernel, kernel)
    inputs = [x, graph.weight(f"{name}_weight", shape, gain / math.sqrt(fan_in))]
    if bias:
        inputs.append(graph.weight(f"{name}_bias", (channels_out,), 0.05))
    return graph.node(
        "Conv", name, *inputs, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4
    )


def batch_norm(graph: Graph, x: str, name: str, channels: int, *, gain: float = 1.0) -> str:
    """Batch normalisation at inference, with statistics near those of a unit normal input."""
    return graph.node(
        "BatchNormalization",
        name,
        x,
        graph.weight(f"{name}_gamma", (channels,), 0.1 * gain, gain),
        graph.weight(f"{name}_beta", (channels,), 0.1),
        graph.weight(f"{name}_mean", (channels,), 0.1),
        graph.weight(f"{name}_var", (channels,), 0.1, 1.0),
    )


def one(graph: Graph) -> str:
    """The scalar 1."""
    return graph.constant("one", 1.0)


def _mean(graph: Graph, x: str, name: str) -> str:
    return graph.node("ReduceMean", name, x, axes=[-1], keepdims=1)

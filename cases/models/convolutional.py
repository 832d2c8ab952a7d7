"""Convolutional nets: residual, U-shaped, densely concatenated, and one with a dynamic batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx

from .graph import Graph, seeded_uniform
from .layers import ACTIVATIONS, batch_norm, conv, linear

_RELU_GAIN = math.sqrt(2.0)


def conv_residual(
    *,
    seed: int = 0,
    blocks: int = 6,
    channels: int = 16,
    image: int = 16,
    scale: float = 1.0,
    scaled_block: int = 3,
    activation: str = "relu",
) -> onnx.ModelProto:
    """Conv-BN-ReLU residual blocks between a stem and a pooled classifier; or with another of `ACTIVATIONS`.

    The first convolution of one block is `scale` times as large, and a multiplication behind its activation undoes
    it. (Right behind the convolution, TensorRT would fold it into the weights, and the fault with it.)
    """
    graph = Graph("conv_residual", seed=seed)
    image_input = graph.input("image", [2, 3, image, image])
    x = conv_bn_act(graph, image_input, "stem", 3, channels, activation=activation)
    for index in range(blocks):
        factor = scale if index == scaled_block else 1.0
        x = residual_block(graph, x, f"b{index}", channels, scale=factor, activation=activation)
    return graph.model({classifier(graph, x, channels, 10): [2, 10]})


def conv_bn_act(
    graph: Graph,
    x: str,
    name: str,
    channels_in: int,
    channels_out: int,
    *,
    scale: float = 1.0,
    activation: str = "relu",
) -> str:
    """Convolution, `scale` times as large, batch normalisation and activation."""
    gain = _RELU_GAIN * scale
    convolved = conv(graph, x, f"{name}_conv", channels_in, channels_out, gain=gain, bias=False)
    return ACTIVATIONS[activation](graph, batch_norm(graph, convolved, f"{name}_bn", channels_out), name)


def residual_block(
    graph: Graph, x: str, name: str, channels: int, *, scale: float = 1.0, activation: str = "relu"
) -> str:
    """`act(x + bn(conv(act(bn(conv(x))))))`, with a scale behind the inner activation."""
    hidden = conv_bn_act(graph, x, f"{name}_1", channels, channels, scale=scale, activation=activation)
    unscaled = graph.node("Mul", f"{name}_1_scale", hidden, graph.constant(f"{name}_1_factor", 1 / scale))
    convolved = conv(graph, unscaled, f"{name}_2_conv", channels, channels, gain=_RELU_GAIN, bias=False)
    normed = batch_norm(graph, convolved, f"{name}_2_bn", channels, gain=0.5)
    return ACTIVATIONS[activation](graph, graph.node("Add", f"{name}_add", x, normed), name)


def classifier(graph: Graph, x: str, channels: int, classes: int) -> str:
    """Global average pooling and a linear layer."""
    pooled = graph.node("Flatten", "flatten", graph.node("GlobalAveragePool", "pool", x), axis=1)
    return linear(graph, pooled, "logits", channels, classes)


def unet(*, seed: int = 0, depth: int = 3, channels: int = 8, image: int = 32) -> onnx.ModelProto:
    """A U-Net: max pooling down, Resize (linear) up, skip connections by Concat."""
    graph = Graph("unet", seed=seed)
    x = graph.input("image", [1, 3, image, image])
    width, skips = 3, []
    for level in range(depth):
        x = conv_bn_act(graph, x, f"down{level}", width, channels << level)
        width = channels << level
        skips.append((x, width))
        x = graph.node("MaxPool", f"down{level}_pool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = conv_bn_act(graph, x, "bottom", width, width)
    for level in reversed(range(depth)):
        skip, skip_width = skips[level]
        x = upsample(graph, x, f"up{level}_resize")
        x = graph.node("Concat", f"up{level}_concat", x, skip, axis=1)
        x = conv_bn_act(graph, x, f"up{level}", width + skip_width, skip_width)
        width = skip_width
    return graph.model({conv(graph, x, "mask", width, 2, kernel=1): [1, 2, image, image]})


def upsample(graph: Graph, x: str, name: str) -> str:
    """Twice the height and width, linearly."""
    scales = graph.constant("resize_scales", [1, 1, 2, 2])
    return graph.node(
        "Resize", name, x, "", scales, mode="linear", coordinate_transformation_mode="half_pixel"
    )


def grid_sample(*, seed: int = 0, channels: int = 8, image: int = 16) -> onnx.ModelProto:
    """A spatial transformer: features sampled between the pixels by a fixed grid, linearly, and convolved to a mask.

    Opset 20 gave the modes of GridSample their names of today. The grid holds multiples of 1/64, which every
    precision represents: what it samples is far from the nearest pixel, and the same in all of them.
    """
    graph = Graph("grid_sample", seed=seed, opset=20)
    x = conv_bn_act(graph, graph.input("image", [2, 3, image, image]), "stem", 3, channels)
    offsets = seeded_uniform(seed, "grid", [2, image, image, 2], 0.08)
    rows, columns = np.meshgrid(*[(2 * np.arange(image) + 1) / image - 1] * 2, indexing="ij")
    grid = np.round((np.stack([columns, rows], axis=-1) + offsets) * 64) / 64
    sampled = graph.node(
        "GridSample",
        "sample",
        x,
        graph.constant("grid", grid),
        mode="linear",
        padding_mode="border",
        align_corners=0,
    )
    hidden = conv_bn_act(graph, sampled, "refine", channels, channels)
    return graph.model({conv(graph, hidden, "mask", channels, 2, kernel=1): [2, 2, image, image]})


def densenet(
    *, seed: int = 0, blocks: Sequence[int] = (4, 4), growth: int = 8, image: int = 16
) -> onnx.ModelProto:
    """Dense blocks: each layer reads the concatenation of all before it; pooling between blocks."""
    graph = Graph("densenet", seed=seed)
    width = 2 * growth
    x = conv(graph, graph.input("image", [1, 3, image, image]), "stem", 3, width)
    for index, layers in enumerate(blocks):
        for layer in range(layers):
            x = dense_layer(graph, x, f"d{index}_{layer}", width, growth)
            width += growth
        x = bn_relu_conv(graph, x, f"t{index}", width, width // 2, kernel=1)
        x = graph.node("AveragePool", f"t{index}_pool", x, kernel_shape=[2, 2], strides=[2, 2])
        width //= 2
    return graph.model({classifier(graph, x, width, 10): [1, 10]})


def dense_layer(graph: Graph, x: str, name: str, width: int, growth: int) -> str:
    """`concat(x, conv(relu(bn(x))))` along the channels."""
    return graph.node("Concat", f"{name}_concat", x, bn_relu_conv(graph, x, name, width, growth), axis=1)


def bn_relu_conv(
    graph: Graph, x: str, name: str, channels_in: int, channels_out: int, *, kernel: int = 3
) -> str:
    """Batch normalisation, ReLU and convolution."""
    active = graph.node("Relu", f"{name}_relu", batch_norm(graph, x, f"{name}_bn", channels_in))
    return conv(graph, active, f"{name}_conv", channels_in, channels_out, kernel=kernel, gain=_RELU_GAIN)


def dynamic_batch(*, seed: int = 0, channels: int = 8, image: int = 16) -> onnx.ModelProto:
    """A conv net over `[batch, 3, image, image]` with an unknown batch, read by shape arithmetic."""
    graph = Graph("dynamic_batch", seed=seed)
    x = graph.input("image", ["batch", 3, image, image])
    x = conv_bn_act(graph, x, "conv1", 3, channels)
    x = graph.node("MaxPool", "pool1", x, kernel_shape=[2, 2], strides=[2, 2])
    x = conv_bn_act(graph, x, "conv2", channels, channels)
    shape = graph.node("Shape", "shape", x)
    batch = graph.node("Gather", "batch_size", shape, graph.constant("zero", [0], np.int64), axis=0)
    target = graph.node("Concat", "flat_shape", batch, graph.constant("rest", [-1], np.int64), axis=0)
    flat = graph.node("Reshape", "flatten", x, target)
    features = channels * (image // 2) ** 2
    hidden = graph.node("Relu", "fc1_relu", linear(graph, flat, "fc1", features, 32))
    return graph.model({linear(graph, hidden, "logits", 32, 10): ["batch", 10]})

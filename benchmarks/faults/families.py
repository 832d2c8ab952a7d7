"""The families of models: blocks of the bundled cases' models, as many as are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from cases.models.convolutional import conv_bn_act, dense_layer, residual_block, upsample
from cases.models.graph import Graph
from cases.models.layers import batch_norm, conv
from cases.models.mlp import rmsnorm_block
from cases.models.recurrent import lstm_layer
from cases.models.transformer import encoder_layer


class Family(StrEnum):
    """What a model is made of."""

    MLP = "mlp"
    ATTENTION = "attention"
    CONV = "conv"
    UNET = "unet"
    LSTM = "lstm"
    DENSE = "dense"


@dataclass(frozen=True)
class Architecture:
    """How to write a family.

    Args:
        shape: shape of the input and of the stream between blocks.
        block: writes one block: graph, tensor, name, shape; returns the tensor, of the same shape.
    """

    shape: tuple[int, ...]
    block: Callable[[Graph, str, str, tuple[int, ...]], str]


def _mlp(graph: Graph, x: str, name: str, shape: tuple[int, ...]) -> str:
    return rmsnorm_block(graph, x, name, shape[-1])


def _attention(graph: Graph, x: str, name: str, shape: tuple[int, ...]) -> str:
    batch, tokens, width = shape
    return encoder_layer(graph, x, name, (batch, tokens, width), np.ones(2))


def _conv(graph: Graph, x: str, name: str, shape: tuple[int, ...]) -> str:
    return residual_block(graph, x, name, shape[1])


def _unet(graph: Graph, x: str, name: str, shape: tuple[int, ...]) -> str:
    """A residual hourglass: down once, and up again to the skip connection."""
    channels = shape[1]
    skip = conv_bn_act(graph, x, f"{name}_down", channels, channels)
    pooled = graph.node("MaxPool", f"{name}_pool", skip, kernel_shape=[2, 2], strides=[2, 2])
    bottom = conv_bn_act(graph, pooled, f"{name}_bottom", channels, 2 * channels)
    raised = upsample(graph, bottom, f"{name}_resize")
    merged = graph.node("Concat", f"{name}_concat", raised, skip, axis=1)
    narrowed = conv(graph, merged, f"{name}_up_conv", 3 * channels, channels, bias=False)
    return graph.node(
        "Add", f"{name}_add", x, batch_norm(graph, narrowed, f"{name}_up_bn", channels, gain=0.3)
    )


def _lstm(graph: Graph, x: str, name: str, shape: tuple[int, ...]) -> str:
    """A residual LSTM layer."""
    return graph.node("Add", f"{name}_add", x, lstm_layer(graph, x, name, shape[-1], shape[-1] // 2)[0])


def _dense(graph: Graph, x: str, name: str, shape: tuple[int, ...]) -> str:
    """Two dense layers, and a transition back to the channels of the stream."""
    width, growth = shape[1], shape[1] // 2
    for layer in range(2):
        x = dense_layer(graph, x, f"{name}_{layer}", width, growth)
        width += growth
    return conv(graph, x, f"{name}_transition", width, shape[1], kernel=1)


ARCHITECTURES: dict[Family, Architecture] = {
    Family.MLP: Architecture((16, 32), _mlp),
    Family.ATTENTION: Architecture((1, 16, 32), _attention),
    Family.CONV: Architecture((1, 8, 8, 8), _conv),
    Family.UNET: Architecture((2, 4, 8, 8), _unet),
    Family.LSTM: Architecture((6, 4, 16), _lstm),
    Family.DENSE: Architecture((1, 8, 8, 8), _dense),
}

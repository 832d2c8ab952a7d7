"""Modules exported by PyTorch with seeded weights: what exporters write, in small."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    import torch

SEEDS = 5


def exports() -> Iterator[tuple[str, Callable[[], onnx.ModelProto]]]:
    """Modules by name; none where PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return
    for name in (
        "vit",
        "encoder",
        "convnet",
        "mobile",
        "lstm",
        "gru",
        "decoder",
        "norms",
        "attention",
        "unet",
    ):
        for seed in range(SEEDS):
            yield f"{name}-{seed}", partial(export, name, seed)


def export(name: str, seed: int) -> onnx.ModelProto:
    """The ONNX file of a module, as PyTorch's exporter writes it."""
    import torch

    torch.manual_seed(seed)
    module, inputs = _module(name, seed)
    program = torch.onnx.export(module.eval(), inputs, dynamo=True, verbose=False)
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    return proto


def _module(name: str, seed: int) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    import torch
    from torch import nn

    width = 16 * (1 + seed % 3)
    image = torch.randn(2, 3, 32, 32)
    tokens = torch.randn(2, 10, width)

    def block(
        channels_in: int, channels: int, act: type[nn.Module] = nn.ReLU, groups: int = 1
    ) -> nn.Sequential:
        conv = nn.Conv2d(channels_in, channels, 3, padding=1, groups=groups)
        return nn.Sequential(conv, nn.BatchNorm2d(channels), act())

    class Vit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, width, 8, 8)
            self.token = nn.Parameter(torch.randn(1, 1, width))
            layer = nn.TransformerEncoderLayer(
                width, 4, 4 * width, batch_first=True, norm_first=seed % 2 == 0
            )
            self.layers = nn.ModuleList([layer, layer])
            self.head = nn.Linear(width, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.patch(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
            for layer in self.layers:
                x = layer(x)
            return self.head(x[:, 0])

    class Recurrent(nn.Module):
        def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
            super().__init__()
            self.inner = kind(
                width, width, num_layers=1 + seed % 2, bidirectional=seed % 2 == 1, batch_first=True
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)[0]

    class Unet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.bottom = block(3, width), block(width, 2 * width, nn.SiLU)
            self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
            self.head = nn.Conv2d(2 * width, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = self.down(x)
            b = self.up(self.bottom(torch.nn.functional.max_pool2d(a, 2)))
            return self.head(torch.cat([a, b], 1))

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = (each.unflatten(-1, (4, -1)).transpose(1, 2) for each in self.qkv(x).chunk(3, -1))
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=seed % 2 == 0)
            return x + self.out(y.transpose(1, 2).flatten(2))

    def norms() -> nn.Module:
        return nn.Sequential(
            block(3, width, nn.Hardswish),
            nn.GroupNorm(4, width),
            nn.Conv2d(width, width, 3, stride=2),
            nn.InstanceNorm2d(width, affine=True),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.LayerNorm(width),
            nn.Linear(width, 7),
            nn.Softmax(-1),
        )

    made: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
        "vit": (Vit, image),
        "encoder": (
            lambda: nn.TransformerEncoderLayer(width, 4, 3 * width, activation="gelu", batch_first=True),
            tokens,
        ),
        "convnet": (
            lambda: nn.Sequential(
                *(block(3 if i == 0 else width, width) for i in range(2 + seed % 3)),
                nn.MaxPool2d(2),
                nn.Flatten(),
                nn.Linear(width * 256, 10),
            ),
            image,
        ),
        "mobile": (
            lambda: nn.Sequential(
                block(3, width, nn.ReLU6), block(width, width, nn.ReLU6, width), nn.Conv2d(width, 8, 1)
            ),
            image,
        ),
        "lstm": (lambda: Recurrent(nn.LSTM), tokens),
        "gru": (lambda: Recurrent(nn.GRU), tokens),
        "decoder": (
            lambda: nn.Sequential(
                nn.ConvTranspose2d(3, width, 4, 2, 1), nn.Tanh(), nn.Conv2d(width, 3, 3), nn.Sigmoid()
            ),
            image,
        ),
        "norms": (norms, image),
        "attention": (Attention, tokens),
        "unet": (Unet, image),
    }
    make, given = made[name]
    return make(), (given,)

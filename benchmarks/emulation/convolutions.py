"""The sweep of convolutions: channels, windows, groups, strides, dilations, batches and sizes, always the same ones.

A weakly typed release times its tactics, so that which of them adds up is known of an engine alone; its layers tell.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from cases.models.graph import Graph

KEPT = 4096
"""So many elements of an output are kept, drawn once for each size."""


@dataclass(frozen=True)
class Convolution:
    """One convolution of the sweep, with Gaussian values of FP16.

    Args:
        channels: that it reads.
        filters: channels that it writes.
        kernel: size of its window, along both axes.
        size: of the image, likewise; it is padded so that a stride of 1 keeps it.
        groups: of channels.
        stride: along both axes.
        dilation: likewise.
        batch: images.
        bias: whether it has one.
        relu: whether a Relu reads it.
    """

    channels: int
    filters: int
    kernel: int = 3
    size: int = 16
    groups: int = 1
    stride: int = 1
    dilation: int = 1
    batch: int = 1
    bias: bool = False
    relu: bool = False

    @property
    def name(self) -> str:
        """`convolution-4x64x16-k3s2d1g1-64`, with `-bias` and `-relu`."""
        more = "-bias" * self.bias + "-relu" * self.relu
        window = f"k{self.kernel}s{self.stride}d{self.dilation}g{self.groups}"
        return f"convolution-{self.batch}x{self.channels}x{self.size}-{window}-{self.filters}{more}"

    @property
    def terms(self) -> int:
        """So many products are added up."""
        return self.channels // self.groups * self.kernel**2

    def model(self) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
        """The convolution as a model, and its input."""
        graph = Graph(self.name, opset=17)
        shape = [self.batch, self.channels, self.size, self.size]
        weights = (self.filters, self.channels // self.groups, self.kernel, self.kernel)
        given = [graph.input("x", shape), graph.constant("filters", self._values("w", *weights))]
        if self.bias:
            given.append(graph.constant("bias", self._values("b", self.filters)))
        pad = self.dilation * (self.kernel // 2)
        made = graph.node(
            "Conv",
            "product",
            *given,
            kernel_shape=[self.kernel] * 2,
            strides=[self.stride] * 2,
            dilations=[self.dilation] * 2,
            pads=[pad] * 4,
            group=self.groups,
        )
        if self.relu:
            made = graph.node("Relu", "relu", made)
        side = (self.size + 2 * pad - self.dilation * (self.kernel - 1) - 1) // self.stride + 1
        written = [self.batch, self.filters, side, side]
        # Something else that reads it keeps the Cast of the output out of its kernel.
        largest = graph.node("ReduceMax", "largest", made, axes=[2, 3], keepdims=1)
        proto = graph.model({made: written, largest: [*written[:2], 1, 1]})
        return proto, {"x": self._values("x", *shape)}

    def kept(self, value: np.ndarray) -> np.ndarray:
        """The elements of an output that are kept, as one axis."""
        flat = value.reshape(-1)
        return flat if flat.size <= KEPT else flat[_places(flat.size)]

    def _values(self, what: str, *shape: int) -> np.ndarray:
        random = np.random.RandomState(zlib.crc32(f"{self.name} {what}".encode()))
        scale = self.terms**-0.5 if what == "w" else 1.0
        values = random.standard_normal(shape) * scale
        return values.astype(np.float16).astype(np.float32)


def convolutions() -> Iterator[Convolution]:
    """The sweep, in an order that mixes it: where time runs out, what was measured is like what was not."""
    found = list(_convolutions())
    for place in np.random.RandomState(15).permutation(len(found)):
        yield found[place]


def narrow() -> Iterator[Convolution]:
    """Convolutions of few channels and filters, all together or in a group, which have tiles of their own."""
    for channels, filters in itertools.product((16, 24, 32, 48, 64, 96, 128), (8, 16, 24, 32, 48)):
        if channels in (32, 64) or filters in (16, 32):
            yield Convolution(channels, filters)
    for more in ({"kernel": 1}, {"kernel": 5}, {"batch": 4}, {"size": 8}, {"size": 56}, {"stride": 2}):
        yield Convolution(32, 32, **more)
    yield Convolution(64, 32, kernel=1)
    yield Convolution(32, 128)
    for groups, width, each in (
        *((2, 64, 64), (4, 32, 32), (3, 16, 16), (3, 32, 32), (3, 8, 8), (8, 8, 16), (4, 32, 16)),
        *((32, 2, 2), (16, 8, 8), (2, 16, 32), (4, 8, 32), (2, 24, 24), (2, 48, 48)),
    ):
        yield Convolution(groups * width, groups * each, groups=groups)


def _convolutions() -> Iterator[Convolution]:
    for channels in (3, 8, 16, 24, 32, 64, 128, 256):
        yield Convolution(channels, 64)
    for filters in (8, 32, 256):
        yield Convolution(64, filters)
    for channels in (8, 32, 64, 256, 1024):
        yield Convolution(channels, 64, kernel=1)
    yield Convolution(256, 512, kernel=1)
    yield Convolution(64, 64, kernel=1, stride=2)
    for channels in (16, 64):
        yield Convolution(channels, 64, kernel=5)
    yield Convolution(3, 64, kernel=7, size=32, stride=2)
    for channels in (16, 64, 128):
        yield Convolution(channels, 64, stride=2)
    for groups in (2, 4, 8, 16):
        yield Convolution(64, 64, groups=groups)
    yield Convolution(128, 128, groups=32)
    yield Convolution(256, 256, groups=8)
    yield Convolution(32, 32, groups=32)
    yield Convolution(128, 128, groups=128)
    yield Convolution(64, 64, groups=64, kernel=5)
    yield Convolution(64, 64, groups=64, stride=2)
    yield Convolution(64, 64, groups=64, batch=4)
    for channels, batch in ((64, 4), (16, 8), (256, 2)):
        yield Convolution(channels, 64, batch=batch)
    for channels, batch in ((64, 16), (512, 4)):
        yield Convolution(channels, 128, kernel=1, batch=batch)
    for channels, size in ((256, 7), (32, 32), (64, 56), (64, 4)):
        yield Convolution(channels, channels, size=size)
    yield Convolution(512, 128, kernel=1, size=7)
    yield Convolution(64, 64, dilation=2)
    for channels, kernel in ((64, 3), (256, 1), (16, 3)):
        yield Convolution(channels, 64, kernel=kernel, bias=True)
    yield Convolution(64, 64, bias=True, relu=True)
    yield Convolution(128, 128, kernel=1, bias=True, relu=True, batch=2)


def _places(size: int) -> np.ndarray:
    return np.sort(np.random.RandomState(size).permutation(size)[:KEPT])

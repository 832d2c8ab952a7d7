"""What is quantised and how: formats, methods, Q/DQ pairs, their scales, and what each pair costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from harness.tensors import NEVER, UNLESS_DEFAULT


class Format(StrEnum):
    """What tensors are quantised to. INT4 and NVFP4 hold weights only, in blocks with a scale each."""

    INT8 = "int8"
    FP8 = "fp8"
    INT4 = "int4"
    NVFP4 = "nvfp4"

    @property
    def dtype(self) -> str:
        """The element type, as `harness.tensors` calls it."""
        return {"int8": "int8", "fp8": "float8_e4m3fn", "int4": "int4", "nvfp4": "float4_e2m1fn"}[self.value]

    @property
    def block_size(self) -> int:
        """Elements of a weight that share a scale; 0 where a channel does."""
        return {"int4": 128, "nvfp4": 16}.get(self.value, 0)

    @property
    def opset(self) -> int:
        """The first operator set of ONNX that has its Q/DQ nodes."""
        return {"int8": 13, "fp8": 19, "int4": 21, "nvfp4": 23}[self.value]


class Method(StrEnum):
    """How a scale is chosen from the values that were seen (see docs/quantisation.md)."""

    MAX = "max"
    ENTROPY = "entropy"
    PERCENTILE = "percentile"
    MSE = "mse"


class PairKind(StrEnum):
    """What a pair quantises: a constant, or a tensor that is computed."""

    WEIGHT = "weight"
    ACTIVATION = "activation"


class Reason(StrEnum):
    """Why a pair costs what it costs.

    `saturation`: most of the error is of values beyond the largest that the scale can hold. `vanishing`: the scale is
    so large that most values round to 0. `granularity`: one scale is shared by channels of different sizes, and
    one each would do. `axis`: the scales lie along the wrong axis. `broken`: a scale is 0, subnormal, infinite or NaN.
    `joined`: tensors of different sizes were joined and share one scale, which rounds one of them to 0.
    `coarse`: the scale is larger than it need be, without zeroing most. `range`: the scale is as good as can be; a few
    values are far larger than the rest. `format`: the scale is as good as can be, and the values need more bits.
    """

    SATURATION = "saturation"
    VANISHING = "vanishing"
    GRANULARITY = "granularity"
    AXIS = "axis"
    BROKEN = "broken"
    JOINED = "joined"
    COARSE = "coarse"
    RANGE = "range"
    FORMAT = "format"


@dataclass(frozen=True, eq=False)
class Scale:
    """The scale of a Q/DQ pair.

    Args:
        values: float32; of rank 0 for a whole tensor, of rank 1 along `axis`, or as the tensor with `axis` in blocks.
        zero_point: float32 of the same shape; None: 0.
        axis: what `values` runs along; None for a whole tensor.
        block_size: elements along `axis` that share a value; 0: one.
    """

    values: np.ndarray
    zero_point: np.ndarray | None = None
    axis: int | None = None
    block_size: int = 0

    def __post_init__(self) -> None:
        for name in ("values", "zero_point"):
            if getattr(self, name) is not None:  # what NumPy makes of arrays of rank 0 are scalars
                object.__setattr__(self, name, np.asarray(getattr(self, name), np.float32))

    @property
    def per_tensor(self) -> bool:
        """Whether there is one for the whole tensor."""
        return self.values.size == 1

    @property
    def smallest(self) -> float:
        """The smallest value; NaN if one is."""
        return float(self.values.min())

    @property
    def largest(self) -> float:
        """The largest value; NaN if one is."""
        return float(self.values.max())


@dataclass(frozen=True, order=True)
class Reader:
    """A node that reads a dequantised tensor, and at which of its inputs."""

    node: str
    position: int


@dataclass(frozen=True, eq=False)
class QdqPair:
    """A QuantizeLinear with the DequantizeLinear nodes behind it, or a DequantizeLinear of a stored constant.

    Args:
        name: unique: the tensor's, and the quantizer's where a tensor has several.
        tensor: what is quantised; of a stored constant, the constant.
        kind: weight or activation.
        dtype: what it is quantised to: `int8`, `float8_e4m3fn`, …
        scale: as in the file.
        quantizer: name of the QuantizeLinear; empty for a stored constant.
        dequantizers: names of the DequantizeLinear nodes.
        readers: what reads it dequantised.
        channel_axis: the axis of the output channels of a weight; None of an activation, or where it is unknown.
    """

    name: str
    tensor: str
    kind: PairKind
    dtype: str
    scale: Scale = field(repr=False, metadata=NEVER)
    quantizer: str = ""
    dequantizers: tuple[str, ...] = ()
    readers: tuple[Reader, ...] = ()
    channel_axis: int | None = None


@dataclass(frozen=True)
class PairError:
    """What one pair costs, and why.

    Args:
        pair: its name.
        tensor: what it quantises.
        kind: weight or activation.
        granularity: `tensor`, `channel` or `block`.
        introduced: nrmse of the tensor, quantised and dequantised, over itself; inf where values are lost.
        alone: nrmse of the worst output of the model with this pair alone; None where only an estimate is known.
        estimate: `alone`, or what it is estimated to be (see `harness.quantization.ranking`).
        saturated: share of the elements beyond what the scale can hold.
        vanished: share of the elements other than 0 that round to 0.
        largest: the largest magnitude of the tensor.
        best: `introduced` of the best scale of the same granularity that was found.
        best_channel: that of a scale a channel; None where it was not tried.
        channel_ratio: the largest magnitude of a channel over that of the smallest.
        reason: why it costs that.
        scale: the smallest value of the scale.
        part: of tensors that were joined in it, the one that rounds to 0; empty where none does.
    """

    pair: str
    tensor: str
    kind: PairKind
    granularity: str
    introduced: float
    alone: float | None
    estimate: float
    saturated: float
    vanished: float
    largest: float
    best: float
    best_channel: float | None
    channel_ratio: float
    reason: Reason
    scale: float
    part: str = field(default="", metadata=UNLESS_DEFAULT)


@dataclass(frozen=True)
class Repair:
    """A better scale for one pair.

    Args:
        pair: its name.
        method: what gave the scale.
        granularity: `tensor`, `channel` or `block`, of the new scale.
        before: nrmse of the tensor with the scale of the file.
        after: with the new one.
        scale: the new one.
    """

    pair: str
    method: Method
    granularity: str
    before: float
    after: float
    scale: Scale = field(repr=False, compare=False, metadata=NEVER)

    @property
    def text(self) -> str:
        """The new scale, as far as it fits a line."""
        return f"{self.scale.smallest:.6g}" if self.scale.per_tensor else f"{self.scale.values.size} values"


@dataclass(frozen=True)
class EngineErrors:
    """The errors of a model on an engine: as it is, with new scales, and with pairs taken out.

    Args:
        environment: its name.
        before: nrmse of the worst output; None where there is no engine.
        repaired: with the repaired scales.
        without: with the pairs taken out.
        failure: why there is none; empty if there is.
    """

    environment: str
    before: float | None = None
    repaired: float | None = None
    without: float | None = None
    failure: str = ""

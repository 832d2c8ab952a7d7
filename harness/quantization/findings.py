"""What is wrong with the scales of a file at first sight: neither data nor a calibration is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from harness.model import Model
from harness.quantization.pairs import find_pairs, float_weights
from harness.quantization.types import PairKind, QdqPair

UNEVEN = 100.0
"""Channels of a weight that differ by so many times want a scale each."""


class ScaleFault(StrEnum):
    """What is wrong with a scale.

    `zero`, `subnormal` (smaller than the smallest normal FP32 number, which GPUs may flush to 0), `not_finite` and
    `negative` are of the scale itself. `zero_point`: it is not 0, which no release of TensorRT takes. `unsigned`:
    UINT8, which TensorRT takes as INT8 or not at all. `bias`: INT32, which no release dequantises. `uneven`: a weight
    has one scale, and its channels differ by 100 times. `axis`: the scales of a weight do not lie along its output
    channels.
    """

    ZERO = "zero"
    SUBNORMAL = "subnormal"
    NOT_FINITE = "not_finite"
    NEGATIVE = "negative"
    ZERO_POINT = "zero_point"
    UNSIGNED = "unsigned"
    BIAS = "bias"
    UNEVEN = "uneven"
    AXIS = "axis"


_STOPPING = {
    ScaleFault.ZERO,
    ScaleFault.NEGATIVE,
    ScaleFault.ZERO_POINT,
    ScaleFault.UNSIGNED,
    ScaleFault.BIAS,
}


@dataclass(frozen=True)
class ScaleFinding:
    """One fault of one pair.

    Args:
        fault: what.
        pair: name of the pair; of a bias, the stored constant.
        node: the QuantizeLinear, or the DequantizeLinear of a stored weight.
        value: the scale or the zero point, or how many times the channels differ.
    """

    fault: ScaleFault
    pair: str
    node: str
    value: float

    @property
    def stops(self) -> bool:
        """Whether releases of TensorRT refuse the file for it, or take it for something else."""
        return self.fault in _STOPPING or bool(np.isnan(self.value))


def find_scale_faults(model: Model) -> tuple[ScaleFinding, ...]:
    """The faults of all scales that are constant, in the order of the graph, then those of biases."""
    pairs = find_pairs(model)
    weights = float_weights(model, pairs)
    of_pairs = (
        ScaleFinding(fault, pair.name, pair.quantizer or pair.dequantizers[0], value)
        for pair in pairs
        for fault, value in _faults(pair, weights.get(pair.name))
    )
    biases = (
        ScaleFinding(ScaleFault.BIAS, node.inputs[0], node.name, 0.0)
        for node in model.nodes
        if node.op == "DequantizeLinear" and model.dtypes.get(node.inputs[0]) == "int32"
    )
    return (*of_pairs, *biases)


def _faults(pair: QdqPair, weight: np.ndarray | None) -> Iterator[tuple[ScaleFault, float]]:
    values = pair.scale.values
    if not np.isfinite(values).all():
        yield ScaleFault.NOT_FINITE, float(values[~np.isfinite(values)][0])
    elif (values <= 0).any():
        least = float(values.min())
        yield (ScaleFault.NEGATIVE if least < 0 else ScaleFault.ZERO), least
    elif (values < np.finfo(np.float32).tiny).any():
        yield ScaleFault.SUBNORMAL, float(values.min())
    if pair.scale.zero_point is not None:
        zeros = pair.scale.zero_point
        yield ScaleFault.ZERO_POINT, float(zeros[zeros != 0].flat[0])
    elif pair.dtype.startswith("u"):
        yield ScaleFault.UNSIGNED, 0.0
    if pair.kind is not PairKind.WEIGHT or weight is None or pair.channel_axis is None or weight.ndim < 2:
        return
    wanted = pair.channel_axis % weight.ndim
    if pair.scale.axis is not None and not pair.scale.block_size and pair.scale.axis % weight.ndim != wanted:
        yield ScaleFault.AXIS, float(pair.scale.axis)
    sizes = np.abs(weight).max(axis=tuple(place for place in range(weight.ndim) if place != wanted))
    sizes = sizes[sizes > 0]
    if pair.scale.per_tensor and sizes.size and sizes.max() >= UNEVEN * sizes.min():
        yield ScaleFault.UNEVEN, float(sizes.max() / sizes.min())

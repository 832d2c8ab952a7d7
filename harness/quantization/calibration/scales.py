"""From what was seen of a tensor to its scale: the four methods that calibrators have.

`max` takes the largest magnitude; `percentile` the 99.99th percentile of the magnitudes; `mse` the threshold with the
least squared error; `entropy` that with the least Kullback-Leibler divergence between the histogram, with what is
clipped in its last bin, and itself in 128 levels (S. Migacz, "8-bit inference with TensorRT", GTC 2017). The
divergence looks at the distribution, not at sizes: it gives up rare large values that squared errors keep.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from harness.quantization.arithmetic import (
    FP4,
    clips,
    dequantized,
    largest_of,
    limits,
    nrmse,
    thinned,
    two_levels,
)
from harness.quantization.calibration.histograms import BINS, Histogram
from harness.quantization.types import Method, PairKind, QdqPair, Scale

PERCENTILE = 99.99
LEVELS = 128
STRIDE = 32
"""Of so many thresholds, one is tried."""
_CLIPS = tuple(np.linspace(1.0, 0.3, 29))
"""Shares of the largest magnitude that are tried for each channel or block of a weight."""


@dataclass(frozen=True, eq=False)
class Curve:
    """What a method compares: a value for each threshold, and the threshold with the smallest.

    Args:
        thresholds: magnitudes beyond which is clipped, ascending.
        values: the divergence in nats, or the squared error over the signal's.
        best: the threshold that is taken.
    """

    thresholds: np.ndarray = field(repr=False)
    values: np.ndarray = field(repr=False)
    best: float


def threshold(histogram: Histogram, method: Method, dtype: str) -> float:
    """The magnitude beyond which values are clipped; 0 of a tensor that is 0 throughout."""
    if histogram.largest == 0:
        return 0.0
    if method is Method.MAX:
        return histogram.largest
    if method is Method.PERCENTILE:
        cumulated = np.cumsum(histogram.counts)
        place = int(np.searchsorted(cumulated, cumulated[-1] * PERCENTILE / 100))
        return float(min(histogram.edges[place + 1], histogram.largest))
    return curve(histogram, method, dtype).best


def curve(histogram: Histogram, method: Method, dtype: str) -> Curve:
    """What `entropy` or `mse` compares."""
    values = _divergences(histogram) if method is Method.ENTROPY else _squared_errors(histogram, dtype)
    places = np.arange(LEVELS, BINS + 1, STRIDE)
    thresholds = histogram.edges[places]
    thresholds[-1] = histogram.largest or thresholds[-1]
    return Curve(thresholds, values, float(thresholds[int(np.argmin(values))]))


def _divergences(histogram: Histogram) -> np.ndarray:
    """KL divergence of the quantised distribution from the clipped one, for each threshold.

    All thresholds at once: the sums over the bins of a level are differences of sums from the first bin on, and with n
    in a bin and g in its level Σ p log(p / q) is Σ p log n − Σ p log g, but for what makes shares of both.
    """
    counts = histogram.counts.astype(np.float64)
    counts[0] = counts[1]  # the zeros of a ReLU would outweigh everything
    sizes = np.arange(LEVELS, BINS + 1, STRIDE)
    borders = np.arange(LEVELS + 1) * sizes[:, None] // LEVELS
    summed = np.concatenate([[0.0], np.cumsum(counts)])
    last, clipped = counts[sizes - 1], summed[-1] - summed[sizes]
    masses = np.diff(summed[borders])
    filled = np.diff(np.concatenate([[0.0], np.cumsum(counts > 0)])[borders])
    filled[:, -1] += (clipped > 0) & (last == 0)  # what is clipped lies in the last bin
    levels = np.divide(masses, filled, out=np.zeros_like(masses), where=filled > 0)
    given, wanted = (levels * filled).sum(axis=1), summed[sizes] + clipped
    masses[:, -1] += clipped
    with np.errstate(all="ignore"):
        q = np.maximum(levels / given[:, None], 1e-12)  # what is clipped into an empty bin
        entropy = np.concatenate([[0.0], np.cumsum(_times_log(counts))])[sizes]
        entropy += _times_log(last + clipped) - _times_log(last)
        cross = np.where(masses > 0, masses * np.log(q), 0.0).sum(axis=1)
        found = (entropy - cross) / wanted - np.log(wanted)
    return np.where((given > 0) & (wanted > 0), found, np.inf)


def _times_log(values: np.ndarray) -> np.ndarray:
    """v log v; 0 of 0."""
    return np.asarray(values * np.log(values, out=np.zeros_like(values), where=values > 0))


def _squared_errors(histogram: Histogram, dtype: str) -> np.ndarray:
    centres, counts = histogram.centres.astype(np.float32), histogram.counts
    signal = float((counts * centres.astype(np.float64) ** 2).sum()) or 1.0
    sizes = np.arange(LEVELS, BINS + 1, STRIDE)
    scale = Scale(sizes * histogram.width / largest_of(dtype), None, 0)
    tried = np.broadcast_to(centres, (len(sizes), BINS))
    return np.asarray(np.square(dequantized(tried, scale, dtype) - tried) @ counts / signal)


def activation_scale(pair: QdqPair, histogram: Histogram, method: Method) -> Scale:
    """A scale for a whole tensor; asymmetric where the pair has a zero point."""
    found = threshold(histogram, method, pair.dtype)
    if pair.scale.zero_point is not None and clips(pair.scale, pair.dtype):
        least, most = limits(pair.dtype)
        return Scale(_usable(np.float32(found / (most - least))), pair.scale.zero_point)
    if pair.scale.zero_point is None:
        return Scale(_usable(np.float32(found / largest_of(pair.dtype))).reshape(()))
    least, most = limits(pair.dtype)
    low, high = max(histogram.lowest, -found), min(histogram.highest, found)
    scale = _usable(np.float32((high - low) / (most - least)))
    zero = np.clip(np.rint(least - low / scale), least, most).astype(np.float32)
    return Scale(scale.reshape(()), zero.reshape(()))


def weight_scale(
    values: np.ndarray, dtype: str, method: Method, *, axis: int | None, block_size: int = 0
) -> Scale:
    """A symmetric scale for a weight: for the whole, for each channel along `axis`, or for each block along it.

    `max` takes the largest magnitude of each; every other method tries clipping it, and keeps the least squared error.
    """
    if axis is None:
        grouped = values.reshape(1, -1)
        shape: tuple[int, ...] = ()
    elif block_size:
        axis %= values.ndim
        blocks = -(-values.shape[axis] // block_size)
        padding = [
            (0, blocks * block_size - size if place == axis else 0) for place, size in enumerate(values.shape)
        ]
        moved = np.moveaxis(np.pad(values, padding), axis, -1)
        shape = (*moved.shape[:-1], blocks)
        grouped = moved.reshape(-1, block_size)
    else:
        grouped = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
        shape = (values.shape[axis],)
    sizes = np.abs(grouped).max(axis=1, initial=0.0)
    zero = np.ceil(largest_of(dtype) / 2) if limits(dtype)[0] == 0 else 0.0
    top = largest_of(dtype) - zero
    if method is not Method.MAX:
        sizes = sizes * _best_clips(grouped, sizes / top, zero, dtype)
    scales = _usable((sizes / top).astype(np.float32)).reshape(shape)
    if dtype == FP4:
        whole, parts = two_levels(scales)
        scales = _usable(whole * parts)
    if block_size and axis is not None:
        scales = np.moveaxis(scales, -1, axis)
    zeros = np.full(scales.shape, zero, np.float32) if zero else None
    return Scale(np.array(scales, order="C"), zeros, axis, block_size)


def _best_clips(grouped: np.ndarray, scales: np.ndarray, zero: float, dtype: str) -> np.ndarray:
    best = np.full(len(scales), np.inf)
    found = np.ones(len(scales), dtype=np.float32)
    zeros = np.full(len(scales), zero, np.float32) if zero else None
    for clip in _CLIPS:
        scale = Scale(_usable((scales * clip).astype(np.float32)), zeros, 0)
        error = np.square(dequantized(grouped, scale, dtype) - grouped).sum(axis=1)
        better = error < best
        best[better], found[better] = error[better], clip
    return found


def _usable(scales: np.ndarray | np.floating) -> np.ndarray:
    """Scales of what is 0 throughout become 1: a scale of 0 divides by 0."""
    return np.where(scales >= np.finfo(np.float32).tiny, scales, np.float32(1)).astype(np.float32)


def scale_for(
    pair: QdqPair,
    histogram: Histogram,
    values: np.ndarray,
    method: Method,
    *,
    per_channel: bool | None = None,
) -> Scale:
    """A scale by `method` in the granularity of the pair, or with one a channel.

    Args:
        pair: what is quantised.
        histogram: of its tensor.
        values: the weight; unused of an activation.
        method: how.
        per_channel: whether a weight gets a scale a channel; None: if it has more than one now.
    """
    if pair.kind is PairKind.ACTIVATION:
        return activation_scale(pair, histogram, method)
    if pair.scale.block_size:
        return weight_scale(
            values, pair.dtype, method, axis=pair.scale.axis, block_size=pair.scale.block_size
        )
    wanted = not pair.scale.per_tensor if per_channel is None else per_channel
    return weight_scale(values, pair.dtype, method, axis=_channels(pair, values) if wanted else None)


def _channels(pair: QdqPair, values: np.ndarray) -> int:
    axis = pair.channel_axis if pair.channel_axis is not None else pair.scale.axis
    return (axis or 0) % values.ndim


def error_of(values: np.ndarray, scale: Scale, dtype: str, axis: int | None = None) -> float:
    """nrmse of `values`, quantised and dequantised, over themselves; the RMS over the channels along `axis` if given.

    A channel of a weight makes a channel of what is computed, and what follows may scale that up again: so a channel
    that is lost counts, however small it is beside the others. Of a large tensor some lines are looked at.
    """
    values, scale = thinned(values, scale, axis)
    found = dequantized(values, scale, dtype)
    if axis is None:
        return nrmse(found, values)
    others = tuple(place for place in range(values.ndim) if place != axis % values.ndim)
    with np.errstate(all="ignore"):
        errors = np.square(found - values, dtype=np.float64).sum(axis=others)
        signals = np.square(values, dtype=np.float64).sum(axis=others)
    if not np.isfinite(errors).all():
        return float("inf")
    return float(np.sqrt(np.divide(errors, signals, out=np.zeros_like(errors), where=signals > 0).mean()))

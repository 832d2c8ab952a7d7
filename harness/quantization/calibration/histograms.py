"""What is known of a tensor over all samples: its histogram, its largest values, and those of its channels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.backends import chunks, tensor_sizes
from harness.quantization.arithmetic import (
    BLOCK,
    clips,
    limits,
    ratio,
    rounded,
    spread,
    squares,
    steps,
    thinned,
)
from harness.quantization.switched import BUDGET, Setting, SwitchedModel
from harness.quantization.types import PairKind, QdqPair, Scale
from harness.tensors import NEVER

BINS = 2048
COUNTED = 1 << 20
"""About so many values of a tensor are counted in its histogram."""
KEPT = 1 << 14
"""About so many values of an activation are kept, to try scales on."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """The magnitudes of a tensor.

    Args:
        counts: elements in each of 2,048 bins of equal width, from 0; of a large tensor, of a share of its elements.
        width: of a bin.
        largest: the largest magnitude, exactly.
        lowest: the smallest value.
        highest: the largest value.
        elements: all that are finite.
        nonfinite: those that are not.
        channels: the largest magnitude of each channel; empty where the tensor has no axis of channels.
    """

    counts: np.ndarray = field(repr=False)
    width: float
    largest: float
    lowest: float
    highest: float
    elements: int
    nonfinite: int = 0
    channels: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False)

    @property
    def centres(self) -> np.ndarray:
        """The middle of each bin."""
        return (np.arange(BINS) + 0.5) * self.width

    @property
    def edges(self) -> np.ndarray:
        """The 2,049 edges of the bins."""
        return np.arange(BINS + 1) * self.width

    @property
    def channel_ratio(self) -> float:
        """The largest magnitude of a channel over the smallest that is not 0; 1 of a single channel."""
        found = self.channels[self.channels > 0]
        return float(found.max() / found.min()) if found.size else 1.0


def histogram_of(values: np.ndarray, axis: int | None = None) -> Histogram:
    """The histogram of one array, with `axis` as that of its channels; of a large one, of evenly chosen elements."""
    low, high = (float(found(values, initial=0.0)) for found in (np.min, np.max))
    bad, kept = 0, values
    if not math.isfinite(low - high):
        finite = np.isfinite(values)
        bad, kept = values.size - int(np.count_nonzero(finite)), np.where(finite, values, np.float32(0))
        low, high = float(kept.min(initial=0.0)), float(kept.max(initial=0.0))
    largest = max(-low, high)
    width = largest / BINS if largest > 0 else 1.0 / BINS
    counts = np.zeros(BINS, np.int64)
    flat = kept.reshape(-1)[:: max(1, kept.size // COUNTED)]
    for start in range(0, flat.size, BLOCK):
        places = (np.abs(flat[start : start + BLOCK]) / np.float32(width)).astype(np.int64)
        counts += np.bincount(np.minimum(places, BINS - 1), minlength=BINS)
    counts[0] -= bad if flat.size == values.size else 0
    channels = np.zeros(0)
    if axis is not None and values.ndim > 1:
        others = tuple(place for place in range(values.ndim) if place != axis % values.ndim)
        highest, lowest = kept.max(axis=others, initial=0.0), kept.min(axis=others, initial=0.0)
        channels = np.maximum(highest, -lowest).astype(np.float64)
    return Histogram(counts, width, largest, low, high, values.size - bad, bad, channels)


def merged(first: Histogram | None, other: Histogram) -> Histogram:
    """Both together; bins of the smaller range fall into those of the larger one."""
    if first is None:
        return other
    wide, narrow = (first, other) if first.width >= other.width else (other, first)
    counts = wide.counts.copy()
    places = np.minimum((narrow.centres / wide.width).astype(np.int64), BINS - 1)
    np.add.at(counts, places, narrow.counts)
    same = first.channels.shape == other.channels.shape
    return Histogram(
        counts,
        wide.width,
        max(first.largest, other.largest),
        min(first.lowest, other.lowest),
        max(first.highest, other.highest),
        first.elements + other.elements,
        first.nonfinite + other.nonfinite,
        np.maximum(first.channels, other.channels) if same else np.zeros(0),
    )


@dataclass(frozen=True)
class Introduced:
    """What quantising a tensor does to it, as sums over its elements; those of several samples add up.

    Args:
        signal: of the squares of the values.
        error: of the squares of the errors.
        beyond: that of the elements that the scale cannot hold.
        zeroed: that of the elements that become 0.
        elements: all.
        saturated: how many the scale cannot hold.
        vanished: how many become 0 and were not.
        nonzero: how many were not 0.
    """

    signal: float = 0.0
    error: float = 0.0
    beyond: float = 0.0
    zeroed: float = 0.0
    elements: int = 0
    saturated: int = 0
    vanished: int = 0
    nonzero: int = 0

    def __add__(self, other: Introduced) -> Introduced:
        mine, theirs = vars(self), vars(other)
        return Introduced(**{name: mine[name] + theirs[name] for name in mine})

    @property
    def nrmse(self) -> float:
        """RMS of the error over that of the values; inf where values are lost."""
        return ratio(self.error, self.signal)


def introduced(values: np.ndarray, scale: Scale, dtype: str) -> Introduced:
    """What a scale does to `values`, float32."""
    if values.size > BLOCK and scale.per_tensor:
        flat = values.reshape(-1)
        parts = (flat[start : start + BLOCK] for start in range(0, flat.size, BLOCK))
        return sum((introduced(part, scale, dtype) for part in parts), Introduced())
    least, most = limits(dtype)
    found = steps(values, scale, dtype)
    zero = 0.0 if scale.zero_point is None else spread(scale.zero_point, scale, values.shape)
    half = 0.5 if np.issubdtype(type(least), np.floating) else 0.0
    with np.errstate(all="ignore"):
        back = (rounded(found, dtype) - zero) * spread(scale.values, scale, values.shape)
        error = np.subtract(back, values)
        saturates = not (found.max(initial=0) <= most + half and found.min(initial=0) >= least - half)
    beyond = (found > most + half) | (found < least - half) if saturates else np.zeros(0, bool)
    gone = (back == 0) & (values != 0)
    return Introduced(
        squares(values),
        squares(error),
        squares(error[beyond]) if saturates else 0.0,
        squares(error[gone]),
        values.size,
        int(np.count_nonzero(beyond)),
        int(np.count_nonzero(gone)),
        int(np.count_nonzero(values)),
    )


@dataclass(frozen=True, eq=False)
class PairStatistics:
    """The tensors of all pairs over all samples.

    Args:
        histograms: by name of the pair.
        introduced: what the scales of the file do, by name of the pair.
        kept: a share of the values of each activation, and the weights, by name of the pair: to try scales on.
    """

    histograms: Mapping[str, Histogram]
    introduced: Mapping[str, Introduced]
    kept: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False, metadata=NEVER)


def observe_pairs(switched: SwitchedModel, samples: Sequence[Mapping[str, np.ndarray]]) -> PairStatistics:
    """Look at what each pair reads when no pair quantises, over all samples.

    Raises:
        ModelError: ONNX Runtime does not accept the model.
        InputDataError: a sample does not fit it.
    """
    histograms: dict[str, Histogram] = {}
    errors: dict[str, Introduced] = {}
    kept: dict[str, np.ndarray] = {}
    for pair, values in _tensors(switched, samples):
        axis = pair.channel_axis if pair.kind is PairKind.WEIGHT else _activation_axis(switched, pair)
        histograms[pair.name] = merged(histograms.get(pair.name), histogram_of(values, axis))
        looked_at, scale = values, pair.scale
        if pair.kind is PairKind.WEIGHT:
            looked_at, scale = thinned(values, scale, axis)
        errors[pair.name] = errors.get(pair.name, Introduced()) + introduced(looked_at, scale, pair.dtype)
        if pair.name not in kept:
            kept[pair.name] = values if pair.kind is PairKind.WEIGHT else _share(values)
    return PairStatistics(histograms, errors, kept)


def _share(values: np.ndarray) -> np.ndarray:
    flat = values.reshape(-1)
    return flat[:: max(1, flat.size // KEPT)].copy()


def _tensors(
    switched: SwitchedModel, samples: Sequence[Mapping[str, np.ndarray]]
) -> Iterator[tuple[QdqPair, np.ndarray]]:
    for pair in switched.pairs:
        if pair.kind is PairKind.WEIGHT:
            yield pair, switched.weights[pair.name]
    computed: dict[str, list[QdqPair]] = {}
    for pair in switched.pairs:
        if pair.kind is PairKind.ACTIVATION:
            computed.setdefault(pair.tensor, []).append(pair)
    off = Setting(off=frozenset(pair.name for pair in switched.pairs))

    def read(name: str, values: np.ndarray) -> Iterator[tuple[QdqPair, np.ndarray]]:
        for pair in computed[name]:
            found = values.astype(np.float32, copy=False)
            yield pair, np.maximum(found, 0) if clips(pair.scale, pair.dtype) else found

    for feeds in samples:
        sizes = tensor_sizes(switched.model, feeds)
        for name in (name for name in computed if name in feeds):
            yield from read(name, np.asarray(feeds[name]))
        for chunk in chunks([name for name in computed if name not in feeds], sizes, BUDGET):
            found = switched.run(feeds, off, chunk)
            for name in chunk:
                yield from read(name, found[name])


def _activation_axis(switched: SwitchedModel, pair: QdqPair) -> int | None:
    ops = {switched.model.node(reader.node).op for reader in pair.readers}
    return 1 if "Conv" in ops else -1 if ops & {"MatMul", "Gemm"} else None

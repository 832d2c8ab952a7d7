"""Which pair costs how much, alone, and why; and which method gives the scale of which tensor.

The best method for all is taken, and for a few tensors another one that does better. Errors are measured on samples
that the scales were not calibrated with, half by half: on its own samples `max` looks better than it is, since of them
it clips nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from harness.quantization.arithmetic import limits, ratio
from harness.quantization.calibration import error_of, scale_for
from harness.quantization.histograms import Introduced, Observed, observe
from harness.quantization.switched import Setting, SwitchedModel
from harness.quantization.types import Kind, Method, PairError, QdqPair, Reason, Scale
from harness.tensors import NEVER, to_json

if TYPE_CHECKING:
    import pandas as pd

INFERENCES = 48
"""So many pairs are measured alone, those that introduce most; the others are estimated from them."""
GOOD = 1.5
"""A scale with no more than so many times the error of the best one is as good as can be."""
WORTH = 2.0
"""A scale for each channel is proposed where it divides the error by so much."""
WIDE = 40.0
"""Largest magnitude over RMS, from which on a range is called wide. A normal distribution has 4 to 6."""

FEW_LEVELS = 15
"""Of types with no larger values, the scales of weights are worth a search."""

MOST_TENSORS = 16
"""So many activations, those whose scale errs most, are tried with each method."""
MOST_SAMPLES = 8
"""On at most so many samples."""
_BETTER = 0.995

Scales = Mapping[Method, Mapping[str, Scale]]
Samples = Sequence[Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Candidate:
    """A scale that was tried for a pair.

    Args:
        scale: what.
        method: what gave it.
        granularity: `tensor`, `channel` or `block`.
        error: `introduced` with it.
    """

    scale: Scale = field(repr=False, metadata=NEVER)
    method: Method
    granularity: str
    error: float


@dataclass(frozen=True)
class Ranking:
    """The pairs of a model, the costliest first.

    Args:
        pairs: what each costs, and why.
        inferences: how often a sample went through the model for it.
    """

    pairs: tuple[PairError, ...]
    inferences: int

    def __getitem__(self, name: str) -> PairError:
        return next(each for each in self.pairs if each.pair == name)

    def to_frame(self) -> pd.DataFrame:
        """A row for each pair, the costliest first, with the fields of `PairError`."""
        import pandas as pd

        return pd.DataFrame([to_json(each) for each in self.pairs])


class Outputs:
    """The error of a switched model over a reference, over a few samples.

    Args:
        switched: the model.
        samples: what is fed.
        expected: the outputs of the reference, sample by sample; by default those with no pair quantising.
    """

    def __init__(
        self,
        switched: SwitchedModel,
        samples: Samples,
        expected: Sequence[Mapping[str, np.ndarray]] | None = None,
    ) -> None:
        self.switched, self.samples = switched, samples
        off = Setting(off=frozenset(pair.name for pair in switched.pairs))
        self.expected = [switched.run(feeds, off) for feeds in samples] if expected is None else expected

    def error(self, setting: Setting, *, samples: int | None = None) -> float:
        """nrmse of the worst output over all samples, or over the first few."""
        chosen = self.samples[:samples]
        return worst_error([self.switched.run(feeds, setting) for feeds in chosen], self.expected[:samples])


def worst_error(
    outputs: Sequence[Mapping[str, np.ndarray]], expected: Sequence[Mapping[str, np.ndarray]]
) -> float:
    """nrmse of the worst float output, over all samples; inf where one is not finite."""
    errors: dict[str, float] = {}
    signals: dict[str, float] = {}
    for found, right in zip(outputs, expected, strict=True):
        for name, values in right.items():
            if values.dtype.kind != "f" or not values.size:
                continue
            wanted = values.astype(np.float64)
            kept = np.isfinite(wanted)  # infinities that are meant, such as masked logits
            with np.errstate(all="ignore"):
                error = np.square(np.where(kept, found[name] - wanted, 0.0)).sum()
            errors[name] = errors.get(name, 0.0) + float(error)
            signals[name] = signals.get(name, 0.0) + float(np.square(wanted[kept]).sum())
    return max((ratio(errors[name], signals[name]) for name in errors), default=0.0)


def candidates(pair: QdqPair, observed: Observed) -> tuple[Candidate, ...]:
    """Scales by each method in the pair's granularity, and with one a channel where it has one in all; best first."""
    values, histogram = observed.kept[pair.name], observed.histograms[pair.name]
    weight = pair.kind is Kind.WEIGHT
    found = []
    wider = (False, True) if weight and pair.scale.per_tensor and pair.channel_axis is not None else (None,)
    for per_channel in wider:
        for method in _methods(pair):
            scale = scale_for(pair, histogram, values, method, per_channel=per_channel)
            error = error_of(values, scale, pair.dtype, pair.channel_axis if weight else None)
            found.append(Candidate(scale, method, granularity(scale), error))
    return tuple(sorted(found, key=lambda each: each.error))


def _methods(pair: QdqPair) -> tuple[Method, ...]:
    if pair.kind is Kind.ACTIVATION:
        return tuple(Method)
    # With 8 bits, clipping channels of a weight gains less than it takes to try.
    return (Method.MAX,) if limits(pair.dtype)[1] > FEW_LEVELS else (Method.MAX, Method.MSE)


def best_of(pair: QdqPair, found: Sequence[Candidate]) -> Candidate:
    """The best candidate of the pair's granularity, or one with a scale a channel where that is worth it."""
    same = next(
        each for each in found if each.granularity == granularity(pair.scale) or not pair.scale.per_tensor
    )
    return found[0] if found[0].error * WORTH < same.error else same


def granularity(scale: Scale) -> str:
    """`tensor`, `channel` or `block`."""
    return "block" if scale.block_size else "tensor" if scale.per_tensor else "channel"


def rank(
    outputs: Outputs,
    observed: Observed,
    tried: Mapping[str, Sequence[Candidate]],
    *,
    inferences: int = INFERENCES,
) -> Ranking:
    """Measure what each pair introduces into its tensor, and, as far as `inferences` go, what it alone does.

    Args:
        outputs: the model, with samples.
        observed: its tensors.
        tried: the candidates for each pair, by its name.
        inferences: pairs that are measured alone, each on one sample.
    """
    switched = outputs.switched
    before = switched.inferences
    names = frozenset(pair.name for pair in switched.pairs)
    costs = {pair.name: _introduced(pair, observed) for pair in switched.pairs}
    order = sorted(switched.pairs, key=lambda pair: -costs[pair.name])
    alone = {
        pair.name: outputs.error(Setting(off=names - {pair.name}), samples=1) for pair in order[:inferences]
    }
    gain = _gain(costs, alone)
    found = []
    for pair in switched.pairs:
        histogram, sums = observed.histograms[pair.name], observed.introduced[pair.name]
        cost, measured = costs[pair.name], alone.get(pair.name)
        same = best_of_same(pair, tried[pair.name])
        channel = next((c.error for c in tried[pair.name] if c.granularity == "channel"), None)
        found.append(
            PairError(
                pair=pair.name,
                tensor=pair.tensor,
                kind=pair.kind,
                granularity=granularity(pair.scale),
                introduced=cost,
                alone=measured,
                estimate=cost * gain if measured is None else measured,
                saturated=sums.saturated / sums.elements if sums.elements else 0.0,
                vanished=sums.vanished / sums.nonzero if sums.nonzero else 0.0,
                largest=histogram.largest,
                best=same,
                best_channel=channel,
                channel_ratio=histogram.channel_ratio,
                reason=reason_of(pair, observed, cost, same, channel),
                scale=pair.scale.smallest,
            )
        )
    return Ranking(
        tuple(sorted(found, key=lambda each: (-each.estimate, -each.introduced))),
        switched.inferences - before,
    )


def best_of_same(pair: QdqPair, found: Sequence[Candidate]) -> float:
    """The error of the best candidate of the pair's granularity."""
    own = granularity(pair.scale)
    return min((each.error for each in found if each.granularity == own), default=math.inf)


def _introduced(pair: QdqPair, observed: Observed) -> float:
    if pair.kind is Kind.WEIGHT:
        return error_of(observed.kept[pair.name], pair.scale, pair.dtype, pair.channel_axis)
    return observed.introduced[pair.name].nrmse


def _gain(costs: Mapping[str, float], alone: Mapping[str, float]) -> float:
    """The median of what the outputs err by over what is introduced."""
    ratios = [
        error / costs[name]
        for name, error in alone.items()
        if 0 < costs[name] < math.inf and math.isfinite(error)
    ]
    return float(np.median(ratios)) if ratios else 1.0


def reason_of(pair: QdqPair, observed: Observed, cost: float, best: float, channel: float | None) -> Reason:
    """Why a pair costs what it costs; see `Reason`.

    Args:
        pair: the pair.
        observed: its tensor.
        cost: the error that it introduces.
        best: the error with the best scale of its granularity.
        channel: the error with the best scale for each channel; None where scales cannot differ by channel.
    """
    values, histogram = pair.scale.values, observed.histograms[pair.name]
    sums: Introduced = observed.introduced[pair.name]
    if not np.isfinite(values).all() or (np.abs(values) < np.finfo(np.float32).tiny).any():
        return Reason.BROKEN
    axis, wanted = pair.scale.axis, pair.channel_axis
    if axis is not None and wanted is not None and not pair.scale.block_size:
        rank_of = observed.kept[pair.name].ndim
        if axis % rank_of != wanted % rank_of:
            return Reason.AXIS
    if cost <= GOOD * best:
        if channel is not None and pair.scale.per_tensor and channel * WORTH < cost:
            return Reason.GRANULARITY
        rms = math.sqrt(sums.signal / sums.elements) if sums.elements else 0.0
        return Reason.RANGE if rms and histogram.largest > WIDE * rms else Reason.FORMAT
    if sums.beyond > 0.5 * sums.error:
        return Reason.SATURATION
    if sums.zeroed > 0.5 * sums.error or sums.vanished > 0.5 * sums.nonzero:
        return Reason.VANISHING
    return Reason.COARSE


def choose_methods(
    outputs: Outputs, scales_of: Callable[[Observed], Scales], errors: Mapping[str, Mapping[Method, float]]
) -> tuple[Method, dict[str, Method]]:
    """The method with the least error of the model, and by pair the method whose scale it gets.

    Args:
        outputs: the model with the samples that it is calibrated with.
        scales_of: by method and pair, the scales that what was observed gives.
        errors: by pair and method, the error of its tensor over all samples.
    """
    folds = _folds(outputs, scales_of)
    pairs = outputs.switched.pairs

    def error(chosen: Mapping[str, Method]) -> float:
        return math.hypot(
            *(
                fold.error(Setting(scales={name: scales[method][name] for name, method in chosen.items()}))
                for fold, scales in folds
            )
        )

    found = {method: error({pair.name: method for pair in pairs}) for method in Method}
    best = min(found, key=lambda method: found[method])
    chosen = {pair.name: best for pair in pairs}
    if len(folds) < 2:
        return best, chosen
    least = found[best]
    activations = [pair.name for pair in pairs if pair.kind is Kind.ACTIVATION]
    activations.sort(key=lambda name: -errors[name][best])
    for name in activations[:MOST_TENSORS]:
        for method in Method:
            if method is chosen[name]:
                continue
            tried = error({**chosen, name: method})
            if tried < _BETTER * least:
                least, chosen[name] = tried, method
    return best, chosen


def _folds(outputs: Outputs, scales_of: Callable[[Observed], Scales]) -> Sequence[tuple[Outputs, Scales]]:
    """Each half of the samples with the scales of the other one; of a single sample itself."""
    switched: SwitchedModel = outputs.switched
    samples, expected = outputs.samples, outputs.expected
    half = len(samples) // 2
    if not half:
        return [(outputs, scales_of(observe(switched, samples)))]
    found = []
    for mine, others in ((slice(half), slice(half, None)), (slice(half, None), slice(half))):
        seen = scales_of(observe(switched, samples[mine]))
        most = slice(MOST_SAMPLES // 2)
        found.append((Outputs(switched, samples[others][most], expected[others][most]), seen))
    return found

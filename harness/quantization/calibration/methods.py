"""Which method gives the scales: that of `mse`, unless samples show that another one does better.

Four samples draw the largest value, or the best threshold of one tensor, as much by chance as by what the model is
like, and among many choices the luckiest looks best. So errors are measured on samples that the scales were not
calibrated with, half by half (on its own samples `max` looks better than it is, since of them it clips nothing); a
method takes the place of `mse` only where it does better by more than noise; and single tensors get other methods only
where those that each half asks for make the model better on the other half, too, by more than noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.quantization.calibration.histograms import PairStatistics, observe_pairs
from harness.quantization.outputs import Outputs
from harness.quantization.switched import Setting
from harness.quantization.types import Method, Scale

MOST_TENSORS = 16
"""So many activations, those whose scale errs most, are tried with each method."""
MOST_SAMPLES = 8
"""On at most so many samples."""
NOISE = 2.5
"""A method is better where the mean difference, sample by sample, is so many times its standard error: one of three."""
CONFIRMED = 1.65
"""The same of single tensors, of which one choice is looked at."""
_BETTER = 0.995

Scales = Mapping[Method, Mapping[str, Scale]]
Choice = dict[str, Method]


@dataclass(frozen=True)
class _Fold:
    """Samples, and the scales that others gave."""

    outputs: Outputs
    scales: Scales

    def squares(self, chosen: Mapping[str, Method]) -> np.ndarray:
        """The squared error of each sample with the methods chosen."""
        setting = Setting(scales={name: self.scales[method][name] for name, method in chosen.items()})
        return np.square(self.outputs.each(setting))


def choose_methods(
    outputs: Outputs,
    scales_of: Callable[[PairStatistics], Scales],
    errors: Mapping[str, Mapping[Method, float]],
    groups: Sequence[Sequence[str]],
) -> tuple[Method, Choice]:
    """The method for the model, and by pair the method whose scale it gets.

    Args:
        outputs: the model with the samples that it is calibrated with.
        scales_of: by method and pair, the scales that what was observed gives.
        errors: by pair and method, the error of its tensor over all samples.
        groups: names of activation pairs that get one method, each in one group.
    """
    folds = _folds(outputs, scales_of)
    names = [pair.name for pair in outputs.switched.pairs]
    best = _best(folds, names)
    chosen: Choice = dict.fromkeys(names, best)
    if len(folds) < 2:
        return best, chosen
    costliest = sorted(groups, key=lambda group: -max(errors[name][best] for name in group))[:MOST_TENSORS]
    before, after = [], []
    for mine, others in (folds, folds[::-1]):
        before.append(others.squares(chosen))
        after.append(others.squares(_improved([mine], chosen, costliest)))
        if np.mean(after[-1]) >= np.mean(before[-1]):
            return best, chosen
    if not _less(np.concatenate(after), np.concatenate(before), CONFIRMED):
        return best, chosen
    return best, _improved(folds, chosen, costliest)


def _best(folds: Sequence[_Fold], names: Sequence[str]) -> Method:
    """`mse`, or the method that does better by most, if one does beyond noise."""
    found = {
        method: np.concatenate([fold.squares(dict.fromkeys(names, method)) for fold in folds])
        for method in Method
    }
    best = Method.MSE
    for method, squares in found.items():
        if _less(squares, found[Method.MSE], NOISE) and squares.mean() < found[best].mean():
            best = method
    return best


def _less(squares: np.ndarray, than: np.ndarray, errors: float) -> bool:
    """Whether the squared errors of the same samples are less, by so many standard errors."""
    gain = than - squares
    noise = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.inf
    return bool(gain.mean() > errors * noise)


def _improved(folds: Sequence[_Fold], chosen: Choice, groups: Sequence[Sequence[str]]) -> Choice:
    """`chosen` with other methods for those groups that do better on `folds`, one after the other."""

    def error(tried: Choice) -> float:
        return float(np.sqrt(np.mean([fold.squares(tried).mean() for fold in folds])))

    least = error(chosen)
    for group in groups:
        for method in Method:
            tried = chosen | dict.fromkeys(group, method)
            if tried != chosen and (found := error(tried)) < _BETTER * least:
                least, chosen = found, tried
    return chosen


def _folds(outputs: Outputs, scales_of: Callable[[PairStatistics], Scales]) -> tuple[_Fold, ...]:
    """Each half of the samples with the scales of the other one; of a single sample itself."""
    switched = outputs.switched
    samples, expected = outputs.samples, outputs.expected
    half = len(samples) // 2
    if not half:
        return (_Fold(outputs, scales_of(observe_pairs(switched, samples))),)
    found = []
    for mine, others in ((slice(half), slice(half, None)), (slice(half, None), slice(half))):
        seen = scales_of(observe_pairs(switched, samples[mine]))
        most = slice(MOST_SAMPLES // 2)
        found.append(_Fold(Outputs(switched, samples[others][most], expected[others][most]), seen))
    return tuple(found)

"""Which method gives the scale of which tensor: the best for all, and for a few tensors another one that does better.

Errors are measured on samples that the scales were not calibrated with, half by half: on its own samples `max` looks
better than it is, since of them it clips nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from harness.quantization.histograms import Observed, observe
from harness.quantization.ranking import Outputs
from harness.quantization.switched import Setting, SwitchedModel
from harness.quantization.types import Kind, Method, Scale

MOST_TENSORS = 16
"""So many activations, those whose scale errs most, are tried with each method."""
MOST_SAMPLES = 8
"""On at most so many samples."""
_BETTER = 0.995

Scales = Mapping[Method, Mapping[str, Scale]]


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

"""How far the outputs of a model are from those of a reference, and the tensors that were joined in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial

import numpy as np

from harness.backends import Reference
from harness.model import Model, Part, is_joined, parts_of
from harness.quantization.arithmetic import ratio
from harness.quantization.switched import Setting, SwitchedModel

Samples = Sequence[Mapping[str, np.ndarray]]
Parts = Mapping[str, tuple[Part, ...]]


class Outputs:
    """The error of a switched model over a reference, over a few samples.

    Args:
        switched: the model.
        samples: what is fed.
        expected: the outputs of the reference, sample by sample; by default those with no pair quantising.

    Attributes:
        parts: by output, the tensors that were joined in it.
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
        self.parts = parts_of_outputs(switched.model, samples[0]) if samples else {}

    def error(self, setting: Setting, *, samples: int | None = None) -> float:
        """nrmse of the worst output, or part of one, over all samples, or over the first few."""
        return max(self.errors(setting, samples=samples).values(), default=0.0)

    def known_error(self, setting: Setting) -> float | None:
        """`error`; None without samples."""
        return self.error(setting) if self.samples else None

    def each(self, setting: Setting) -> list[float]:
        """nrmse of the worst output, or part of one, of each sample."""
        found = [self.switched.run(feeds, setting) for feeds in self.samples]
        return [
            worst_error([outputs], [expected], self.parts)
            for outputs, expected in zip(found, self.expected, strict=True)
        ]

    def errors(self, setting: Setting, *, samples: int | None = None) -> dict[str, float]:
        """nrmse of each output, and of each tensor that was joined in one."""
        outputs = [self.switched.run(feeds, setting) for feeds in self.samples[:samples]]
        return errors_of(outputs, self.expected[:samples], self.parts)


def worst_error(
    outputs: Sequence[Mapping[str, np.ndarray]],
    expected: Sequence[Mapping[str, np.ndarray]],
    parts: Parts | None = None,
) -> float:
    """nrmse of the worst float output, or part of one, over all samples; inf where one is not finite."""
    return max(errors_of(outputs, expected, parts or {}).values(), default=0.0)


def errors_of(
    outputs: Sequence[Mapping[str, np.ndarray]], expected: Sequence[Mapping[str, np.ndarray]], parts: Parts
) -> dict[str, float]:
    """nrmse of each float output and of each of its `parts`, over all samples; inf where one is not finite."""
    errors: dict[str, float] = {}
    signals: dict[str, float] = {}
    for found, right in zip(outputs, expected, strict=True):
        for name, values in right.items():
            if values.dtype.kind != "f" or not values.size:
                continue
            wanted = values.astype(np.float64)
            kept = np.isfinite(wanted)  # infinities that are meant, such as masked logits
            with np.errstate(all="ignore"):
                error = np.square(np.where(kept, found[name] - wanted, 0.0))
            signal = np.square(np.where(kept, wanted, 0.0))
            joined = [part for part in parts.get(name, ()) if part.places.max() < values.size]
            of = [(name, error, signal), *((each.tensor, each.of(error), each.of(signal)) for each in joined)]
            for key, mine, its in of:
                errors[key] = errors.get(key, 0.0) + float(mine.sum())
                signals[key] = signals.get(key, 0.0) + float(its.sum())
    return {name: ratio(errors[name], signals[name]) for name in errors}


def parts_of_outputs(model: Model, feeds: Mapping[str, np.ndarray]) -> Parts:
    """By output, the tensors that were joined in it; those of which only one was are left out."""
    with closing(Reference(model)) as reference:
        read = partial(read_tensors, reference, feeds)
        names = [info.name for info in model.outputs if is_joined(model, info.name)]
        found = {name: parts_of(model, name, read) for name in names}
    return {name: parts for name, parts in found.items() if len(parts) > 1}


def read_tensors(
    reference: Reference, feeds: Mapping[str, np.ndarray], names: Sequence[str]
) -> Mapping[str, np.ndarray]:
    """Inputs and tensors that are computed, by name."""
    return {**feeds, **reference.run(feeds, [name for name in names if name not in feeds])}

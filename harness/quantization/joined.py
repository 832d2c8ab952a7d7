"""Tensors that are joined in an output, or in what a pair quantises: each counts by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial

import numpy as np

from harness.backends import Reference
from harness.model import Model, Part, parts_of
from harness.quantization.histograms import introduced
from harness.quantization.switched import SwitchedModel
from harness.quantization.types import Kind

MOSTLY = 0.5
"""A tensor of which a larger share rounds to 0 is lost."""
Parts = Mapping[str, tuple[Part, ...]]


def parts_of_outputs(model: Model, feeds: Mapping[str, np.ndarray]) -> Parts:
    """By output, the tensors that were joined in it; those of which only one was are left out."""
    with closing(Reference(model)) as reference:
        read = partial(_read, reference, feeds)
        found = {info.name: parts_of(model, info.name, read) for info in model.outputs}
    return {name: parts for name, parts in found.items() if len(parts) > 1}


def lost_parts(switched: SwitchedModel, feeds: Mapping[str, np.ndarray]) -> dict[str, str]:
    """By pair, the first of the tensors joined in what it reads that its one scale rounds to 0."""
    lost: dict[str, str] = {}
    with closing(Reference(switched.model)) as reference:
        read = partial(_read, reference, feeds)
        for pair in switched.pairs:
            parts = () if pair.kind is Kind.WEIGHT else parts_of(switched.model, pair.tensor, read)
            if len(parts) < 2 or not pair.scale.per_tensor:
                continue
            values = read([pair.tensor])[pair.tensor]
            sums = {part.tensor: introduced(part.of(values), pair.scale, pair.dtype) for part in parts}
            names = [name for name, each in sums.items() if each.vanished > MOSTLY * each.nonzero]
            if 0 < len(names) < len(parts):
                lost[pair.name] = names[0]
    return lost


def _read(
    reference: Reference, feeds: Mapping[str, np.ndarray], names: Sequence[str]
) -> Mapping[str, np.ndarray]:
    return {**feeds, **reference.run(feeds, [name for name in names if name not in feeds])}

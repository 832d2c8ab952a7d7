"""Which pair costs how much, alone, and why.

What a pair introduces into its own tensor says little of what the outputs err by: the logits of a masked softmax err
by a thousandth and ruin them. Running the model with each pair alone says it all, and takes an inference a pair. Of a
model with many pairs it is estimated, in three steps:

1. Two runs, with all pairs and with none, show how errors grow from node to node. Errors that do not know of each other
   add up in squares, so from the outputs back each node multiplies what its inputs count for (`growth`).
2. Pairs of the same role (weight or activation, read by the same operator) are run together, which says how far the
   estimates of that role are off: errors of weights are alike at all positions of an image, and do not average out.
3. The costliest are run alone, one by one.

How well that ranks real models: benchmarks/results/quantization_ranking.json.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from harness.backends import Reference, chunks, tensor_sizes
from harness.model import is_joined, parts_of
from harness.quantization.arithmetic import limits, nrmse, squares
from harness.quantization.calibration import Introduced, PairStatistics, error_of, introduced, scale_for
from harness.quantization.outputs import Outputs, read_tensors
from harness.quantization.switched import BUDGET, Setting, SwitchedModel
from harness.quantization.types import Method, PairError, PairKind, QdqPair, Reader, Reason, Scale
from harness.tensors import NEVER, to_json

if TYPE_CHECKING:
    import pandas as pd

ALONE = 30
"""No more pairs than that are all measured alone."""
INFERENCES = 16
"""Of a model with more, so many sets of pairs are run on one sample, besides two runs for how errors grow."""
ROLES = 6
"""Of these so many are whole roles; the smallest roles are put together."""
_NOTHING = 1e-14
"""A squared relative error that is that of FP32 itself."""
_LARGE = 10.0
"""What counts as the relative error of a tensor that is lost."""
_SUMS = frozenset({"Add", "Sub", "Sum", "Mean", "Concat"})
"""Operators whose inputs count by their share of the output."""
GOOD = 1.5
"""A scale with no more than so many times the error of the best one is as good as can be."""
WORTH = 2.0
"""A scale for each channel is proposed where it divides the error by so much."""
WIDE = 40.0
"""Largest magnitude over RMS, from which on a range is called wide. A normal distribution has 4 to 6."""

FEW_LEVELS = 15
"""Of types with no larger values, the scales of weights are worth a search."""
MOSTLY = 0.5
"""A tensor of which a larger share rounds to 0 is lost."""


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


def _lost_parts(switched: SwitchedModel, feeds: Mapping[str, np.ndarray]) -> dict[str, str]:
    """By pair, the first of the tensors joined in what it reads that its one scale rounds to 0."""
    lost: dict[str, str] = {}
    with closing(Reference(switched.model)) as reference:
        read = partial(read_tensors, reference, feeds)
        for pair in switched.pairs:
            if pair.kind is PairKind.WEIGHT or not pair.scale.per_tensor:
                continue
            if not is_joined(switched.model, pair.tensor):
                continue
            parts = parts_of(switched.model, pair.tensor, read)
            values = read([pair.tensor])[pair.tensor]
            sums = {part.tensor: introduced(part.of(values), pair.scale, pair.dtype) for part in parts}
            names = [name for name, each in sums.items() if each.vanished > MOSTLY * each.nonzero]
            if 0 < len(names) < len(parts):
                lost[pair.name] = names[0]
    return lost


def candidates(pair: QdqPair, observed: PairStatistics) -> tuple[Candidate, ...]:
    """Scales by each method in the pair's granularity, and with one a channel where it has one in all; best first."""
    values, histogram = observed.kept[pair.name], observed.histograms[pair.name]
    weight = pair.kind is PairKind.WEIGHT
    found = []
    wider = (False, True) if weight and pair.scale.per_tensor and pair.channel_axis is not None else (None,)
    for per_channel in wider:
        for method in _methods(pair):
            scale = scale_for(pair, histogram, values, method, per_channel=per_channel)
            error = error_of(values, scale, pair.dtype, pair.channel_axis if weight else None)
            found.append(Candidate(scale, method, granularity(scale), error))
    return tuple(sorted(found, key=lambda each: each.error))


def _methods(pair: QdqPair) -> tuple[Method, ...]:
    if pair.kind is PairKind.ACTIVATION:
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


def rank(outputs: Outputs, observed: PairStatistics, tried: Mapping[str, Sequence[Candidate]]) -> Ranking:
    """Measure what each pair introduces into its tensor, and measure or estimate what it alone does to the outputs.

    Args:
        outputs: the model, with samples.
        observed: its tensors.
        tried: the candidates for each pair, by its name.
    """
    switched = outputs.switched
    before = switched.inferences
    alone, estimates = _effects(outputs, observed)
    lost = _lost_parts(switched, outputs.samples[0])
    found = []
    for pair in switched.pairs:
        histogram, sums = observed.histograms[pair.name], observed.introduced[pair.name]
        cost, measured = _introduced(pair, observed), alone.get(pair.name)
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
                estimate=estimates[pair.name] if measured is None else measured,
                saturated=sums.saturated / sums.elements if sums.elements else 0.0,
                vanished=sums.vanished / sums.nonzero if sums.nonzero else 0.0,
                largest=histogram.largest,
                best=same,
                best_channel=channel,
                channel_ratio=histogram.channel_ratio,
                reason=Reason.JOINED if pair.name in lost else reason_of(pair, observed, cost, same, channel),
                scale=pair.scale.smallest,
                part=lost.get(pair.name, ""),
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


def _introduced(pair: QdqPair, observed: PairStatistics) -> float:
    if pair.kind is PairKind.WEIGHT:
        return error_of(observed.kept[pair.name], pair.scale, pair.dtype, pair.channel_axis)
    return observed.introduced[pair.name].nrmse


def _effects(outputs: Outputs, observed: PairStatistics) -> tuple[dict[str, float], dict[str, float]]:
    """The error of the outputs with each pair alone: of those that were measured, and estimates of all others."""
    switched = outputs.switched
    names = frozenset(pair.name for pair in switched.pairs)

    def error(chosen: Collection[str]) -> float:
        return outputs.error(Setting(off=names.difference(chosen)), samples=1)

    if len(names) <= ALONE:
        return {pair.name: error([pair.name]) for pair in switched.pairs}, {}
    expected = growth(switched, outputs.samples[0], observed)
    estimates = dict.fromkeys(expected, 0.0)
    roles = _roles(switched)
    for members in roles:
        total = math.hypot(*(expected[name] for name in members))
        factor = error(members) / total if total else 0.0
        estimates |= {name: expected[name] * factor for name in members}
    alone: dict[str, float] = {}
    for _ in range(INFERENCES - len(roles)):
        name = max(estimates, key=estimates.__getitem__)
        alone[name] = error([name])
        del estimates[name]
    return alone, estimates


def _roles(switched: SwitchedModel) -> list[list[str]]:
    """Names of pairs, by what they are and which operator reads them first, at which input; at most ROLES lists."""
    found: dict[tuple[PairKind, str, int], list[str]] = {}
    for pair in switched.pairs:
        reader = min(pair.readers, default=Reader("", 0))
        op = switched.model.node(reader.node).op if reader.node else ""
        found.setdefault((pair.kind, op, reader.position), []).append(pair.name)
    roles = sorted(found.values(), key=len)
    while len(roles) > ROLES:
        roles = sorted([roles[0] + roles[1], *roles[2:]], key=len)
    return roles


@dataclass(frozen=True)
class _Tensor:
    """The mean of a tensor's squares, and that of the squares of what all pairs make it err by, over it."""

    power: float
    size: int
    error: float = 0.0


def growth(
    switched: SwitchedModel, feeds: Mapping[str, np.ndarray], observed: PairStatistics
) -> dict[str, float]:
    """By name of the pair, what the outputs err by with it alone, as far as the growth from node to node says.

    The squared relative error of what a node computes, over those of what it reads, with what pairs in between
    introduce, is taken to be the same for each of its inputs; a sum's inputs count by their share of the result.
    """
    model, tensors = switched.model, _tensors(switched, feeds)
    pairs = {pair.name: pair for pair in switched.pairs}
    behind = {name: pair for pair in switched.pairs for name in pair.dequantizers}
    sources = {
        node.outputs[0]: behind[node.name] for node in model.nodes if node.name in behind and node.outputs
    }
    own = {name: min(observed.introduced[name].nrmse, _LARGE) ** 2 for name in pairs}
    counts: dict[str, float] = {}  # by tensor: the outputs' squared error over its own
    found = dict.fromkeys(pairs, 0.0)

    def add(name: str, count: float) -> None:
        pair = sources.get(name)
        if pair is not None:
            found[pair.name] += count
            name = pair.tensor
        counts[name] = counts.get(name, 0.0) + count

    for info in model.outputs:
        add(info.name, 1.0)
    for node in reversed(model.nodes):
        output = next((name for name in node.outputs if counts.get(name) and name in tensors), None)
        if output is None or node.name in behind or node.op == "QuantizeLinear":
            continue
        shares, errors = [], []
        for name in node.inputs:
            pair = sources.get(name)
            read = tensors.get(name if pair is None else pair.tensor)
            if read is not None:
                shares.append((name, _share(node.op, read, tensors[output])))
                errors.append(read.error + (own[pair.name] if pair is not None else 0.0))
        before = sum(share * error for (_, share), error in zip(shares, errors, strict=True))
        grown = tensors[output].error / before if before > _NOTHING else 1.0
        for name, share in shares:
            add(name, grown * share * counts[output])
    return {name: math.sqrt(own[name] * found[name]) for name in pairs}


def _share(op: str, read: _Tensor, written: _Tensor) -> float:
    """What the squared relative error of an input of a sum counts for; 1 of any other operator."""
    if op not in _SUMS or not written.power:
        return 1.0
    return (
        read.power
        * (read.size if op == "Concat" else 1)
        / written.power
        / (written.size if op == "Concat" else 1)
    )


def _tensors(switched: SwitchedModel, feeds: Mapping[str, np.ndarray]) -> dict[str, _Tensor]:
    """The float32 tensors of the main graph: what is fed, what pairs store, and what nodes compute."""
    found = {
        name: _Tensor(squares(values) / max(values.size, 1), values.size) for name, values in feeds.items()
    }
    for pair in switched.pairs:
        if pair.kind is PairKind.WEIGHT:
            values = switched.weights[pair.name]
            found[pair.tensor] = _Tensor(squares(values) / max(values.size, 1), values.size)
    off = Setting(off=frozenset(pair.name for pair in switched.pairs))
    for chunk in chunks(switched.computed, tensor_sizes(switched.model, feeds), BUDGET):
        plain, quantized = (switched.run(feeds, setting, chunk) for setting in (off, Setting()))
        for name, values in plain.items():
            error = min(nrmse(quantized[name], values), _LARGE) ** 2
            found[name] = _Tensor(squares(values) / max(values.size, 1), values.size, error)
    return found


def reason_of(
    pair: QdqPair, observed: PairStatistics, cost: float, best: float, channel: float | None
) -> Reason:
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

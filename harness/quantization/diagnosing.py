"""From a Q/DQ model that lost accuracy to the pairs at fault, better scales for them, and what to leave in float."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np

from harness.backends import Reference
from harness.comparison import DEFAULT_GATES
from harness.errors import ModelError, UsageError
from harness.model import Model, at_opset
from harness.quantization.arithmetic import largest_of
from harness.quantization.calibration import PairStatistics, observe_pairs
from harness.quantization.editing import with_scales, without
from harness.quantization.findings import ScaleFinding, find_scale_faults
from harness.quantization.outputs import Outputs, Samples
from harness.quantization.pairs import find_pairs, float_weights
from harness.quantization.placement import Misplaced, find_misplaced, with_products
from harness.quantization.ranking import Candidate, Ranking, best_of, candidates, rank
from harness.quantization.switched import Setting, SwitchedModel
from harness.quantization.types import EngineErrors, Format, PairKind, QdqPair, Repair
from harness.search import Outcome, Problem, SearchOptions, Trial, search
from harness.tensors import NEVER, Precision, to_json

SLACK = 1.5
"""A model whose error is within so many times that with the best scales has no pair at fault."""
LEAST = 1e-4
"""An nrmse that nobody looks into."""
MOST = DEFAULT_GATES[Precision.INT8].bound
"""An nrmse that fails a run whatever the scales."""
_PER_AXIS = 13
_QDQ = ("QuantizeLinear", "DequantizeLinear")


class QuantizationVerdict(StrEnum):
    """What a quantised model suffers from.

    `sound`: nothing that another scale would mend. `refused`: likewise, and TensorRT does not take it as it is (see
    `QuantizationDiagnosis.refused`). `scales`: pairs whose scales are at fault. `format`: its error is beyond the limit
    also with the best scales: what hurts has to stay in float.
    """

    SOUND = "sound"
    REFUSED = "refused"
    SCALES = "scales"
    FORMAT = "format"


@dataclass(frozen=True)
class QuantizationDiagnosis:
    """What the pairs of a model do, which are at fault, and what helps. Errors are nrmse of the worst output,
    or of the worst of the tensors that were joined in one.

    Args:
        model: its name.
        verdict: see `QuantizationVerdict`.
        pairs: how many.
        before: the error as it is.
        worst: the output that has it, or the tensor that was joined in one.
        best: the error with the best scale that was found for each pair.
        limit: what the error should be.
        ranking: the pairs, the costliest first.
        faulty: the smallest set of pairs whose scales have to change.
        repairs: their new scales.
        swapped: pairs that have each other's scales.
        repaired: the error with `repairs`.
        taken_out: the smallest set of pairs that, in float, brings the error below the limit.
        without: the error without them.
        excluded: the nodes of the float model that read them, as far as the products: what to exclude when it is
            quantised again.
        minimal: no pair of `faulty` and `taken_out` can be left out; each was tried.
        unseen_before: `before` on samples that nothing was chosen on; None if there are none.
        unseen_repaired: `repaired` on those.
        unseen_without: `without` on those.
        samples: how many were searched on.
        unseen: how many were not.
        inferences: how often a sample went through the model.
        engine: what an engine says of the same models; None if none was asked.
        faults: what is wrong with scales at first sight.
        misplaced: pairs that TensorRT has no use for where they are.
        repaired_model: the model with `repairs`.
        reduced_model: the model without `taken_out`.
        observed: the tensors of the pairs.
        largest_steps: how many steps of its scale each pair can hold, by its name: 127, 448, …
        format: what most pairs quantise to.
        file: the quantised model, or its case, as it was named.
        float_file: the float model, as it was named.
        data_files: the inputs, as they were named; none where they were not given as files.
    """

    model: str
    verdict: QuantizationVerdict
    pairs: int
    before: float
    worst: str
    best: float
    limit: float
    ranking: Ranking
    faulty: tuple[str, ...] = ()
    repairs: tuple[Repair, ...] = ()
    swapped: tuple[tuple[str, str], ...] = ()
    repaired: float | None = None
    taken_out: tuple[str, ...] = ()
    without: float | None = None
    excluded: tuple[str, ...] = ()
    minimal: bool = True
    unseen_before: float | None = None
    unseen_repaired: float | None = None
    unseen_without: float | None = None
    samples: int = 0
    unseen: int = 0
    inferences: int = 0
    engine: EngineErrors | None = None
    faults: tuple[ScaleFinding, ...] = ()
    misplaced: tuple[Misplaced, ...] = ()
    repaired_model: Model | None = field(default=None, repr=False, metadata=NEVER)
    reduced_model: Model | None = field(default=None, repr=False, metadata=NEVER)
    observed: PairStatistics | None = field(default=None, repr=False, metadata=NEVER)
    largest_steps: Mapping[str, float] = field(default_factory=dict, repr=False, metadata=NEVER)
    format: Format = Format.INT8
    file: str = field(default="quantized.onnx", metadata=NEVER)
    float_file: str = field(default="float.onnx", metadata=NEVER)
    data_files: tuple[str, ...] = field(default=(), metadata=NEVER)

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of the diagnosis."""
        return {"schema": "harness.pairs/1", **to_json(self)}

    @property
    def refused(self) -> tuple[ScaleFinding, ...]:
        """Why TensorRT does not take the file as it is; none if it does."""
        return tuple(each for each in self.faults if each.stops)

    @property
    def exit_code(self) -> int:
        """0 if nothing is at fault, else 1."""
        return int(self.verdict is not QuantizationVerdict.SOUND)


def diagnose_pairs(
    model: Model,
    samples: Samples,
    *,
    reference: Model | None = None,
    unseen: Samples | None = None,
    limit: float | None = None,
) -> QuantizationDiagnosis:
    """Find which Q/DQ pairs hurt, why, and what helps.

    Args:
        model: the quantised model.
        samples: what to feed it. Where `unseen` is None, the second half is kept to confirm the answer on.
        reference: the float model it was made from; by default the model with its pairs switched off, whose stored
            weights are what they dequantise to.
        unseen: other samples, to confirm the answer on.
        limit: nrmse that the worst output may have; by default 1.5 times that with the best scales, and what fails a
            run at most.

    Raises:
        ModelError: the model has no Q/DQ pairs, or no float output, or does not run.
        InputDataError: a sample does not fit the model.
        UsageError: there is no sample.
    """
    if not samples:
        raise UsageError("no samples to look at the pairs with", where=model.name)
    if model.opset < _PER_AXIS:
        model = at_opset(model, _PER_AXIS)
    pairs = find_pairs(model)
    if not pairs:
        raise ModelError(
            "has no Q/DQ pairs with constant scales",
            where=model.name,
            hint="quantise it: harness quantize MODEL --data FILE.npz --out Q.onnx",
        )
    if not any(info.dtype.startswith(("float", "bfloat")) for info in model.outputs):
        raise ModelError("has no float output whose error could be measured", where=model.name)
    if unseen is None:
        half = (len(samples) + 1) // 2
        samples, unseen = samples[:half], samples[half:]
    return _Diagnosing(model, reference, pairs, samples, unseen, limit).run()


class _Diagnosing:
    def __init__(
        self,
        model: Model,
        reference: Model | None,
        pairs: Sequence[QdqPair],
        samples: Samples,
        unseen: Samples,
        limit: float | None,
    ) -> None:
        self.model, self.pairs, self.limit = model, pairs, limit
        self.float_nodes = {node.name for node in (model if reference is None else reference).nodes}
        self.weights = float_weights(model, pairs, reference)
        self.switched = SwitchedModel(model, pairs, self.weights)
        self.outputs = self._outputs(reference, samples)
        self.unseen = self._outputs(reference, unseen)

    def _outputs(self, reference: Model | None, samples: Samples) -> Outputs:
        if reference is None:
            return Outputs(self.switched, samples)
        runs = Reference(reference)
        try:
            return Outputs(self.switched, samples, [runs.run(feeds) for feeds in samples])
        finally:
            runs.close()

    def run(self) -> QuantizationDiagnosis:
        observed = observe_pairs(self.switched, self.outputs.samples)
        tried = {pair.name: candidates(pair, observed) for pair in self.pairs}
        ranking = rank(self.outputs, observed, tried)
        best = {pair.name: best_of(pair, tried[pair.name]) for pair in self.pairs}
        settings = Setting(scales={name: each.scale for name, each in best.items()})
        errors, healthy = self.outputs.errors(Setting()), self.outputs.error(settings)
        worst = max(errors, key=lambda name: errors[name])
        before = errors[worst]
        limit = min(max(SLACK * healthy, LEAST), MOST) if self.limit is None else self.limit
        found = QuantizationDiagnosis(
            model=self.model.name,
            verdict=QuantizationVerdict.SOUND,
            pairs=len(self.pairs),
            before=before,
            worst=worst,
            best=healthy,
            limit=limit,
            ranking=ranking,
            samples=len(self.outputs.samples),
            unseen=len(self.unseen.samples),
            unseen_before=self.unseen.known_error(Setting()),
            faults=find_scale_faults(self.model),
            misplaced=find_misplaced(self.model),
            observed=observed,
            largest_steps={pair.name: largest_of(pair.dtype) for pair in self.pairs},
            format=_format(self.pairs),
        )
        if before > limit:
            found = self._repair(found, best, tried)
            found = self._take_out(found)
        elif found.refused:
            found = replace(found, verdict=QuantizationVerdict.REFUSED)
        self.switched.close()
        return replace(found, inferences=self.switched.inferences)

    def _repair(
        self,
        found: QuantizationDiagnosis,
        best: Mapping[str, Candidate],
        tried: Mapping[str, Sequence[Candidate]],
    ) -> QuantizationDiagnosis:
        """The smallest set of pairs whose scales have to change, and the best scale for each."""
        within = found.limit if found.best <= found.limit else max(SLACK * found.best, LEAST)
        if found.before <= within:
            return replace(found, verdict=QuantizationVerdict.FORMAT)

        def repaired(names: frozenset[str]) -> Setting:
            return Setting(scales={name: best[name].scale for name in names})

        costs = {each.pair: each for each in found.ranking.pairs}
        scores = {
            pair.name: costs[pair.name].estimate * _excess(costs[pair.name].introduced, best[pair.name].error)
            for pair in self.pairs
        }
        faulty, minimal = self._search(repaired, within, scores)
        chosen = {name: best[name] for name in faulty}
        for name in faulty:  # the tensor's error chose so far; the outputs have the last word
            chosen[name] = self._best_for_outputs(name, chosen, tried[name])
        scales = {name: each.scale for name, each in chosen.items()}
        return replace(
            found,
            verdict=QuantizationVerdict.SCALES if found.best <= found.limit else QuantizationVerdict.FORMAT,
            faulty=faulty,
            minimal=minimal,
            repairs=tuple(
                Repair(name, each.method, each.granularity, costs[name].introduced, each.error, each.scale)
                for name, each in chosen.items()
            ),
            swapped=_swapped([pair for pair in self.pairs if pair.name in faulty], chosen),
            repaired=self.outputs.error(Setting(scales=scales)),
            unseen_repaired=self.unseen.known_error(Setting(scales=scales)),
            repaired_model=with_scales(self.model, self.pairs, scales, self.weights),
        )

    def _best_for_outputs(
        self, name: str, chosen: Mapping[str, Candidate], tried: Sequence[Candidate]
    ) -> Candidate:
        now = chosen[name]
        others = {other: each.scale for other, each in chosen.items() if other != name}
        fitting = [
            each for each in tried if each.granularity == now.granularity and each.error <= 4 * now.error
        ]
        return min(fitting, key=lambda each: self.outputs.error(Setting(scales={**others, name: each.scale})))

    def _take_out(self, found: QuantizationDiagnosis) -> QuantizationDiagnosis:
        """The smallest set of pairs that has to stay in float; with the new scales where these are not enough."""
        beyond = found.verdict is QuantizationVerdict.FORMAT
        scales = {repair.pair: repair.scale for repair in found.repairs} if beyond else {}
        scores = {each.pair: each.estimate for each in found.ranking.pairs}
        hints = (frozenset(found.faulty),) if found.faulty and not beyond else ()
        taken, minimal = self._search(
            lambda names: Setting(off=names, scales=scales), found.limit, scores, hints
        )
        readers = {reader.node for pair in self.pairs if pair.name in taken for reader in pair.readers}
        nodes = with_products(self.model, readers)
        setting = Setting(off=frozenset(taken), scales=scales)
        model = with_scales(self.model, self.pairs, scales, self.weights) if scales else self.model
        return replace(
            found,
            taken_out=taken,
            minimal=found.minimal and minimal,
            without=self.outputs.error(setting),
            unseen_without=self.unseen.known_error(setting),
            excluded=tuple(
                node.name
                for node in self.model.nodes
                if node.name in nodes & self.float_nodes and node.op not in _QDQ
            ),
            reduced_model=without(model, self.pairs, taken, self.weights),
        )

    def _search(
        self,
        setting: Callable[[frozenset[str]], Setting],
        limit: float,
        scores: Mapping[str, float],
        hints: tuple[frozenset[str], ...] = (),
    ) -> tuple[tuple[str, ...], bool]:
        """The smallest set of pairs whose treatment brings the error below `limit`; all of them if none does."""

        def oracle(names: frozenset[str]) -> Trial:
            error = self.outputs.error(setting(names))
            return Trial(Outcome.PASS if error <= limit else Outcome.FAIL, error, limit - error)

        units = tuple(pair.name for pair in self.pairs)
        known = {name: score for name, score in scores.items() if not math.isnan(score)}
        result = search(Problem(units, scores=known, hints=hints), oracle, options=SearchOptions())
        return (result.culprits, result.minimal) if result.answered else (result.best or units, False)


def _format(pairs: Sequence[QdqPair]) -> Format:
    dtypes = [pair.dtype.removeprefix("u") for pair in pairs]
    return max(Format, key=lambda each: dtypes.count(each.dtype))


def _excess(error: float, best: float) -> float:
    """The share of what a pair introduces that its best scale would not."""
    return 1.0 if math.isinf(error) else max(1.0 - best / error, 0.0) if error else 0.0


def _swapped(pairs: Sequence[QdqPair], chosen: Mapping[str, Candidate]) -> tuple[tuple[str, str], ...]:
    """Pairs whose scales would be right for each other, within a quarter, and are far from right where they are."""
    found = []
    for place, first in enumerate(pairs):
        for other in pairs[place + 1 :]:
            wanted = [np.median(chosen[pair.name].scale.values) for pair in (first, other)]
            have = [np.median(pair.scale.values) for pair in (other, first)]
            near = all(0.8 < a / b < 1.25 for a, b in zip(have, wanted, strict=True))
            if (
                first.kind is other.kind is PairKind.ACTIVATION
                and near
                and not 0.8 < wanted[0] / wanted[1] < 1.25
            ):
                found.append((first.name, other.name))
    return tuple(found)

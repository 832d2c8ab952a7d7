"""From a float model and samples to a Q/DQ model: calibrate, compare methods, place, and keep what hurts in float."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import UsageError
from harness.model import Constants, Model
from harness.quantization.arithmetic import largest_of
from harness.quantization.calibration import (
    Curve,
    Histogram,
    PairStatistics,
    choose_methods,
    curve,
    error_of,
    observe_pairs,
    scale_for,
    threshold,
    weight_scale,
)
from harness.quantization.editing import with_scales, without
from harness.quantization.mixed import Mixing, Point, small_products
from harness.quantization.outputs import Outputs, Samples
from harness.quantization.pairs import find_pairs, float_weights
from harness.quantization.placement import (
    PairPlace,
    groups_of,
    joined_pairs,
    place,
    product_of_sum,
    with_pairs,
    with_shared,
)
from harness.quantization.ranking import Ranking, candidates, rank
from harness.quantization.switched import Setting, SwitchedModel
from harness.quantization.types import Format, Method, PairKind, QdqPair, Scale
from harness.tensors import NEVER, to_json
from harness.text import names

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class MethodResult:
    """A method, and the error of the whole model with its scales (nrmse of the worst output).

    Args:
        method: which.
        error: on the samples that it was calibrated with.
        unseen: on others; None if there are none.
    """

    method: Method
    error: float
    unseen: float | None = None


@dataclass(frozen=True)
class TensorCalibration:
    """One tensor, and what each method makes of it.

    Args:
        tensor: its name.
        kind: weight or activation.
        largest: its largest magnitude.
        thresholds: the magnitude beyond which each method clips; of a weight, that of its largest channel.
        errors: nrmse of the tensor with each.
        method: the one that its scale is of.
        histogram: its magnitudes.
        divergence: what `entropy` compares; None of a weight.
    """

    tensor: str
    kind: PairKind
    largest: float
    thresholds: Mapping[Method, float]
    errors: Mapping[Method, float]
    method: Method
    histogram: Histogram | None = field(default=None, repr=False, compare=False, metadata=NEVER)
    divergence: Curve | None = field(default=None, repr=False, compare=False, metadata=NEVER)


@dataclass(frozen=True)
class Quantization:
    """A model that was quantised. Errors are nrmse of the worst output over the float model.

    Args:
        model: name of the float model.
        format: what tensors are quantised to.
        method: what gave the scales, but those of a few tensors that another one suits better.
        methods: all that were tried, on the whole model with nothing kept in float.
        tensors: the calibration of each tensor.
        ranking: what each pair costs, with the chosen scales.
        curve: error against share of quantised multiply-adds, from everything quantised to nothing.
        chosen: the model that was made.
        small: products that are left in float because they are small; they have no pairs, and the curve starts there.
        samples: how many were calibrated with.
        unseen: how many were kept to measure on.
        quantized: the Q/DQ model.
        behind: products with a pair behind them because that saves the compiler that was asked a kernel.
    """

    model: str
    format: Format
    method: Method
    methods: tuple[MethodResult, ...]
    tensors: tuple[TensorCalibration, ...]
    ranking: Ranking
    curve: tuple[Point, ...]
    chosen: Point
    small: tuple[str, ...]
    samples: int
    unseen: int
    quantized: Model = field(repr=False, compare=False, metadata=NEVER)
    behind: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of what was made."""
        return {"schema": "harness.quantization/1", **to_json(self)}

    def to_frame(self) -> pd.DataFrame:
        """A row for each tensor and method: `tensor`, `kind`, `largest`, `method`, `threshold`, `error`, `chosen`."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "tensor": each.tensor,
                    "kind": each.kind.value,
                    "largest": each.largest,
                    "method": method.value,
                    "threshold": each.thresholds[method],
                    "error": each.errors[method],
                    "chosen": method is each.method,
                }
                for each in self.tensors
                for method in each.errors
            ]
        )

    def curve_frame(self) -> pd.DataFrame:
        """A row for each point of the curve: `share`, `error`, `unseen`, `floats` (how many nodes)."""
        import pandas as pd

        return pd.DataFrame([{**vars(point), "floats": len(point.floats)} for point in self.curve])


def quantize(
    model: Model,
    samples: Samples,
    *,
    format: Format = Format.INT8,
    method: Method | None = None,
    exclude: Collection[str] = (),
    keep_float: float | None = None,
    limit: float | None = None,
    unseen: Samples | None = None,
    scales: Mapping[str, Scale] | None = None,
) -> Quantization:
    """Calibrate a float model and put Q/DQ pairs where TensorRT wants them.

    Args:
        model: the float model.
        samples: what to calibrate with. Where `unseen` is None, one in four is kept to measure on.
        format: what tensors are quantised to; INT4 and NVFP4 quantise weights of matrix products alone.
        method: how scales are chosen; None: by `mse`, unless other methods do better on samples that they were not
            calibrated with; see `choose_methods`.
        exclude: names of nodes that stay in float.
        keep_float: share of the multiply-adds, 0 to 1, that may stay in float: products too small to gain by being
            quantised (see `small_products`), then those that hurt most. None: the small ones; 0: nothing.
        limit: nrmse that the worst output may have; as few products stay in float as that takes.
        unseen: other samples, to measure on.
        scales: those of some activations, by name, that are taken as they are: from a calibration cache, say.

    Raises:
        ModelError: nothing in the model can be quantised, or it does not run.
        InputDataError: a sample does not fit.
        NothingSelectedError: `exclude` names a node that the model does not have.
        UsageError: there is no sample, the model is quantised already, or no choice is within `limit`.
    """
    if not samples:
        raise UsageError("no samples to calibrate with", where=model.name)
    if keep_float is not None and not 0 <= keep_float <= 1:
        raise UsageError(f"{100 * keep_float:g} % of the multiply-adds make no sense", hint="give 0 to 100 %")
    if model.quantized:
        raise UsageError(
            "is quantised already",
            where=model.name,
            hint="start from the float model, or see what its pairs do: harness diagnose",
        )
    if unseen is None:
        samples, unseen = kept_apart(samples)
    small: tuple[str, ...] = ()
    if not format.block_size and keep_float != 0:
        small = small_products(model, samples[0], exclude=exclude, share=keep_float)
    sums = [add for add, product in product_of_sum(model).items() if product in small]
    places = place(model, format, exclude={*exclude, *small, *sums})
    if scales and not any(each.tensor in scales for each in places):
        raise UsageError(
            "none of the scales given is of a tensor that is quantised",
            where=model.name,
            hint=f"they are of {names(scales)}, and the tensors are {names(each.tensor for each in places)}",
        )
    work = _Quantizing(model, samples, unseen, format, places, scales or {}, small)
    return work.run(method, keep_float, limit)


def kept_apart(samples: Samples) -> tuple[Samples, Samples]:
    """The samples to calibrate with, and one in four to measure on."""
    return [feeds for index, feeds in enumerate(samples) if index % 4 != 3], samples[3::4]


class _Quantizing:
    def __init__(
        self,
        model: Model,
        samples: Samples,
        unseen: Samples,
        format: Format,
        places: Sequence[PairPlace],
        given: Mapping[str, Scale],
        small: tuple[str, ...],
    ) -> None:
        self.name, self.format, self.given, self.small = model.name, format, given, small
        constants = Constants(model.ir)
        first = {each.tensor: _first_scale(each, constants, format) for each in places}
        self.model = with_pairs(model, format, places, first | dict(given))
        self.pairs = find_pairs(self.model)
        self.weights = float_weights(self.model, self.pairs, model)
        self.joined = tuple(
            each
            for each in joined_pairs(self.model, self.pairs)
            if not {pair.tensor for pair in self.pairs if pair.name in each} & given.keys()
        )
        self.switched = SwitchedModel(self.model, self.pairs, self.weights)
        self.outputs, self.unseen = Outputs(self.switched, samples), Outputs(self.switched, unseen)

    def run(self, method: Method | None, keep_float: float | None, limit: float | None) -> Quantization:
        observed = observe_pairs(self.switched, self.outputs.samples)
        scales = {each: self._scales(observed, each) for each in Method}
        settings = {each: Setting(scales=found) for each, found in scales.items()}
        methods = tuple(
            MethodResult(each, self.outputs.error(setting), self.unseen.known_error(setting))
            for each, setting in settings.items()
        )
        chosen, by_pair = self._choose(observed, scales, method)
        own = {name: scales[each][name] for name, each in by_pair.items()}
        self.model = with_scales(self.model, self.pairs, own, self.weights)
        self.pairs = tuple(replace(pair, scale=own[pair.name]) for pair in self.pairs)
        self.switched.pairs = self.pairs
        observed = observe_pairs(self.switched, self.outputs.samples)
        tried = {pair.name: candidates(pair, observed) for pair in self.pairs}
        ranking = rank(self.outputs, observed, tried)
        mixing = Mixing(self.model, self.pairs, ranking, self.outputs.samples[0], self.small)
        points = tuple(self._point(mixing, floats) for floats in mixing.points())
        floats = self._floats(mixing, keep_float, limit)
        made = without(self.model, self.pairs, (), self.weights, floats=mixing.with_sums(floats))
        found = Quantization(
            model=self.name,
            format=self.format,
            method=chosen,
            methods=methods,
            tensors=tuple(
                self._calibration(pair, observed, scales, by_pair[pair.name]) for pair in self.pairs
            ),
            ranking=ranking,
            curve=points,
            chosen=self._point(mixing, floats),
            small=self.small,
            samples=len(self.outputs.samples),
            unseen=len(self.unseen.samples),
            quantized=made,
        )
        self.switched.close()
        return found

    def _choose(
        self, observed: PairStatistics, scales: Mapping[Method, Mapping[str, Scale]], method: Method | None
    ) -> tuple[Method, Mapping[str, Method]]:
        """The method for the model, and for each pair; see `choose_methods`."""
        if method is not None:
            return method, {pair.name: method for pair in self.pairs}
        errors = {
            pair.name: {
                each: error_of(observed.kept[pair.name], found[pair.name], pair.dtype)
                for each, found in scales.items()
            }
            for pair in self.pairs
        }
        activations = [pair.name for pair in self.pairs if pair.kind is PairKind.ACTIVATION]
        return choose_methods(
            self.outputs,
            lambda seen: {each: self._scales(seen, each) for each in Method},
            errors,
            groups_of(activations, self.joined),
        )

    def _scales(self, observed: PairStatistics, method: Method) -> dict[str, Scale]:
        found = {}
        for pair in self.pairs:
            histogram, values = observed.histograms[pair.name], observed.kept[pair.name]
            # Clipping channels of weights by what squared errors say pays at few bits only.
            own = Method.MAX if pair.kind is PairKind.WEIGHT and method is not Method.MSE else method
            found[pair.name] = self.given.get(pair.tensor) or scale_for(pair, histogram, values, own)
        return with_shared(found, self.joined)

    def _point(self, mixing: Mixing, floats: Sequence[str]) -> Point:
        setting = Setting(floats=frozenset(mixing.with_sums(floats)))
        return Point(
            mixing.share(floats),
            self.outputs.error(setting),
            self.unseen.known_error(setting),
            (*self.small, *floats),
        )

    def _floats(self, mixing: Mixing, keep_float: float | None, limit: float | None) -> tuple[str, ...]:
        if limit is not None:
            found = mixing.within(
                limit, lambda names: self.outputs.error(Setting(floats=frozenset(mixing.with_sums(names))))
            )
            if found is None or len(found) == len(mixing.order):
                raise UsageError(
                    f"an error of {limit:g} cannot be reached with anything quantised",
                    where=self.name,
                    hint="give a larger --limit",
                )
            return found
        return mixing.keeping(keep_float) if keep_float else ()

    def _calibration(
        self,
        pair: QdqPair,
        observed: PairStatistics,
        scales: Mapping[Method, Mapping[str, Scale]],
        method: Method,
    ) -> TensorCalibration:
        histogram, values = observed.histograms[pair.name], observed.kept[pair.name]
        activation = pair.kind is PairKind.ACTIVATION
        most = largest_of(pair.dtype)
        return TensorCalibration(
            pair.tensor,
            pair.kind,
            histogram.largest,
            {
                each: threshold(histogram, each, pair.dtype)
                if activation
                else found[pair.name].largest * most
                for each, found in scales.items()
            },
            {each: error_of(values, found[pair.name], pair.dtype) for each, found in scales.items()},
            method,
            histogram,
            curve(histogram, Method.ENTROPY, pair.dtype) if activation else None,
        )


def _first_scale(each: PairPlace, constants: Constants, format: Format) -> Scale:
    """A scale to place a pair with, until it is calibrated: that of a weight has its granularity."""
    if each.kind is PairKind.ACTIVATION:
        return Scale(np.array(1.0, np.float32))
    values = constants.get(each.tensor)
    assert values is not None
    size = _block_size(values, each, format)
    return weight_scale(
        values.astype(np.float32), format.dtype, Method.MAX, axis=each.channel_axis, block_size=size
    )


def _block_size(values: np.ndarray, each: PairPlace, format: Format) -> int:
    """That of the format, halved until it divides the axis."""
    size = format.block_size
    while size > 1 and values.shape[each.channel_axis or 0] % size:
        size //= 2
    return size

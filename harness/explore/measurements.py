"""The errors of every layer, what the tensors hold, and what happens at one node: measured when needed, and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from harness.backends import Observation
from harness.diagnosis import (
    FORMATS,
    Context,
    Prediction,
    Stage,
    TensorRange,
    emulate,
    explain_nodes,
    tensors_around,
    usual_error,
)
from harness.explore.answers import Explanation, LayerRow, LayerTable, TensorRow
from harness.explore.commands import Order
from harness.judge import COPIES, LayerResult, RunResult, Verdict, describe_outputs, measure_layers
from harness.model import NodeInfo

MOST_ROWS = 16
"""Rows of a table of layers that no pattern asks for."""
NOT_LOWERED = (
    "it computes no float32 tensor from the inputs, or from sizes that are known at run time only, or none that "
    "{precision} rounds"
)


class Measurements:
    """Measurements of one model on the emulator.

    Args:
        context: whose model it is; its progress follows everything that takes time.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self.subject = context.emulated
        self._layers: dict[frozenset[str], tuple[LayerResult, ...]] = {}

    def layers(self, kept: frozenset[str]) -> tuple[LayerResult, ...]:
        """Every float tensor in topological order, over all samples, with `kept` in FP32."""
        if kept not in self._layers:
            self._context.report(Stage.PREDICT, "measure the layers")
            bench = self.subject.bench
            plan = self.subject.plan(kept, observation=Observation.TYPED)
            self._layers[kept], _ = measure_layers(bench, bench.emulator, plan, bench.case.tolerances)
        return self._layers[kept]

    @cached_property
    def ranges(self) -> dict[str, TensorRange]:
        """The values of every float tensor in FP32, over all samples."""
        self._context.report(Stage.PREDICT, "measure what the tensors hold")
        bench = self.subject.bench
        found = {}
        for chunk in bench.tensor_chunks(bench.model.float_tensors, copies=COPIES):
            runs = [bench.reference.run(feeds, chunk) for feeds in bench.feeds]
            for name in chunk:
                found[name] = TensorRange.of(name, [run[name] for run in runs], self.subject.precision)
        return found

    def table(self, nodes: frozenset[str] | None, order: Order | None, kept: frozenset[str]) -> LayerTable:
        """The layers of `nodes` with `kept` in FP32; without `nodes`, those that matter."""
        layers = [layer for layer in self.layers(kept) if nodes is None or layer.node in nodes]
        if order is not None:
            layers.sort(key=lambda layer: (-_key(layer, order), layer.index))
        matching, around = len(layers), None
        if nodes is None and matching > MOST_ROWS:
            first, around = (0, None) if order is not None else _window(layers, kept)
            layers = layers[first : first + MOST_ROWS]
        rows = tuple(LayerRow(layer, self.ranges[layer.tensor], layer.node in kept) for layer in layers)
        return LayerTable(rows, matching, order, around)

    def run_result(self, kept: frozenset[str]) -> RunResult:
        """The run with `kept` in FP32, for a picture, without what the kept nodes would introduce."""
        outputs, _ = emulate(self.subject, kept)
        passed = all(output.passed for output in outputs)
        case = self.subject.bench.case
        return RunResult(
            case=case.name,
            precision=self.subject.precision,
            candidate=self.subject.candidate.name,
            verdict=Verdict.PASS if passed else Verdict.FAIL,
            reason=describe_outputs(outputs),
            outputs=outputs,
            layers=tuple(
                replace(layer, introduced=None) if layer.node in kept else layer
                for layer in self.layers(kept)
            ),
            case_path=None if case.path is None else str(case.path),
        )

    def explain(self, node: NodeInfo, kept: frozenset[str], prediction: Prediction) -> Explanation:
        """Everything that is known of `node`.

        Args:
            node: the node.
            kept: names of the nodes that are in FP32.
            prediction: the emulator with everything lowered.
        """
        subject, precision = self.subject, self.subject.precision
        model, limit = subject.model, FORMATS[precision].largest
        if node.name not in subject.units:
            reason = NOT_LOWERED.format(precision=precision)
            return Explanation(node, len(model.nodes), False, False, reason)
        introduced = prediction.introduced.get(node.name)
        usual = usual_error(prediction.introduced)
        around = tensors_around(subject, [node], precision).measured(node, introduced, usual)

        def row(values: TensorRange, neighbours: tuple[NodeInfo, ...]) -> TensorRow:
            return TensorRow(values, neighbours, values.largest / limit)

        inputs = {values.name: values for values in around.inputs}  # a node may read a tensor twice
        producers = {name: model.producer(name) for name in inputs}
        readers = tuple(each for each in model.nodes if around.output.name in each.inputs)
        measured = [layer for layer in self.layers(kept) if layer.node == node.name]
        return Explanation(
            node=node,
            nodes=len(model.nodes),
            lowered=True,
            kept=node.name in kept,
            reason=explain_nodes(subject, prediction, [node.name])[0].why,
            layer=max(measured, key=lambda layer: layer.metrics.nrmse, default=None),
            usual=usual,
            alone=self._context.effects(prediction.failing_sample).of([node.name]),
            reads=tuple(
                row(values, () if (producer := producers[name]) is None else (producer,))
                for name, values in inputs.items()
            ),
            writes=(row(around.output, readers),),
        )


def _window(layers: Sequence[LayerResult], kept: frozenset[str]) -> tuple[int, str]:
    """Where the rows begin so that they show the first origin, else what is kept, and around which node."""
    origin = next((place for place, layer in enumerate(layers) if layer.origin), None)
    first_kept = next((place for place, layer in enumerate(layers) if layer.node in kept), len(layers) - 1)
    place = first_kept if origin is None else origin
    return min(max(place - MOST_ROWS // 3, 0), max(len(layers) - MOST_ROWS, 0)), layers[place].node


def _key(layer: LayerResult, order: Order) -> float:
    if order is Order.MAX:
        return layer.metrics.headroom
    if order is Order.ACCUMULATED:
        return layer.metrics.error
    return -1.0 if layer.introduced is None else layer.introduced.error

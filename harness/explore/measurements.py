"""The table of layers, what happens at one node, and the run for a picture, from the measurements of a diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.diagnosis import ByHand, TensorRange
from harness.explore.answers import Explanation, LayerRow, LayerTable, TensorRow
from harness.explore.commands import Order
from harness.judge import LayerResult, RunReason, RunResult, Verdict
from harness.model import NodeInfo

MOST_ROWS = 16
"""Rows of a table of layers that no pattern asks for."""
NOT_LOWERED = (
    "it computes no float32 tensor from the inputs, or from sizes that are known at run time only, or none that "
    "{precision} rounds"
)


def tabulate(
    by_hand: ByHand, nodes: frozenset[str] | None, order: Order | None, kept: frozenset[str]
) -> LayerTable:
    """The layers of `nodes` with `kept` in FP32; without `nodes`, those that matter."""
    layers = [layer for layer in by_hand.layers(kept) if nodes is None or layer.node in nodes]
    if order is not None:
        layers.sort(key=lambda layer: (-_key(layer, order), layer.index))
    matching, around = len(layers), None
    if nodes is None and matching > MOST_ROWS:
        first, around = (0, None) if order is not None else _window(layers, kept)
        layers = layers[first : first + MOST_ROWS]
    rows = tuple(LayerRow(layer, by_hand.ranges[layer.tensor], layer.node in kept) for layer in layers)
    return LayerTable(rows, matching, order, around)


def run_result(by_hand: ByHand, kept: frozenset[str]) -> RunResult:
    """The run with `kept` in FP32, for a picture, without what the kept nodes would introduce."""
    judged = by_hand.emulate(kept)
    case = by_hand.subject.bench.case
    return RunResult(
        case=case.name,
        precision=by_hand.subject.precision,
        candidate=by_hand.subject.candidate.name,
        verdict=Verdict.PASS if judged.passed else Verdict.FAIL,
        why=RunReason.of_outputs(judged.outputs),
        outputs=judged.outputs,
        layers=tuple(
            replace(layer, introduced=None) if layer.node in kept else layer for layer in by_hand.layers(kept)
        ),
        case_path=None if case.path is None else str(case.path),
    )


def explain(by_hand: ByHand, node: NodeInfo, kept: frozenset[str]) -> Explanation:
    """Everything that is known of `node`, with `kept` in FP32."""
    model, precision = by_hand.subject.model, by_hand.subject.precision
    if node.name not in by_hand.subject.units:
        reason = NOT_LOWERED.format(precision=precision)
        return Explanation(node, len(model.nodes), False, False, reason)
    around = by_hand.measured(node)

    def row(values: TensorRange, neighbours: tuple[NodeInfo, ...]) -> TensorRow:
        return TensorRow(values, neighbours, values.largest / by_hand.largest)

    inputs = {values.name: values for values in around.inputs}  # a node may read a tensor twice
    producers = {name: model.producer(name) for name in inputs}
    readers = tuple(each for each in model.nodes if around.output.name in each.inputs)
    layers = [layer for layer in by_hand.layers(kept) if layer.node == node.name]
    return Explanation(
        node=node,
        nodes=len(model.nodes),
        lowered=True,
        kept=node.name in kept,
        reason=by_hand.why(node.name),
        layer=max(layers, key=lambda layer: layer.metrics.nrmse, default=None),
        usual=by_hand.usual_error,
        alone=by_hand.effect(node.name),
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

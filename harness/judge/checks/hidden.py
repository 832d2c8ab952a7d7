"""Faults that the outputs do not show: what overflows, or loses everything, behind outputs that pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from harness.comparison import DEFAULT_GATES, Metrics, find_origins
from harness.judge.losses import HiddenFault, Hiding, Loss
from harness.judge.results import LayerResult
from harness.model import Model, needed_nodes
from harness.tensors import Precision

LOST = 0.5
"""A tensor that errs by this nrmse has lost what it says."""


_WAYS: Mapping[Hiding, frozenset[str]] = {
    Hiding.ADDED: frozenset(
        {"Add", "Sub", "Sum", "Mean", "ReduceMean", "ReduceSum", "MatMul", "Gemm", "Conv"}
    ),
    Hiding.CHOSEN: frozenset(
        {"Where", "If", "Max", "Min", "ReduceMax", "ReduceMin", "MaxPool", "GlobalMaxPool"}
    ),
    Hiding.SCALED: frozenset({"Mul"}),
    Hiding.TAKEN: frozenset({"Slice", "Gather", "GatherElements", "GatherND", "Split", "Concat"}),
}


def find_hidden(layers: Sequence[LayerResult], model: Model, precision: Precision) -> tuple[HiddenFault, ...]:
    """Where something is lost that no output shows, in topological order.

    What a step of the precision is larger than, where it is added, is no fault: a mean of numbers around 0.

    Args:
        layers: of a run whose outputs pass, all of the emulator's, or what was observed of an engine's.
        model: the model.
        precision: the precision whose gates hold.
    """
    live = needed_nodes(model, [output.name for output in model.outputs])
    by_tensor = {layer.tensor: layer for layer in layers if layer.node in live}
    losses = {name: _loss(layer.metrics) for name, layer in by_tensor.items()}
    lost = {name: loss is not None for name, loss in losses.items()}
    if not any(lost.values()):
        return ()
    step = DEFAULT_GATES[precision].step
    found = []
    for tensor in find_origins(tuple(by_tensor), lost, model.predecessors):
        loss = losses[tensor]
        assert loss is not None
        fault = _hidden(by_tensor[tensor], loss, by_tensor, lost, model)
        if loss is Loss.OVERFLOW or fault.times is None or fault.times * step < 1:
            found.append(fault)
    return tuple(found)


def _loss(metrics: Metrics) -> Loss | None:
    if metrics.incomparable is not None or metrics.overflows_as_mask:
        return None
    if metrics.nonfinite and not metrics.reference_nonfinite:
        return Loss.OVERFLOW
    return (
        Loss.LOST if metrics.nrmse >= LOST and not metrics.nonfinite and metrics.reference_rms > 0 else None
    )


def _hidden(
    layer: LayerResult,
    loss: Loss,
    layers: Mapping[str, LayerResult],
    lost: Mapping[str, bool],
    model: Model,
) -> HiddenFault:
    metrics = layer.metrics
    end = next(_ends(layer.tensor, layers, lost, model), None)
    by, by_op, how, times = None, "", Hiding.UNUSED, None
    if end is not None:
        node = model.node(end.node)
        by, by_op = node.name, node.op
        how = next((way for way, ops in _WAYS.items() if node.op in ops), Hiding.SATURATED)
        if how is Hiding.ADDED:
            behind = [layers[name].metrics.reference_rms for name in node.inputs if lost.get(name)]
            size = min(behind, default=metrics.reference_rms)
            times = end.metrics.reference_rms / size if size > 0 else None
    return HiddenFault(
        tensor=layer.tensor,
        node=layer.node,
        op=layer.op,
        loss=loss,
        elements=metrics.nonfinite,
        size=metrics.count,
        nrmse=metrics.error,
        overflows=metrics.headroom > 1,
        reaches=metrics.reference_max,
        by=by,
        by_op=by_op,
        how=how,
        times=times,
    )


def _ends(
    tensor: str, layers: Mapping[str, LayerResult], lost: Mapping[str, bool], model: Model
) -> Iterator[LayerResult]:
    """The observed tensors, in order, that are computed from a lost one, and are not lost themselves."""
    reached = {tensor}
    for node in model.nodes[model.node(layers[tensor].node).index + 1 :]:
        if reached.isdisjoint(node.inputs):
            continue
        for name in node.outputs:
            if name in layers and not lost[name]:
                yield layers[name]
            else:
                reached.add(name)

"""Where the error starts: at a node, or, where not everything behind it was observed, in a region of nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.backends import Observation
from harness.comparison import find_origins, look_behind
from harness.judge.results import LayerResult, Observed, OutputResult, Region
from harness.model import Model, needed_nodes
from harness.worker.protocol import EngineFacts


@dataclass(frozen=True)
class _Start:
    """A tensor that fails while the nearest observed tensors behind it pass.

    `through` are the tensors between, none of which was observed; `certain` is whether none of them is compared.
    """

    tensor: str
    through: tuple[str, ...]
    certain: bool


def mark_origins(layers: Sequence[LayerResult], model: Model) -> tuple[LayerResult, ...]:
    """`layers` with the origins among them: those where everything that the tensor was computed from was observed."""
    certain = {start.tensor for start in _starts(layers, model) if start.certain}
    return tuple(replace(layer, origin=layer.tensor in certain) for layer in layers)


def find_regions(
    layers: Sequence[LayerResult],
    model: Model,
    engine: EngineFacts | None,
    outputs: Sequence[OutputResult] = (),
) -> tuple[Region, ...]:
    """The regions in which an error starts at a node that the observation cannot tell.

    Args:
        layers: what was observed.
        model: the model.
        engine: names the kernels of a region.
        outputs: the model's outputs as judged: indices, say, that are wrong although what decides them passes.
    """
    starts = [start for start in _starts(layers, model) if not start.certain]
    return tuple(_region(start, model, engine) for start in (*starts, *_decided(layers, model, outputs)))


def observed_of(how: Observation, layers: Sequence[LayerResult], model: Model) -> Observed:
    """What was observed of an engine and what was not."""
    seen = {layer.tensor for layer in layers}
    return Observed(how.value, len(seen), tuple(name for name in model.float_tensors if name not in seen))


def _starts(layers: Sequence[LayerResult], model: Model) -> list[_Start]:
    live = needed_nodes(model, [output.name for output in model.outputs])
    # What no output is computed from is no fault of one.
    layers = [layer for layer in layers if layer.node in live]
    order = tuple(layer.tensor for layer in layers)
    fails = {layer.tensor: layer.diverged for layer in layers}
    # The fill of a mask that becomes −∞ is meant, and hides as much as it did: it counts where nothing else fails.
    meant = {layer.tensor for layer in layers if layer.metrics.overflows_as_mask}
    found = _origins_of(layers, {name: fails[name] and name not in meant for name in order}, model)
    found = found or _origins_of(layers, fails, model)
    compared = frozenset(model.float_tensors)
    starts = []
    for tensor in order:
        if tensor in found:
            through = tuple(look_behind(tensor, model.predecessors, fails)[0])
            starts.append(_Start(tensor, through, compared.isdisjoint(through)))
    return starts


def _decided(
    layers: Sequence[LayerResult], model: Model, outputs: Sequence[OutputResult]
) -> Iterator[_Start]:
    """The outputs that are no layers, as they are not float, and fail while every layer behind them passes."""
    fails = {layer.tensor: layer.diverged for layer in layers}
    floats = frozenset(model.float_tensors)
    for tensor in dict.fromkeys(output.tensor for output in outputs if not output.passed):
        if layers and tensor not in fails and tensor not in floats:
            found = find_origins((tensor,), {**fails, tensor: True}, model.predecessors)
            through = tuple(look_behind(tensor, model.predecessors, fails)[0])
            yield from (_Start(tensor, through, certain=False) for _ in found)


def _origins_of(layers: Sequence[LayerResult], failed: Mapping[str, bool], model: Model) -> set[str]:
    order = tuple(failed)
    found = set(find_origins(order, failed, model.predecessors))
    # An error that crossed its gate before must not hide an overflow: the FP32 values themselves do not fit there.
    broken = {layer.tensor: failed[layer.tensor] and layer.metrics.nonfinite > 0 for layer in layers}
    overflown = {layer.tensor for layer in layers if layer.metrics.headroom > 1}
    return found | (overflown & set(find_origins(order, broken, model.predecessors)))


def _region(start: _Start, model: Model, engine: EngineFacts | None) -> Region:
    producers = [model.producer(name) for name in (start.tensor, *start.through)]
    nodes = sorted(
        {node.name: node for node in producers if node is not None}.values(), key=lambda n: n.index
    )
    written = {name for node in nodes for name in node.outputs}
    fed = {*model.feed_names(), *model.predecessors}
    reads = dict.fromkeys(
        name for node in nodes for name in node.inputs if name in fed and name not in written
    )
    names = tuple(node.name for node in nodes)
    layers = () if engine is None else engine.layers
    kernels = (layer.name for layer in layers if not set(names).isdisjoint(layer.onnx_nodes))
    return Region(start.tensor, tuple(reads), names, tuple(kernels))

"""After an answer: what overflows behind outputs that pass, and what would mend all of it."""

from __future__ import annotations

from harness.backends import Observation
from harness.diagnosis.context import HiddenSearch, Subject
from harness.judge import LayerResult, find_hidden, measure_layers


def look_behind(subject: Subject, island: tuple[str, ...]) -> HiddenSearch:
    """What is lost behind outputs that pass with `island` in FP32, on the emulator.

    What mends it are the nodes that write what does not fit, and those that read it: a tensor is rounded by both.
    """
    layers = _layers(subject, island)
    hidden = find_hidden(layers, subject.model, subject.precision)
    if not hidden:
        return HiddenSearch()
    lost = {layer.tensor for layer in layers if layer.metrics.headroom > 1 or layer.metrics.nonfinite}
    lost |= {fault.tensor for fault in hidden}
    around = {
        node.name
        for node in subject.model.nodes
        if lost.intersection(node.outputs) or lost.intersection(node.inputs)
    }
    units = set(subject.units)
    everything = tuple(name for name in subject.units if name in (around & units) | set(island))
    mended = not find_hidden(_layers(subject, everything), subject.model, subject.precision)
    return HiddenSearch(hidden, everything if mended else ())


def _layers(subject: Subject, island: tuple[str, ...]) -> tuple[LayerResult, ...]:
    plan = subject.plan(frozenset(island), observation=Observation.TYPED)
    bench = subject.bench
    return measure_layers(bench, bench.emulator, plan, bench.case.tolerances)[0]

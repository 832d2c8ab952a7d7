"""After an answer: what overflows behind outputs that pass, and what would mend all of it."""

from __future__ import annotations

from dataclasses import replace

from harness.backends import Observation
from harness.diagnosis.context import Context, HiddenSearch, Seen, Subject
from harness.diagnosis.results import Evidence, EvidenceKind, Stage
from harness.judge import LayerResult, find_hidden, measure_layers


def look_for_hidden(seen: Seen, context: Context) -> Seen:
    """What is lost behind outputs that pass, with the island that cures, or without any."""
    context.report(Stage.ATTRIBUTE, "look behind outputs that pass")
    island = seen.cure.island if seen.cure is not None else ()
    found = look_behind(context.subject, island)
    evidence = [
        Evidence.of(
            EvidenceKind.HIDDEN,
            f"{fault.node} ({fault.op}) {'overflows' if fault.overflows else 'is lost'} behind outputs that pass",
            **{"node": fault.node, "hidden by": fault.by},
        )
        for fault in found.faults
    ]
    return replace(seen, hidden=found).adding(*evidence)


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
    everything = subject.ordered(around.union(island))
    mended = not find_hidden(_layers(subject, everything), subject.model, subject.precision)
    return HiddenSearch(hidden, everything if mended else ())


def _layers(subject: Subject, island: tuple[str, ...]) -> tuple[LayerResult, ...]:
    plan = subject.plan(island, observation=Observation.TYPED)
    bench = subject.bench
    return measure_layers(bench, bench.emulator, plan, bench.case.tolerances)[0]

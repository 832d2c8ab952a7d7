"""What is believed of an engine before its islands are searched: sets worth a build, and a score for each node."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from harness.diagnosis.context import Prediction, Subject, find_groups, kernel_groups
from harness.judge import LayerResult
from harness.model import Model

HOPS = 2
"""How far around the known part of an island it is widened: compilers fuse with neighbours."""


def error_of(layer: LayerResult) -> float:
    """The accumulated nrmse of a layer; infinite where it is not finite."""
    error = layer.metrics.nrmse
    return math.inf if math.isnan(error) or layer.metrics.nonfinite else error


def island_hints(
    subject: Subject, starts: Iterable[str], prior: Iterable[str], known: Collection[frozenset[str]]
) -> list[frozenset[str]]:
    """Islands to try before any search, those in `known` left out: where the engine's error starts, the emulator's
    island, and their neighbourhood."""
    units = frozenset(subject.units)
    beginning, island = frozenset(starts) & units, frozenset(prior) & units
    model = subject.model
    core = beginning | island
    wanted = [core, core | readers_of(model, beginning) & units]
    around = core
    for _ in range(HOPS):
        around = (around | readers_of(model, around) | writers_of(model, around)) & units
        wanted.append(around)
    return [hint for hint in dict.fromkeys(wanted) if hint and hint != units and hint not in known]


def block_hints(
    subject: Subject, starts: Iterable[str], known: Collection[frozenset[str]]
) -> list[frozenset[str]]:
    """Contiguous parts to try before any search, those in `known` left out: the block of the first of `starts` that is
    lowered, then all that it influences."""
    units = frozenset(subject.units)
    start = next((node for node in starts if node in units), None)
    if start is None:
        return []
    groups = find_groups(subject.model, subject.units)
    block = next((frozenset(group.units) for group in groups if start in group.units), frozenset[str]())
    wanted = [block, (block | _influenced(subject.model, block or {start})) & units]
    return [hint for hint in dict.fromkeys(wanted) if len(hint) > 1 and hint != units and hint not in known]


def kernel_hints(
    subject: Subject,
    starts: Iterable[str],
    kernels: Sequence[Sequence[str]],
    known: Collection[frozenset[str]],
) -> list[frozenset[str]]:
    """The kernels in which the error starts, then those and the kernels that read them, those in `known` left out:
    parts of an engine as it is built."""
    units = frozenset(subject.units)
    beginning = frozenset(starts) & units
    hit = whole_kernels(subject, beginning, kernels) if kernels else frozenset[str]()
    wider = whole_kernels(subject, hit | readers_of(subject.model, hit) & units, kernels)
    return [each for each in dict.fromkeys([hit, wider]) if each and each != units and each not in known]


def whole_kernels(
    subject: Subject, nodes: Collection[str], kernels: Sequence[Sequence[str]]
) -> frozenset[str]:
    """`nodes` with all that is computed in the kernels that compute them."""
    groups = [frozenset(group.units) for group in kernel_groups(subject.model, kernels, subject.units)]
    return frozenset(nodes).union(*(group for group in groups if not group.isdisjoint(nodes)))


def span_of(subject: Subject, nodes: Collection[str]) -> frozenset[str]:
    """All units from the first of `nodes` to the last."""
    places = [place for place, unit in enumerate(subject.units) if unit in nodes]
    return frozenset(subject.units[min(places) : max(places) + 1]) if places else frozenset()


def _influenced(model: Model, nodes: Collection[str]) -> frozenset[str]:
    """`nodes`, and everything downstream of them."""
    reached = {name for node in nodes for name in model.node(node).outputs if name}
    found = set(nodes)
    for node in model.nodes:  # in topological order
        if reached.intersection(node.inputs):
            found.add(node.name)
            reached.update(name for name in node.outputs if name)
    return frozenset(found)


def node_scores(subject: Subject, prediction: Prediction, layers: Sequence[LayerResult]) -> dict[str, float]:
    """How much each node is suspected: the error that it adds on the engine, as far as that was observed, beside what
    it introduces anyway."""
    units = set(subject.units)
    scores = {node: min(error, 1.0) for node, error in prediction.introduced.items() if node in units}
    errors = {layer.tensor: error_of(layer) for layer in layers}
    for layer in layers:
        if not layer.diverged or layer.node not in units:
            continue
        before = [errors.get(name, 0.0) for name in subject.model.predecessors.get(layer.tensor, ())]
        own = errors[layer.tensor]
        if own > 2 * max(before, default=0.0):
            scores[layer.node] = max(scores.get(layer.node, 0.0), min(own, 1e6))
    return scores


def readers_of(model: Model, nodes: Collection[str]) -> frozenset[str]:
    """The nodes that read what `nodes` write."""
    written = {name for node in nodes for name in model.node(node).outputs if name}
    return frozenset(node.name for node in model.nodes if written.intersection(node.inputs))


def writers_of(model: Model, nodes: Collection[str]) -> frozenset[str]:
    """The nodes that write what `nodes` read."""
    producers = (model.producer(name) for node in nodes for name in model.node(node).inputs)
    return frozenset(producer.name for producer in producers if producer is not None)

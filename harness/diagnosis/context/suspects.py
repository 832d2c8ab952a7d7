"""Whom to suspect, before anything is searched: from the introduced errors and the place where the error starts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from harness.judge import LayerResult
from harness.model import Model

OUTLYING = 8.0
"""A node whose introduced error is this many times the median's is an outlier."""

NEARBY = 3
"""How many nodes back from the place where the error shows its cause is looked for first."""

MOST_NEARBY = 48


def introduced_by_node(layers: Iterable[LayerResult]) -> dict[str, float]:
    """The nrmse that each node introduces, of its worst output; infinite where it is not finite."""
    found: dict[str, float] = {}
    for layer in layers:
        if layer.introduced is None:
            continue
        error = layer.introduced.nrmse
        error = math.inf if layer.introduced.nonfinite or math.isnan(error) else error
        found[layer.node] = max(found.get(layer.node, 0.0), error)
    return found


def usual_error(introduced: Mapping[str, float]) -> float:
    """The median of the finite introduced errors; 0 if there are none."""
    finite = [error for error in introduced.values() if 0 < error < math.inf]
    return statistics.median(finite) if finite else 0.0


def outliers(introduced: Mapping[str, float]) -> tuple[str, ...]:
    """The nodes whose introduced error stands out, in the order of the mapping."""
    bar = OUTLYING * usual_error(introduced)
    return tuple(node for node, error in introduced.items() if error > bar and error > 0)


def inherited(model: Model, introduced: dict[str, float], units: Sequence[str]) -> dict[str, float]:
    """The introduced errors, with those of outliers passed on to the nodes that they read from.

    A node errs by what it reads as much as by what it writes, and what it reads is rounded by its writer, too: a
    softmax that breaks because its logits are too coarse is not cured alone.
    """
    scores = {node: introduced.get(node, 0.0) for node in units}
    for node in outliers(introduced):
        for writer in _writers(model, node):
            if writer in scores:
                scores[writer] = max(scores[writer], introduced[node])
    return scores


def nearby(model: Model, origins: Iterable[str], units: Sequence[str], back: int = NEARBY) -> tuple[str, ...]:
    """Nodes from which the error could have come that shows at `origins`: these, and up to so many nodes back."""
    allowed = set(units)
    found = dict.fromkeys(node for node in origins if node in allowed)
    edge: list[str] = list(dict.fromkeys(origins))
    for _ in range(back):
        before = [writer for node in edge for writer in _writers(model, node)]
        edge = [node for node in dict.fromkeys(before) if node not in found]
        found.update(dict.fromkeys(node for node in edge if node in allowed))
        if len(found) >= MOST_NEARBY:
            break
    return tuple(found)[:MOST_NEARBY]


def islands_of(model: Model, nodes: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """`nodes` as connected parts of the graph, each in topological order, in the order of their first nodes."""
    members = dict.fromkeys(nodes)
    part: dict[str, list[str]] = {}
    for node in sorted(members, key=lambda name: model.node(name).index):
        joined = [node]
        for writer in _writers(model, node):
            if writer in members and part.get(writer) is not None and part[writer] is not joined:
                other = part[writer]
                joined = [*dict.fromkeys([*other, *joined])]
                for each in other:
                    part[each] = joined
        for each in joined:
            part[each] = joined
    unique = {id(nodes_of): nodes_of for nodes_of in part.values()}
    ordered = [sorted(nodes_of, key=lambda name: model.node(name).index) for nodes_of in unique.values()]
    return tuple(tuple(island) for island in sorted(ordered, key=lambda island: model.node(island[0]).index))


def _writers(model: Model, node: str) -> list[str]:
    """The nodes that `node` reads from."""
    producers = (model.producer(name) for name in model.node(node).inputs)
    return list(dict.fromkeys(producer.name for producer in producers if producer is not None))

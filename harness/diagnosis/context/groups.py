"""Blocks and repeated structures of a model, as groups for the search.

Names are believed first: in `b7_sq`, `layers.3.attn.q` and `/model/layers.3/mlp/MatMul` the number counts blocks.
Where names say nothing (`MatMul_33`), repetition is found in the graph itself: a run of nodes in which the operator
and the wiring come back with one period. Either way two groups are of one kind only if their nodes correspond one
to one, so that nodes at the same position play the same part.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from harness.model import Model, NodeInfo
from harness.search import Group

FEWEST = 2
"""Fewer nodes are no group."""

REPEATS = 3
"""A structure without names counts as repeated when it occurs this often: twice may be chance."""

LONGEST_PERIOD = 512
FAR = 1 << 30
_COUNTED = re.compile(r"(?<![0-9])[0-9]+(?=$|[/._:])")
_BREAK = re.compile(r"[/.]+")


def find_groups(model: Model, units: Sequence[str]) -> tuple[Group, ...]:
    """The groups among `units` (names of nodes in topological order), by name, else by structure."""
    nodes = [model.node(name) for name in units]
    return _by_name(nodes) or _by_structure(model, nodes)


def kernel_groups(model: Model, kernels: Sequence[Sequence[str]], units: Sequence[str]) -> tuple[Group, ...]:
    """The units of each kernel of an engine, as groups: what is fused is computed together, right or wrong.

    A unit of several kernels belongs to the last of them, which writes what others read: kernels come in the order in
    which they run, units in topological order. Kernels of the same operators are of one kind.
    """
    last = {node: place for place, nodes in enumerate(kernels) for node in nodes}
    members: dict[int, list[str]] = defaultdict(list)
    for unit in units:
        if unit in last:
            members[last[unit]].append(unit)
    return tuple(
        Group(
            f"the kernel of {each[-1]}",
            tuple(each),
            kind=_kind("kernel", [model.node(name) for name in each]),
        )
        for each in members.values()
        if len(each) >= FEWEST
    )


def _by_name(nodes: Sequence[NodeInfo]) -> tuple[Group, ...]:
    blocks: dict[str, list[NodeInfo]] = defaultdict(list)
    for node in nodes:
        prefix = _prefix(node)
        if prefix is not None:
            blocks[prefix].append(node)
    families: dict[str, int] = defaultdict(int)
    for prefix, members in blocks.items():
        if len(members) >= FEWEST:
            families[_pattern(prefix)] += 1
    return tuple(
        Group(prefix, _names(members), _parts(prefix, members), _kind(_pattern(prefix), members))
        for prefix, members in blocks.items()
        if len(members) >= FEWEST and families[_pattern(prefix)] >= FEWEST
    )


def _prefix(node: NodeInfo) -> str | None:
    """The node's name up to the first number that counts something; None if there is none.

    A number right behind the operator's name counts nodes, not blocks: exporters call nodes `MatMul_33`.
    """
    for match in _COUNTED.finditer(node.name):
        head = node.name[: match.end()]
        last = _BREAK.split(head)[-1].removesuffix(match.group()).strip("_")
        if match.end() < len(node.name) and last != node.op:
            return head
    return None


def _pattern(prefix: str) -> str:
    return _COUNTED.sub("*", prefix)


def _parts(prefix: str, members: Sequence[NodeInfo]) -> tuple[Group, ...]:
    """The parts of a block that its names tell apart: `layers.3/attn` and `layers.3/mlp`."""
    parts: dict[str, list[NodeInfo]] = defaultdict(list)
    for node in members:
        rest = _BREAK.split(node.name[len(prefix) :].lstrip("/._"), maxsplit=1)
        if len(rest) > 1 and rest[0]:
            parts[rest[0]].append(node)
    return tuple(
        Group(f"{prefix}/{part}", _names(inside), kind=_kind(f"{_pattern(prefix)}/{part}", inside))
        for part, inside in parts.items()
        if FEWEST <= len(inside) < len(members)
    )


def _kind(pattern: str, members: Sequence[NodeInfo]) -> str:
    return f"{pattern}: {' '.join(node.op for node in members)}"


def _names(members: Sequence[NodeInfo]) -> tuple[str, ...]:
    return tuple(node.name for node in members)


def _by_structure(model: Model, nodes: Sequence[NodeInfo]) -> tuple[Group, ...]:
    """The repetition that covers the most nodes, and what is left on both sides of it searched likewise."""
    found: list[Group] = []
    wiring = _wiring(model, nodes)
    waiting = [(0, len(nodes))]
    while waiting:
        start, end = waiting.pop()
        run = _longest_run(nodes, wiring, start, end)
        if run is None:
            continue
        first, period, count = run
        for number in range(count):
            begin = first + number * period
            members = nodes[begin : begin + period]
            label = f"{members[0].name} … {members[-1].name}"
            found.append(Group(label, _names(members), kind=_kind(f"period {first}+{period}", members)))
        waiting += [(start, first), (first + count * period, end)]
    return tuple(sorted(found, key=lambda group: model.node(group.units[0]).index))


def _wiring(model: Model, nodes: Sequence[NodeInfo]) -> list[tuple[int, ...]]:
    """For each node, how far before it stands what it reads; `FAR` for the model's inputs, constants left out."""
    places = {node.name: place for place, node in enumerate(nodes)}
    fed = set(model.feed_names())
    distances = []
    for place, node in enumerate(nodes):
        found = []
        for name in node.inputs:
            producer = model.producer(name)
            if producer is not None:
                found.append(place - places[producer.name] if producer.name in places else FAR)
            elif name in fed:
                found.append(FAR)
        distances.append(tuple(found))
    return distances


def _longest_run(
    nodes: Sequence[NodeInfo], wiring: Sequence[tuple[int, ...]], start: int, end: int
) -> tuple[int, int, int] | None:
    """First place, period and count of the repetition that covers the most nodes of `[start, end)`."""
    ids: dict[str, int] = {}
    ops = np.array([ids.setdefault(node.op, len(ids)) for node in nodes[start:end]])
    best: tuple[int, int, int, int] | None = None
    for period in range(FEWEST, min(len(ops) // REPEATS, LONGEST_PERIOD) + 1):
        same = ops[period:] == ops[:-period]
        for first, length in _runs(same, (REPEATS - 1) * period):
            count = _isomorphic(wiring, start + first, period, length // period + 1)
            covered = count * period
            if count >= REPEATS and (best is None or covered > best[0]):
                best = (covered, start + first, period, count)
    return None if best is None else best[1:]


def _runs(same: np.ndarray, shortest: int) -> Iterator[tuple[int, int]]:
    """Start and length of each run of True of at least `shortest`."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], same.view(np.int8), [0]))))
    for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if last - first >= shortest:
            yield first, last - first


def _isomorphic(wiring: Sequence[tuple[int, ...]], first: int, period: int, count: int) -> int:
    """How many repetitions are wired alike inside, from the first on."""

    def inside(number: int) -> list[tuple[int, ...]]:
        begin = first + number * period
        return [
            tuple(distance if distance <= place else -1 for distance in wiring[begin + place])
            for place in range(period)
        ]

    pattern = inside(0)
    for number in range(1, count):
        if inside(number) != pattern:
            return number
    return count

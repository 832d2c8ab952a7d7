"""Which tensors lie inside loops and conditionals: those cannot be marked as outputs of a network."""

from typing import Dict, List, Set, Tuple

from .network import Graph

#: Where a body begins: what these write is inside.
_ENTRIES = ("RECURRENCE", "ITERATOR", "CONDITIONAL_INPUT")
#: Where a body ends: what these read is inside, what they write is outside.
_EXITS = ("LOOP_OUTPUT", "CONDITIONAL_OUTPUT")
#: What these read may be computed inside: the next value of a recurrence, the condition of a while loop.
_FEEDS = ("RECURRENCE", "TRIP_LIMIT")


def inside(graph: Graph) -> Dict[str, str]:
    """Tensor → `loop` or `conditional`, for tensors that are on a way from an entry to an exit of a body."""
    entered: Dict[str, str] = {}
    for layer in graph.layers:
        if layer.kind in _ENTRIES:
            kind = "conditional" if layer.kind == "CONDITIONAL_INPUT" else "loop"
            for name in _downstream(graph, layer.outputs):
                entered.setdefault(name, kind)
    if not entered:
        return {}
    seeds: List[str] = []
    for layer in graph.layers:
        if layer.kind in _EXITS:
            seeds += layer.inputs
        elif layer.kind in _FEEDS:
            seeds += [name for name in layer.inputs if name in entered]
    leaving = _upstream(graph, seeds)
    entries = {name for layer in graph.layers if layer.kind in _ENTRIES for name in layer.outputs}
    return {name: kind for name, kind in entered.items() if name in leaving or name in entries}


def _downstream(graph: Graph, names: Tuple[str, ...]) -> Set[str]:
    """`names` and what is computed from them, up to the exits of bodies."""
    seen: Set[str] = set(names)
    waiting = list(names)
    while waiting:
        for index in graph.consumers.get(waiting.pop(), ()):
            layer = graph.layers[index]
            if layer.kind in _EXITS:
                continue
            new = [name for name in layer.outputs if name not in seen]
            seen.update(new)
            waiting += new
    return seen


def _upstream(graph: Graph, names: List[str]) -> Set[str]:
    """`names` and what they are computed from, back to the entries of bodies."""
    seen: Set[str] = set(names)
    waiting = list(names)
    while waiting:
        index = graph.producers.get(waiting.pop())
        if index is None or graph.layers[index].kind in _ENTRIES:
            continue
        new = [name for name in graph.layers[index].inputs if name not in seen]
        seen.update(new)
        waiting += new
    return seen

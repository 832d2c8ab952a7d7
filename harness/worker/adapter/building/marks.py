"""Observation: which tensors an engine gives back beside its outputs, and as what.

A mark that is left in FP32 makes the builder compute in FP32: measured on an H200 with TensorRT 8.6.0, an FP16
overflow of 2.98 falls to 3e-5 when every tensor is marked so. With the dtype under test it stays, at 2.97.
"""

from dataclasses import dataclass
from typing import Any, Callable, Dict, FrozenSet, Iterable, Iterator, List, Optional, Set, Tuple, Union

from ...protocol import BuildRequest, Fault
from .. import dtypes
from ..network import Graph
from ..release import Release
from .strategies import Strong, Weak

Typing = Union[Weak, Strong]

#: Where a body begins: what these write is inside.
_ENTRIES = ("RECURRENCE", "ITERATOR", "CONDITIONAL_INPUT")
#: Where a body ends: what these read is inside, what they write is outside.
_EXITS = ("LOOP_OUTPUT", "CONDITIONAL_OUTPUT")
#: What these read may be computed inside: the next value of a recurrence, the condition of a while loop.
_FEEDS = ("RECURRENCE", "TRIP_LIMIT")


@dataclass(frozen=True)
class Marked:
    """What was marked.

    Args:
        marks: names of tensors that became outputs, in the order of the request.
        skipped: tensor → why it could not be marked.
        debug: None, `marked` (debug tensors by name, which blocks fusions) or `unfused`.
    """

    marks: Tuple[str, ...] = ()
    skipped: Optional[Dict[str, str]] = None
    debug: Optional[str] = None


def mark_tensors(
    network: Any,
    graph: Graph,
    request: BuildRequest,
    release: Release,
    typing: Typing,
    islands: FrozenSet[str],
) -> Marked:
    """Mark what `request` asks for; marks among the tensors `islands` stay in FP32.

    Raises:
        Fault: `unsupported`: debug tensors on a release without them.
    """
    if request.observation == "none":
        return Marked(skipped={})
    if request.observation == "debug":
        return _mark_debug(network, graph, request, release)
    return _mark_outputs(network, graph, request, typing, islands)


def _mark_outputs(
    network: Any, graph: Graph, request: BuildRequest, typing: Typing, islands: FrozenSet[str]
) -> Marked:
    enclosed = inside_bodies(graph)
    marked: List[str] = []
    skipped: Dict[str, str] = {}
    for name in request.marks:
        reason = _obstacle(graph, name, enclosed)
        if reason is not None:
            skipped[name] = reason
            continue
        tensor = graph.tensors[name]
        if not tensor.is_network_output:
            network.mark_output(tensor)
            marked.append(name)
        # The dtype of a tensor that is no output yet cannot be set: mark first.
        if request.mark_dtype is not None and dtypes.is_float(tensor.dtype):
            typing.type_mark(tensor, "float32" if name in islands else request.mark_dtype)
    return Marked(tuple(marked), skipped)


def _mark_debug(network: Any, graph: Graph, request: BuildRequest, release: Release) -> Marked:
    release.require("debug_tensors", "debug tensors")
    if release.offers("unfused_debug_tensors"):
        if not network.mark_unfused_tensors_as_debug_tensors():
            raise Fault("marks_failed", "TensorRT did not mark the unfused tensors as debug tensors")
        return Marked(skipped={}, debug="unfused")
    enclosed = inside_bodies(graph)
    skipped: Dict[str, str] = {}
    names = request.marks or [name for name in graph.producers if dtypes.is_float(graph.tensors[name].dtype)]
    for name in names:
        reason = _obstacle(graph, name, enclosed)
        if reason is None and not network.mark_debug(graph.tensors[name]):
            reason = "TensorRT rejected it as a debug tensor"
        if reason is not None and request.marks:
            skipped[name] = reason
    return Marked(skipped=skipped, debug="marked")


def _obstacle(graph: Graph, name: str, enclosed: Dict[str, str]) -> Optional[str]:
    """Why the tensor cannot be marked, or None."""
    tensor = graph.tensors.get(name)
    if tensor is None:
        return "the network has no such tensor: the parser folded or renamed it"
    if tensor.is_network_input:
        return "it is an input of the network"
    if name in enclosed:
        return "it lies inside a {}".format(enclosed[name])
    if dtypes.is_float(tensor.dtype) and tensor.is_shape_tensor:
        return "it is used as a shape"
    if tensor.dtype.name not in dtypes.NAMES:
        return "{} tensors cannot be read on the host".format(tensor.dtype.name)
    return None


def inside_bodies(graph: Graph) -> Dict[str, str]:
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


def _downstream(graph: Graph, names: Iterable[str]) -> Set[str]:
    """`names` and what is computed from them, up to the exits of bodies."""

    def step(name: str) -> Iterator[str]:
        for layer in (graph.layers[index] for index in graph.consumers.get(name, ())):
            yield from layer.outputs if layer.kind not in _EXITS else ()

    return _reached(names, step)


def _upstream(graph: Graph, names: Iterable[str]) -> Set[str]:
    """`names` and what they are computed from, back to the entries of bodies."""

    def step(name: str) -> Tuple[str, ...]:
        index = graph.producers.get(name)
        return () if index is None or graph.layers[index].kind in _ENTRIES else graph.layers[index].inputs

    return _reached(names, step)


def _reached(names: Iterable[str], step: Callable[[str], Iterable[str]]) -> Set[str]:
    seen = set(names)
    waiting = list(seen)
    while waiting:
        new = set(step(waiting.pop())) - seen
        seen |= new
        waiting += new
    return seen

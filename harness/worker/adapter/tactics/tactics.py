"""Tactics of one build: recorded, forced, forbidden, and compared with the engine that was built."""

from dataclasses import replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ...protocol import (
    CACHE,
    MECHANISMS,
    SELECTOR,
    Choice,
    Fault,
    LayerInfo,
    LayerType,
    TacticOrders,
    TacticReport,
    hexadecimal,
    operator_in,
)
from ..inspection import members_of
from ..log import Log
from ..network import Graph, NodeMap
from ..release import Release
from .edited_cache import EditedCache, Shelf
from .selector import Selection, make_selector


class Tactics:
    """What a build chooses, by the mechanism that the release has. `config` is changed; it is to get no other cache.

    Raises:
        Fault: `unsupported`: the release lacks the mechanism; `bad_request`: orders that make no sense.
    """

    def __init__(
        self,
        trt: Any,
        release: Release,
        config: Any,
        log: Log,
        orders: TacticOrders,
        shelf: Shelf,
        graph: Graph,
    ) -> None:
        self._flags = _flags(trt, config)
        self._types = _types(graph) if release.offers("weak") else ()
        self.mechanism = mechanism_of(release, orders.mechanism)
        self._selection: Optional[Selection] = None
        self._selector: Optional[Any] = None
        self._cache: Optional[EditedCache] = None
        if self.mechanism == CACHE:
            self._cache = EditedCache(trt, config, log, orders, shelf)
            return
        _refuse_keys(orders)
        self._selection = Selection(orders)
        self._selector = make_selector(trt, release, self._selection)
        config.algorithm_selector = self._selector
        # For a layer that is in a timing cache, the selector is offered what the cache says and nothing else.
        config.set_flag(trt.BuilderFlag.DISABLE_TIMING_CACHE)

    def again(self) -> bool:
        """After a build: whether another one would carry out orders that this one could not."""
        return self._cache is not None and self._cache.again()

    def close(self) -> None:
        """Let go of the log."""
        if self._cache is not None:
            self._cache.close()

    def report(self, nodes: NodeMap, layers: Sequence[LayerInfo]) -> TacticReport:
        """What was chosen, with the origins of each layer, compared with what the inspector reports."""
        if self._cache is not None:
            self._cache.save()
            report = TacticReport(
                CACHE,
                self._cache.taken(),
                self._cache.alternatives(),
                self._cache.offered,
                self._cache.misses(),
                builds=self._cache.builds,
            )
        else:
            assert self._selection is not None
            assert self._selector is not None
            report = TacticReport(
                SELECTOR,
                self._selection.taken,
                self._selection.alternatives(),
                self._selection.count,
                self._selection.misses(),
                problems=tuple(self._selector.problems),
            )
        return _checked(replace(report, flags=self._flags, layer_types=self._types), nodes, layers)


def mechanism_of(release: Release, asked: str) -> str:
    """`selector` or `cache`.

    Raises:
        Fault: `unsupported` or `bad_request`.
    """
    if asked not in MECHANISMS:
        raise Fault(
            "bad_request", "there is no mechanism {!r}: it is {}".format(asked, " or ".join(MECHANISMS))
        )
    if asked == "auto":
        return CACHE if release.offers("editable_timing_cache") else SELECTOR
    if asked == CACHE:
        release.require("editable_timing_cache", "editable timing cache")
    else:
        release.require("algorithm_selector", "algorithm selector")
    return asked


def _flags(trt: Any, config: Any) -> Tuple[str, ...]:
    members = trt.BuilderFlag.__members__
    return tuple(
        sorted(name for name in members if "TIMING_CACHE" not in name and config.get_flag(members[name]))
    )


def _types(graph: Graph) -> Tuple[LayerType, ...]:
    found: List[LayerType] = []
    for layer in graph.layers:
        handle = layer.handle
        outputs = tuple(
            handle.get_output_type(index).name if handle.output_type_is_set(index) else None
            for index in range(handle.num_outputs)
        )
        precision = handle.precision.name if handle.precision_is_set else None
        if precision is not None or any(outputs):
            found.append(LayerType(layer.index, layer.name, precision, outputs))
    return tuple(found)


def _refuse_keys(orders: TacticOrders) -> None:
    for choice in (*orders.force, *orders.forbid):
        if choice.implementation is None:
            raise Fault(
                "bad_request",
                "the choice for {!r} names no implementation: it was recorded through the timing cache, and cannot "
                "be ordered through an algorithm selector".format(choice.layer),
            )
    if orders.cache_path or orders.save_cache_path or orders.strict:
        raise Fault(
            "bad_request",
            "an algorithm selector has no timing cache: leave the cache's paths and `strict` out",
        )


def _checked(report: TacticReport, nodes: NodeMap, layers: Sequence[LayerInfo]) -> TacticReport:
    """With members and origins, and what the inspector says of the same layers."""
    choices: List[Choice] = []
    confirmed, contradicted = 0, []
    by_name = _by_name(layers)
    for choice in report.choices:
        layer = by_name.get(choice.layer)
        if layer is not None:
            agrees = _agrees(choice, layer)
            confirmed += agrees is True
            if agrees is False:
                contradicted.append(choice.layer)
        choices.append(_with_origin(choice, nodes, layer))
    return replace(
        report,
        choices=tuple(choices),
        alternatives=tuple(_with_origin(choice, nodes, None) for choice in report.alternatives),
        confirmed=confirmed,
        contradicted=tuple(contradicted),
    )


def _by_name(layers: Sequence[LayerInfo]) -> Dict[str, LayerInfo]:
    """Layers by name, those that a compiler made by the operator's name too: `matmul_myl0_3`."""
    found: Dict[str, LayerInfo] = {}
    for layer in layers:
        found.setdefault(layer.name, layer)
        operator = operator_in(layer.name)
        if operator:
            found.setdefault(operator, layer)
    return found


def _agrees(choice: Choice, layer: LayerInfo) -> Optional[bool]:
    """Whether the inspector reports the same tactic; None if it reports none that could be compared."""
    if choice.kernel is not None and layer.tactic is not None and layer.tactic_id != layer.tactic:
        return choice.kernel == layer.tactic
    if choice.implementation is not None and layer.tactic_id is not None:
        try:
            return choice.tactic == hexadecimal(int(layer.tactic_id, 16))
        except ValueError:  # whatever it is, it is no id of a tactic
            return None
    return None


def _with_origin(choice: Choice, nodes: NodeMap, layer: Optional[LayerInfo]) -> Choice:
    members: Tuple[str, ...] = members_of(choice.layer, nodes.nodes_of)
    origins = [node for member in members for node in nodes.nodes_of.get(member, ())]
    if layer is not None:
        origins += layer.onnx_nodes
    kernel = choice.kernel
    if kernel is None and layer is not None and layer.tactic != layer.tactic_id:
        kernel = layer.tactic
    return replace(
        choice,
        members=members,
        onnx_nodes=tuple(dict.fromkeys([*choice.onnx_nodes, *origins])),
        kernel=kernel,
    )

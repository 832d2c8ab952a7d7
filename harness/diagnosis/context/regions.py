"""Islands that lie in a layer which TensorRT compiles as a whole, and whose precisions it does not tell.

Measured on an H200 with TensorRT 8.6.0: the whole of a two-layer attention model is one such layer,
`{ForeignNode[l0_ln1_mean...final]}`. An island of two nodes inside it builds, and the fault stays.
"""

from __future__ import annotations

from collections.abc import Collection

from harness.diagnosis.results import Evidence, Stage
from harness.model import Model
from harness.worker.protocol import EngineFacts, LayerInfo

LONGEST_NAME = 80

REMEDY = (
    "build a strongly typed model, in which Casts hold the island (typed.onnx), with TensorRT 10 or later, or keep the "
    "whole subgraph in FP32"
)
"""What can be done."""


def opaque_layers(facts: EngineFacts, island: Collection[str], model: Model) -> tuple[str, ...]:
    """Names of the opaque layers in which nodes of `island` lie; empty if there are none, or their precision is told.

    Args:
        facts: of an engine that was built with `island` in FP32.
        island: names of nodes.
        model: the model.
    """
    told = facts.realised.islands_ok is not None or not facts.realised.opaque
    if not island or told or facts.typing == "strong":
        return ()
    regions = [layer for layer in facts.layers if _is_region(layer)]
    visible = {node for layer in facts.layers if layer.precision is not None for node in layer.onnx_nodes}
    hidden = set(island) - visible
    return tuple(dict.fromkeys(layer.name for layer in regions if _may_hold(layer, hidden, model)))


def opaque_evidence(layers: Collection[str], release: str | None) -> Evidence:
    """What it means that an island lies in `layers`, and what can be done."""
    names = " and ".join(map(shortened, layers))
    version = f"TensorRT {release}" if release else "TensorRT"
    text = (
        f"the island lies in {names}, which {version} compiles as a whole: what is inside cannot be told what "
        f"precision to use on this release, and whether it stayed in FP32 cannot be seen; {REMEDY}"
    )
    return Evidence(Stage.CURE, text, {"opaque": list(layers)})


def shortened(name: str) -> str:
    """The name of a layer, without its middle where it is long."""
    half = LONGEST_NAME // 2 - 1
    return name if len(name) <= LONGEST_NAME else f"{name[:half]} … {name[-half:]}"


def _is_region(layer: LayerInfo) -> bool:
    name = layer.name
    if name.startswith("Reformatting CopyNode"):  # such a copy is named after the region that it feeds
        return False
    return "ForeignNode[" in name or str(layer.kind).lower() == "myelin"


def _may_hold(layer: LayerInfo, nodes: set[str], model: Model) -> bool:
    """Whether one of `nodes` lies between the first and the last node of a region, which are all that it names."""
    places = {node.name: node.index for node in model.nodes}
    ends = [places[name] for name in layer.onnx_nodes if name in places]
    if len(ends) < 2:
        return bool(nodes)
    return any(min(ends) <= places[name] <= max(ends) for name in nodes if name in places)

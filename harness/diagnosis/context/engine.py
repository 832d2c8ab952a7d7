"""What an engine reported of itself, as far as a diagnosis reads it: tactics, relaxations, compiled regions.

TensorRT may compile a whole subgraph as one layer and report no precision inside. Measured on an H200 with TensorRT
8.6.0: the whole of a two-layer attention model is one such layer, `{ForeignNode[l0_ln1_mean...final]}`. An island of
two nodes inside it builds, and the fault stays.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from harness.diagnosis.results import Evidence, EvidenceKind
from harness.model import Model
from harness.text import names, shorten
from harness.worker.protocol import TENSORRT_RTX, EngineFacts, LayerInfo

LONGEST_NAME = 80

REMEDY = (
    "build a strongly typed model, in which Casts hold the island (typed.onnx), with TensorRT 10 or later, or keep the "
    "whole subgraph in FP32"
)
"""What to do about an island inside a compiled region."""


class Relaxation(StrEnum):
    """What was given up so that an engine could be built, as the worker names it."""

    NEIGHBOURS_FREE = "neighbours_free"
    PREFERRED = "preferred"


_RELAXED = {
    Relaxation.NEIGHBOURS_FREE: "the layers around the island are not pinned",
    Relaxation.PREFERRED: "precisions are preferred, not obeyed",
}


@dataclass(frozen=True)
class Relaxed:
    """An engine that was built with less than was asked for.

    Args:
        what: what was given up.
        unseen: no layer is seen to compute in the precision under test. Where the builder may choose, it may choose
            FP32 throughout, and then an island cures nothing.
    """

    what: Relaxation
    unseen: bool = False

    def __str__(self) -> str:
        words = _RELAXED[self.what]
        return (
            f"{words}, and no layer is seen to compute in the precision under test" if self.unseen else words
        )


def relaxed_note(relaxed: Relaxed | None) -> str:
    """What to add to a statement on an engine that was built relaxed; empty if it was not."""
    return "" if relaxed is None else f" (built with less than was asked for: {relaxed})"


def relaxed_in(facts: EngineFacts) -> Relaxed | None:
    """What was given up so that an engine could be built; None if nothing was."""
    name = facts.realised.relaxed
    return None if not name else Relaxed(Relaxation(name), unseen=not facts.realised.asserted)


def tactics_of(facts: EngineFacts) -> tuple[tuple[str, str], ...]:
    """Name and tactic of each engine layer, where the candidate reports them."""
    return tuple((layer.name, layer.tactic) for layer in facts.layers if layer.tactic is not None)


def layers_by_node(facts: EngineFacts) -> dict[str, tuple[str, ...]]:
    """By ONNX node, the names of the engine layers that compute it."""
    found: dict[str, tuple[str, ...]] = {}
    for layer in facts.layers:
        for node in layer.onnx_nodes:
            found[node] = (*found.get(node, ()), layer.name)
    return found


def compiled_regions(facts: EngineFacts, model: Model) -> dict[str, tuple[str, ...]]:
    """By compiled region of a weakly typed engine, the nodes that may be inside; empty where precisions are known."""
    known = facts.realised.islands_ok is not None or not facts.realised.opaque
    if known or facts.typing == "strong":
        return {}
    visible = {node for layer in facts.layers if layer.precision is not None for node in layer.onnx_nodes}
    hidden = [node.name for node in model.nodes if node.name not in visible]
    found = {layer.name: _within(layer, hidden, model) for layer in facts.layers if layer.is_region}
    return {name: nodes for name, nodes in found.items() if nodes}


def regions_around(regions: Mapping[str, Sequence[str]], island: Collection[str]) -> tuple[str, ...]:
    """Names of the compiled regions in which nodes of `island` lie."""
    return tuple(name for name, nodes in regions.items() if not set(island).isdisjoint(nodes))


def region_evidence(regions: Collection[str], release: str | None) -> Evidence:
    """What it means that an island lies in `regions`, and what to do about it."""
    listed = names((shorten(name, LONGEST_NAME) for name in regions), separator=" and ")
    version = f"TensorRT {release}" if release else "TensorRT"
    text = (
        f"the island lies in {listed}, which {version} compiles as a whole: this release does not obey precisions "
        f"inside, and does not report whether the island stayed in FP32; {REMEDY}"
    )
    return Evidence.of(EvidenceKind.REGIONS, text, regions=tuple(regions))


def _within(layer: LayerInfo, nodes: Sequence[str], model: Model) -> tuple[str, ...]:
    """Those of `nodes` that lie between the first and the last node of a region, which are all that it names."""
    places = {node.name: node.index for node in model.nodes}
    ends = [places[name] for name in layer.onnx_nodes if name in places]
    if len(ends) < 2:
        return tuple(nodes)
    return tuple(name for name in nodes if min(ends) <= places[name] <= max(ends))


NO_TF32 = "NVIDIA_TF32_OVERRIDE=0"
"""In the environment of a process: its libraries compute FP32 as FP32."""


@dataclass(frozen=True)
class ReleaseInUse:
    """What the engine under test was built with, as far as its recipes depend on it; nothing is known of an emulator.

    Args:
        product: TENSORRT or TENSORRT_RTX; None is TensorRT where there is a version.
        version: its full version; None if there is no release.
        typing: `weak` or `strong`, as the engine was built; None takes what the release has first.
    """

    product: str | None = None
    version: str | None = None
    typing: str | None = None

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version as numbers."""
        return tuple(int(each) for each in re.findall(r"\d+", self.version or ""))

    @property
    def rtx(self) -> bool:
        """Whether it is TensorRT for RTX."""
        return self.product == TENSORRT_RTX

    @property
    def strong(self) -> bool:
        """Whether the graph alone says the precision, and flags are refused or unknown."""
        always = self.rtx or (self.version is not None and self.numbers >= (11,))
        return always or self.typing == "strong"

    @property
    def takes_typed(self) -> bool:
        """Whether it can be made to take the precision from the graph."""
        return self.rtx or self.version is None or self.numbers >= (10,)

    @property
    def obeys_no_tf32(self) -> bool:
        """Whether TF32 can be turned off: of TensorRT for RTX before 1.5, no context can be made then."""
        return not self.rtx or self.numbers >= (1, 5)

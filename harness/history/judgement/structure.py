"""What changed in the engines themselves, joined by ONNX node: fusions, precisions, tactics, Q/DQ.

Layer names differ between releases, and the layers of one release differ between rebuilds: of 11 layers of a small
convolutional network, 4 to 5 get another tactic each time it is built (TensorRT 8.6 on an H200). So a change counts
only if all builds of a release agree on something that no build of the other one has.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from operator import itemgetter
from typing import TypeVar

from harness.history.store import BuiltLayer
from harness.history.types import BuildCount, DriftVerdict
from harness.text import names

QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_WIDTHS = {"fp4": 4, "int4": 4, "fp8": 8, "int8": 8, "bf16": 16, "fp16": 16, "tf32": 19, "fp32": 32}
K = TypeVar("K")
_MOST_NODES = 6  # of a fusion that are named in a text


class ChangeKind(StrEnum):
    """What kind of change it is, the ones that matter most first."""

    QDQ_UNFUSED = "convolution no longer fused with its add"
    QDQ_LEFT = "Q/DQ left over"
    CASTS_FUSED = "Casts fused away"
    CASTS_KEPT = "Casts no longer fused away"
    PRECISION = "precision"
    FUSION_VANISHED = "fusion vanished"
    FUSION_APPEARED = "fusion appeared"
    FUSION_CHANGED = "fusion changed"
    TACTIC = "tactic"


@dataclass(frozen=True)
class StructureChange:
    """One change between the engines of two releases.

    Args:
        change: what kind.
        nodes: the ONNX nodes concerned.
        old: how it was.
        new: how it is.
        old_builds: builds of the older release that have it so.
        new_builds: likewise of the newer release.
    """

    change: ChangeKind
    nodes: tuple[str, ...]
    old: str
    new: str
    old_builds: BuildCount
    new_builds: BuildCount

    @property
    def loses_precision(self) -> bool:
        """Whether nodes are computed in a wider precision than before: what was asked for is no longer done."""
        if self.change is not ChangeKind.PRECISION:
            return False  # Casts that were fused away have a kind of their own
        return self.old in _WIDTHS and self.new in _WIDTHS and _WIDTHS[self.old] < _WIDTHS[self.new]


@dataclass
class _Engine:
    """One build's layers, by node."""

    groups: set[tuple[str, ...]] = field(default_factory=set)
    precision: dict[str, str] = field(default_factory=dict)
    tactic: dict[tuple[str, ...], str] = field(default_factory=dict)
    standalone: set[tuple[str, ...]] = field(default_factory=set)
    ops: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, layers: Sequence[BuiltLayer]) -> _Engine:
        engine = cls()
        for layer in layers:
            nodes = tuple(sorted(layer.onnx_nodes))
            if not nodes:
                continue
            engine.ops |= dict(zip(layer.onnx_nodes, layer.ops, strict=False))
            engine.groups.add(nodes)
            if all(engine.ops.get(node) in QUANTIZERS for node in nodes):
                engine.standalone.add(nodes)
            for node in nodes:
                if layer.precision:
                    engine.precision.setdefault(node, layer.precision)
            if layer.tactic:
                engine.tactic.setdefault(nodes, layer.tactic)
        return engine

    def fused_with(self, node: str) -> frozenset[str]:
        """The nodes that are computed in a layer together with `node`."""
        return frozenset(other for group in self.groups if node in group for other in group)


def compare_structures(
    old: Sequence[Sequence[BuiltLayer]], new: Sequence[Sequence[BuiltLayer]]
) -> list[StructureChange]:
    """The changes between the builds of two releases, those that matter most first.

    Args:
        old: the layers of the older release's engines, one a build.
        new: likewise of the newer release.
    """
    before, after = [_Engine.of(layers) for layers in old], [_Engine.of(layers) for layers in new]
    if not before or not after:
        return []
    changes = [*_quantized(before, after), *_precisions(before, after)]
    changes += [*_fusions(before, after), *_tactics(before, after)]
    order = list(ChangeKind)
    return sorted(changes, key=lambda change: order.index(change.change))


def judge_compiled(
    old_built: bool, new_built: bool, changes: Sequence[StructureChange]
) -> DriftVerdict | None:
    """The verdict of what was compiled and not run; None if neither release builds it."""
    if not new_built:
        return DriftVerdict.NEW_FAILURE if old_built else None
    if not old_built:
        return DriftVerdict.FIXED
    worse = any(change.loses_precision or change.change is ChangeKind.CASTS_FUSED for change in changes)
    return DriftVerdict.REGRESSED if worse else DriftVerdict.SAME


def precisions_by_node(layers: Sequence[BuiltLayer]) -> dict[str, str]:
    """The precision that each ONNX node of one build is computed in, as far as its layers say."""
    return _Engine.of(layers).precision


def _fusions(old: list[_Engine], new: list[_Engine]) -> Iterator[StructureChange]:
    before, after = _counted(old), _counted(new)
    gone = {group for group in before if group not in after}
    come = {group for group in after if group not in before}
    explained = set()
    for group in sorted(group for group in come if after.always(group)):
        overlapping = sorted(other for other in gone if set(other) & set(group))
        fused = [other for other in overlapping if len(other) > 1]
        if len(group) > 1:
            kind = ChangeKind.FUSION_CHANGED if fused else ChangeKind.FUSION_APPEARED
            explained |= set(overlapping)
            yield _fusion(kind, group, overlapping, [group], before, after)
    for group in sorted(group for group in gone - explained if before.always(group)):
        if len(group) > 1:
            overlapping = sorted(other for other in after if set(other) & set(group))
            yield _fusion(ChangeKind.FUSION_VANISHED, group, [group], overlapping, before, after)


def _fusion(
    kind: ChangeKind,
    nodes: tuple[str, ...],
    old: Sequence[tuple[str, ...]],
    new: Sequence[tuple[str, ...]],
    before: _Counts,
    after: _Counts,
) -> StructureChange:
    return StructureChange(
        kind, nodes, _spell(old) or "apart", _spell(new) or "apart", before.of(old), after.of(new)
    )


def _precisions(old: list[_Engine], new: list[_Engine]) -> Iterator[StructureChange]:
    """Nodes that are computed in another precision; those that changed alike are one change."""
    alike: dict[tuple[ChangeKind, str, str, BuildCount, BuildCount], list[str]] = {}
    precisions = ([engine.precision for engine in engines] for engines in (old, new))
    for node, was, now, old_builds, new_builds in _differing(*precisions):
        kind = ChangeKind.PRECISION
        if _casts_fused(node, was, now, new):
            kind = ChangeKind.CASTS_FUSED
        elif _casts_fused(node, now, was, old):
            kind = ChangeKind.CASTS_KEPT
        alike.setdefault((kind, was, now, old_builds, new_builds), []).append(node)
    for (kind, was, now, old_builds, new_builds), nodes in alike.items():
        yield StructureChange(kind, tuple(nodes), was, now, old_builds, new_builds)


def _differing(
    old: Sequence[Mapping[K, str]], new: Sequence[Mapping[K, str]]
) -> Iterator[tuple[K, str, str, BuildCount, BuildCount]]:
    """What no build of one release has as a build of the other one: how it was and is, and in how many builds."""
    before, after = _values_by_key(old), _values_by_key(new)
    for key in before:
        if key in after and not set(before[key]) & set(after[key]):
            was, now = before[key], after[key]
            counts = BuildCount(was.total(), len(old)), BuildCount(now.total(), len(new))
            yield key, " or ".join(sorted(was)), " or ".join(sorted(now)), *counts


def _values_by_key(builds: Sequence[Mapping[K, str]]) -> dict[K, Counter[str]]:
    found: defaultdict[K, Counter[str]] = defaultdict(Counter)
    for build in builds:
        for key, value in build.items():
            found[key][value] += 1
    return found


def _casts_fused(node: str, kept: str, fused: str, engines: Sequence[_Engine]) -> bool:
    """Whether a node is FP32 in other builds, as Casts in the model ask, and lower in `engines`, beside such a Cast."""
    if kept not in ("fp32", "tf32") or fused not in ("fp16", "bf16"):
        return False
    return all(
        engine.ops.get(node) != "Cast"
        and any(engine.ops.get(other) == "Cast" for other in engine.fused_with(node))
        for engine in engines
    )


def _tactics(old: list[_Engine], new: list[_Engine]) -> Iterator[StructureChange]:
    """Another tactic for the same fusion; the tactics of another fusion are not comparable."""
    tactics = ([engine.tactic for engine in engines] for engines in (old, new))
    for group, was, now, old_builds, new_builds in sorted(_differing(*tactics), key=itemgetter(0)):
        yield StructureChange(ChangeKind.TACTIC, group, was, now, old_builds, new_builds)


def _quantized(old: list[_Engine], new: list[_Engine]) -> Iterator[StructureChange]:
    """For models with Q/DQ nodes: lost fusions of convolution and add, and quantizers that stand alone."""
    ops = {node: op for engine in (*old, *new) for node, op in engine.ops.items()}
    if not QUANTIZERS & set(ops.values()):
        return
    for node in sorted(name for name, op in ops.items() if op in _CONVOLUTIONS):
        before = [_adds(engine, node, ops) for engine in old]
        after = [_adds(engine, node, ops) for engine in new]
        if all(before) and not any(after):
            add = sorted(before[0])[0]
            yield StructureChange(
                ChangeKind.QDQ_UNFUSED, (node, add), f"{node} + {add}", "apart", _all(old), _all(new)
            )
    seen = {group for engine in old for group in engine.standalone}
    left = set.intersection(*(engine.standalone for engine in new)) - seen
    for group in sorted(left):
        was = next((sorted(engine.fused_with(group[0]) - set(group)) for engine in old), [])
        old_text = f"fused with {', '.join(was[:_MOST_NODES])}" if was else "no layer of its own"
        yield StructureChange(
            ChangeKind.QDQ_LEFT, group, old_text, "a layer of its own", _all(old), _all(new)
        )


def _adds(engine: _Engine, node: str, ops: Mapping[str, str]) -> set[str]:
    return {other for other in engine.fused_with(node) if ops.get(other) == "Add"}


@dataclass(frozen=True)
class _Counts:
    """In how many builds each fusion was seen."""

    seen: Counter[tuple[str, ...]]
    builds: int

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return iter(self.seen)

    def __contains__(self, group: object) -> bool:
        return group in self.seen

    def always(self, group: tuple[str, ...]) -> bool:
        """Whether every build has it."""
        return self.seen[group] == self.builds

    def of(self, groups: Sequence[tuple[str, ...]]) -> BuildCount:
        """The most builds that one of `groups` was seen in."""
        return BuildCount(max((self.seen[group] for group in groups), default=self.builds), self.builds)


def _counted(engines: list[_Engine]) -> _Counts:
    return _Counts(Counter(group for engine in engines for group in engine.groups), len(engines))


def _all(engines: list[_Engine]) -> BuildCount:
    return BuildCount(len(engines), len(engines))


def _spell(groups: Sequence[tuple[str, ...]]) -> str:
    return "; ".join(names(group, _MOST_NODES, separator=" + ", last=" + ") for group in groups)

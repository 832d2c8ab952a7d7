"""Which tensors of two graphs stand for each other: by their name, and where tools renamed them, by their position.

A conversion (to FP16, to Q/DQ, by a simplifier) keeps most names, and renames or fuses the rest. A tensor is paired

- by name, where both graphs have it, with shapes that agree, and, for a name that is only a number, the same operator
  (of another one that only a QuantizeLinear reads, what is dequantised is paired: the clipping may be a folded ReLU);
- by position, where its node has the same operator as one of the other graph and reads tensors that are paired
  already, forwards from the inputs, or is read by such, backwards from the outputs. Of several alike the first takes
  the first. Casts, Q/DQ nodes and Identity are looked through: what they write stands for what they read.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from harness.errors import UsageError
from harness.model.model import Model, NodeInfo, TensorInfo
from harness.text import names

LOOKED_THROUGH = frozenset({"Cast", "Identity", "Dropout", "QuantizeLinear", "DequantizeLinear"})
_NUMBERED = re.compile(r"\d+|(val|tmp)_\d+|onnx::\w+_\d+")


class PairedBy(StrEnum):
    """How two tensors were found to stand for each other."""

    NAME = "name"
    POSITION = "position"


@dataclass(frozen=True)
class Pairing:
    """Which tensors of a reference stand for those of a model.

    Args:
        inputs: for each input of the reference, the input of the model that feeds it.
        tensors: for each tensor of the model that nodes write and that has a counterpart, its name there and how it
            was found.
    """

    inputs: Mapping[str, str]
    tensors: Mapping[str, tuple[str, PairedBy]]


def pair_tensors(model: Model, reference: Model) -> Pairing:
    """Pair the tensors of `model` with those of `reference`.

    Raises:
        UsageError: the inputs or the outputs of the two do not fit each other.
    """
    inputs = _matched(model.inputs, reference.inputs, "input", model, reference)
    outputs = _matched(model.outputs, reference.outputs, "output", model, reference)
    work = _Matching(_Graph(model), _Graph(reference))
    work.known = {mine: its for its, mine in inputs.items()}
    work.by_name()
    for its, mine in outputs.items():
        work.pair(mine, its, PairedBy.NAME if mine == its else PairedBy.POSITION)
    work.forwards()
    work.backwards()
    work.forwards()
    work.look_through()
    return Pairing(inputs, work.found)


def _matched(
    mine: Sequence[TensorInfo], its: Sequence[TensorInfo], what: str, model: Model, reference: Model
) -> dict[str, str]:
    """The inputs or outputs of the reference with the model's: by name, and what is left in its order."""
    shared = {info.name for info in mine} & {info.name for info in its}
    left = [info.name for info in mine if info.name not in shared]
    other = [info.name for info in its if info.name not in shared]
    if len(other) > len(left) if what == "input" else not shared and len(other) != len(left):
        raise UsageError(
            f"the {what}s do not fit: {names(info.name for info in its)} in {reference.name}, "
            f"{names(info.name for info in mine)} in {model.name}",
            hint="compare two versions of one model",
        )
    pairs = zip(other, left, strict=False) if what == "input" or len(other) == len(left) else ()
    return {**{name: name for name in sorted(shared)}, **dict(pairs)}


class _Graph:
    """The nodes of a model that compute from its inputs, seen as positions."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.fed = frozenset(model.feed_names())
        self.data = set(self.fed)
        self.nodes: list[NodeInfo] = []
        self.readers: dict[str, set[str]] = defaultdict(set)
        for node in model.nodes:
            for name in node.inputs:
                self.readers[name].add(node.op)
            if self.data.intersection(node.inputs) and node.op not in ("Shape", "Size"):
                self.data.update(node.outputs)
                self.nodes.append(node)

    def source(self, tensor: str) -> str:
        """What `tensor` stands for: itself, or what is behind Casts and Q/DQ nodes."""
        while True:
            node = self.model.producer(tensor)
            if node is None or node.op not in LOOKED_THROUGH or node.inputs[0] not in self.data:
                return tensor
            tensor = node.inputs[0]

    def reads(self, node: NodeInfo) -> tuple[str, ...]:
        """The tensors from the inputs that a node computes with, behind Casts and Q/DQ nodes."""
        return tuple(self.source(name) for name in node.inputs if name in self.data)


@dataclass
class _Matching:
    mine: _Graph
    its: _Graph
    known: dict[str, str] = field(default_factory=dict)
    """By tensor of the model that no Cast or Q/DQ node writes: its counterpart."""
    found: dict[str, tuple[str, PairedBy]] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    folded: set[str] = field(default_factory=set)
    """Tensors of the model that become their counterpart only by being quantised."""

    def pair(self, mine: str, its: str, how: PairedBy) -> None:
        """Pair two tensors, unless one of them has a counterpart already or their shapes differ."""
        if mine in self.found or not self._alike(mine, its):
            return
        self.found[mine] = its, how
        source, other = self.mine.source(mine), self.its.source(its)
        if source not in self.known and other not in self.taken:
            self.known[source] = other
            self.taken.add(other)

    def by_name(self) -> None:
        written = {name for node in self.its.nodes for name in node.outputs}
        for node in self.mine.nodes:
            for name in node.outputs:
                other = self.its.model.producer(name)
                if name not in written or other is None:
                    continue
                if other.op == node.op or not _NUMBERED.fullmatch(name):
                    self.pair(name, name, PairedBy.NAME)
                if other.op != node.op and self.mine.readers[name] == {"QuantizeLinear"}:
                    self.folded.add(name)

    def forwards(self) -> None:
        """Pair nodes of one operator that read the same; of several alike in their order."""
        waiting: dict[tuple[str, tuple[str, ...]], list[NodeInfo]] = defaultdict(list)
        for node in self.its.nodes:
            if node.op not in LOOKED_THROUGH and self.taken.isdisjoint(node.outputs):
                waiting[node.op, self.its.reads(node)].append(node)
        for node in self.mine.nodes:
            if node.op in LOOKED_THROUGH or any(name in self.known for name in node.outputs):
                continue
            reads = tuple(self.known.get(name, "") for name in self.mine.reads(node))
            alike = waiting.get((node.op, reads), [])
            if alike and all(reads):
                for mine, its in zip(node.outputs, alike.pop(0).outputs, strict=False):
                    self.pair(mine, its, PairedBy.POSITION)

    def backwards(self) -> None:
        """Pair what two paired nodes of one operator read."""
        for node in reversed(self.mine.nodes):
            if node.op in LOOKED_THROUGH or not node.outputs or node.outputs[0] not in self.known:
                continue
            other = self.its.model.producer(self.known[node.outputs[0]])
            if other is None or other.op != node.op:
                continue
            reads, others = self.mine.reads(node), self.its.reads(other)
            if len(reads) == len(others):
                for mine, its in zip(reads, others, strict=True):
                    if mine not in self.known and its not in self.taken:
                        self.pair(mine, its, PairedBy.POSITION)

    def look_through(self) -> None:
        """Let what Casts and Q/DQ nodes write stand for what they read, and the other way round."""
        for node in self.mine.nodes:
            if node.op in LOOKED_THROUGH:
                source = self.mine.source(node.outputs[0])
                if source in self.known:
                    self.pair(node.outputs[0], self.known[source], PairedBy.POSITION)
        for source, other in self.known.items():
            if source not in self.mine.fed:
                self.found.setdefault(source, (other, PairedBy.POSITION))
        for name in self.folded:
            self.found.pop(name, None)

    def _alike(self, mine: str, its: str) -> bool:
        """Whether the shapes of two tensors agree, as far as they are known."""
        one, other = self.mine.model.shapes.get(mine), self.its.model.shapes.get(its)
        if one is None or other is None:
            return True
        return len(one) == len(other) and all(
            a == b for a, b in zip(one, other, strict=True) if isinstance(a, int) and isinstance(b, int)
        )

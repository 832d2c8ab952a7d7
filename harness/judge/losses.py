"""What is lost, and where: by roundings that a model brings itself, and behind outputs that pass."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from harness.comparison import DEFAULT_GATES, GATE_OF, GateResult
from harness.tensors import UNLESS_DEFAULT, Precision
from harness.text import beyond, magnitude, number, plural

COSTLY = 0.1
"""Saturation is a warning where the outputs err by more than this nrmse, or by nobody knows how much."""
MOST_NAMED = 3


class Loss(StrEnum):
    """What became of a tensor."""

    OVERFLOW = "overflow"
    """Finite numbers became infinite or NaN."""
    LOST = "lost"
    """It errs by as much as it says."""


class Hiding(StrEnum):
    """Why an output does not show it."""

    ADDED = "added"
    """What it is added to is larger."""
    CHOSEN = "chosen"
    """Other values are chosen in its place."""
    SATURATED = "saturated"
    """A function that saturates, or compares, reads it."""
    SCALED = "scaled"
    """It is multiplied by numbers near 0."""
    TAKEN = "taken"
    """Other elements of it are read, or it lies beside larger ones."""
    UNUSED = "unused"
    """Outputs that are no floats are computed from it, and no other ones."""


@dataclass(frozen=True)
class HiddenFault:
    """A tensor that is lost behind outputs that pass; everything that it was computed from is not.

    Args:
        tensor: its name.
        node: the node that writes it.
        op: the operator of that node.
        loss: what became of it.
        elements: how many elements are not finite.
        size: of how many.
        nrmse: its error; infinite for an overflow.
        overflows: FP32 values themselves do not fit there; else a divisor became 0, or infinities were read.
        reaches: the largest magnitude of the reference.
        by: the node behind which nothing is seen of it; None if no float output is computed from it.
        by_op: the operator of that node.
        how: why nothing is seen of it there.
        times: how many times larger what that node writes is; None where that says nothing.
    """

    tensor: str
    node: str
    op: str
    loss: Loss
    elements: int
    size: int
    nrmse: float
    overflows: bool
    reaches: float
    by: str | None
    by_op: str
    how: Hiding
    times: float | None = None


@dataclass(frozen=True)
class Selection:
    """A node that chooses by numbers which are nearly equal, and chooses otherwise for their rounding.

    What it chose is judged as a choice, and all that follows by what the reference computes from the same choice.

    Args:
        node: its name.
        op: its operator: TopK, ArgMax, ArgMin, NonZero or NonMaxSuppression.
        tensor: the integers that say what it chose.
        changed: how many of them are others.
        size: of how many.
        others: how many of what it chose the reference does not choose; 0 where only the order changes.
        gap: how far apart, in the reference, the numbers are that changed places, at most; None where nothing says so.
        steps: the same in steps of the precision at the size of the numbers, near 0 at that of all of them.
    """

    node: str
    op: str
    tensor: str
    changed: int
    size: int
    others: int
    gap: float | None
    steps: float | None

    def joined(self, other: Selection) -> Selection:
        """This one and that of another sample."""
        counts = (self.changed + other.changed, self.size + other.size, self.others + other.others)
        gaps = [each.gap for each in (self, other) if each.gap is not None]
        steps = [each.steps for each in (self, other) if each.steps is not None]
        return Selection(
            self.node, self.op, self.tensor, *counts, max(gaps, default=None), max(steps, default=None)
        )

    def describe(self, precision: Precision) -> str:
        """`the order of near ties changes at top (TopK): the set is the same; gaps are below one FP16 step`."""
        where = f"{self.node} ({self.op})"
        if self.others == self.changed:
            text = f"near ties change {self.changed} of {plural(self.size, 'answer')} of {where}"
        else:
            kept = (
                "the set is the same"
                if not self.others
                else f"{self.others} of {self.size} picks {'differs' if self.others == 1 else 'differ'}"
            )
            text = f"the order of near ties changes at {where}; {kept}"
        if self.steps is None:
            return text
        step = f"{str(precision).upper()} step"
        gaps = f"below one {step}" if self.steps < 1 else f"at most {magnitude(self.steps)} {step}s"
        return f"{text}; gaps are {gaps}"


def over_samples(selections: Iterable[Selection]) -> tuple[Selection, ...]:
    """What each node chooses otherwise, over all samples: the largest gap of any, and the counts of all."""
    nodes: dict[str, Selection] = {}
    for each in selections:
        known = nodes.get(each.node)
        nodes[each.node] = each if known is None else known.joined(each)
    return tuple(nodes.values())


@dataclass(frozen=True)
class Overflow:
    """A float16 or bfloat16 tensor of the model that FP32 values do not fit into.

    Args:
        tensor: its name.
        node: the node that writes it.
        op: the operator of that node.
        dtype: `float16` or `bfloat16`.
        elements: how many elements overflow, over all samples.
        size: of how many.
        largest: the largest magnitude that was to be rounded.
    """

    tensor: str
    node: str
    op: str
    dtype: str
    elements: int
    size: int
    largest: float

    def __str__(self) -> str:
        return (
            f"{self.node} ({self.op}) overflows the model's own {self.dtype}: {self.elements} of {self.size} elements "
            f"of {self.tensor}, which reach {number(self.largest)}"
        )


@dataclass(frozen=True)
class Saturation:
    """A QuantizeLinear whose scale is too small for what it reads.

    Args:
        node: its name.
        share: of its elements, over all samples, those beyond what it can keep.
        scale: its scale; the smallest of several.
        largest: the largest magnitude that it reads.
        slice: the channel that it is about: `[:, 3]`; None where it is all of it.
    """

    node: str
    share: float
    scale: float
    largest: float
    slice: str | None = field(default=None, metadata=UNLESS_DEFAULT)

    @property
    def what(self) -> str:
        """What it does, without who: `saturates 12% of its elements: …`."""
        of = "its elements" if self.slice is None else f"the elements of {self.slice}"
        reach = f"its scale is {number(self.scale)}, and they reach {number(self.largest)}"
        return f"saturates {self.share:.0%} of {of}: {reach}"

    def __str__(self) -> str:
        return f"{self.node} (QuantizeLinear) {self.what}"


@dataclass(frozen=True)
class Vanishing:
    """A QuantizeLinear whose scale is too large for a part of what it reads.

    Args:
        node: its name.
        part: the tensor that was joined in what it reads, or the channel: `scores`, `[:, 3]`.
        elements: how many elements of that it makes 0 of, in the sample with the most.
        size: of how many that are not 0.
        scale: its scale there; the smallest of several.
        largest: the largest magnitude of that part.
    """

    node: str
    part: str
    elements: int
    size: int
    scale: float
    largest: float

    @property
    def what(self) -> str:
        """What it does, without who: `rounds 1600 of 1600 elements of scores to 0: …`."""
        reach = f"its scale is {number(self.scale)}, and they reach {number(self.largest)}"
        return f"rounds {self.elements} of {plural(self.size, 'element')} of {self.part} to 0: {reach}"

    def __str__(self) -> str:
        return f"{self.node} (QuantizeLinear) {self.what}"


@dataclass(frozen=True)
class OwnRoundings:
    """What a model's own roundings do to it on the inputs of a case.

    Args:
        overflows: where the model's float16 or bfloat16 overflows, in topological order.
        saturations: the QuantizeLinear nodes that saturate too much, the worst first.
        vanishings: what QuantizeLinear nodes make 0 of, the most elements first.
        cost: nrmse of the worst output over the same model without any of these roundings; None if unknown.
        dtypes: those of the model's own float16 and bfloat16 tensors.
        quantized: whether it has Q/DQ pairs.
        output: the output that the roundings make wrong, beyond the gates of their own type; None if there is none.
        gate: the gate that fails there.
        within: where that is of all of it, the gate of a slice that stands out.
    """

    overflows: tuple[Overflow, ...] = ()
    saturations: tuple[Saturation, ...] = ()
    vanishings: tuple[Vanishing, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    cost: float | None = None
    dtypes: tuple[str, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    quantized: bool = field(default=False, metadata=UNLESS_DEFAULT)
    output: str | None = field(default=None, metadata=UNLESS_DEFAULT)
    gate: GateResult | None = field(default=None, metadata=UNLESS_DEFAULT)
    within: GateResult | None = field(default=None, metadata=UNLESS_DEFAULT)

    @property
    def subject(self) -> str:
        """What brings the roundings, in words."""
        kinds = [f"own {dtype}" for dtype in GATE_OF if dtype in self.dtypes]
        return " and ".join([*kinds, *(["Q/DQ nodes"] if self.quantized else [])])

    @property
    def makes(self) -> str:
        """The verb that follows `subject`."""
        return "make" if self.quantized or len(self.dtypes) > 1 else "makes"

    @property
    def price(self) -> str:
        """What the roundings cost, in words; empty where that is not known."""
        if self.cost is None:
            return ""
        verb = "cost" if self.quantized or len(self.dtypes) > 1 else "costs"
        return f"the model's {self.subject} {verb} nrmse {number(self.cost)} against the same model without"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know: overflow and saturation that the outputs notice, and a cost beyond the gates."""
        found = []
        ruined = self.cost is None or self.gate is not None
        if ruined or not (self.cost or 0.0) <= min(map(_bound_of, self.dtypes), default=math.inf):
            found += _first(self.overflows, "overflow")
        if ruined or not (self.cost or 0.0) <= COSTLY:
            found += _first(self.vanishings, "QuantizeLinear")
            found += _first(self.saturations, "QuantizeLinear")
        return tuple(found)

    def without(self, nodes: Collection[str]) -> OwnRoundings:
        """These, but for the overflows at `nodes`, which are told as origins."""
        return replace(self, overflows=tuple(each for each in self.overflows if each.node not in nodes))

    @property
    def fault(self) -> str:
        """Why the file itself is at fault, in words; empty where it is not."""
        return f"the file itself: {self.harm}" if self.harm else ""

    @property
    def harm(self) -> str:
        """What the roundings do to an output beyond the gates of their type, in words; empty where they do not."""
        if self.gate is None:
            return ""
        gate, other = self.gate, " against the same model without"
        text = beyond(gate.subject, gate.value, gate.limit, other)
        within = "" if self.within is None else self.within.as_worst
        return f"its {self.subject} {self.makes} {self.output} wrong: {text}{within}"

    @property
    def gist(self) -> OwnRoundings:
        """What `fault` and `price` are made from."""
        return replace(self, overflows=(), saturations=(), vanishings=())

    @property
    def facts(self) -> OwnRoundings | None:
        """What a result keeps of it; None for a model without roundings of its own."""
        known = self.cost is not None or self.overflows or self.saturations or self.vanishings
        return self if known else None

    @property
    def precision(self) -> Precision:
        """The precision whose gates hold for what the roundings cost; of several, the coarsest."""
        kinds = [*(GATE_OF[dtype] for dtype in self.dtypes), *([Precision.INT8] if self.quantized else [])]
        return max(kinds, key=lambda kind: DEFAULT_GATES[kind].bound, default=Precision.FP32)


def _bound_of(dtype: str) -> float:
    """The default bound on nrmse at the precision that is called `dtype` in ONNX."""
    return DEFAULT_GATES[GATE_OF[dtype]].bound


def _first(found: Sequence[Overflow | Saturation | Vanishing], noun: str) -> list[str]:
    shown = [str(each) for each in found[:MOST_NAMED]]
    more = len(found) - len(shown)
    if more:  # several may be channels of one node, or tensors that are joined there
        nodes = plural(len({each.node for each in found}), f"{noun} node")
        shown[-1] += f"; and {more} more, of {nodes} in all"
    return shown

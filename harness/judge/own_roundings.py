"""What the roundings that a model brings itself do to it: its float16 and bfloat16 tensors, and its Q/DQ pairs.

The reference keeps them, as an engine of that file does, so that no run can fail because of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from harness.backends import Reference
from harness.comparison import DEFAULT_GATES, GATE_OF, compare
from harness.errors import ModelError
from harness.judge.reference import Bench, Tensors
from harness.model import bounds, spread
from harness.tensors import NEVER, Precision
from harness.text import number, plural

COPIES = 4  # a tensor, its rounded self, and what is computed of them
SATURATED = 0.01
"""A QuantizeLinear that saturates more than this share of its elements is reported,"""
COSTLY = 0.1
"""with a warning where the outputs err by more than this nrmse, or by nobody knows how much."""
MOST_NAMED = 3


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
    """

    node: str
    share: float
    scale: float
    largest: float

    def __str__(self) -> str:
        return (
            f"{self.node} (QuantizeLinear) saturates {self.share:.0%} of its elements: its scale is "
            f"{number(self.scale)}, and they reach {number(self.largest)}"
        )


@dataclass(frozen=True)
class OwnRoundings:
    """What a model's own roundings do to it on the inputs of a case.

    Args:
        overflows: where the model's float16 or bfloat16 overflows, in topological order.
        saturations: the QuantizeLinear nodes that saturate too much, the worst first.
        cost: nrmse of the worst output over the same model without any of these roundings; None if unknown.
        dtypes: those of the model's own float16 and bfloat16 tensors.
        quantized: whether it has Q/DQ pairs.
        unrounded: the outputs of the model without these roundings, sample by sample; empty if unknown.
    """

    overflows: tuple[Overflow, ...] = ()
    saturations: tuple[Saturation, ...] = ()
    cost: float | None = None
    dtypes: frozenset[str] = field(default=frozenset(), metadata=NEVER)
    quantized: bool = field(default=False, metadata=NEVER)
    unrounded: tuple[Tensors, ...] = field(default=(), repr=False, metadata=NEVER)

    @property
    def subject(self) -> str:
        """What brings the roundings, in words."""
        kinds = [f"own {dtype}" for dtype in GATE_OF if dtype in self.dtypes]
        return " and ".join([*kinds, *(["Q/DQ nodes"] if self.quantized else [])])

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
        if self.cost is None or not self.cost <= min(map(_bound_of, self.dtypes), default=np.inf):
            found += _first(self.overflows, "overflow")
        if self.cost is None or not self.cost <= COSTLY:
            found += _first(self.saturations, "QuantizeLinear")
        if self.cost is not None and not self.cost <= self._bound:
            found.append(f"{self.price}: the reference has that error, too, and no run fails for it")
        return tuple(found)

    @property
    def facts(self) -> OwnRoundings | None:
        """What a result keeps of it, without tensors; None for a model without roundings of its own."""
        known = self.cost is not None or self.overflows or self.saturations
        return replace(self, unrounded=()) if known else None

    @property
    def _bound(self) -> float:
        quantized = [DEFAULT_GATES[Precision.INT8].bound] if self.quantized else []
        return max([*map(_bound_of, self.dtypes), *quantized], default=np.inf)


def _bound_of(dtype: str) -> float:
    """The default bound on nrmse at the precision that is called `dtype` in ONNX."""
    return DEFAULT_GATES[GATE_OF[dtype]].bound


def look_at_own_roundings(bench: Bench) -> OwnRoundings:
    """What the roundings of the case's own model do on its inputs; nothing is run for a model without any.

    Raises:
        UnsoundReferenceError: see `expected` of the workbench.
    """
    model = bench.model
    if not model.own_tensors and not model.quantized:
        return OwnRoundings()
    cost, unrounded = _cost(bench)
    dtypes = frozenset(model.dtypes[name] for name in model.own_tensors)
    return OwnRoundings(find_overflows(bench), _saturations(bench), cost, dtypes, model.quantized, unrounded)


def find_overflows(bench: Bench) -> tuple[Overflow, ...]:
    """Where FP32 values do not fit into the model's own float16 or bfloat16."""
    before = bench.model.own_tensors
    elements, sizes, largest = dict.fromkeys(before, 0), dict.fromkeys(before, 0), dict.fromkeys(before, 0.0)
    for feeds in bench.feeds:
        for chunk in bench.tensor_chunks(tuple(before), copies=COPIES):
            found = bench.itself.run(feeds, tuple(dict.fromkeys([*chunk, *(before[name] for name in chunk)])))
            for name in chunk:
                wide, own = found[before[name]], found[name]
                finite = np.isfinite(wide)
                elements[name] += int(np.count_nonzero(finite & np.isinf(own)))
                sizes[name] += own.size
                largest[name] = max(largest[name], float(np.max(np.abs(wide), where=finite, initial=0.0)))
    overflows = []
    for name in (name for name, over in elements.items() if over):
        node = bench.model.producer(name)
        assert node is not None, "it is written by a node"
        dtype = bench.model.dtypes[name]
        overflows.append(
            Overflow(name, node.name, node.op, dtype, elements[name], sizes[name], largest[name])
        )
    return tuple(overflows)


def _cost(bench: Bench) -> tuple[float | None, tuple[Tensors, ...]]:
    """The nrmse of the worst output over the model without its own roundings, and that model's outputs."""
    expected = bench.own_outputs
    if bench.model.unrounded is None:
        return None, ()
    reference = Reference(bench.model, own=False)
    try:
        unrounded = [reference.run(feeds) for feeds in bench.feeds]
    except ModelError:  # an operator that ONNX Runtime has for the types of the model only
        return None, ()
    finally:
        reference.close()
    errors = [
        compare(as_float32(outputs[name]), as_float32(value), dtype="float32").nrmse
        for outputs, without in zip(expected, unrounded, strict=True)
        for name, value in without.items()
        if value.dtype.kind == "f" and value.size
    ]
    return max(errors, default=None), tuple(unrounded)


def as_float32(values: np.ndarray) -> np.ndarray:
    """Float `values` as float32; others as they are."""
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def _saturations(bench: Bench) -> tuple[Saturation, ...]:
    model = bench.model
    quantizers = {
        node.output[0]: node for node in model.inferred.graph.node if node.op_type == "QuantizeLinear"
    }
    beyond, sizes = dict.fromkeys(quantizers, 0), dict.fromkeys(quantizers, 0)
    largest, scales = dict.fromkeys(quantizers, 0.0), dict.fromkeys(quantizers, 0.0)
    for feeds in bench.feeds:
        for chunk in bench.tensor_chunks(tuple(quantizers), copies=8 * COPIES):
            nodes = [quantizers[name] for name in chunk]
            found = _read(bench, feeds, [name for node in nodes for name in node.input if name])
            for name, node in zip(chunk, nodes, strict=True):
                values = [found[read] if read else None for read in node.input]
                assert values[0] is not None
                assert values[1] is not None
                beyond[name] += _beyond(node, values)
                sizes[name] += values[0].size
                largest[name] = max(largest[name], float(np.abs(values[0]).max(initial=0.0)))
                scales[name] = float(np.abs(values[1]).min(initial=np.inf))
    found_all = [
        Saturation(quantizers[name].name, beyond[name] / sizes[name], scales[name], largest[name])
        for name in quantizers
        if sizes[name] and beyond[name] > SATURATED * sizes[name]
    ]
    return tuple(sorted(found_all, key=lambda each: -each.share))


def _read(bench: Bench, feeds: Tensors, names: Iterable[str]) -> dict[str, np.ndarray]:
    return bench.itself.run(feeds, tuple(dict.fromkeys(names)))


def _beyond(node: onnx.NodeProto, values: Sequence[np.ndarray | None]) -> int:
    """How many elements a QuantizeLinear cannot keep; negative ones that it clips at 0, as a ReLU does, count not."""
    x, scale = np.asarray(values[0], dtype=np.float32), np.asarray(values[1], dtype=np.float32)
    zero = values[2] if len(values) > 2 else None
    least, most = bounds(node, zero)
    offset = np.zeros(1, np.float32) if zero is None else zero.astype(np.float32)
    with np.errstate(all="ignore"):
        steps = np.rint(x / spread(node, scale, x)) + spread(node, offset, x)
    relu = bool((offset == least).all())
    return int(np.count_nonzero(steps > most)) + (0 if relu else int(np.count_nonzero(steps < least)))


def _first(found: Sequence[Overflow | Saturation], noun: str) -> list[str]:
    shown = [str(each) for each in found[:MOST_NAMED]]
    more = len(found) - len(shown)
    if more:
        shown[-1] += f"; and {plural(more, f'more {noun}', f'more {noun} nodes')}"
    return shown

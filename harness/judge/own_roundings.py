"""What the roundings that a model brings itself do to it: its float16 and bfloat16 tensors, and its Q/DQ pairs.

The reference keeps them, as an engine of that file does, so that no run can fail because of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx

from harness.backends import Computed, Reference, Tensors
from harness.comparison import DEFAULT_GATES, GateResult, compare_tensors
from harness.errors import ModelError
from harness.judge.losses import Overflow, OwnRoundings, Saturation, Vanishing
from harness.judge.outputs import TensorGates
from harness.judge.reference import Bench
from harness.judge.results import OutputResult, stands_out
from harness.model import Part, bounds, spread, with_larger_steps
from harness.tensors import Precision

COPIES = 4  # a tensor, its rounded self, and what is computed of them
SATURATED = 0.01
"""A QuantizeLinear that saturates more than this share of its elements is reported,"""
SATURATED_SLICE = 0.5
"""or, on a channel, more than this one."""
VANISHED = 0.99
"""And one that makes 0 of at least this share of the elements of a channel, or of a tensor that was joined in it."""
SEEN = 0.01
"""From this share of zeros on, it is looked at which of the joined tensors they belong to."""


def look_at_own_roundings(bench: Bench) -> OwnRoundings:
    """What the roundings of the case's own model do on its inputs; nothing is run for a model without any.

    Raises:
        UnsoundReferenceError: see `expected` of the workbench.
    """
    model = bench.model
    if not model.own_tensors and not model.quantized:
        return OwnRoundings()
    expected, unrounded = bench.own_outputs, _unrounded(bench)
    dtypes = tuple(sorted({model.dtypes[name] for name in model.own_tensors}))
    saturations, vanishings = _quantizers(bench)
    found = OwnRoundings(
        find_overflows(bench), saturations, vanishings, _cost(expected, unrounded), dtypes, model.quantized
    )
    return _judged(bench, found, unrounded)


def _judged(bench: Bench, own: OwnRoundings, unrounded: Sequence[Tensors]) -> OwnRoundings:
    """`own` with the output that is worst, if it is beyond the gates of the type that rounds.

    Args:
        unrounded: the outputs of the model without these roundings, sample by sample; empty if unknown.
    """
    gates = TensorGates(bench.model, (), own.precision)
    failing: list[tuple[OutputResult, GateResult]] = []
    for sample, without in enumerate(unrounded):
        exact = {name: as_float32(value) for name, value in without.items() if value.dtype.kind == "f"}
        actual = {name: as_float32(bench.own_outputs[sample][name]) for name in exact}
        for output in gates.judge(sample, exact, Computed(actual), None, bench.parts(sample)):
            if output.metrics.count and output.metrics.shape is None:
                failing += [(output, gate) for gate in output.gates if not gate.passed]
    if not failing:
        return own
    worst, gate = max(failing, key=lambda each: (each[1].slice is None, each[1].excess))
    return replace(own, output=worst.tensor, gate=gate, within=stands_out(worst, gate))


def find_flips(bench: Bench, precision: Precision) -> tuple[Tensors, ...]:
    """What flipped steps cost a quantised file: by sample and output, its error if it quantises slightly larger values.

    Values near the middle of two steps take the other one as soon as a precision rounds in front of a QuantizeLinear,
    and what follows flips more. So the file is run again with all that its QuantizeLinear nodes read larger by half a
    step of the precision, which overflows nothing and drops nothing. Empty for other files, and at FP8 and INT8, whose
    gates expect steps as large as those of the file. Of integers it is the difference: steps, where they hold steps.
    """
    none: tuple[Tensors, ...] = ({},) * len(bench.feeds)
    if not bench.model.quantized or precision in (Precision.FP8, Precision.INT8):
        return none
    moved = Reference(with_larger_steps(bench.model, DEFAULT_GATES[precision].step / 2))
    try:
        found = [moved.run(feeds) for feeds in bench.feeds]
    except ModelError:  # an operator that ONNX Runtime has for the types of the model only
        return none
    finally:
        moved.close()
    return tuple(
        {
            name: _finite(value.astype(np.float32) - own[name].astype(np.float32))
            for name, value in outputs.items()
            if value.dtype.kind in "fiu" and value.shape == own[name].shape
        }
        for outputs, own in zip(found, bench.own_outputs, strict=True)
    )


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.float32(0))


def find_overflows(bench: Bench) -> tuple[Overflow, ...]:
    """Where FP32 values do not fit into the model's own float16 or bfloat16."""
    before = bench.model.own_tensors
    elements, sizes, largest = dict.fromkeys(before, 0), dict.fromkeys(before, 0), dict.fromkeys(before, 0.0)
    for feeds in bench.feeds:
        for chunk in bench.memory.chunks(tuple(before), copies=COPIES):
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


def is_sound_without(bench: Bench) -> bool:
    """Whether the model's outputs are finite without the roundings that it brings itself."""
    found = [value for outputs in _unrounded(bench) for value in outputs.values()]
    return bool(found) and all(
        np.isfinite(as_float32(value)).all() for value in found if value.dtype.kind == "f"
    )


def _unrounded(bench: Bench) -> list[Tensors]:
    """The outputs of the model without its own roundings, sample by sample; none where that cannot be run."""
    if bench.model.unrounded is None:
        return []
    reference = Reference(bench.model, own=False)
    try:
        return [reference.run(feeds) for feeds in bench.feeds]
    except ModelError:  # an operator that ONNX Runtime has for the types of the model only
        return []
    finally:
        reference.close()


def _cost(expected: Sequence[Tensors], unrounded: Sequence[Tensors]) -> float | None:
    """The nrmse of the worst output over the model without its own roundings; None if unknown."""
    errors = (
        compare_tensors(as_float32(outputs[name]), as_float32(value), dtype="float32").nrmse
        for outputs, without in zip(expected, unrounded, strict=False)
        for name, value in without.items()
        if value.dtype.kind == "f" and value.size
    )
    return max(errors, default=None)


def as_float32(values: np.ndarray) -> np.ndarray:
    """Float `values` as float32; others as they are."""
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def _quantizers(bench: Bench) -> tuple[tuple[Saturation, ...], tuple[Vanishing, ...]]:
    """What QuantizeLinear nodes cannot keep, and what they make 0 of, over all samples: the worst first."""
    model = bench.model
    quantizers = {
        node.output[0]: node for node in model.inferred.graph.node if node.op_type == "QuantizeLinear"
    }
    watched = {name: _Watched(node) for name, node in quantizers.items()}
    for sample, feeds in enumerate(bench.feeds):
        for chunk in bench.memory.chunks(tuple(quantizers), copies=8 * COPIES):
            nodes = [quantizers[name] for name in chunk]
            found = _read(bench, feeds, [name for node in nodes for name in node.input if name])
            for name, node in zip(chunk, nodes, strict=True):
                watched[name].see([found[read] if read else None for read in node.input])
                if watched[name].vanish:
                    watched[name].name_parts(bench.parts_of(node.input[0], sample))
    saturated = [each for node in watched.values() for each in node.saturations()]
    vanished = [each for node in watched.values() for each in node.vanishings()]
    return (
        tuple(sorted(saturated, key=lambda each: -each.share)),
        tuple(sorted(vanished, key=lambda each: -each.elements)),
    )


class _Watched:
    """One QuantizeLinear: what it saturates and what it makes 0 of, by channel and over all samples."""

    def __init__(self, node: onnx.NodeProto) -> None:
        self.node = node
        self.axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        self.beyond = self.size = 0
        self.largest = self.scale = 0.0
        self.channels: np.ndarray | None = None
        """By channel: elements, those beyond, those that are not 0, those that become 0, the largest magnitude."""
        self.vanish = False
        self.parts: dict[str, Vanishing] = {}
        self._values: np.ndarray = np.zeros(0)
        self._zeros: np.ndarray = np.zeros(0)
        self._rank = 0

    def see(self, values: Sequence[np.ndarray | None]) -> None:
        """Add one sample of what the node reads."""
        x, scale = np.asarray(values[0], dtype=np.float32), np.asarray(values[1], dtype=np.float32)
        beyond, zeros = _lost(self.node, x, scale, values[2] if len(values) > 2 else None)
        self.beyond += int(np.count_nonzero(beyond))
        self.size += x.size
        self.largest = max(self.largest, float(np.abs(x).max(initial=0.0)))
        self.scale = float(np.abs(scale).min(initial=np.inf))
        self._values, self._zeros, self._rank = x, zeros, x.ndim
        if x.ndim < 2 or not x.size:
            some, none = int(np.count_nonzero(x)), int(np.count_nonzero(zeros))
            self.vanish = none > 0 and none >= VANISHED * some
            return
        if self.channels is None and scale.size == 1:  # channels may be the last axis, as in a transformer
            self.axis = max((1, x.ndim - 1), key=lambda axis: _vanishing_share(zeros, axis))
        axis = self.axis % x.ndim
        own, over, small = (
            np.moveaxis(each, axis, 0).reshape(x.shape[axis], -1) for each in (x, beyond, zeros)
        )
        counts = np.stack([np.full(len(own), own.shape[1]), over.sum(1), (own != 0).sum(1), small.sum(1)], 1)
        largest = np.abs(own).max(1)[:, None]
        found = np.concatenate([counts, largest], axis=1)
        if self.channels is not None and len(self.channels) == len(found):
            found[:, :4] += self.channels[:, :4]
            found[:, 4] = np.maximum(found[:, 4], self.channels[:, 4])
        self.channels = found
        # What was joined need not lie along the channels: any share of zeros may be all of a part.
        self.vanish = int(np.count_nonzero(zeros)) >= SEEN * x.size

    def name_parts(self, parts: Sequence[Part]) -> None:
        """See which of the tensors that were joined in what it reads became 0."""
        for part in parts:
            x, zeros = part.of(self._values), part.of(self._zeros)
            some, none = int(np.count_nonzero(x)), int(np.count_nonzero(zeros))
            if none and none >= VANISHED * some:
                largest = float(np.abs(x).max())
                self.parts[part.tensor] = Vanishing(
                    self.node.name, part.tensor, none, some, self.scale, largest
                )

    def saturations(self) -> Iterator[Saturation]:
        """Too much of it all, or of a channel."""
        if self.size and self.beyond > SATURATED * self.size:
            yield Saturation(self.node.name, self.beyond / self.size, self.scale, self.largest)
            return
        for index, (count, over, _, _, largest) in enumerate([] if self.channels is None else self.channels):
            if over > SATURATED_SLICE * count:
                yield Saturation(
                    self.node.name, float(over / count), self.scale, float(largest), self._slice(index)
                )

    def vanishings(self) -> Iterator[Vanishing]:
        """Tensors that were joined in what it reads, or else channels of it."""
        if self.parts:
            yield from self.parts.values()
            return
        for index, (_, _, some, none, largest) in enumerate([] if self.channels is None else self.channels):
            if none and none >= VANISHED * some:
                place = self._slice(index)
                yield Vanishing(self.node.name, place, int(none), int(some), self.scale, float(largest))

    def _slice(self, index: int) -> str:
        places = [str(index) if axis == self.axis % self._rank else ":" for axis in range(self._rank)]
        return f"[{', '.join(places)}]"


def _vanishing_share(zeros: np.ndarray, axis: int) -> float:
    """The share of the slices of an axis that become 0."""
    others = tuple(place for place in range(zeros.ndim) if place != axis)
    return float((zeros.mean(axis=others) >= VANISHED).mean())


def _read(bench: Bench, feeds: Tensors, names: Iterable[str]) -> dict[str, np.ndarray]:
    return bench.itself.run(feeds, tuple(dict.fromkeys(names)))


def _lost(
    node: onnx.NodeProto, x: np.ndarray, scale: np.ndarray, zero: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Which elements a QuantizeLinear cannot keep, and of which it makes 0.

    Negative ones that it clips at 0, as a ReLU does, are kept.
    """
    least, most = bounds(node, zero)
    offset = np.zeros(1, np.float32) if zero is None else zero.astype(np.float32)
    with np.errstate(all="ignore"):
        whole = np.rint(x / spread(node, scale, x))
        steps = whole + spread(node, offset, x)
    relu = bool((offset == least).all())
    beyond = steps > most
    return beyond if relu else beyond | (steps < least), (whole == 0) & (x != 0)

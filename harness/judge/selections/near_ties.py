"""What a candidate chose otherwise, if near ties are all that it is, and what the reference makes of its choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from harness.backends import Computed, Reference, Tensors
from harness.comparison import DEFAULT_GATES
from harness.judge.losses import Selection
from harness.judge.outputs import TensorGates
from harness.judge.selections.choosers import Chooser, choosers
from harness.model import Model, round_array
from harness.tensors import Precision

MOST_OTHERS = 0.1
"""The share of what is chosen that near ties may change."""
_STEPS = {Precision.BF16: 2.0**-7, Precision.FP8: 2.0**-3, Precision.INT8: 2.0**-7, Precision.FP32: 2.0**-23}


class Choosing(Protocol):
    """A reference that is told what nodes choose."""

    def run(self, feeds: Tensors, tensors: Sequence[str]) -> dict[str, np.ndarray]:
        """`tensors`; `feeds` holds what is chosen, too."""


Tell = Callable[[tuple[str, ...]], Choosing]
"""The reference, told what these tensors hold."""


@dataclass(frozen=True)
class Chosen:
    """What a candidate chose, and the reference that chooses the same.

    Args:
        selections: the nodes that chose otherwise.
        reference: what is given the choices.
        outputs: names of the model's outputs.
        given: the choices by tensor.
    """

    selections: tuple[Selection, ...]
    reference: Choosing
    outputs: tuple[str, ...]
    given: Mapping[str, np.ndarray]

    def run(self, feeds: Tensors, tensors: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """`tensors`, by default the outputs of the model, as the reference computes them from the choices."""
        wanted = self.outputs if tensors is None else tensors
        computed = [name for name in wanted if name not in self.given]
        found = self.reference.run({**feeds, **self.given}, computed) if computed else {}
        return {name: self.given[name] if name in self.given else found[name] for name in wanted}


def follow_choices(
    model: Model,
    reference: Reference,
    precision: Precision,
    feeds: Tensors,
    computed: Computed,
    tell: Tell,
) -> Chosen | None:
    """What a candidate chose otherwise, if near ties are all that it is.

    Args:
        model: the model.
        reference: what the candidate is compared with.
        precision: whose gates hold for the scores.
        feeds: the inputs of one sample.
        computed: the candidate's tensors: of each chooser the integers, and the scores.
        tell: makes the reference that is told what was chosen.

    Returns:
        None where it chose the same, or where its scores are wrong.
    """
    gates = TensorGates(model, (), precision)
    given: dict[str, np.ndarray] = {}
    found: list[Selection] = []
    current: Chosen | None = None
    for chooser in choosers(model):
        other = computed.tensors.get(chooser.tensor)
        if other is None or any(name not in computed.tensors for name in chooser.scores):
            return None
        run = reference.run if current is None else current.run
        exact = run(feeds, [chooser.tensor, *chooser.scores])
        own = exact[chooser.tensor]
        if other.shape == own.shape and np.array_equal(other, own):
            continue
        scores = {name: exact[name].astype(np.float32) for name in chooser.scores}
        low = Computed({name: computed.tensors[name].astype(np.float32) for name in chooser.scores})
        if not all(output.passed for output in gates.judge(0, scores, low, None)):
            return None
        selection = _selection(chooser, precision, other, own, scores)
        far = selection.gap is not None and selection.gap > may_change_places(precision, *scores.values())
        if far or selection.others > max(1, MOST_OTHERS * selection.size):
            return None  # where most answers change, the scores have lost what tells them apart
        given[chooser.tensor] = other
        found.append(selection)
        outputs = tuple(info.name for info in model.outputs)
        current = Chosen(tuple(found), tell(tuple(given)), outputs, dict(given))
    return current


def may_change_places(precision: Precision, *scores: np.ndarray) -> float:
    """How far apart scores may be that change places: each may err by the bound."""
    largest = max(float(np.sqrt(np.mean(np.square(each, dtype=np.float64)))) for each in scores)
    return 2 * DEFAULT_GATES[precision].bound * largest


def _selection(
    chooser: Chooser,
    precision: Precision,
    other: np.ndarray,
    own: np.ndarray,
    scores: Mapping[str, np.ndarray],
) -> Selection:
    op, gap, steps, size = chooser.node.op, None, None, own.size
    values = [scores[name] for name in chooser.scores]
    if op in ("TopK", "ArgMax", "ArgMin") and other.shape == own.shape:
        gap, steps = _gaps(chooser, precision, other, own, values[0])
        changed = int(np.count_nonzero(other != own))
        others = changed if op != "TopK" else _others(other, own, chooser.axis)
    else:
        size = len(_rows(op, own))
        rows, theirs = ({tuple(row) for row in _rows(op, each)} for each in (own, other))
        others = max(
            len(theirs - rows), len(rows - theirs)
        )  # where fewer are chosen, what is left out counts
        changed = len(rows ^ theirs) or int(np.count_nonzero(other != own))
        if op == "NonZero" and len(values) == 2:
            left, right = np.broadcast_arrays(*values)
            places = tuple(np.array(sorted(rows ^ theirs), np.int64).reshape(-1, left.ndim).T)
            apart = np.abs(left[places].astype(np.float64) - right[places])
            if apart.size:
                gap, steps = float(apart.max()), float((apart / _step(left, precision)[places]).max())
    return Selection(chooser.node.name, op, chooser.tensor, changed, size, others, gap, steps)


def _others(other: np.ndarray, own: np.ndarray, axis: int) -> int:
    """How many of what one TopK chose the other one did not, over all rows."""
    rows = (np.moveaxis(each, axis, -1).reshape(-1, each.shape[axis]) for each in (other, own))
    return sum(np.setdiff1d(mine, theirs).size for mine, theirs in zip(*rows, strict=True))


def _rows(op: str, chosen: np.ndarray) -> np.ndarray:
    return chosen.T if op == "NonZero" else chosen


def _gaps(
    chooser: Chooser, precision: Precision, other: np.ndarray, own: np.ndarray, values: np.ndarray
) -> tuple[float, float]:
    """How far apart the reference's scores are where places changed: the largest distance, and the most steps."""
    if other.ndim < values.ndim:  # ArgMax without keepdims
        other, own = (np.expand_dims(each, chooser.axis) for each in (other, own))
    mine, theirs = (np.take_along_axis(values, each, axis=chooser.axis) for each in (own, other))
    apart = np.abs(mine.astype(np.float64) - theirs)
    steps = np.take_along_axis(_step(values, precision), own, axis=chooser.axis)
    return float(apart.max(initial=0.0)), float((apart / steps).max(initial=0.0))


def _step(values: np.ndarray, precision: Precision) -> np.ndarray:
    """The distance from each value to the next one of the precision, near 0 from the root mean square of all.

    A score near 0 is what is left of larger numbers, and its own steps are finer than its error can be.
    """
    exact = np.abs(round_array(values.astype(np.float32), precision)).astype(np.float64)
    size = float(np.sqrt(np.mean(np.square(exact)))) if exact.size else 0.0
    sizes = np.maximum(exact, max(size, 2.0**-14))
    steps: np.ndarray = _STEPS.get(precision, 2.0**-10) * 2.0 ** np.floor(np.log2(sizes))
    return steps

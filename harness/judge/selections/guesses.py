"""What an engine has chosen for near ties, guessed from its outputs: of what it computes inside, integers are not seen.

A guess is the reference's own choice, with places exchanged among scores that are nearly equal, so that the rows of the
outputs fit best. It proves nothing: what counts is whether the reference, told this choice, gives the engine's outputs
within all gates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from harness.backends import Reference, Tensors
from harness.judge.selections.choosers import Chooser, choosers
from harness.judge.selections.near_ties import Tell, may_change_places
from harness.model import Model
from harness.tensors import Precision

WINDOW = 64
"""Ranks by which near ties change places, at most."""
Given = Callable[[np.ndarray], Mapping[str, np.ndarray]]


def guess_choices(
    model: Model, reference: Reference, precision: Precision, feeds: Tensors, outputs: Tensors, tell: Tell
) -> dict[str, np.ndarray]:
    """By tensor, what an engine with these outputs has chosen; empty where that cannot be guessed.

    Args:
        model: the model.
        reference: what the engine is compared with.
        precision: whose gates hold for the scores.
        feeds: the inputs of one sample.
        outputs: of the engine.
        tell: makes the reference that is told what was chosen.
    """
    every = choosers(model)
    hidden = [chooser for chooser in every if chooser.tensor not in outputs]
    known = {chooser.tensor: outputs[chooser.tensor] for chooser in every if chooser.tensor in outputs}
    if not hidden:
        return known
    if len(hidden) > 1 or hidden[0].node.op not in ("TopK", "ArgMax", "ArgMin"):
        return {}
    (chooser,) = hidden
    found = reference.run(feeds, [chooser.tensor, chooser.scores[0]])
    own, scores = found[chooser.tensor], found[chooser.scores[0]].astype(np.float64)
    rows = own.shape[: chooser.axis % own.ndim + 1] if chooser.node.op == "TopK" else own.shape
    fitting = {
        name: value.astype(np.float64)
        for name, value in outputs.items()
        if value.dtype.kind == "f" and value.shape[: len(rows)] == rows
    }
    if not fitting or not own.ndim or own.shape != rows:
        return {}
    told = tell((chooser.tensor,))

    def given(choice: np.ndarray) -> Mapping[str, np.ndarray]:
        return told.run({**feeds, chooser.tensor: choice.astype(own.dtype)}, list(fitting))

    near = may_change_places(precision, scores)
    guess = (_best if chooser.node.op == "TopK" else _winner)(chooser, scores, own, near, fitting, given)
    return {} if guess is None else {**known, chooser.tensor: guess.astype(own.dtype)}


def _winner(
    chooser: Chooser, scores: np.ndarray, own: np.ndarray, near: float, fitting: Tensors, given: Given
) -> np.ndarray | None:
    """For each place the first or the second of an ArgMax, whichever the outputs fit."""
    if scores.shape[chooser.axis] < 2:
        return None
    signed = scores if chooser.node.op == "ArgMax" else -scores
    order = np.argsort(-signed, axis=chooser.axis, kind="stable")
    best, second = (np.take(order, place, axis=chooser.axis).reshape(own.shape) for place in (0, 1))
    top = -np.sort(-signed, axis=chooser.axis)
    gap = (np.take(top, 0, axis=chooser.axis) - np.take(top, 1, axis=chooser.axis)).reshape(own.shape)
    other = np.where((gap <= near) & (best == own), second, own)
    first, changed = _misfits(fitting, given(own), own.ndim), _misfits(fitting, given(other), own.ndim)
    return np.where(changed < first, other, own)


def _best(
    chooser: Chooser, scores: np.ndarray, own: np.ndarray, near: float, fitting: Tensors, given: Given
) -> np.ndarray | None:
    """A TopK with places exchanged among near ties, those just beyond the last one among them."""
    axis = chooser.axis % scores.ndim
    if axis != scores.ndim - 1:
        return None
    order = np.argsort(-scores, axis=-1, kind="stable")
    count, length = own.shape[-1], scores.shape[-1]
    if not np.array_equal(order[..., :count], own):
        return None  # the smallest, or in no order
    ranked = np.take_along_axis(scores, order, -1)
    beyond = int((ranked[..., count - 1 : count] - ranked[..., count:] <= near).sum(-1).max(initial=0))
    beyond = min(beyond, length - count, count)
    rows = given(own)
    if beyond:
        more = given(order[..., beyond : beyond + count])
        rows = {
            name: np.concatenate([rows[name], np.take(more[name], range(count - beyond, count), axis)], axis)
            for name in rows
        }
    picked = np.empty(own.shape, np.int64)
    for place in np.ndindex(own.shape[:-1]):
        engine = [(fitting[name][place], rows[name][place]) for name in fitting]
        picked[place] = _matched(ranked[place][: count + beyond], near, engine, count)
    return np.take_along_axis(order, picked, -1)


def _matched(
    ranked: np.ndarray, near: float, pairs: Sequence[tuple[np.ndarray, np.ndarray]], count: int
) -> np.ndarray:
    """For each place the rank whose rows fit the engine's best: the best fit of all first, each rank once."""
    places, offsets = np.arange(count), np.arange(-WINDOW, WINDOW + 1)
    ranks = places[:, None] + offsets
    valid = (ranks >= 0) & (ranks < len(ranked))
    inside = np.clip(ranks, 0, len(ranked) - 1)
    valid &= np.abs(ranked[inside] - ranked[places][:, None]) <= near
    costs = np.where(valid, 0.0, np.inf)
    for engine, reference in pairs:
        flat, others = engine.reshape(count, -1), reference.reshape(len(ranked), -1).astype(np.float64)
        scale = float(np.sqrt(np.mean(np.square(others)))) or 1.0
        for column in range(len(offsets)):
            costs[:, column] += np.square((flat - others[inside[:, column]]) / scale).sum(axis=1)
    taken, free = np.full(count, -1), np.ones(len(ranked), bool)
    for entry in np.argsort(costs, axis=None, kind="stable"):
        place, column = divmod(int(entry), len(offsets))
        if not np.isfinite(costs[place, column]):
            break
        if taken[place] < 0 and free[ranks[place, column]]:
            taken[place], free[ranks[place, column]] = ranks[place, column], False
    left = taken < 0
    taken[left] = np.flatnonzero(free)[: int(left.sum())]
    return taken


def _misfits(engine: Tensors, reference: Mapping[str, np.ndarray], rank: int) -> np.ndarray:
    """By place, how far the rows of all outputs are from the reference's."""
    total: np.ndarray = np.zeros(())
    for name, value in engine.items():
        apart = np.square(value - reference[name].astype(np.float64))
        scale = float(np.mean(np.square(reference[name], dtype=np.float64))) or 1.0
        total = total + apart.reshape(*value.shape[:rank], -1).sum(axis=-1) / scale
    return total

"""The kinds of fault, each a few nodes that are harmless or not by one constant.

Every gadget reads a tensor within ±1 and returns one of its shape. It is exact in FP32 either way; planted, it
leaves FP16's range or its resolution. What must go back to FP32 follows from the construction: a tensor is rounded
by the node that writes it and by the nodes that read it, so both sides of each tensor that FP16 cannot hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from cases.models.graph import Graph
from cases.models.layers import conv, naive_softmax, rms_norm

Clause = tuple[frozenset[str], ...]
"""Alternatives: sets of nodes of which one must go back to FP32."""

LARGE = 2.0**20  # times anything of the order of 1: beyond FP16's largest number, within BF16's and FP32's
MILD = 2.0**2


class Kind(StrEnum):
    """What goes wrong."""

    SQUARES = "squares"
    EXP = "exp"
    LOGITS = "logits"
    GROWTH = "growth"
    EPSILON = "epsilon"
    CANCELLATION = "cancellation"
    ACCUMULATED = "accumulated"
    PAIR = "pair"
    BEHIND = "behind"


@dataclass(frozen=True)
class Site:
    """What a gadget wrote.

    Args:
        tensor: the tensor that it returns.
        clauses: for each fault in it, the sets of nodes of which one must go back to FP32.
    """

    tensor: str
    clauses: tuple[Clause, ...]


@dataclass(frozen=True)
class Place:
    """Where a gadget is to be written.

    Args:
        graph: the graph.
        tensor: the tensor that it reads, within ±1.
        name: beginning of its nodes' names.
        shape: shape of the tensor.
        planted: whether it has the fault.
        strength: of an accumulated error: the binary logarithm of the number whose resolution it has.
    """

    graph: Graph
    tensor: str
    name: str
    shape: tuple[int, ...]
    planted: bool
    strength: float = 0.0

    def node(self, op: str, name: str, *inputs: str, **attributes: object) -> str:
        """Write a node of this gadget."""
        return self.graph.node(op, f"{self.name}_{name}", *inputs, **attributes)

    def constant(self, name: str, value: object, otherwise: object | None = None) -> str:
        """Write a constant of this gadget; `otherwise` is the harmless value."""
        chosen = value if self.planted or otherwise is None else otherwise
        return self.graph.constant(f"{self.name}_{name}", chosen)

    def site(self, tensor: str, *alternatives: tuple[str, ...]) -> Site:
        """This gadget with one fault, which going back to FP32 with one of `alternatives` cures."""
        nodes = tuple(frozenset(f"{self.name}_{node}" for node in names) for names in alternatives)
        return Site(tensor, (nodes,) if self.planted else ())


def squares(place: Place) -> Site:
    """The squares of an RMSNorm overflow, so that it returns zeros."""
    scaled = place.node("Mul", "scale", place.tensor, place.constant("factor", 20000.0, 1.0))
    normed = rms_norm(place.graph, scaled, place.name)
    return place.site(normed, ("sq", "mean", "addeps", "sqrt"))


def exp(place: Place) -> Site:
    """A softmax without its maximum subtracted: exp overflows."""
    weights = naive_softmax(place.graph, place.tensor, place.name, shift=14.0 if place.planted else 0.0)
    spread = place.node("Mul", "spread", weights, place.constant("width", place.shape[-1]))
    return place.site(spread, ("exp", "sum", "softmax"))


def logits(place: Place) -> Site:
    """A matrix product, or a convolution, whose sums overflow before they are scaled back."""
    half = place.constant("gain", LARGE**0.5, MILD**0.5)
    raised = place.node("Mul", "raise", place.tensor, half)
    gain = (LARGE if place.planted else MILD) ** 0.5
    name, width = f"{place.name}_product", place.shape[1 if len(place.shape) == 4 else -1]
    if len(place.shape) == 4:
        product = conv(place.graph, raised, name, width, width, kernel=1, gain=gain, bias=False)
    else:
        weight = place.graph.weight(f"{name}_weight", (width, width), gain * width**-0.5)
        product = place.graph.node("MatMul", name, raised, weight)
    unscaled = place.node("Mul", "unscale", product, place.constant("undo", 1 / LARGE, 1 / MILD))
    return place.site(unscaled, ("product", "unscale"))


def growth(place: Place) -> Site:
    """A residual sum of two tensors that are in range, and are not together."""
    stream = place.node("Mul", "stream", place.tensor, place.constant("factor", 60000.0, 4.0))
    total = place.node("Add", "total", stream, stream)
    shrunk = place.node("Div", "shrink", total, place.constant("divisor", 60000.0, 4.0))
    return place.site(shrunk, ("total", "shrink"))


def epsilon(place: Place) -> Site:
    """A norm over rows that are all padding: its epsilon underflows, and zero is divided by zero."""
    rows = np.arange(place.shape[-2]).reshape(-1, 1) % 2
    masked = place.node("Mul", "mask", place.tensor, place.constant("padding", rows))
    normed = rms_norm(place.graph, masked, place.name, epsilon=1e-10 if place.planted else 1e-3)
    return place.site(normed, ("addeps", "sqrt"))


def cancellation(place: Place) -> Site:
    """A large number is added and taken away again; what was added to it does not survive."""
    amount = place.constant("amount", 3001.0, 1.0)
    shifted = place.node("Add", "shift", place.tensor, amount)
    return place.site(place.node("Sub", "unshift", shifted, amount), ("shift", "unshift"))


def accumulated(place: Place) -> Site:
    """As `cancellation`, but a little of the resolution is lost at every place: no single one is to blame."""
    amount = place.constant("amount", 2.0 ** math.ceil(place.strength), 0.25)
    gain = 2.0 ** (math.ceil(place.strength) - place.strength)  # of 1 to 2: between the powers of two
    raised = place.node("Mul", "raise", place.tensor, place.constant("gain", gain, 1.0))
    unshifted = place.node("Sub", "unshift", place.node("Add", "shift", raised, amount), amount)
    return Site(place.node("Div", "lower", unshifted, place.constant("undo", gain, 1.0)), ())


def pair(place: Place) -> Site:
    """The smaller of two equal tensors, each computed out of range: it is wrong only if both overflow."""
    size = place.node("Abs", "size", place.tensor)
    factor = place.constant("factor", 1 / LARGE, 1 / MILD)  # FP16 holds 2**-20, but not 2**20
    paths = [
        place.node("Mul", f"{path}_down", place.node("Div", f"{path}_up", size, factor), factor)
        for path in ("left", "right")
    ]
    smaller = place.node("Min", "smaller", *paths)
    return place.site(smaller, ("left_up", "left_down"), ("right_up", "right_down"))


def behind(place: Place) -> Site:
    """Squares that overflow, and behind them a product that overflows only when they do not."""
    first = squares(place)
    second = logits(Place(place.graph, first.tensor, f"{place.name}_next", place.shape, place.planted))
    return Site(second.tensor, first.clauses + second.clauses)


GADGETS: dict[Kind, Callable[[Place], Site]] = {
    Kind.SQUARES: squares,
    Kind.EXP: exp,
    Kind.LOGITS: logits,
    Kind.GROWTH: growth,
    Kind.EPSILON: epsilon,
    Kind.CANCELLATION: cancellation,
    Kind.ACCUMULATED: accumulated,
    Kind.PAIR: pair,
    Kind.BEHIND: behind,
}

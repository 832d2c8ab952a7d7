"""What is lost behind outputs that pass: its kinds, and why nothing is seen of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
    """No output is computed from it."""


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
        by: the node behind which nothing is seen of it; None if no output is computed from it.
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

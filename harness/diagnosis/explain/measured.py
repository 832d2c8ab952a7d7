"""What is measured of a node, to explain why it goes wrong: what its tensors hold, and what rounding does."""

from __future__ import annotations

from dataclasses import dataclass

from harness.diagnosis.context import TensorRange


@dataclass(frozen=True)
class Decision:
    """What a node reads that decides by differences: a comparison, ArgMax, a Cast to integers.

    Args:
        node: its name.
        op: its operator type.
        changed: share of its answers that change when the node before it is lowered alone; 0.5 means every second.
        magnitude: typical magnitude of what it decides by, where its answers change.
        apart: how far apart the values are that it tells apart there; None where that means nothing.
        whole: whether what it decides by are whole numbers.
    """

    node: str
    op: str
    changed: float
    magnitude: float
    apart: float | None = None
    whole: bool = False


@dataclass(frozen=True)
class MeasuredNode:
    """A node with what its float tensors hold.

    Args:
        op: operator type.
        inputs: the float inputs, in the order of the node; constants included.
        output: the float output.
        introduced: nrmse of the node lowered alone; None where it was not measured.
        usual: the median of that over all nodes; None likewise.
        exponent: of a Pow with a constant exponent.
        observed: nrmse of the output of an engine that errs here although the emulator does not.
        inside: why it goes wrong in its body, with the place; None for a node without one, or if nothing stands out.
        decision: what decides by what it writes, if answers change.
        alone: with this node alone lowered, the worst gate of the model's outputs as a multiple of its limit.
        partial: the largest partial sum of a product that is not finite lowered alone; None of others.
    """

    op: str
    inputs: tuple[TensorRange, ...]
    output: TensorRange
    introduced: float | None = None
    usual: float | None = None
    exponent: float | None = None
    observed: float | None = None
    inside: str | None = None
    decision: Decision | None = None
    alone: float | None = None
    partial: float | None = None

    @property
    def squares(self) -> bool:
        """Whether the node squares its input."""
        same = len(self.inputs) == 2 and self.inputs[0].name == self.inputs[1].name
        return (self.op == "Mul" and same) or (self.op == "Pow" and self.exponent == 2)

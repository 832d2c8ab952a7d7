"""Other shapes than that of the case, and the nodes that hold them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from harness.text import names


class ShapeFault(StrEnum):
    """What is wrong with another shape than that of the case."""

    REFUSED = "does not run"
    GATE = "gate failed"
    ROWS = "a batch is not its rows"
    EQUAL_ROWS = "equal rows differ"


@dataclass(frozen=True)
class Baked:
    """A node into which an export has written the batch.

    Args:
        node: its name.
        op: its operator type.
        constant: the shape or the repeats that it takes as a constant.
        reads: the tensor that it changes.
    """

    node: str
    op: str
    constant: tuple[int, ...]
    reads: str

    def __str__(self) -> str:
        """`rep_shape (Reshape to [8, 1, 1, 2])`."""
        return f"{self.node} ({self.op} {'by' if self.op == 'Tile' else 'to'} {list(self.constant)})"


@dataclass(frozen=True)
class ShapeResult:
    """Another shape of the inputs than that of the case.

    Args:
        which: `minimum`, `optimum`, `maximum` of the profile, `batch 4`, or `equal rows`.
        inputs: the shapes by input.
        fault: what is wrong; None where nothing is, or it was not run.
        reason: what was seen, in a clause; or why it was not run.
        baked: nodes into which the batch is written.
        skipped: whether it was not run.
    """

    which: str
    inputs: Mapping[str, tuple[int, ...]]
    fault: ShapeFault | None = None
    reason: str = ""
    baked: tuple[Baked, ...] = ()
    skipped: bool = False

    def fail(self, fault: ShapeFault, reason: str, baked: tuple[Baked, ...]) -> ShapeResult:
        """This shape, with what is wrong."""
        return replace(self, fault=fault, reason=reason, baked=baked)

    def skip(self, reason: str) -> ShapeResult:
        """This shape, not run."""
        return replace(self, reason=reason, skipped=True)

    def blame(self, baked: tuple[Baked, ...]) -> ShapeResult:
        """This shape, with the nodes behind its fault."""
        return replace(self, baked=baked)

    @property
    def cause(self) -> str:
        """What the export has written down, and how to export it; empty where nothing is known."""
        if not self.baked:
            return ""
        constants = [each.constant for each in self.baked]
        if all(len(constant) == 2 and (constant[0] == 1 or constant[1] == -1) for constant in constants):
            cure = "flatten(1)"
        elif any(-1 in constant for constant in constants):  # a shape has room for one
            cure = "the size of the input"
        else:
            cure = "-1, expand, or the size of the input"
        baked = names(map(str, self.baked), 4)
        return f"the batch is written into {baked}: export with {cure}"

    def __str__(self) -> str:
        """One line for a person."""
        return "; ".join(filter(None, (self.cause, self.seen)))

    @property
    def seen(self) -> str:
        """What was seen, without its cause."""
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in self.inputs.items())
        where = f"at the {self.which}" if self.which.endswith("mum") else f"at {self.which}"
        if self.skipped:
            return f"not run {where} ({shapes}): {self.reason}"
        return f"{where} ({shapes}) {self.reason}"


def shape_lines(shapes: Sequence[ShapeResult], told: str = "") -> tuple[str, ...]:
    """What is wrong with each of `shapes`, a line each; a cause that they share, or that was `told`, is said once."""
    lines = []
    for each in shapes:
        lines.append(each.seen if each.cause == told else str(each))
        told = each.cause
    return tuple(lines)

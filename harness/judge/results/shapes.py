"""Other shapes than that of the case, and the nodes that hold them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import ClassVar

from harness.judge.results.tensors import OutputResult, describe_failure
from harness.tensors import UNLESS_DEFAULT
from harness.text import names, number, size


class ShapeFault(StrEnum):
    """What is wrong with another shape than that of the case."""

    REFUSED = "does not run"
    GATE = "gate failed"
    FOLDED = "rows become one"
    ROWS = "a batch is not its rows"
    EQUAL_ROWS = "equal rows differ"


class Skipped(StrEnum):
    """Why another shape was not run."""

    INPUTS = "no inputs of this shape"
    FILES = "inputs come from files"
    MEMORY = "beyond the memory budget"


class Which(StrEnum):
    """Which other shape of the inputs it is."""

    MINIMUM = "minimum"
    OPTIMUM = "optimum"
    MAXIMUM = "maximum"
    BATCH = "batch"
    EQUAL_ROWS = "equal rows"


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
        which: an end of the profile, a batch, or a batch of equal rows.
        inputs: the shapes by input.
        batch: the batch, where it is about rows.
        fault: what is wrong; None where nothing is, or it was not run.
        skipped: why it was not run; None if it was.
        output: the output of which a gate fails.
        tensor: the output of which rows are wrong.
        row: the first of them.
        error: its nrmse beside the row alone; of equal rows, of all beside the first.
        needs: bytes that it takes, where that is beyond the budget.
        budget: that budget, bytes.
        failure: why it is refused, in the words of ONNX Runtime or of the candidate; or why there are no inputs.
        baked: nodes into which the batch is written.
    """

    which: Which
    inputs: Mapping[str, tuple[int, ...]]
    batch: int | None = field(default=None, metadata=UNLESS_DEFAULT)
    fault: ShapeFault | None = None
    skipped: Skipped | None = None
    output: OutputResult | None = field(default=None, metadata=UNLESS_DEFAULT)
    tensor: str | None = field(default=None, metadata=UNLESS_DEFAULT)
    row: int | None = field(default=None, metadata=UNLESS_DEFAULT)
    error: float | None = field(default=None, metadata=UNLESS_DEFAULT)
    needs: int | None = field(default=None, metadata=UNLESS_DEFAULT)
    budget: int | None = field(default=None, metadata=UNLESS_DEFAULT)
    failure: str = field(default="", metadata=UNLESS_DEFAULT)
    baked: tuple[Baked, ...] = ()

    ALSO_IN_JSON: ClassVar = ("reason",)

    def refuse(self, failure: str, baked: tuple[Baked, ...] = ()) -> ShapeResult:
        """This shape, which does not run."""
        return replace(self, fault=ShapeFault.REFUSED, failure=failure, baked=baked)

    @property
    def reason(self) -> str:
        """What was seen, in a clause; or why it was not run. Empty where nothing is wrong."""
        if self.skipped is not None:
            return self._why_skipped
        if self.fault is None:
            return ""
        if self.fault is ShapeFault.FOLDED:
            return f"its {self.batch} rows become one"
        if self.fault is ShapeFault.ROWS:
            return f"row {self.row} of {self.tensor} is not what batch 1 gives: nrmse {number(self.error)}"
        if self.fault is ShapeFault.EQUAL_ROWS:
            return f"equal rows of {self.tensor} differ within one batch: nrmse {number(self.error)}"
        return self.failure if self.output is None else describe_failure((self.output,))

    @property
    def _why_skipped(self) -> str:
        if self.skipped is Skipped.MEMORY:
            assert self.needs is not None
            assert self.budget is not None
            return f"it takes about {size(self.needs)}, and the budget is {size(self.budget)}"
        files = "its inputs come from files, which have one shape"
        return files if self.skipped is Skipped.FILES else self.failure

    @property
    def cause(self) -> str:
        """What the export has written down, and how to export it; empty where nothing is known."""
        return baked_text(self.baked)

    @property
    def written(self) -> str:
        """What the export has written down; empty where nothing is known."""
        return _written(self.baked)

    @property
    def cure(self) -> str:
        """What to export in its place: `flatten(1)`."""
        return _cure(self.baked)

    def __str__(self) -> str:
        """One line for a person."""
        return "; ".join(filter(None, (self.cause, self.seen)))

    @property
    def seen(self) -> str:
        """What was seen, without its cause."""
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in self.inputs.items())
        where = f"at {_AT.get(self.which, self.which.value)}"
        if self.which is Which.BATCH:
            where += f" {self.batch}"
        if self.skipped is not None:
            return f"not run {where} ({shapes}): {self.reason}"
        return f"{where} ({shapes}) {self.reason}"


_AT = {which: f"the {which}" for which in (Which.MINIMUM, Which.OPTIMUM, Which.MAXIMUM)}


def baked_text(baked: Sequence[Baked]) -> str:
    """What an export has written down, and how to export it; empty where nothing is known."""
    return f"{_written(baked)}: export with {_cure(baked)}" if baked else ""


def _written(baked: Sequence[Baked]) -> str:
    return f"the batch is written into {names(map(str, baked), 4)}" if baked else ""


def _cure(baked: Sequence[Baked]) -> str:
    constants = [each.constant for each in baked]
    if all(len(constant) == 2 and (constant[0] == 1 or constant[1] == -1) for constant in constants):
        return "flatten(1)"
    if any(-1 in constant for constant in constants):  # a shape has room for one
        return "the size of the input"
    return "-1, expand, or the size of the input"


def shape_lines(shapes: Sequence[ShapeResult], told: str = "") -> tuple[str, ...]:
    """What is wrong with each of `shapes`, a line each; a cause that they share, or that was `told`, is said once."""
    lines = []
    for each in shapes:
        lines.append(each.seen if each.cause == told else str(each))
        told = each.cause
    return tuple(lines)

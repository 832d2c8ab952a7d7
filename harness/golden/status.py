"""What a golden reference says of a fresh one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from harness.text import plural


class GoldenState(StrEnum):
    """How the fresh outputs compare with the golden ones."""

    SAME = "same"
    """The same bits."""
    ROUNDING = "rounding"
    """Other bits, but no more than another processor or release of ONNX Runtime may round differently."""
    CHANGED = "changed"
    """Another answer."""
    MISSING = "missing"
    """There is no golden reference of this case."""


@dataclass(frozen=True)
class Difference:
    """Something that is not what it was when the golden reference was written.

    Args:
        what: `model`, `inputs`, `ONNX Runtime`, `processor`, or `output 'name' of sample n`.
        detail: from what to what, or by how much.
        rounding: whether it is no more than another order of summation makes.
    """

    what: str
    detail: str
    rounding: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.detail}"


@dataclass(frozen=True)
class GoldenStatus:
    """A fresh reference held against the golden one.

    Args:
        case: name of the case.
        state: how the outputs compare.
        causes: what else differs from when the golden reference was written: the model, the inputs, the
            release of ONNX Runtime, the processor.
        outputs: the outputs that are not the same bits.
    """

    case: str
    state: GoldenState
    causes: tuple[Difference, ...] = ()
    outputs: tuple[Difference, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the answer is the golden one, up to rounding."""
        return self.state in (GoldenState.SAME, GoldenState.ROUNDING)

    @property
    def message(self) -> str | None:
        """One line for a person: what changed, and why if that is known. None if the bits are the same."""
        if self.state is GoldenState.SAME:
            return None
        if self.state is GoldenState.MISSING:
            return "there is no golden reference yet; --golden-update writes one"
        if self.state is GoldenState.ROUNDING:
            return f"the reference is rounded differently from the golden one: {self._evidence}"
        return f"the reference is not the golden one any more: {self._evidence}"

    @property
    def _evidence(self) -> str:
        worst_first = sorted(self.outputs, key=lambda output: output.rounding)
        shown = "; ".join(map(str, worst_first[:2]))
        if len(self.outputs) > 2:
            shown += f"; and {plural(len(self.outputs) - 2, 'more output')}"
        if not self.causes:
            return f"{shown}. Model, inputs, ONNX Runtime and processor are the same"
        return f"{shown}. Changed since then: {'; '.join(map(str, self.causes))}"

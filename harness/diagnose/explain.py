"""Why a node goes wrong at a precision, in physical terms, from what its tensors hold in FP32.

Each template is one thing that can happen to numbers in a format: too large, too small, too close to each other,
too coarse. They are tried in the order of their gravity; the first that fits what was measured is the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from harness.diagnose.formats import FORMATS, NumberFormat, percent, say
from harness.diagnose.results import NOBODY
from harness.model.rounding import round_array
from harness.tensors.precision import Precision

PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "LSTM", "GRU", "RNN", "Attention"})
STEEP = {"Exp": "exp", "Softmax": "softmax", "LogSoftmax": "softmax", "ReduceLogSumExp": "exp"}
PERIODIC = frozenset({"Sin", "Cos", "Tan"})
ADDITIONS = frozenset({"Add", "Sub", "Sum"})
WITH_BODIES = frozenset({"If", "Loop", "Scan"})
COARSE = 0.05
"""Steps of the input beyond which exp is off by more than 2.5 %, and an angle by more than a degree."""

CANCELLED = 16.0
"""How many times smaller than its operands a difference is when it counts as cancellation."""


@dataclass(frozen=True)
class Held:
    """What one tensor holds in FP32, and what becomes of it in a format. Over finite elements.

    Args:
        name: name of the tensor.
        largest: largest magnitude.
        typical: root mean square.
        smallest: smallest magnitude above 0; 0 if all are 0.
        overflowing: share of the elements that become infinite in the format.
        flushed: share of the elements other than 0 that become 0 in the format.
        constant: whether it is an initializer or a constant.
    """

    name: str
    largest: float
    typical: float
    smallest: float
    overflowing: float = 0.0
    flushed: float = 0.0
    constant: bool = False

    @classmethod
    def of(
        cls, name: str, arrays: Iterable[np.ndarray], precision: Precision, *, constant: bool = False
    ) -> Held:
        """Measure one tensor over all samples."""
        values = [np.asarray(array, dtype=np.float32).reshape(-1) for array in arrays]
        flat = np.concatenate(values) if values else np.zeros(0, dtype=np.float32)
        flat = np.abs(flat[np.isfinite(flat)])
        if not flat.size:
            return cls(name, 0.0, 0.0, 0.0, constant=constant)
        rounded = round_array(flat, precision)
        nonzero = flat > 0
        count = int(nonzero.sum())
        return cls(
            name=name,
            largest=float(flat.max()),
            typical=float(np.sqrt(np.mean(flat.astype(np.float64) ** 2))),
            smallest=float(flat[nonzero].min()) if count else 0.0,
            overflowing=float(np.mean(~np.isfinite(rounded))),
            flushed=float(np.sum((rounded == 0) & nonzero) / count) if count else 0.0,
            constant=constant,
        )


@dataclass(frozen=True)
class Occurrence:
    """A node with what its float tensors hold.

    Args:
        op: operator type.
        inputs: the float inputs, in the order of the node; constants included.
        output: the float output.
        introduced: nrmse of the node lowered alone; None where it was not measured.
        usual: the median of that over all nodes; None likewise.
        exponent: of a Pow with a constant exponent.
        observed: nrmse of the output of an engine that errs here although the emulator does not.
    """

    op: str
    inputs: tuple[Held, ...]
    output: Held
    introduced: float | None = None
    usual: float | None = None
    exponent: float | None = None
    observed: float | None = None

    @property
    def squares(self) -> bool:
        """Whether the node squares its input."""
        same = len(self.inputs) == 2 and self.inputs[0].name == self.inputs[1].name
        return (self.op == "Mul" and same) or (self.op == "Pow" and self.exponent == 2)


def why(occurrence: Occurrence, precision: Precision) -> str:
    """What happens at the node, in one clause without a capital letter or a full stop."""
    kind = FORMATS[precision]
    for template in _TEMPLATES:
        text = template(occurrence, kind)
        if text is not None:
            return text
    return _rounded(occurrence, kind)


def _constant_overflows(node: Occurrence, kind: NumberFormat) -> str | None:
    for held in node.inputs:
        if held.constant and held.overflowing:
            return (
                f"its constant {held.name} holds {say(held.largest)}, beyond {say(kind.largest)}, the largest "
                f"{kind.name} value, and becomes infinite"
            )
    return None


def _reads_too_large(node: Occurrence, kind: NumberFormat) -> str | None:
    for held in node.inputs:
        if held.overflowing:
            return (
                f"it reads {held.name}, whose values reach {say(held.largest)}, beyond {say(kind.largest)}, the "
                f"largest {kind.name} value"
            )
    return None


def _overflows(node: Occurrence, kind: NumberFormat) -> str | None:
    if not node.output.overflowing:
        return None
    reach = f"{say(node.output.largest)}, beyond {say(kind.largest)}, the largest {kind.name} value"
    return f"{_subject(node)} {reach}"


def _subject(node: Occurrence) -> str:
    """Whose values reach what, with the verb."""
    sizes = [say(held.largest) for held in node.inputs]
    if not sizes:
        return "its values reach"
    if node.squares:
        return f"squares of values up to {sizes[0]} reach"
    if node.op == "Pow":
        return f"powers of values up to {sizes[0]} reach"
    if node.op in STEEP:
        return f"{STEEP[node.op]} of values up to {sizes[0]} reaches"
    if node.op in PRODUCTS and len(sizes) > 1:
        return f"sums of products of values up to {sizes[0]} and {sizes[1]} reach"
    if node.op in ("ReduceSum", "CumSum", "ReduceL1"):
        return f"sums of values up to {sizes[0]} reach"
    if node.op in ("ReduceSumSquare", "ReduceL2"):
        return f"sums of squares of values up to {sizes[0]} reach"
    if node.op == "ReduceMean":
        return f"means of values up to {sizes[0]} reach"
    if node.op in ADDITIONS and len(sizes) > 1:
        word = "differences" if node.op == "Sub" else "sums"
        return f"{word} of values up to {sizes[0]} and {sizes[1]} reach"
    if node.op == "Mul" and len(sizes) > 1:
        return f"products of values up to {sizes[0]} and {sizes[1]} reach"
    if node.op in ("Div", "Reciprocal"):
        return f"quotients by values down to {say(node.inputs[-1].smallest)} reach"
    return f"from values up to {sizes[0]} its output reaches"


def _constant_vanishes(node: Occurrence, kind: NumberFormat) -> str | None:
    for held in node.inputs:
        if held.constant and held.flushed == 1:
            return (
                f"its constant {held.name}, {say(held.largest)}, becomes 0 in {kind.name}, whose smallest number is "
                f"{say(kind.smallest)}"
            )
    return None


def _divisor_vanishes(node: Occurrence, kind: NumberFormat) -> str | None:
    divisor = node.inputs[-1] if node.inputs and node.op in ("Div", "Reciprocal", "Log") else None
    if divisor is None or not divisor.flushed:
        return None
    verb = "takes the logarithm of" if node.op == "Log" else "divides by"
    return (
        f"it {verb} {divisor.name}, whose values go down to {say(divisor.smallest)} and become 0 in {kind.name}, "
        f"whose smallest number is {say(kind.smallest)}"
    )


def _underflows(node: Occurrence, kind: NumberFormat) -> str | None:
    if node.output.flushed < 0.01:
        return None
    vanish = f"become 0 in {kind.name}, whose smallest number is {say(kind.smallest)}"
    share = percent(node.output.flushed)
    if node.squares:
        sizes = f"of values of about {say(node.inputs[0].typical)} are about {say(node.output.typical)}"
        return f"squares {sizes}: {share} of them {vanish}"
    return f"{share} of its values, which go down to {say(node.output.smallest)}, {vanish}"


def _too_coarse(node: Occurrence, kind: NumberFormat) -> str | None:
    if not node.inputs or not (node.op in STEEP or node.op in PERIODIC):
        return None
    reach = node.inputs[0].largest
    step = kind.step(reach)
    if step < COARSE:
        return None
    if node.op in PERIODIC:
        return f"its angles reach {say(reach)}, where {kind.name} has steps of {say(step)} radians"
    factor = float(np.exp(min(step, 700.0)))
    return (
        f"its inputs reach {say(reach)}, where {kind.name} has steps of {say(step)}: {STEEP[node.op]} makes each "
        f"of them a factor of {say(factor)}"
    )


def _cancels(node: Occurrence, kind: NumberFormat) -> str | None:
    if node.op not in ADDITIONS or len(node.inputs) < 2 or not node.output.typical:
        return None
    size = max(held.typical for held in node.inputs)
    if size < CANCELLED * node.output.typical:
        return None
    return (
        f"values of about {say(size)} cancel down to {say(node.output.typical)}: at their size {kind.name} has "
        f"steps of {say(kind.step(size))}, and that is what is left of the difference"
    )


def _rounded(node: Occurrence, kind: NumberFormat) -> str:
    if node.introduced is None:
        return f"what it computes differs more than {kind.name} explains"
    if not math.isfinite(node.introduced):
        text = f"what it computes in {kind.name} is not finite"
        if node.op not in WITH_BODIES:
            return f"{text}, although its inputs and outputs would fit"
        return f"{text}: in its body, a value goes beyond {say(kind.largest)}, or one that divides becomes 0"
    text = f"rounding to {kind.name}'s {kind.bits} bits introduces an error of {say(node.introduced)} (nrmse) here"
    if node.usual and node.introduced > 2 * node.usual:
        text += f", {say(node.introduced / node.usual)} times that of a usual node"
    return text


def _beyond_rounding(node: Occurrence, kind: NumberFormat) -> str | None:
    if node.observed is None:
        return None
    text = f"the engine errs by {say(node.observed)} (nrmse) here"
    if node.introduced is None:
        return f"{text}, which the emulator does not explain"
    return f"{text}, where rounding to {kind.name} explains {say(node.introduced)}"


_TEMPLATES: tuple[Callable[[Occurrence, NumberFormat], str | None], ...] = (
    _beyond_rounding,
    _constant_overflows,
    _reads_too_large,
    _overflows,
    _divisor_vanishes,
    _constant_vanishes,
    _underflows,
    _too_coarse,
    _cancels,
)


def accumulation(nodes: int, effects: Mapping[str, float], precision: Precision) -> str:
    """Why it fails where no node is to blame: many small errors add up.

    Args:
        nodes: how many nodes must go back to FP32.
        effects: by node, the nrmse of the output with that node lowered alone; may be empty.
        precision: the precision under test.
    """
    kind = FORMATS[precision]
    text = f"{NOBODY}: the rounding errors of many nodes at {kind.name}'s {kind.bits} bits add up"
    total = float(np.sqrt(sum(effect * effect for effect in effects.values())))
    if effects and np.isfinite(total) and total > 0:
        name = max(effects, key=lambda node: effects[node])
        share = effects[name] ** 2 / total**2
        text += f"; {name} has the largest share, {percent(share)}"
    return f"{text}, and {nodes} of them in FP32 bring it under the limit"

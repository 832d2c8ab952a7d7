"""Why a node goes wrong at a precision, in physical terms, from what its tensors hold in FP32.

Each template is one thing that can happen to numbers in a format: too large, too small, too close to each other,
too coarse. They are tried in the order of their severity; the first that fits what was measured is the answer. What is
true of a tensor need not be why the node errs: where the error of the node is known, a template must account for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from harness.diagnosis.context import FORMATS, NumberFormat, TensorRange
from harness.diagnosis.explain.measured import MeasuredNode
from harness.diagnosis.results import Mend
from harness.tensors import Precision
from harness.text import magnitude, magnitudes, percent

PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "LSTM", "GRU", "RNN", "Attention"})
STEEP = {"Exp": "exp", "Softmax": "softmax", "LogSoftmax": "softmax", "ReduceLogSumExp": "exp"}
PERIODIC = frozenset({"Sin", "Cos", "Tan"})
ADDITIONS = frozenset({"Add", "Sub", "Sum"})
BOUNDS = frozenset({"Clip", "Max", "Min"})
SCALES = PRODUCTS | {"Mul", "Div"}
WITH_BODIES = frozenset({"If", "Loop", "Scan"})
COARSE = 0.05
"""Steps of the input beyond which exp is off by more than 2.5 %, and an angle by more than a degree."""

CANCELLED = 16.0
"""How many times smaller than its operands a difference is when it counts as cancellation."""

ACCOUNTED = 0.3
"""Share of the error of a node that a template must account for."""

OFF = 0.01
"""Below this nrmse, steps of an input are not why exp or an angle is off, unless it is `APART` times what is usual."""

APART = 8.0


def why(measured: MeasuredNode, precision: Precision) -> str:
    """What happens at the node, in one clause without a capital letter or a full stop."""
    kind = FORMATS[precision]
    for template in _TEMPLATES:
        text = template(measured, kind)
        if text is not None:
            return text
    return _rounded(measured, kind)


def own_fault(measured: MeasuredNode, precision: Precision) -> str | None:
    """What goes wrong at a node whatever goes wrong before it, as `why` says it; None if nothing does.

    It overflows though nothing that it reads does, a constant or a divisor of it vanishes, whole numbers, an angle or
    an exponent are too coarse, or what it writes is too small for a normal number, or becomes 0 though nothing that
    it reads does.
    """
    kind = FORMATS[precision]
    templates = [
        _constant_overflows,
        _divisor_vanishes,
        _constant_vanishes,
        _constant_is_subnormal,
        _whole_numbers,
        _too_coarse,
        _is_subnormal,
    ]
    if not any(tensor.flushed for tensor in measured.inputs if not tensor.constant):
        templates.append(_underflows)
    if not any(tensor.overflowing for tensor in measured.inputs):
        templates.insert(1, _overflows)
    found = (template(measured, kind) for template in templates)
    return next((text for text in found if text is not None), None)


def loses(measured: MeasuredNode, precision: Precision) -> bool:
    """Whether a value becomes infinite at the node, or 0, and that is why it errs."""
    if measured.introduced is not None and math.isinf(measured.introduced):
        return True
    lost = (_constant_overflows, _overflows, _constant_vanishes, _underflows)
    return any(template(measured, FORMATS[precision]) is not None for template in lost)


def lost_constant(measured: MeasuredNode, precision: Precision) -> Mend | None:
    """What mends a constant that the node reads and the format does not hold; None where there is none that matters."""
    kind = FORMATS[precision]
    large = _constant_overflows(measured, kind) is not None
    vanishes = _constant_vanishes(measured, kind) is not None
    if not large and not vanishes and _constant_is_subnormal(measured, kind) is None:
        return None
    if measured.op in SCALES and _switch(measured) is None:
        return Mend.FACTOR
    if large:
        beyond = measured.op in BOUNDS and any(
            tensor.overflowing for tensor in measured.inputs if not tensor.constant
        )
        return None if beyond else Mend.LARGE_CONSTANT  # a bound that is reached would cut off what is meant
    return (
        Mend.SMALL_CONSTANT if vanishes else None
    )  # one that loses digits is above the smallest number already


def _accounts(error: float, node: MeasuredNode) -> bool:
    """Whether `error`, an nrmse, is a good part of what the node introduces, as far as that is known."""
    if node.introduced is None:
        return True
    return math.isfinite(node.introduced) and error >= ACCOUNTED * node.introduced


def _beyond(tensor: TensorRange, kind: NumberFormat) -> tuple[str, str]:
    """The largest value, and what it is beyond: `-1e9`, `-65504, the lowest FP16 value`."""
    bound = math.copysign(kind.largest, tensor.extreme)
    value, limit = magnitudes(tensor.extreme, bound)
    return value, f"{limit}, the {'largest' if bound > 0 else 'lowest'} {kind.name} value"


def _reads_too_large(node: MeasuredNode, kind: NumberFormat) -> str | None:
    for tensor in node.inputs:
        if tensor.overflowing and not tensor.constant:
            value, bound = _beyond(tensor, kind)
            return f"it reads {tensor.name}, whose values reach {value}, beyond {bound}"
    return None


def _constant_overflows(node: MeasuredNode, kind: NumberFormat) -> str | None:
    for tensor in node.inputs:
        if tensor.constant and tensor.overflowing:
            value, bound = _beyond(tensor, kind)
            text = f"its constant {tensor.name} holds {value}, beyond {bound}, and becomes infinite"
            switch = _switch(node)
            if switch is None or switch.typical == 1:
                return text
            return f"{text}: 0 · ∞ is NaN where {switch.name} is 0"
    return None


def _switch(node: MeasuredNode) -> TensorRange | None:
    """What a Mul by a constant reads beside it, if that is 0 or 1 throughout: a mask."""
    read = [tensor for tensor in node.inputs if not tensor.constant]
    if node.op != "Mul" or len(read) != 1 or not read[0].whole or read[0].largest > 1:
        return None
    return read[0]


def _in_its_body(node: MeasuredNode, kind: NumberFormat) -> str | None:
    return node.inside


def _overflows(node: MeasuredNode, kind: NumberFormat) -> str | None:
    if not node.output.overflowing:
        return None
    value, bound = magnitudes(
        node.output.largest, kind.largest
    )  # magnitudes, as those of what it is computed from
    return f"{_subject(node)} {value}, beyond {bound}, the largest {kind.name} value"


def _partial_sums_overflow(node: MeasuredNode, kind: NumberFormat) -> str | None:
    if node.partial is None or node.partial <= kind.largest or node.output.overflowing:
        return None
    reach, bound = magnitudes(node.partial, kind.largest)
    result = magnitude(node.output.largest)
    return (
        f"partial sums reach {reach}, beyond {bound}, though the result is {result} at most: tensor cores add up "
        f"{kind.name} products in {kind.name}, and in FP32 at the same speed with Casts to FP32 around the product"
    )


def _subject(node: MeasuredNode) -> str:
    """Whose values reach what, with the verb."""
    sizes = [magnitude(tensor.largest) for tensor in node.inputs]
    if not sizes:
        return "its values reach"
    if node.squares:
        return f"squares of values up to {sizes[0]} reach"
    if node.op in STEEP:
        return f"{STEEP[node.op]} of values up to {sizes[0]} reaches"
    if node.op in ("Div", "Reciprocal"):
        return f"quotients by values down to {magnitude(node.inputs[-1].smallest)} reach"
    if node.op in _OF_ONE:
        return f"{_OF_ONE[node.op]} of values up to {sizes[0]} reach"
    if node.op in _OF_TWO and len(sizes) > 1:
        return f"{_OF_TWO[node.op]} of values up to {sizes[0]} and {sizes[1]} reach"
    return f"from values up to {sizes[0]} its output reaches"


_OF_ONE = {
    "Pow": "powers",
    "ReduceMean": "means",
    **dict.fromkeys(("ReduceSum", "CumSum", "ReduceL1"), "sums"),
    **dict.fromkeys(("ReduceSumSquare", "ReduceL2"), "sums of squares"),
}
_OF_TWO = {
    **dict.fromkeys(PRODUCTS, "sums of products"),
    **dict.fromkeys(ADDITIONS, "sums"),
    "Sub": "differences",
    "Mul": "products",
}
"""What a node computes of its operands, by operator."""


def _divisor_vanishes(node: MeasuredNode, kind: NumberFormat) -> str | None:
    verb, divisor = _divides(node)
    if (
        divisor is None
        or not divisor.flushed
        or (node.introduced is not None and math.isfinite(node.introduced))
    ):
        return None
    return (
        f"it {verb} {divisor.name}, whose values go down to {magnitude(divisor.smallest)} and become 0 in {kind.name}, "
        f"whose smallest number is {magnitude(kind.smallest)}"
    )


def _divides(node: MeasuredNode) -> tuple[str, TensorRange | None]:
    """What the node does that no 0 may be in the way of, and to which of its inputs."""
    if node.inputs and node.op in ("Div", "Reciprocal"):
        return "divides by", node.inputs[-1]
    if node.inputs and node.op == "Log":
        return "takes the logarithm of", node.inputs[0]
    if node.inputs and node.op == "Pow" and node.exponent is not None and node.exponent < 0:
        return "divides by a power of", node.inputs[0]
    return "", None


def _constant_vanishes(node: MeasuredNode, kind: NumberFormat) -> str | None:
    for tensor in node.inputs:
        if not (tensor.constant and tensor.flushed):
            continue
        smallest = f"become{'s' if tensor.flushed == 1 else ''} 0 in {kind.name}, whose smallest number is"
        if tensor.flushed == 1 and _counts(tensor, node, kind):
            return f"its constant {tensor.name}, {magnitude(tensor.largest)}, {smallest} {magnitude(kind.smallest)}"
        if tensor.flushed < 1 and _accounts(tensor.underflow, node):
            return (
                f"{percent(tensor.flushed)} of its constant {tensor.name}, whose values reach "
                f"{magnitude(tensor.largest)}, {smallest} {magnitude(kind.smallest)}"
            )
    return None


def _counts(tensor: TensorRange, node: MeasuredNode, kind: NumberFormat) -> bool:
    """Whether a constant that is added, or bounds what passes, makes a difference to anything that is written."""
    return node.op not in (*ADDITIONS, *BOUNDS) or tensor.largest >= kind.rounding * node.output.smallest


def _too_coarse(node: MeasuredNode, kind: NumberFormat) -> str | None:
    if not node.inputs or not (node.op in STEEP or node.op in PERIODIC):
        return None
    off = min(OFF, APART * node.usual) if node.usual else OFF
    if node.introduced is not None and not off <= node.introduced < math.inf:
        return None
    reach = node.inputs[0].largest if node.op in PERIODIC else node.inputs[0].peak
    step = kind.step(reach)
    if step < COARSE:
        return None
    if node.op in PERIODIC:
        return (
            f"its angles reach {magnitude(reach)}, where {kind.name} has steps of {magnitude(step)} radians"
        )
    factor = float(np.exp(min(step, 700.0)))
    return (
        f"its inputs reach {magnitude(reach)}, where {kind.name} has steps of {magnitude(step)}: {STEEP[node.op]} "
        f"makes each of them a factor of {magnitude(factor)}"
    )


def _whole_numbers(node: MeasuredNode, kind: NumberFormat) -> str | None:
    most = 2.0**kind.bits
    reads_such = any(tensor.whole and tensor.largest > most for tensor in node.inputs)
    if not node.output.whole or node.output.largest <= most or not node.output.rounding or reads_such:
        return None
    step = kind.step(node.output.largest)
    return (
        f"its whole numbers reach {magnitude(node.output.largest)}, and {kind.name} holds all of them only up to "
        f"{most:.0f}: beyond, its steps grow to {magnitude(step)}"
    )


def _underflows(node: MeasuredNode, kind: NumberFormat) -> str | None:
    if node.output.flushed < 0.01 or not _accounts(node.output.underflow, node):
        return None
    vanish = f"become 0 in {kind.name}, whose smallest number is {magnitude(kind.smallest)}"
    share = percent(node.output.flushed)
    if node.squares:
        sizes = f"of values of about {magnitude(node.inputs[0].typical)} are about {magnitude(node.output.typical)}"
        return f"squares {sizes}: {share} of them {vanish}"
    return f"{share} of its values, which go down to {magnitude(node.output.smallest)}, {vanish}"


def _constant_is_subnormal(node: MeasuredNode, kind: NumberFormat) -> str | None:
    for tensor in node.inputs:
        counts = tensor.underflow >= OFF and _counts(tensor, node, kind)
        if tensor.constant and counts and _accounts(tensor.underflow, node):
            return f"its constant {tensor.name}, {magnitude(tensor.largest)}, {_below_normal(tensor, kind)}"
    return None


def _is_subnormal(node: MeasuredNode, kind: NumberFormat) -> str | None:
    reads_such = any(tensor.underflow >= OFF for tensor in node.inputs if not tensor.constant)
    if reads_such or node.output.underflow < OFF or not _accounts(node.output.underflow, node):
        return None
    return (
        f"it writes values of about {magnitude(node.output.typical)}; each {_below_normal(node.output, kind)}"
    )


def _below_normal(tensor: TensorRange, kind: NumberFormat) -> str:
    return (
        f"is below {magnitude(kind.normal)}, the smallest normal {kind.name} value: down there steps are "
        f"{magnitude(kind.smallest)}, however small a value is"
    )


def _cancels(node: MeasuredNode, kind: NumberFormat) -> str | None:
    if node.op not in ADDITIONS or len(node.inputs) < 2 or not node.output.typical:
        return None
    size = max(tensor.typical for tensor in node.inputs)
    left = math.hypot(*(tensor.rounding for tensor in node.inputs)) / node.output.typical
    if size < CANCELLED * node.output.typical or not _accounts(left, node):
        return None
    return (
        f"values of about {magnitude(size)} cancel down to {magnitude(node.output.typical)}: at their size {kind.name} "
        f"has steps of {magnitude(kind.step(size))}, and that is what is left of the difference"
    )


def _decides(node: MeasuredNode, kind: NumberFormat) -> str | None:
    """What matters is not the size of the error, but what is distinguished by it."""
    found = node.decision
    if found is None:
        return None
    change = f"{percent(found.changed)} of its answers change"
    if found.whole:
        reach = node.output.largest
        return (
            f"{found.node} ({found.op}) reads whole numbers up to {magnitude(reach)}, where {kind.name} has steps of "
            f"{magnitude(kind.step(reach))}: {change}"
        )
    if found.apart is None:
        return f"{found.node} ({found.op}) decides by what this node writes: in {kind.name}, {change}"
    return (
        f"{found.node} ({found.op}) tells apart values that differ by {magnitude(found.apart)}, where {kind.name} has "
        f"steps of {magnitude(kind.step(found.magnitude))}: {change}"
    )


def _rounded(node: MeasuredNode, kind: NumberFormat) -> str:
    """Where no template is true: what was measured, and nothing else."""
    if node.introduced is None and kind is FORMATS[Precision.FP32]:
        return "FP32 and FP64 part here, and agree on what it reads to within the limit of FP32"
    if node.introduced is None:
        return f"what it computes differs more than {kind.name} explains"
    if not math.isfinite(node.introduced):
        text = f"what it computes in {kind.name} is not finite"
        if node.op not in WITH_BODIES:
            return f"{text}, although nothing that it reads or writes is beyond {magnitude(kind.largest)}"
        return f"{text}, although what it writes would fit: something in its body does not"
    what = (
        f"rounding in its body to {kind.name}'s" if node.op in WITH_BODIES else f"rounding to {kind.name}'s"
    )
    text = f"{what} {kind.bits} bits introduces an error of {magnitude(node.introduced)} (nrmse) here"
    if node.usual and node.introduced > 2 * node.usual:
        text += f", {magnitude(node.introduced / node.usual)} times that of a usual node"
    if node.alone is not None and node.alone > 1:
        text += f"; lowered alone it fails the outputs{_by(node.alone)}"
    return text


def _by(badness: float) -> str:
    return f", at {magnitude(badness)} times the limit" if math.isfinite(badness) else ""


def _beyond_rounding(node: MeasuredNode, kind: NumberFormat) -> str | None:
    if node.observed is None:
        return None
    text = f"the engine errs by {magnitude(node.observed)} (nrmse) here"
    if node.introduced is None:
        return f"{text}, which the emulator does not explain"
    return f"{text}, where rounding to {kind.name} explains {magnitude(node.introduced)}"


_TEMPLATES: tuple[Callable[[MeasuredNode, NumberFormat], str | None], ...] = (
    _beyond_rounding,
    _reads_too_large,
    _constant_overflows,
    _in_its_body,
    _overflows,
    _partial_sums_overflow,
    _divisor_vanishes,
    _constant_vanishes,
    _too_coarse,
    _decides,
    _whole_numbers,
    _cancels,
    _underflows,
    _constant_is_subnormal,
    _is_subnormal,
)


def accumulation(nodes: int, effects: Mapping[str, float], precision: Precision) -> str:
    """Why it fails where no node is at fault: many small errors add up.

    Args:
        nodes: how many nodes must go back to FP32.
        effects: by node, the worst gate of the outputs with that node lowered alone, as a multiple of its limit; may be
            empty.
        precision: the precision under test.
    """
    kind = FORMATS[precision]
    text = f"no single node is at fault: the rounding errors of many nodes at {kind.name}'s {kind.bits} bits add up"
    total = float(np.sqrt(sum(effect * effect for effect in effects.values())))
    if effects and np.isfinite(total) and total > 0:
        name = max(effects, key=lambda node: effects[node])
        share = effects[name] ** 2 / total**2
        text += f"; {name} has the largest share, {percent(share)}"
        failing = sum(effect > 1 for effect in effects.values())
        if failing:
            fail = "fails" if failing == 1 else "fail"
            text += f"; {failing} of them {fail} alone ({name} at {magnitude(effects[name])} times the limit), although"
            text += " none introduces an error that stands out: the nodes behind amplify it"
    return f"{text}; {nodes} of them in FP32 bring it under the limit"


def accumulated_in_fp16(estimated: float, seen: float, *, overflows: bool) -> str:
    """Why products fail that the emulator finds nothing wrong with, which adds up in FP32.

    Args:
        estimated: nrmse of the worst output, if products accumulate in FP16.
        seen: that of the engine.
        overflows: partial sums overflow.
    """
    text = "FP16 products accumulate in FP16"
    if overflows:
        return f"{text}: partial sums are beyond 65504, the largest FP16 value, although their result is not"
    return (
        f"{text}: that makes the error of the outputs {magnitude(estimated)} (nrmse), and the engine's is "
        f"{magnitude(seen)}"
    )


def added_up_in_fp16(before: float, after: float) -> str:
    """Why products fail that are added up in FP16.

    Args:
        before: nrmse of the worst output with FP16 sums, on the emulator.
        after: with FP32 sums.
    """
    return (
        f"FP16 products are added up in FP16: that makes the error of the outputs {magnitude(before)} (nrmse), which "
        f"is {magnitude(after)} with FP32 sums"
    )

"""Elementwise operators, and Range."""

from harness.compiler.facts import FindingKind
from harness.compiler.rules.types import MEASURED, Rule
from harness.compiler.rules.view import NodeView

_HALF = ("float16", "bfloat16")
_FLOATS = ("float32", "float64", *_HALF)


def _float_mod(node: NodeView) -> bool:
    return node.dtype(0) in _FLOATS and node.attribute("fmod") in (None, 0)


def _computed_float_range(node: NodeView) -> bool:
    return node.dtype(0) == "float32" and not all(map(node.is_constant, range(3)))


def _vector_times_stack(node: NodeView) -> bool:
    stack = node.shape(1)
    return (
        node.rank(0) == 1 and stack is not None and len(stack) > 2 and any(size != 1 for size in stack[:-2])
    )


RULES = (
    Rule(
        "mod-float",
        FindingKind.REFUSED,
        ("Mod",),
        _float_mod,
        "Mod of floats needs fmod = 1",
        MEASURED,
        "write it as x - y * Floor(x / y)",
    ),
    Rule(
        "clip-int8",
        FindingKind.REFUSED,
        ("Clip",),
        lambda node: node.dtype(0) == "int8",
        "int8 is not clipped",
        MEASURED,
        "cast to int32 before it, and back after it",
    ),
    Rule(
        "celu-half",
        FindingKind.REFUSED,
        ("Celu",),
        lambda node: node.dtype(0) in _HALF,
        "Celu is supported in float32 only",
        MEASURED,
        "write it as Elu, or cast to float32 before it and back after it",
    ),
    Rule(
        "range-half",
        FindingKind.REFUSED,
        ("Range",),
        lambda node: node.output_dtype() in _HALF,
        "Range is supported in int32, int64 and float32 only",
        MEASURED,
        "take a Range in float32 and cast it",
    ),
    Rule(
        "range-computed",
        FindingKind.REFUSED,
        ("Range",),
        _computed_float_range,
        "the bounds of a Range in float32 must be constants",
        MEASURED,
        "take a Range of integers, and scale it",
    ),
    Rule(
        "vector-times-stack",
        FindingKind.REFUSED,
        ("MatMul",),
        _vector_times_stack,
        "a vector times a stack of matrices is given the shape of a single product",
        "measured: TensorRT for RTX 1.4.0.76, 1.6.1.120 and 1.7.1.116 (reshape changes volume)",
        "make the vector a matrix of one row (Unsqueeze), and squeeze the result; `harness check --fix` does",
    ),
)

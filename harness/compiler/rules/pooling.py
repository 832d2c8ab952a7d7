"""Pooling and convolution."""

from harness.compiler.facts import Kind
from harness.compiler.rules.types import ALSO_TENSORRT, MEASURED, MEASURED_AND_DOCUMENTED, Rule
from harness.compiler.rules.view import NodeView

_POOLS = ("MaxPool", "AveragePool", "LpPool")


def _dilated(node: NodeView) -> bool:
    sizes = node.attribute("dilations")
    return isinstance(sizes, tuple) and any(size != 1 for size in sizes)


RULES = (
    Rule(
        "pool-dilations",
        Kind.REFUSED,
        _POOLS,
        _dilated,
        "dilations other than 1 are not taken",
        MEASURED_AND_DOCUMENTED,
        "pool shifted slices, and combine them",
        ALSO_TENSORRT,
    ),
    Rule(
        "maxpool-indices",
        Kind.REFUSED,
        ("MaxPool",),
        lambda node: 1 in node.used,
        "the output Indices is not taken",
        MEASURED_AND_DOCUMENTED,
        "compute the indices with ArgMax over the windows",
        ALSO_TENSORRT,
    ),
    Rule(
        "lppool-order",
        Kind.REFUSED,
        ("LpPool", "GlobalLpPool", "LpNormalization"),
        lambda node: node.attribute("p") not in (None, 1, 2),
        "p must be 1 or 2",
        MEASURED,
        "write it with Pow and AveragePool",
    ),
)

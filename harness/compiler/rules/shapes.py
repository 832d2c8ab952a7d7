"""What must be known when an engine is built: axes of reductions, of Squeeze and Unsqueeze, and the like."""

from harness.compiler.facts import FindingKind
from harness.compiler.rules.types import ALSO_TENSORRT, MEASURED, MEASURED_AND_DOCUMENTED, Rule
from harness.compiler.rules.view import NodeView

_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSum", "ReduceSumSquare"),
)
_CONSTANT = "make the axes an initializer"


def _computed(node: NodeView) -> bool:
    return node.value(1) is not None and not node.is_constant(1)


def _not_folded(node: NodeView) -> bool:
    """The parser folds no Range, be it of constants."""
    axes = node.value(1)
    producer = None if axes is None else axes.producer()
    return _computed(node) or (producer is not None and producer.op_type == "Range")


RULES = (
    Rule(
        "reduce-axes",
        FindingKind.REFUSED,
        _REDUCTIONS,
        _not_folded,
        "the axes must be a constant",
        MEASURED_AND_DOCUMENTED,
        _CONSTANT,
        ALSO_TENSORRT,
    ),
    Rule(
        "squeeze-axes",
        FindingKind.REFUSED,
        ("Squeeze", "Unsqueeze"),
        _computed,
        "the axes must be a constant",
        MEASURED_AND_DOCUMENTED,
        _CONSTANT,
        ALSO_TENSORRT,
    ),
    Rule(
        "reduce-bool",
        FindingKind.REFUSED,
        _REDUCTIONS,
        lambda node: node.dtype(0) == "bool",
        "bool is not reduced",
        MEASURED_AND_DOCUMENTED,
        "cast to int32 before it, and back after it",
        ALSO_TENSORRT,
    ),
    Rule(
        "stft-step",
        FindingKind.REFUSED,
        ("STFT",),
        lambda node: not node.is_constant(1),
        "frame_step must be a constant",
        MEASURED,
        "make it an initializer",
    ),
)

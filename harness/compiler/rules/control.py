"""If, Loop and Scan, and recurrent layers."""

import onnx_ir as ir

from harness.compiler.facts import FindingKind
from harness.compiler.rules.types import ALSO_TENSORRT, MEASURED_AND_DOCUMENTED, Rule
from harness.compiler.rules.view import NodeView


def _other_ranks(node: NodeView) -> bool:
    """Whether a branch returns a tensor of another rank than the other does."""
    branches = [node.node.attributes.get(name) for name in ("then_branch", "else_branch")]
    graphs = [each.value for each in branches if each is not None and each.type == ir.AttributeType.GRAPH]
    if node.is_constant(0) or len(graphs) != 2:
        return False
    ranks = [
        [None if value.shape is None else len(value.shape) for value in graph.outputs] for graph in graphs
    ]
    return any(one != other and None not in (one, other) for one, other in zip(*ranks, strict=False))


RULES = (
    Rule(
        "if-ranks",
        FindingKind.NOT_BUILT,
        ("If",),
        _other_ranks,
        "both branches must return tensors of the same rank",
        MEASURED_AND_DOCUMENTED,
        "fold the condition where it is known, or give both results one rank",
        ALSO_TENSORRT,
    ),
    Rule(
        "rnn-layout",
        FindingKind.DIFFERENT,
        ("RNN", "GRU", "LSTM"),
        lambda node: node.attribute("layout") == 1,
        "layout is ignored: the batch axis is read as the axis of steps",
        "measured on an H200: TensorRT for RTX 1.4.0.76 and 1.6.1.120; onnx-tensorrt 8.2 to 10.1 do not read it",
        "transpose the inputs and the outputs, with layout 0",
        ALSO_TENSORRT,
    ),
)

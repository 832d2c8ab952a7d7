"""Normalizations and Dropout, where they were exported for training."""

from harness.compiler.facts import Kind
from harness.compiler.rules.types import ALSO_TENSORRT, MEASURED, MEASURED_AND_DOCUMENTED, Rule
from harness.compiler.rules.view import NodeView


def _trains(node: NodeView) -> bool:
    return node.attribute("training_mode") == 1 or len(node.used) > 1


def _drops(node: NodeView) -> bool:
    if node.value(2) is None:
        return False
    mode = node.constant(2)
    return mode is None or bool(mode.any())


RULES = (
    Rule(
        "layernorm-outputs",
        Kind.REFUSED,
        ("LayerNormalization",),
        lambda node: len(node.node.outputs) > 1,
        "only the first output is supported",
        MEASURED_AND_DOCUMENTED,
        "drop the outputs Mean and InvStdDev, or write the normalization out where they are read",
        ALSO_TENSORRT,
    ),
    Rule(
        "batchnorm-training",
        Kind.REFUSED,
        ("BatchNormalization",),
        _trains,
        "batch normalization in training mode is not supported",
        MEASURED,
        "export with model.eval()",
    ),
    Rule(
        "dropout-training",
        Kind.REFUSED,
        ("Dropout",),
        _drops,
        "training_mode must be a constant false",
        MEASURED_AND_DOCUMENTED,
        "export with model.eval()",
        ALSO_TENSORRT,
    ),
)

"""Operator sets and releases, TF32, and what dynamic sizes cost: advice on a model as a whole."""

import numpy as np
import onnx_ir as ir

from harness.compiler.facts import RTX, Kind, Releases
from harness.compiler.rules.types import Rule
from harness.compiler.rules.view import GraphView, NodeView
from harness.worker.protocol import TENSORRT

TF32 = "tf32"
"""The code of a rule that holds of products in FP32 alone."""
_OPSETS = "onnx-tensorrt {}, docs/operators.md"
#: The newest operator set that a release's document names, by the last release of that document.
_LIMITS = ((13, "8.0", "8.2"), (17, "8.4", "8.6"), (19, "9.0", "9.3"), (20, "10.0", "10.1"))


def _above(opset: int, first: str, last: str) -> Rule:
    return Rule(
        f"opset-{opset}",
        Kind.RISKY,
        (),
        None,
        f"operator sets after {opset} are not documented for these releases",
        _OPSETS.format(last),
        f"export at opset {opset} or older for them; newer operators are refused by name",
        (Releases(TENSORRT, first, last),),
        of_model=lambda graph: graph.opset > opset,
    )


def _opens(graph: GraphView) -> tuple[bool, bool]:
    """Whether the first axis of an input is open, and whether another one is."""
    shapes = [value.shape for value in graph.ir.graph.inputs if value.shape is not None]
    first = any(len(shape) and not isinstance(shape[0], int) for shape in shapes)
    return first, any(not isinstance(size, int) for shape in shapes for size in tuple(shape)[1:])


def _decomposed_norm(node: NodeView) -> bool:
    """√(ReduceMean(square) + epsilon), or 1 over it, as a power or not: of a normalization that is written out."""
    if node.op == "Pow":
        exponent = node.constant(1)
        if exponent is None or not np.all(np.abs(exponent) == 0.5):
            return False
    total = _writer(node.value(0))
    if total is not None and total.op_type == "Reciprocal":
        total = _writer(total.inputs[0])
    if total is None or total.op_type != "Add":
        return False
    means = [
        writer for value in total.inputs if (writer := _writer(value)) and writer.op_type == "ReduceMean"
    ]
    squared = _writer(means[0].inputs[0]) if means else None
    return squared is not None and squared.op_type in ("Pow", "Mul")


def _writer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _is_baked(node: NodeView) -> bool:
    shape, sizes = node.shape(0), node.constant(1)
    return shape is not None and None in shape and sizes is not None and bool((sizes > 0).all())


RULES = (
    *(_above(*limit) for limit in _LIMITS),
    Rule(
        "layernorm-decomposed",
        Kind.IMPROVABLE,
        ("Sqrt", "Pow"),
        _decomposed_norm,
        "a normalization written in primitives squares in the precision under test, and overflows there first",
        "measured on an H200 with TensorRT for RTX 1.4 and 1.6: LayerNormalization computes inside in FP32",
        "export where it is one operator: LayerNormalization from opset 17 on, RMSNormalization from 23 on",
        (RTX, Releases(TENSORRT, "8.6")),
    ),
    Rule(
        TF32,
        Kind.RISKY,
        (),
        None,
        "products of FP32 are computed in TF32, unless it is turned off: a relative error of 3e-4",
        "measured on an H200: nrmse 2.9e-4 on TensorRT for RTX 1.4 to 1.6, where the builder's flag is ignored, and "
        "4.7e-4 on TensorRT 8.6.0",
        "set NVIDIA_TF32_OVERRIDE=0 in the environment of the process (with TensorRT, clear the flag TF32)",
        (RTX, Releases(TENSORRT, "8.0")),
        of_model=lambda graph: graph.has_products,
    ),
    Rule(
        "dynamic-axes",
        Kind.IMPROVABLE,
        (),
        None,
        "the batch and another axis are dynamic at once: an engine is tuned for one size of both",
        "NVIDIA TensorRT developer guide, Working with Dynamic Shapes",
        "fix all axes but the batch, or build one engine for each size",
        (RTX, Releases(TENSORRT)),
        of_model=lambda graph: all(_opens(graph)),
    ),
    Rule(
        "baked-size",
        Kind.RISKY,
        ("Reshape",),
        _is_baked,
        "the sizes are constants, although the input has a dynamic one: it builds for one size only",
        "measured: TensorRT for RTX 1.4.0.76 and 1.7.1.116 refuse other sizes (reshape changes volume)",
        "take the dynamic size from the input (0 or -1), or use Flatten",
        (RTX, Releases(TENSORRT)),
    ),
)

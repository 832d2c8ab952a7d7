"""Operator sets and releases, TF32, and what dynamic sizes cost: advice on a model as a whole."""

import onnx_ir as ir

from harness.compiler.facts import RTX, FindingKind, Releases
from harness.compiler.rules.types import Rule
from harness.compiler.rules.view import GraphView, NodeView, dtype_of, shape_of
from harness.worker.protocol import TENSORRT

TF32 = "tf32"
"""The code of a rule that holds of products in FP32 alone."""
BAKED_SIZE = "baked-size"
"""The code of a rule that explains why a node is refused at some sizes."""
_OPSETS = "onnx-tensorrt {}, docs/operators.md"
#: The newest operator set that a release's document names, by the last release of that document.
_LIMITS = ((13, "8.0", "8.2"), (17, "8.4", "8.6"), (19, "9.0", "9.3"), (20, "10.0", "10.1"))


def _above(opset: int, first: str, last: str) -> Rule:
    return Rule(
        f"opset-{opset}",
        FindingKind.RISKY,
        (),
        None,
        f"operator sets after {opset} are not documented for these releases",
        _OPSETS.format(last),
        f"export at opset {opset} or older for them; newer operators are refused by name",
        (Releases(TENSORRT, first, last),),
        of_model=lambda graph: graph.opset > opset,
    )


def _has_bool_border(graph: GraphView) -> bool:
    return any(dtype_of(value) == "bool" for value in (*graph.ir.graph.inputs, *graph.ir.graph.outputs))


def _contradicts(graph: GraphView) -> bool:
    """Whether axes of one name are given several sizes."""
    sizes: dict[str, set[int]] = {}
    for value in graph.ir.graph.inputs:
        given = graph.sizes.get(str(value.name), ())
        for axis, size in zip(value.shape or (), given, strict=False):
            if not isinstance(axis, int) and axis.value is not None:
                sizes.setdefault(axis.value, set()).add(size)
    return any(len(found) > 1 for found in sizes.values())


def _opens(graph: GraphView) -> tuple[bool, bool]:
    """Whether the first axis of an input is open, and whether another one is."""
    shapes = [value.shape for value in graph.ir.graph.inputs if value.shape is not None]
    first = any(len(shape) and not isinstance(shape[0], int) for shape in shapes)
    return first, any(not isinstance(size, int) for shape in shapes for size in tuple(shape)[1:])


_FAR = 8
"""Nodes behind a repeated constant within which it is looked for what it joins."""


def _is_baked(node: NodeView) -> bool:
    """A Reshape of open sizes to constant ones, or constants that are repeated for a batch that is open."""
    sizes, shape = node.constant(1), node.shape(0)
    if sizes is None or sizes.ndim != 1 or not (sizes > 0).all():
        return False
    if node.op == "Reshape":
        return shape is not None and None in shape
    repeats = sizes.size > 1 and sizes[0] > 1 and shape is not None and shape[:1] in ((1,), (None,))
    return repeats and _joins_open(node.node.outputs[0], _FAR)


def _joins_open(value: ir.Value, steps: int) -> bool:
    """Whether a node that reads `value` also reads a tensor of as many axes whose first one is open."""
    rank = None if value.shape is None else len(value.shape)
    for reader, _ in value.uses() if steps else ():
        for other in reader.inputs:
            shape = None if other is None or other is value else shape_of(other)
            if shape and len(shape) == rank and shape[0] is None:
                return True
        if any(_joins_open(each, steps - 1) for each in reader.outputs):
            return True
    return False


RULES = (
    *(_above(*limit) for limit in _LIMITS),
    Rule(
        TF32,
        FindingKind.RISKY,
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
        FindingKind.IMPROVABLE,
        (),
        None,
        "the batch and another axis are dynamic at once: an engine is tuned for one size of both",
        "NVIDIA TensorRT developer guide, Working with Dynamic Shapes",
        "fix all axes but the batch, or build one engine for each size",
        (RTX, Releases(TENSORRT)),
        of_model=lambda graph: all(_opens(graph)),
    ),
    Rule(
        "contradictory-sizes",
        FindingKind.NOT_BUILT,
        (),
        None,
        "dynamic axes of one name are given different sizes, and a compiler takes one name for one size",
        "measured: TensorRT for RTX 1.4.0.76, 1.6.1.120 and 1.7.1.116 (input dimensions with this name have different "
        "constant values or contradictory profiles)",
        "export with a name of its own for each size",
        of_model=_contradicts,
    ),
    Rule(
        "bool-border",
        FindingKind.RISKY,
        (),
        None,
        "an input or an output is bool: before TensorRT 8.4 a Cast takes none, and Slice or Expand of one is not built",
        "PaddlePaddle/Paddle pull request 48043 and onnx/onnx-tensorrt issue 832; TensorRT for RTX 1.4.0.76, 1.6.1.120 "
        "and 1.7.1.116 build 22 operators on a bool input, and bool outputs",
        "make it int32, and compare it with 0 in the model",
        (Releases(TENSORRT, last="8.3"),),
        of_model=_has_bool_border,
    ),
    Rule(
        BAKED_SIZE,
        FindingKind.RISKY,
        ("Reshape", "Tile", "Expand"),
        _is_baked,
        "the sizes are constants, although those of the input are dynamic: it is right for one size only",
        "measured: TensorRT for RTX 1.4.0.76 and 1.7.1.116 refuse other sizes (reshape changes volume), or broadcast a "
        "batch of 1 to what an Expand or a Tile says",
        "take the dynamic size from the input (0 or -1 in a Reshape, Flatten, or the first size of its Shape)",
        (RTX, Releases(TENSORRT)),
    ),
)

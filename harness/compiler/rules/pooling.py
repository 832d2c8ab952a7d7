"""Pooling and convolution."""

from harness.compiler.facts import RTX, FindingKind
from harness.compiler.rules.types import ALSO_TENSORRT, MEASURED, MEASURED_AND_DOCUMENTED, Rule
from harness.compiler.rules.view import NodeView

_POOLS = ("MaxPool", "AveragePool", "LpPool")


def _dilated(node: NodeView) -> bool:
    sizes = node.attribute("dilations")
    return isinstance(sizes, tuple) and any(size != 1 for size in sizes)


def _drops_window(node: NodeView) -> bool:
    """Whether ceil_mode adds a window that starts behind the input; ONNX's schema leaves it out since 1.16."""
    shape, kernel = node.shape(0), node.attribute("kernel_shape")
    if node.attribute("ceil_mode") != 1 or shape is None or not isinstance(kernel, tuple):
        return False
    axes = len(kernel)
    steps, gaps = (node.attribute(name) or (1,) * axes for name in ("strides", "dilations"))
    pads = node.attribute("pads") or (0,) * 2 * axes
    if node.attribute("auto_pad") not in (None, "NOTSET") or len(shape) != axes + 2:
        return False
    for axis, size in enumerate(shape[2:]):
        if size is None:
            continue
        span = (int(kernel[axis]) - 1) * int(gaps[axis]) + 1  # type: ignore[index]
        step, begin, end = int(steps[axis]), int(pads[axis]), int(pads[axis + axes])  # type: ignore[index]
        if -(-(size + begin + end - span) // step) * step >= size + begin:
            return True
    return False


RULES = (
    Rule(
        "pool-dilations",
        FindingKind.REFUSED,
        _POOLS,
        _dilated,
        "dilations other than 1 are not supported",
        MEASURED_AND_DOCUMENTED,
        "pool shifted slices, and combine them",
        ALSO_TENSORRT,
    ),
    Rule(
        "maxpool-indices",
        FindingKind.REFUSED,
        ("MaxPool",),
        lambda node: 1 in node.used,
        "the output Indices is not supported",
        MEASURED_AND_DOCUMENTED,
        "compute the indices with ArgMax over the windows",
        ALSO_TENSORRT,
    ),
    Rule(
        "maxpool-ceil",
        FindingKind.DIFFERENT,
        ("MaxPool",),
        _drops_window,
        "ceil_mode adds a window that starts behind the input, which ONNX leaves out: the output is larger by one",
        "measured on an H200: TensorRT for RTX 1.4.0.76 and 1.6.1.120",
        "write the padding into the node, with ceil_mode 0",
        (RTX,),
    ),
    Rule(
        "lppool-order",
        FindingKind.REFUSED,
        ("LpPool", "GlobalLpPool", "LpNormalization"),
        lambda node: node.attribute("p") not in (None, 1, 2),
        "p must be 1 or 2",
        MEASURED,
        "write it with Pow and AveragePool",
    ),
)

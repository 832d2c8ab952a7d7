"""Scatter, gather, top K, one-hot, slices and the like: what is selected, and where it is written."""

from harness.compiler.facts import RTX, FindingKind, Releases
from harness.compiler.rules.types import ALSO_TENSORRT, DOCUMENTED, MEASURED, MEASURED_AND_DOCUMENTED, Rule
from harness.compiler.rules.view import NodeView
from harness.worker.protocol import TENSORRT

MOST_TOP = 3840


def _reduces(node: NodeView) -> bool:
    return node.attribute("reduction") not in (None, "none")


def _many(node: NodeView) -> bool:
    wanted = node.constant(1)
    return wanted is not None and wanted.size == 1 and int(wanted.reshape(())) > MOST_TOP


def _is_open(node: NodeView, position: int) -> bool:
    shape = node.shape(position)
    return shape is None or None in shape


RULES = (
    Rule(
        "topk-limit",
        FindingKind.NOT_BUILT,
        ("TopK",),
        _many,
        f"K is limited to {MOST_TOP}",
        f"{MEASURED_AND_DOCUMENTED}; NVIDIA/TensorRT issues 4390 and 4244",
        f"take {MOST_TOP} at a time, each from what the ones before left: `harness check --fix` writes that",
        (RTX, Releases(TENSORRT)),
    ),
    Rule(
        "scatter-reduction",
        FindingKind.REFUSED,
        ("ScatterND", "ScatterElements"),
        _reduces,
        "the parser supports no reduction",
        MEASURED,
        "write the reduction with a one-hot product or with masks",
    ),
    Rule(
        "scatternd-reduction",
        FindingKind.REFUSED,
        ("ScatterND",),
        _reduces,
        "the parser supports no reduction",
        DOCUMENTED,
        "write the reduction with a one-hot product or with masks",
        (Releases(TENSORRT, "10.0", "10.1"),),
    ),
    Rule(
        "scatter-reduction-ignored",
        FindingKind.DIFFERENT,
        ("ScatterND", "ScatterElements"),
        _reduces,
        "the reduction is ignored: what is written last replaces what was there",
        "onnx-tensorrt 8.6 and 9.3, builtin_op_importers.cpp: the attribute is not read; measured on an H200: TensorRT "
        "8.6.0",
        "write the reduction with a one-hot product or with masks",
        (Releases(TENSORRT, "8.2", "9.3"),),
    ),
    Rule(
        "trilu-upper",
        FindingKind.DIFFERENT,
        ("Trilu",),
        lambda node: node.attribute("upper") is None,
        "upper defaults to 1, but is read as 0 where it is left out: the lower triangle is kept",
        "measured on an H200: TensorRT for RTX 1.4.0.76 and 1.6.1.120; 1.7.1.116 builds the kernel of the lower "
        "triangle; onnx-tensorrt 8.5 to 10.1, the importer of Trilu",
        "write upper = 1 into the node",
        (RTX, Releases(TENSORRT, "8.5", "10.1")),
    ),
    Rule(
        "onehot-depth",
        FindingKind.REFUSED,
        ("OneHot",),
        lambda node: not node.is_constant(1),
        "the depth must be a constant",
        MEASURED_AND_DOCUMENTED,
        "make the depth an initializer",
        ALSO_TENSORRT,
    ),
    Rule(
        "eyelike-shape",
        FindingKind.REFUSED,
        ("EyeLike",),
        lambda node: _is_open(node, 0),
        "the size must be known when the engine is built",
        MEASURED_AND_DOCUMENTED,
        "export with static shapes, or make the matrix a constant",
        ALSO_TENSORRT,
    ),
    Rule(
        "cumsum-axis",
        FindingKind.REFUSED,
        ("CumSum",),
        lambda node: not node.is_constant(1),
        "the axis must be a constant",
        DOCUMENTED,
        "make the axis an initializer",
        ALSO_TENSORRT,
    ),
)

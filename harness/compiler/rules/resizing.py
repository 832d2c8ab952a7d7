"""Resize and GridSample."""

from harness.compiler.facts import FindingKind, Releases
from harness.compiler.rules.types import ALSO_TENSORRT, MEASURED, MEASURED_AND_DOCUMENTED, Rule
from harness.compiler.rules.view import NodeView
from harness.worker.protocol import TENSORRT, TENSORRT_RTX

_TRANSFORMATIONS = (
    *(None, "align_corners", "tf_half_pixel_for_nn", "pytorch_half_pixel", "half_pixel", "asymmetric"),
)
_GRID_NEAREST = (
    "NVIDIA/TensorRT issue 4646 and onnx-tensorrt pull request 1060; measured on an H200: nrmse 0.70 and 0.85 on "
    "TensorRT for RTX 1.4.0.76 and 1.5.0.114, 0.85 on TensorRT 8.6.0, right on TensorRT for RTX 1.6.1.120"
)


def _computed_scales(node: NodeView) -> bool:
    position = 1 if node.op == "Upsample" or node.opset < 11 else 2
    value = node.value(position)
    return value is not None and not node.is_constant(position)


RULES = (
    Rule(
        "resize-scales",
        FindingKind.REFUSED,
        ("Resize", "Upsample"),
        _computed_scales,
        "the scales must be a constant",
        MEASURED,
        "make the scales an initializer, or give sizes",
    ),
    Rule(
        "resize-antialias",
        FindingKind.REFUSED,
        ("Resize",),
        lambda node: node.attribute("antialias") == 1,
        "antialias is not supported",
        MEASURED,
        "write it as two products with the matrices of the filter, where sizes are static",
    ),
    Rule(
        "resize-transformation",
        FindingKind.REFUSED,
        ("Resize",),
        lambda node: node.attribute("coordinate_transformation_mode") not in _TRANSFORMATIONS,
        "this coordinate_transformation_mode is not supported",
        MEASURED_AND_DOCUMENTED,
        "choose half_pixel, pytorch_half_pixel, tf_half_pixel_for_nn, asymmetric or align_corners",
        ALSO_TENSORRT,
    ),
    Rule(
        "resize-aspect",
        FindingKind.REFUSED,
        ("Resize",),
        lambda node: node.attribute("keep_aspect_ratio_policy") not in (None, "stretch"),
        "keep_aspect_ratio_policy must be stretch",
        MEASURED,
        "compute the sizes beforehand",
    ),
    Rule(
        "gridsample-linear",
        FindingKind.DIFFERENT,
        ("GridSample",),
        lambda node: node.attribute("mode") == "linear",
        "mode linear of opset 20 is read as nearest",
        _GRID_NEAREST,
        "export at opset 16 to 19, where the mode is called bilinear",
        (Releases(TENSORRT_RTX, last="1.5"), Releases(TENSORRT, last="11.1")),
    ),
    Rule(
        "gridsample-cubic",
        FindingKind.DIFFERENT,
        ("GridSample",),
        lambda node: node.attribute("mode") == "cubic",
        "mode cubic of opset 20 is read as nearest",
        "NVIDIA/TensorRT issue 4646; onnx-tensorrt 8.6 to 10.1 compare with the names of opset 16 alone; measured on "
        "an H200: nrmse 0.62 on TensorRT for RTX 1.4.0.76 and 1.5.0.114 and TensorRT 8.6.0, right on TensorRT for RTX "
        "1.6.1.120",
        "export at opset 16 to 19, where the mode is called bicubic",
        (Releases(TENSORRT_RTX, last="1.5"), Releases(TENSORRT, last="11.1")),
    ),
    Rule(
        "gridsample-volume",
        FindingKind.REFUSED,
        ("GridSample",),
        lambda node: node.rank(0) not in (None, 4),
        "only images are sampled, not volumes",
        MEASURED_AND_DOCUMENTED,
        "take a newer release",
        (Releases(TENSORRT_RTX, last="1.4"), Releases(TENSORRT, last="10.1")),
    ),
)

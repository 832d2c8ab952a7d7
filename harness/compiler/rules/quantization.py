"""QuantizeLinear and DequantizeLinear."""

import numpy as np

from harness.compiler.facts import RTX, FindingKind, Releases
from harness.compiler.rules.types import ALSO_TENSORRT, DOCUMENTED, MEASURED, MEASURED_AND_DOCUMENTED, Rule
from harness.compiler.rules.view import NodeView, dtype_of
from harness.worker.protocol import TENSORRT, TENSORRT_RTX

_QDQ = ("QuantizeLinear", "DequantizeLinear")


def _shifted(node: NodeView) -> bool:
    point = node.constant(2)
    return point is not None and bool(np.any(point.astype(np.float32) != 0))


def _open_point(node: NodeView) -> bool:
    return node.value(2) is not None and not node.is_constant(2)


def _narrow(node: NodeView) -> str:
    return node.dtype(0) if node.op == "DequantizeLinear" else node.output_dtype()


def _odd(node: NodeView) -> bool:
    shape = node.shape(0) or ()
    size = 1
    for each in shape:
        size *= each or 2
    return _narrow(node) in ("int4", "float4_e2m1fn") and size % 2 == 1


def _dequantized_int8(node: NodeView, position: int) -> bool:
    value = node.value(position)
    writer = None if value is None else value.producer()
    return (
        writer is not None and writer.op_type == "DequantizeLinear" and dtype_of(writer.inputs[0]) == "int8"
    )


def _to_uint8(node: NodeView) -> bool:
    return node.op == "QuantizeLinear" and node.output_dtype() == "uint8" and not _shifted(node)


def _from_quantize(node: NodeView) -> bool:
    value = node.value(0)
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "QuantizeLinear"


RULES = (
    Rule(
        "zero-point",
        FindingKind.REFUSED,
        _QDQ,
        _shifted,
        "zero points must be 0",
        MEASURED_AND_DOCUMENTED,
        "quantize symmetrically",
        ALSO_TENSORRT,
    ),
    Rule(
        "zero-point-computed",
        FindingKind.NOT_BUILT,
        _QDQ,
        _open_point,
        "the zero point must be a constant",
        MEASURED_AND_DOCUMENTED,
        "quantize with constant scales: calibrate in place of DynamicQuantizeLinear",
        ALSO_TENSORRT,
    ),
    Rule(
        "dequantize-uint8",
        FindingKind.REFUSED,
        ("DequantizeLinear",),
        lambda node: node.dtype(0) == "uint8" and not _from_quantize(node),
        "uint8 is not dequantized",
        MEASURED_AND_DOCUMENTED,
        "quantize to int8, symmetrically",
        ALSO_TENSORRT,
    ),
    Rule(
        "dequantize-int32",
        FindingKind.REFUSED,
        ("DequantizeLinear",),
        lambda node: node.dtype(0) == "int32",
        "int32 is not dequantized: a bias belongs in float",
        "measured: TensorRT for RTX 1.4.0.76, 1.6.1.120 and 1.7.1.116 on files of ONNX Runtime's static quantization; "
        f"{DOCUMENTED}; lyuwenyu/RT-DETR issue 343",
        "quantize with extra_options={'QuantizeBias': False}, or let --fix compute it",
        ALSO_TENSORRT,
    ),
    Rule(
        "quantize-uint8",
        FindingKind.DIFFERENT,
        ("QuantizeLinear",),
        _to_uint8,
        "uint8 with a zero point of 0 becomes INT8: what lies above 127 saturates there, and -3 is read as 253",
        "measured on an H200: TensorRT for RTX 1.4.0.76, 1.5.0.114 and 1.6.1.120; onnx-tensorrt 10.1, "
        "onnxOpImporters.cpp: UINT8 zero points default to INT8",
        "quantize to int8, with twice the scale",
        (RTX, Releases(TENSORRT, "9.0", "10.1")),
    ),
    Rule(
        "quantize-uint8-8.6",
        FindingKind.NOT_BUILT,
        ("QuantizeLinear",),
        _to_uint8,
        "a tensor of uint8 comes from a Cast only",
        "measured on an H200: TensorRT 8.6.0",
        "quantize to int8, with twice the scale",
        (Releases(TENSORRT, "8.5", "8.6"),),
    ),
    Rule(
        "conv-int8",
        FindingKind.NOT_BUILT,
        ("Conv", "ConvTranspose"),
        lambda node: all(_dequantized_int8(node, position) for position in (0, 1)),
        "convolutions of INT8 are not built by these releases",
        "measured: TensorRT for RTX 1.4.0.76, 1.5.0.114 and 1.6.1.120, on a CPU and on an H200 (Myelin)",
        "take 1.7, quantize to FP8, or leave the convolution in float",
        (Releases(TENSORRT_RTX, last="1.6"),),
    ),
    Rule(
        "quantize-odd",
        FindingKind.REFUSED,
        _QDQ,
        _odd,
        "types of 4 bits need an even number of elements",
        MEASURED,
        "pad the axis to an even size",
    ),
)

"""Tensors of types that no engine has, or only in places."""

from collections.abc import Iterator

from harness.compiler.facts import ANY, FindingKind, Releases
from harness.compiler.rules.types import ALSO_TENSORRT, MEASURED, MEASURED_AND_DOCUMENTED, Rule
from harness.compiler.rules.view import NodeView, dtype_of
from harness.worker.protocol import TENSORRT_RTX

_NEVER = frozenset(
    {"int16", "uint16", "uint32", "uint64", "uint4", "int2", "uint2", "string", "complex64", "complex128"}
    | {"float8_e5m2", "float8_e5m2fnuz", "float8_e4m3fnuz", "float8_e8m0fnu"}
)
_QUANTIZED = frozenset({"int4", "float8_e4m3fn", "float4_e2m1fn"})
_CASTS = frozenset({"Cast", "CastLike"})
_QDQ = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "TRT_MXFP8DequantizeLinear", "TRT_MXFP8DynamicQuantize"}
)
_PASSING = frozenset({"Identity", "Shape", "Size"})


def _dtypes(node: NodeView) -> Iterator[str]:
    yield from map(dtype_of, node.node.inputs)
    yield from map(dtype_of, node.node.outputs)


def _never(node: NodeView) -> bool:
    return any(dtype in _NEVER for dtype in _dtypes(node))


def _uint8(node: NodeView) -> bool:
    """Beyond a Cast between the border of the graph and the rest."""
    if node.op in _QDQ or "uint8" not in _dtypes(node):
        return False
    if node.op not in (*_CASTS, *_PASSING):
        return True
    graph = node.graph.ir.graph
    reads = [value for value in node.node.inputs if dtype_of(value) == "uint8"]
    writes = [value for value in node.node.outputs if dtype_of(value) == "uint8"]
    return any(value not in graph.inputs for value in reads) or any(
        value not in graph.outputs for value in writes
    )


def _quantized(node: NodeView) -> bool:
    return node.op in _CASTS and any(dtype in _QUANTIZED for dtype in _dtypes(node))


def _int8_constant(node: NodeView) -> bool:
    return node.op not in _QDQ and any(
        dtype_of(value) == "int8" and value in node.graph.fixed
        for value in node.node.inputs
        if value is not None
    )


def _int8_arithmetic(node: NodeView) -> bool:
    return node.op not in (*_QDQ, *_CASTS, *_PASSING) and "int8" in map(dtype_of, node.node.inputs)


def _double(node: NodeView) -> bool:
    return "float64" in map(dtype_of, node.node.outputs)


RULES = (
    Rule(
        "dtype",
        FindingKind.REFUSED,
        (),
        _never,
        "an engine has no tensors of this type",
        MEASURED_AND_DOCUMENTED,
        "export with int32, int64, float32, float16 or bfloat16 in its place",
        ALSO_TENSORRT,
    ),
    Rule(
        "uint8",
        FindingKind.REFUSED,
        (),
        _uint8,
        "uint8 is supported only where a Cast reads an input of the model, or writes an output",
        MEASURED_AND_DOCUMENTED,
        "cast to int32 after the input, and back before the output",
        ALSO_TENSORRT,
    ),
    Rule(
        "quantized-cast",
        FindingKind.NOT_BUILT,
        (),
        _quantized,
        "FP8, FP4 and INT4 tensors are supported only between QuantizeLinear and DequantizeLinear, and not by a Cast",
        MEASURED,
        "quantize and dequantize with a scale instead",
    ),
    Rule(
        "int8-constant",
        FindingKind.NOT_BUILT,
        (),
        _int8_constant,
        "only DequantizeLinear reads a constant of type int8",
        MEASURED,
        "store it as int32",
    ),
    Rule(
        "int8-arithmetic",
        FindingKind.NOT_BUILT,
        (),
        _int8_arithmetic,
        "int8 is computed with only between QuantizeLinear and DequantizeLinear",
        MEASURED,
        "cast to int32 before it, and back after it",
        (Releases(TENSORRT_RTX, last="1.4"),),
    ),
    Rule(
        "double",
        FindingKind.DIFFERENT,
        (),
        _double,
        "float64 is computed in float32, and what does not fit is clamped to the largest float32",
        f"{MEASURED} (25 models built with float32 outputs). On an H200 with 1.4.0.76, 1.5.0.114, 1.6.1.120 and "
        "TensorRT 8.6.0 1e8 + 1 − 1e8 is 0; onnx-tensorrt 10.1, docs/operators.md",
        "export in float32, so that the reference computes what the engine does",
        ANY,
    ),
)

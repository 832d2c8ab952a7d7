"""Whether the engine that was built is the one that was asked for, as far as the inspector reports.

An engine that fell back to FP32 answers every FP16 question with "all is well". Under strong typing the graph
prescribes the precision: an engine whose visible layers all stayed in FP32 is an error. Under weak typing the
builder may choose FP32 for each layer, and for a network of small layers it does (on an H200, 8.6.0 built the same
132-node model wholly in FP32 in one session and in FP16 in another): that is said in a warning and in `asserted`,
for the engine is what a user would deploy. An island that did not stay in FP32 is an error under both.
"""

from collections import Counter
from typing import FrozenSet, List, Optional, Sequence, Tuple

from ...protocol import (
    BuildRequest,
    Fault,
    LayerInfo,
    RealisedPrecision,
    holds_casts,
    is_compiled,
    is_mover,
    is_region,
)

_LOWERED = ("fp16", "bf16", "fp8", "int8")


def check_realised(
    layers: Sequence[LayerInfo],
    request: BuildRequest,
    typing: str,
    version: str,
    relaxed: Optional[str] = None,
) -> Tuple[RealisedPrecision, Tuple[str, ...]]:
    """Compare the layers of an engine with what was asked for.

    Args:
        layers: what the inspector reports.
        request: what was asked for.
        typing: `weak` or `strong`, as it was built.
        version: the TensorRT release, for messages.
        relaxed: what was given up so that the engine could be built: then layers that an island shares with
            others are looked at, too, for nothing had to keep them in FP32.

    Returns:
        the realised precision, and warnings.

    Raises:
        Fault: `build_failed`: a strongly typed engine has no layer of the precision asked for, or an island has
            not stayed in FP32.
    """
    islands = frozenset(request.islands)
    opaque = [layer for layer in layers if is_region(layer.name, layer.kind)]
    compute = [layer for layer in layers if _computes(layer)]
    counts = Counter(str(layer.precision) for layer in compute)
    asserted, islands_ok = False, None
    warnings: List[str] = []
    if request.precision in _LOWERED:
        free = [layer for layer in compute if not _within(layer, islands)]
        asserted = any(layer.precision == request.precision for layer in free)
        if free and not asserted and not opaque:
            # Of a cut model so little may be left that FP32 is all it is worth.
            # Another low precision in a strongly typed engine is the file's own: its graph says so.
            if typing != "strong" or request.observation == "prefix":
                warnings.append(_chosen(free, request.precision, version))
            elif all(layer.precision in ("fp32", "tf32") and not holds_casts(layer.name) for layer in free):
                raise _fallback(free, request.precision, version)
    elif request.precision == "fp32":
        asserted = bool(compute) and not opaque
        warnings += _tf32_warning(compute, request)
    if islands:
        islands_ok, slipped = _islands(layers, islands, version, relaxed is not None)
        warnings += slipped
    found = RealisedPrecision(
        precision=counts.most_common(1)[0][0] if counts else None,
        counts=dict(sorted(counts.items())),
        opaque=len(opaque),
        asserted=asserted,
        islands_ok=islands_ok,
        relaxed=relaxed,
    )
    return found, tuple(warnings)


def _computes(layer: LayerInfo) -> bool:
    known = layer.precision is not None and layer.kind is not None
    return known and not is_mover(str(layer.kind)) and not layer.is_copy


def _within(layer: LayerInfo, islands: FrozenSet[str]) -> bool:
    return bool(layer.onnx_nodes) and islands.issuperset(layer.onnx_nodes)


def _shares(layer: LayerInfo, islands: FrozenSet[str]) -> bool:
    return not islands.isdisjoint(layer.onnx_nodes) and not _within(layer, islands)


def _fallback(layers: Sequence[LayerInfo], precision: str, version: str) -> Fault:
    return Fault(
        "build_failed",
        "silent fallback: {} was asked for, and TensorRT {} built all {} computing layers in {}".format(
            precision, version, len(layers), " and ".join(sorted({str(layer.precision) for layer in layers}))
        ),
        evidence=["{}: {} {}".format(layer.precision, layer.kind, layer.name) for layer in layers[:20]],
    )


def _chosen(layers: Sequence[LayerInfo], precision: str, version: str) -> str:
    return "TensorRT {} may use {} and chose {} for all {} computing layers: this engine says nothing of {}".format(
        version,
        precision,
        " and ".join(sorted({str(layer.precision) for layer in layers})),
        len(layers),
        precision,
    )


def _tf32_warning(compute: Sequence[LayerInfo], request: BuildRequest) -> List[str]:
    found = [layer.name for layer in compute if layer.precision == "tf32"]
    if not found or request.options.tf32:
        return []
    return ["TF32 is off, yet TensorRT chose TF32 kernels for {}".format(", ".join(found[:5]))]


def _islands(
    layers: Sequence[LayerInfo], islands: FrozenSet[str], version: str, relaxed: bool
) -> Tuple[Optional[bool], List[str]]:
    """Whether what the islands' own layers write is FP32; None if no layer is theirs alone.

    In a relaxed engine an island may share a layer with its neighbours. That one may write something lower, but
    it must compute in FP32.
    """
    own = [layer for layer in layers if _computes(layer) and _within(layer, islands)]
    shared = [layer for layer in layers if relaxed and _computes(layer) and _shares(layer, islands)]
    visible = [*own, *shared]
    slipped = [layer for layer in own if _written_lower(layer)]
    slipped += [layer for layer in shared if layer.precision not in ("fp32", "tf32")]
    certain = [layer for layer in slipped if not is_compiled(layer.name, layer.kind)]
    # A shared one that has FP32 on one side may convert inside, before the island or behind it.
    certain = [
        layer
        for layer in certain
        if layer in own or "float32" not in layer.input_dtypes + layer.output_dtypes
    ]
    if certain:
        raise Fault(
            "build_failed",
            "{} was to stay in FP32, and TensorRT {} built it in {}".format(
                ", ".join(certain[0].onnx_nodes), version, ", ".join(certain[0].output_dtypes)
            ),
            evidence=["{}: {}".format(layer.name, ", ".join(layer.output_dtypes)) for layer in certain],
        )
    warnings = ["{} may not have stayed in FP32".format(", ".join(layer.onnx_nodes)) for layer in slipped]
    return (None if not visible else not slipped), warnings


def _written_lower(layer: LayerInfo) -> bool:
    floats = [dtype for dtype in layer.output_dtypes if dtype in ("float32", "float16", "bfloat16")]
    return bool(floats) and "float32" not in floats

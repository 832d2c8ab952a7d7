"""TensorRT's own names of layers, kernels, tensors and tactics: the one module that reads them."""

import re
from enum import Enum
from typing import Optional, Tuple


class Work(Enum):
    """What a kernel does, as far as its kind says."""

    MATRIX_PRODUCT = "matrix product"
    CONVOLUTION = "convolution"
    ATTENTION = "fused attention"
    GENERATED = "generated code"
    MOVEMENT = "movement"
    REGION = "compiled region"
    OTHER = "other"

    @property
    def multiplies_matrices(self) -> bool:
        """Whether it has a product of matrices."""
        return self in (Work.MATRIX_PRODUCT, Work.ATTENTION)


#: By the kind that TensorRT names.
_WORKS = {
    "gemm": Work.MATRIX_PRODUCT,
    "correlation": Work.CONVOLUTION,
    "deconv": Work.CONVOLUTION,
    "kgen": Work.GENERATED,
    "copy": Work.MOVEMENT,
    "memset": Work.MOVEMENT,
    "reformat": Work.MOVEMENT,
    "noop": Work.MOVEMENT,
}
#: Layers of engines that move data and compute nothing.
_MOVERS = frozenset(
    (
        *("reformat", "noop", "constant", "shuffle", "slice", "concat", "concatenation", "copy", "gather"),
        *("cast", "identity", "signal", "wait", "shapehosttodevice", "devicetoshapehost", "shape"),
        *("squeeze", "unsqueeze", "reshape", "move"),
    )
)
#: By the operation that other code is fused with.
_FUSIONS = {"Fc": Work.MATRIX_PRODUCT, "Corr": Work.CONVOLUTION}
#: Operations of generated code: a conversion, arithmetic, those that make no new numbers, and those that only move.
CAST, DIVISION, MULTIPLICATION = "Cast", "Div", "Mul"
EXACT_OPERATIONS = frozenset(("Relu", "Tran", "Resh", "Move"))
MOVES = frozenset((CAST, "Move", "Resh", "Tran", "Copy", "Slic", "Conc"))
_ATTENTION = re.compile(r"_gem[mv]_mha_")
_GENERATED_NAME = "__myl_"
#: Generated code is named after what it does: `__myl_CastMeanSubMul_myl0_0`; code written for a pattern is not.
_GENERATED = re.compile(r"__myl_((?:[A-Z][a-z0-9]*)+)(_myl\d+_\d+$|$)?")
_OPERATION = re.compile("[A-Z][a-z0-9]*")
_POSITION = re.compile(r"_myl\d+_\d+$")
_IN_GRAPH = re.compile(r"_myl\d+$")
_COPY = re.compile(
    r"Reformatting CopyNode for "
    r"(?:(?:Input|Output) Tensor \d+ to (?P<layer>.+)|Network (?:Input|Output) (?P<tensor>.+))$"
)
#: The last group of `sm80_xmma_gemm_f16f16_f16f16_f16_tn_n_…` is the accumulator; `h16816gemm` of cuBLAS adds up in
#: FP16, `s16816gemm` in FP32.
_ACCUMULATOR = re.compile(
    r"_xmma_\w*?_f16f16_(?:f16|f32){1,2}_(f16|f32)_|(?<!bf16)_([hs])16816gemm_", re.IGNORECASE
)


def is_region(name: str, kind: Optional[str]) -> bool:
    """Whether a layer is a compiled region, whose inner precision is not reported."""
    return str(kind).lower() == "myelin" or "ForeignNode[" in name


def is_copy(name: str) -> bool:
    """Whether a layer only gives a tensor another format; it is named after the layer that it feeds."""
    return name.startswith("Reformatting CopyNode")


def is_compiled(name: str, kind: Optional[str]) -> bool:
    """Whether a compiler made a layer: it may hold the Cast that leads out of an island."""
    return "myl" in name or str(kind).lower() == "kgen"


def holds_casts(name: str) -> bool:
    """Whether a layer is generated code with Casts: one kernel from FP32 to FP32 may compute lower inside."""
    return _GENERATED_NAME in name and "Cast" in name


def work_of(name: str, kind: str, operations: Tuple[str, ...]) -> Work:
    """What a kernel does."""
    if is_region(name, kind):
        return Work.REGION
    if _ATTENTION.search(name) or _ATTENTION.search(kind):
        return Work.ATTENTION
    for operation in operations:
        if operation in _FUSIONS:
            return _FUSIONS[operation]
    if kind.startswith(_GENERATED_NAME):  # of operations that its name does not tell
        return Work.GENERATED
    return _WORKS.get(kind.lower(), Work.OTHER)


def is_mover(kind: str) -> bool:
    """Whether a layer moves data and computes nothing."""
    return kind.lower() in _MOVERS


def fused_behind(operations: Tuple[str, ...]) -> Optional[Work]:
    """The product that generated code begins with; None if it begins with none."""
    return _FUSIONS.get(operations[0]) if operations else None


def kind_of(name: str, kind: str) -> str:
    """The kind of a kernel: of code written for a pattern, the pattern: `_gemm_mha_v2`."""
    return _POSITION.sub("", name) if kind == "kgen" and not operations_in(name) else kind


def operations_in(name: str, *, whole: bool = True) -> Tuple[str, ...]:
    """What generated code does, in order; empty of other code, and unless the name ends there, of `whole` ones."""
    found = _GENERATED.match(name)
    known = found is not None and (not whole or found.group(2) is not None)
    return tuple(_OPERATION.findall(found.group(1))) if found is not None and known else ()


def operator_in(name: str) -> str:
    """The operator that a compiled layer is named after: `matmul` of `matmul_myl0_3`; empty of other layers."""
    return name.rpartition("_myl")[0]


def tensor_in(name: str) -> str:
    """A tensor without what the inspector puts behind its name inside a compiled graph."""
    return _IN_GRAPH.sub("", name)


def reformatted_layer(name: str) -> Optional[str]:
    """The layer for which a copy reformats a tensor, by the name of the copy; None if it is not such a copy.

    Of a copy of the network's own inputs and outputs it is the tensor.
    """
    found = _COPY.match(name)
    return None if found is None else found.group("layer") or found.group("tensor")


def accumulates_in(tactic: str) -> Optional[str]:
    """The precision in which a tactic adds up products of FP16; None if its name does not tell."""
    found = _ACCUMULATOR.search(tactic)
    if found is None:
        return None
    return "fp16" if (found.group(1) or found.group(2)).lower() in ("f16", "h") else "fp32"

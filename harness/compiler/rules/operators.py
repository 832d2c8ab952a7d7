"""Operators that no release takes, whatever they are given."""

from difflib import get_close_matches
from functools import cache

import onnx.defs

from harness.compiler.facts import FindingKind
from harness.compiler.rules.types import ALSO_TENSORRT, MEASURED, MEASURED_AND_DOCUMENTED, Rule, always
from harness.compiler.rules.view import NodeView

_FIX = (
    "write it with supported operators: `harness check --fix OUT.onnx` does where there is an exact rewrite"
)

_NEITHER = (
    *("AffineGrid", "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"),
    *("CenterCropPad", "Col2Im", "Compress", "ConvInteger", "DFT", "Det", "DynamicQuantizeLinear"),
    *("ImageDecoder", "MatMulInteger", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial"),
    *(
        "NegativeLogLikelihoodLoss",
        "QLinearConv",
        "QLinearMatMul",
        "RegexFullMatch",
        "SoftmaxCrossEntropyLoss",
    ),
    *("StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer", "Unique"),
)
_SEQUENCES = (
    *("ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement", "SequenceAt"),
    *(
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceLength",
        "SequenceMap",
    ),
    "SplitToSequence",
)
_RTX_ONLY = (
    *("BitCast", "CausalConvWithState", "CumProd", "DeformConv", "FlexAttention", "LinearAttention"),
    *("NonZero", "RoiAlign", "SwiGLU"),
)
_PARSERS_OWN = frozenset({"SimplifiedLayerNormalization"})
"""Operators of no domain of ONNX that parsers take; measured on TensorRT for RTX 1.4, 1.6 and 1.7."""
_TRT_OWN = frozenset({"TRT_MXFP8DequantizeLinear", "TRT_MXFP8DynamicQuantize"})
"""Those of TensorRT's own domain, as ModelOpt's exports have them: 1.4, 1.6 and 1.7 parse one of its models."""


@cache
def _since() -> dict[str, int]:
    """By operator of ONNX: the first version of the operator set that has it."""
    found: dict[str, int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain:
            found[schema.name] = min(schema.since_version, found.get(schema.name, schema.since_version))
    return found


def _is_taken_by_name(node: NodeView) -> bool:
    """Parsers look operators up by their names alone, whatever the domain."""
    return node.op in _PARSERS_OWN or (
        node.op in _since() and node.op not in (*_NEITHER, *_SEQUENCES, *_RTX_ONLY)
    )


def _unknown(node: NodeView) -> bool:
    return not node.domain and node.op not in _since() and node.op not in _PARSERS_OWN


def _nearest(node: NodeView) -> str:
    """The operator of ONNX whose name is like that of `node`."""
    alike = get_close_matches(node.op, _since(), 1, 0.75)
    known = {name.lower(): name for name in _since()}
    near = known.get(node.op.lower()) or (alike[0] if alike else None)
    return f"did you mean {near}? Else {_PLUGIN}" if near else _PLUGIN


_PLUGIN = "register the plugin, or export with operators of ONNX"


RULES = (
    Rule(
        "operator",
        FindingKind.REFUSED,
        _NEITHER,
        always,
        "the parser has no such operator",
        MEASURED_AND_DOCUMENTED,
        _FIX,
        ALSO_TENSORRT,
    ),
    Rule(
        "operator-rtx",
        FindingKind.REFUSED,
        _RTX_ONLY,
        always,
        "the parser has no such operator, or only by a plugin that TensorRT for RTX does not come with",
        MEASURED,
        _FIX,
    ),
    Rule(
        "nms-rtx",
        FindingKind.NOT_BUILT,
        ("NonMaxSuppression",),
        always,
        "the parser takes it, and the builder of TensorRT for RTX has no implementation",
        MEASURED,
        "end the model before it, and select boxes outside of the engine",
    ),
    Rule(
        "sequence",
        FindingKind.REFUSED,
        _SEQUENCES,
        always,
        "there are no sequences and optionals in an engine",
        MEASURED_AND_DOCUMENTED,
        "export without them, or fold them away where their length is known",
        ALSO_TENSORRT,
    ),
    Rule(
        "domain",
        FindingKind.REFUSED,
        (),
        lambda node: bool(node.domain) and not _is_taken_by_name(node) and node.op not in _TRT_OWN,
        "an operator of another domain than ONNX's needs a plugin of that name",
        MEASURED,
        _PLUGIN,
    ),
    Rule(
        "domain-ignored",
        FindingKind.RISKY,
        (),
        lambda node: bool(node.domain) and _is_taken_by_name(node),
        "parsers do not read the domain: it is taken for ONNX's operator of that name",
        "measured: TensorRT for RTX 1.4.0.76, 1.6.1.120 and 1.7.1.116 build Gelu, LayerNormalization, Trilu and "
        "SimplifiedLayerNormalization of com.microsoft, and Relu of a domain that nobody has",
        "check that both compute the same from the same inputs and attributes, or write ONNX's operator",
    ),
    Rule(
        "unknown-operator",
        FindingKind.REFUSED,
        (),
        _unknown,
        "ONNX has no operator of this name, so a parser looks for a plugin",
        "measured: TensorRT for RTX 1.4.0.76, 1.6.1.120 and 1.7.1.116 (an operator with a misspelt name)",
        _PLUGIN,
        hint=_nearest,
    ),
    Rule(
        "newer-operator",
        FindingKind.RISKY,
        (),
        lambda node: not node.domain and _since().get(node.op, 0) > node.opset,
        "the operator is newer than the model's operator set: parsers take it by its name, ONNX Runtime does not",
        "measured: TensorRT for RTX 1.4.0.76, 1.6.1.120 and 1.7.1.116 build Gelu at opset 17",
        "export at the operator set that has it",
        hint=lambda node: f"export at opset {_since()[node.op]} or later",
    ),
)

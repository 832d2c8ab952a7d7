"""Operators that no release takes, whatever they are given."""

from harness.compiler.facts import Kind
from harness.compiler.rules.types import ALSO_TENSORRT, MEASURED, MEASURED_AND_DOCUMENTED, Rule, always
from harness.compiler.rules.view import NodeView

_FIX = "write it with operators that are taken: `harness check --fix OUT.onnx` does where there is an exact rewrite"

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
_KNOWN_DOMAINS = frozenset({"", "ai.onnx"})


def _foreign(node: NodeView) -> bool:
    return node.domain not in _KNOWN_DOMAINS


RULES = (
    Rule(
        "operator",
        Kind.REFUSED,
        _NEITHER,
        always,
        "the parser has no such operator",
        MEASURED_AND_DOCUMENTED,
        _FIX,
        ALSO_TENSORRT,
    ),
    Rule(
        "operator-rtx",
        Kind.REFUSED,
        _RTX_ONLY,
        always,
        "the parser has no such operator, or only by a plugin that TensorRT for RTX does not come with",
        MEASURED,
        _FIX,
    ),
    Rule(
        "nms-rtx",
        Kind.NOT_BUILT,
        ("NonMaxSuppression",),
        always,
        "the parser takes it, and the builder of TensorRT for RTX has no implementation",
        MEASURED,
        "end the model before it, and select boxes outside of the engine",
    ),
    Rule(
        "sequence",
        Kind.REFUSED,
        _SEQUENCES,
        always,
        "there are no sequences and optionals in an engine",
        MEASURED_AND_DOCUMENTED,
        "export without them, or fold them away where their length is known",
        ALSO_TENSORRT,
    ),
    Rule(
        "domain",
        Kind.REFUSED,
        (),
        _foreign,
        "an operator of another domain than ONNX's needs a plugin of that name",
        MEASURED,
        "register the plugin, or export with operators of ONNX",
    ),
)

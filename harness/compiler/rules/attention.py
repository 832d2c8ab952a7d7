"""Attention, and what comes with it."""

from harness.compiler.facts import FindingKind, Releases
from harness.compiler.rules.types import MEASURED, Rule, always
from harness.compiler.rules.view import NodeView
from harness.worker.protocol import TENSORRT_RTX

_FUSED_HEADS = (64, 128)
_INLINE = (
    "write it as MatMul, Softmax and MatMul (ONNX's own function body): these are fused where they can be"
)


def _heads(node: NodeView) -> tuple[int | None, int | None, int | None, int | None]:
    """Sizes of a head of the query, of the key and of the value, and the length of the query; None: unknown."""
    sizes: list[int | None] = []
    for position, count in ((0, "q_num_heads"), (1, "kv_num_heads"), (2, "kv_num_heads")):
        shape, heads = node.shape(position), node.attribute(count)
        if shape is None or not shape or shape[-1] is None:
            sizes.append(None)
        elif len(shape) == 3:
            sizes.append(shape[-1] // heads if isinstance(heads, int) and heads else None)
        else:
            sizes.append(shape[-1])
    query = node.shape(0)
    return (*sizes, query[-2] if query is not None and len(query) > 1 else None)  # type: ignore[return-value]


def _unequal(node: NodeView) -> bool:
    _, key, value, _ = _heads(node)
    return None not in (key, value) and key != value


def _masked_causal(node: NodeView) -> bool:
    return node.attribute("is_causal") == 1 and node.value(3) is not None


def _no_kernel(node: NodeView) -> bool:
    """Neither the fused kernel, nor what the builder can take apart."""
    query, _, _, length = _heads(node)
    if node.dtype(0) in ("float16", "bfloat16") and query in _FUSED_HEADS:
        return False
    return not (length == 1 and node.attribute("is_causal") == 1)


def _is_plain(node: NodeView) -> bool:
    """Three dimensions, as many heads of the query as of the key, no constant, no mask."""
    heads = node.attribute("q_num_heads")
    return (
        node.rank(0) == 3
        and not node.is_constant(1)
        and heads == node.attribute("kv_num_heads")
        and node.value(3) is None
        and node.attribute("is_causal") in (None, 0)
    )


RULES = (
    Rule(
        "attention-outputs",
        FindingKind.REFUSED,
        ("Attention",),
        lambda node: len(node.node.outputs) > 1,
        "only the first output is supported: no present key and value, and no product of query and key",
        advice=_INLINE,
    ),
    Rule(
        "attention-softcap",
        FindingKind.REFUSED,
        ("Attention",),
        lambda node: node.attribute("softcap") not in (None, 0.0),
        "softcap is not supported",
        advice=_INLINE,
    ),
    Rule(
        "attention-softmax-precision",
        FindingKind.REFUSED,
        ("Attention",),
        lambda node: node.attribute("softmax_precision") is not None,
        "softmax_precision is not supported",
        advice=_INLINE,
    ),
    Rule(
        "attention-mask-causal",
        FindingKind.REFUSED,
        ("Attention",),
        _masked_causal,
        "a mask and is_causal cannot be combined",
        advice="put the causal mask into the mask",
    ),
    Rule(
        "attention-value-size",
        FindingKind.REFUSED,
        ("Attention",),
        _unequal,
        "key and value must have heads of the same size",
        advice=_INLINE,
    ),
    Rule(
        "attention-kernel",
        FindingKind.NOT_BUILT,
        ("Attention",),
        lambda node: _no_kernel(node) and not _is_plain(node),
        "there is a kernel for float16 and bfloat16 and heads of 64 and 128 only",
        advice=_INLINE,
    ),
    Rule(
        "attention-kernel-plain",
        FindingKind.NOT_BUILT,
        ("Attention",),
        lambda node: _no_kernel(node) and _is_plain(node),
        "there is a kernel for float16 and bfloat16 and heads of 64 and 128 only",
        MEASURED,
        _INLINE,
        (Releases(TENSORRT_RTX, last="1.6"),),
    ),
    Rule(
        "tensorscatter",
        FindingKind.REFUSED,
        ("TensorScatter",),
        lambda node: node.rank(0) not in (None, 4) or node.attribute("mode") not in (None, "linear"),
        "the cache must have four dimensions, and the mode must be linear",
        advice="write the cache with ScatterND",
    ),
    Rule(
        "swish-1.4",
        FindingKind.REFUSED,
        ("Swish",),
        always,
        "the parser has no such operator",
        MEASURED,
        "write it as x · Sigmoid(alpha · x)",
        (Releases(TENSORRT_RTX, last="1.4"),),
    ),
)

"""Small models of public reports, built again from their descriptions; each says what is right of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dims = Sequence[int]
ANCHORS = 400
TOKENS, WIDTH = 24, 16


class _Writer:
    """Nodes that are named after their first output, and constants."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def c(self, name: str, value: object) -> str:
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def w(self, name: str, *shape: int, scale: float | None = None) -> str:
        fan = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
        return self.c(name, self.rng.normal(0, fan**-0.5 if scale is None else scale, shape))

    def n(self, op: str, reads: Sequence[str], writes: str | Sequence[str], **attributes: object) -> str:
        outputs = [writes] if isinstance(writes, str) else list(writes)
        self.nodes.append(helper.make_node(op, list(reads), outputs, name=outputs[0], **attributes))
        return outputs[0]

    def model(self, inputs: dict[str, Dims], outputs: dict[str, Dims], opset: int = 17) -> onnx.ModelProto:
        kinds = {"keep": TensorProto.BOOL, "position_ids": TensorProto.INT64}
        values = [
            [
                helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), dims)
                for name, dims in each.items()
            ]
            for each in (inputs, outputs)
        ]
        graph = helper.make_graph(self.nodes, "report", *values, list(self.constants.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def detection_head(*, quantised: bool = False, norm: bool = False) -> onnx.ModelProto:
    """A head whose last Concat puts boxes in pixels beside scores below 1.

    ultralytics 25524, 25020 and 26220, mmyolo 776: boxes are right, and nothing is detected. With `quantised`, one INT8
    scale over both (640 / 127) makes every score 0: the QuantizeLinear `head_concat_q` is at fault. With `norm`, the
    class branch has a norm in primitives that overflows FP16: it fails at fp16, from `cls_sq` on.
    """
    g = _Writer(25524)

    def weight(name: str, *shape: int) -> str:
        return g.c(name, g.rng.normal(0, np.prod(shape[1:]) ** -0.5, shape))

    def pair(x: str, name: str, amax: float) -> str:
        if not quantised:
            return x
        read = [g.c(f"{name}_s", np.float32(amax / 127)), g.c(f"{name}_z", np.int8(0))]
        return g.n("DequantizeLinear", [g.n("QuantizeLinear", [x, *read], f"{name}_q"), *read], f"{name}_dq")

    x = pair("image", "in", 4.5)
    x = g.n("Conv", [x, weight("k0", 16, 3, 3, 3)], "b_conv", pads=[1, 1, 1, 1], strides=[2, 2])
    x = pair(g.n("Relu", [x], "b_relu"), "b", 5.0)
    boxes = g.n("Sigmoid", [g.n("Conv", [x, weight("kb", 4, 16, 1, 1)], "box_conv")], "box_sig")
    boxes = g.n("Mul", [boxes, g.c("stride", np.float32(640))], "box_px")
    boxes = g.n("Reshape", [boxes, g.c("rb", np.array([1, 4, ANCHORS]))], "boxes")
    s = g.n("Conv", [x, weight("kc", 4, 16, 1, 1)], "cls_conv")
    if norm:
        s = g.n("Mul", [s, g.c("cls_gain", np.float32(900))], "cls_big")
        mean = g.n("ReduceMean", [g.n("Mul", [s, s], "cls_sq")], "cls_var", axes=[1], keepdims=1)
        s = g.n("Div", [s, g.n("Sqrt", [mean], "cls_rms")], "cls_norm")
    s = g.n("Sigmoid", [g.n("Mul", [s, g.c("sharp", np.float32(3))], "cls_logit")], "cls_sig")
    s = g.n("Reshape", [s, g.c("rc", np.array([1, 4, ANCHORS]))], "scores")
    y = pair(g.n("Concat", [boxes, s], "head_concat", axis=1), "head", 640.0)
    g.n("Identity", [y], "output0")
    return g.model({"image": [1, 3, 40, 40]}, {"output0": [1, 8, ANCHORS]})


def topk_head(tokens: int = 6400, k: int = 5000) -> onnx.ModelProto:
    """TopK of many scores, and what it gathers (TensorRT 4390 and 4244, CATANet 6).

    At FP16 scores that are closer than one step change places: no layer is at fault.
    """
    g = _Writer(4390)
    s = g.n("Sigmoid", [g.n("MatMul", ["tokens", g.w("w_s", 8, 1)], "score_logit")], "score")
    s = g.n("Reshape", [s, g.c("flat", np.array([1, tokens]))], "score_flat")
    g.n("TopK", [s, g.c("k", np.array([k]))], ["top_scores", "top_index"], axis=1, largest=1, sorted=1)
    i = g.n("Unsqueeze", ["top_index", g.c("a2", np.array([2]))], "index3")
    i = g.n("Expand", [i, g.c("es", np.array([1, k, 8]))], "index_full")
    gathered = g.n("GatherElements", ["tokens", i], "sorted_tokens", axis=1)
    g.n("MatMul", [gathered, g.w("w_o", 8, 8)], "features")
    return g.model({"tokens": [1, tokens, 8]}, {"top_scores": [1, k], "features": [1, k, 8]})


def linear_attention(gain: float = 14.0, offset: float = 9.0) -> onnx.ModelProto:
    """ReLU linear attention at FP16: NaN (efficientvit 110 and 113, TensorRT 3893).

    Two faults: the sums in `vk` overflow, and the epsilon 1e-15 of `den_eps` is 0 in FP16, so that 0 is divided by 0.
    A gain of 1.4 with an offset of 0.9 leaves the second alone.
    """
    g, width, count = _Writer(110), 16, 1024
    x = g.n("MatMul", ["tokens", g.w("w_in", width, width)], "stem")
    x = g.n("Mul", [x, g.c("gain", np.float32(gain))], "stem_gain")
    q = g.n("MatMul", [x, g.w("w_q", width, width, scale=0.12)], "q_lin")
    q = g.n("Relu", [g.n("Sub", [q, g.c("q_off", np.float32(offset))], "q_sub")], "q")
    k = g.n("Relu", [g.n("MatMul", [x, g.w("w_k", width, width)], "k_lin")], "k")
    v = g.n("MatMul", [x, g.w("w_v", width, width)], "v_lin")
    v = g.n("Mul", [v, v], "v_sq")
    v = g.n("Concat", [v, g.c("ones", np.ones((1, count, 1), np.float32))], "v1", axis=2)
    vk = g.n("MatMul", [g.n("Transpose", [k], "k_t", perm=[0, 2, 1]), v], "vk")
    o = g.n("MatMul", [q, vk], "att")
    g.n("Split", [o, g.c("parts", np.array([width, 1]))], ["num", "den"], axis=2)
    o = g.n("Div", ["num", g.n("Add", ["den", g.c("eps", np.float32(1e-15))], "den_eps")], "att_out")
    o = g.n("Mul", [o, g.c("os", np.float32(0.01))], "att_scaled")
    o = g.n("MatMul", [o, g.w("w_o", width, width)], "proj")
    g.n("Add", [o, g.n("Mul", [x, g.c("rs", np.float32(0.1))], "skip")], "features")
    return g.model({"tokens": [1, count, width]}, {"features": [1, count, width]})


def masked_attention(*, guarded: bool = True) -> onnx.ModelProto:
    """Attention with a mask of −inf, as torch.onnx exports it (onnxscript 2479, 2654, 2992).

    With `keep_mask`, rows 0 to 3 see nothing, and their softmax is 0/0. `guarded` makes 0 of that NaN, and hides that
    `big_qs` and what follows overflow FP16. Unguarded the reference is unsound, from `small_softmax` on; the −inf of
    `float_mask` is meant.
    """
    g = _Writer(2479)
    for p in ("small", "big"):
        for name in "qkv":
            g.w(f"{p}_w{name}", WIDTH, WIDTH)
    mask = g.n(
        "Where", ["keep", g.c("zero", np.float32(0)), g.c("minus_inf", np.float32(-np.inf))], "float_mask"
    )
    x = "hidden"
    for p, gain in (("small", 1.0), ("big", 20000.0)):
        q = g.n("MatMul", [x, f"{p}_wq"], f"{p}_q")
        q = g.n("Mul", [q, g.c(f"{p}_g", np.float32(gain))], f"{p}_qs")
        k = g.n("Transpose", [g.n("MatMul", [x, f"{p}_wk"], f"{p}_k")], f"{p}_kt", perm=[0, 2, 1])
        v = g.n("MatMul", [x, f"{p}_wv"], f"{p}_v")
        s = g.n("MatMul", [q, k], f"{p}_qk")
        s = g.n("Mul", [s, g.c(f"{p}_ig", np.float32(1 / gain))], f"{p}_scaled")
        a = g.n("Softmax", [g.n("Add", [s, mask], f"{p}_masked")], f"{p}_softmax", axis=-1)
        if guarded:
            a = g.n(
                "Where", [g.n("IsNaN", [a], f"{p}_isnan"), g.c(f"{p}_zero", np.float32(0)), a], f"{p}_attn"
            )
        x = g.n("Add", [x, g.n("MatMul", [a, v], f"{p}_ctx")], f"{p}_res")
    g.n("MatMul", [x, g.w("w_out", WIDTH, WIDTH)], "out")
    dims = {"hidden": [1, TOKENS, WIDTH], "keep": [1, TOKENS, TOKENS]}
    return g.model(dims, {"out": [1, TOKENS, WIDTH]}, opset=18)


def keep_mask() -> np.ndarray:
    """A causal mask of which the first four keys are padding."""
    keep: np.ndarray = np.tril(np.ones((TOKENS, TOKENS), bool))[None].copy()
    keep[:, :, :4] = False
    return keep


def residual_norms(blocks: int = 5, branch: float = 1e-3, last: float | None = None) -> onnx.ModelProto:
    """Norms in primitives whose squares overflow FP16, in branches that a residual hides.

    `branch` scales what each adds to the stream; `last` that of the last block, which then shows.
    """
    g = _Writer(7)
    x = "x"
    for index in range(blocks):
        p = f"b{index}"
        big = g.n("Mul", [x, g.c("gain", np.float32(1000))], f"{p}_big")
        mean = g.n("ReduceMean", [g.n("Mul", [big, big], f"{p}_sq")], f"{p}_mean", axes=[-1], keepdims=1)
        y = g.n("Div", [big, g.n("Sqrt", [mean], f"{p}_rms")], f"{p}_norm")
        y = g.n("MatMul", [y, g.w(f"{p}_w", 32, 32)], f"{p}_lin")
        scale = last if last is not None and index == blocks - 1 else branch
        y = g.n("Mul", [y, g.c(f"{p}_scale", np.float32(scale))], f"{p}_small")
        x = g.n("Add", [x, y], f"{p}_add")
    return g.model({"x": [8, 32]}, {x: [8, 32]})


def rotary_attention(tokens: int = 1024, width: int = 16) -> onnx.ModelProto:
    """Attention with rotary positions that are computed in the graph, from ids.

    At bf16 neither the ids beyond 256 nor the angles have enough bits, and sin and cos are wrong for it.
    """
    g, half = _Writer(5), width // 2
    x = g.n("Cast", ["position_ids"], "positions", to=TensorProto.FLOAT)
    x = g.n("Unsqueeze", [x, g.c("last", np.array([2]))], "positions_column")
    x = g.n("Mul", [x, g.c("frequencies", 1e4 ** (-np.arange(half) / half))], "half_angles")
    x = g.n("Concat", [x, x], "angles", axis=-1)
    sin, cos = g.n("Sin", [x], "sin"), g.n("Cos", [x], "cos")
    bounds = {
        name: g.c(name, np.array([value])) for name, value in (("begin", 0), ("half", half), ("end", width))
    }

    def rotated(p: str) -> str:
        x = g.n("MatMul", ["hidden", g.w(f"w_{p}", width, width)], p)
        low = g.n("Slice", [x, bounds["begin"], bounds["half"], "last"], f"{p}_low")
        high = g.n("Neg", [g.n("Slice", [x, bounds["half"], bounds["end"], "last"], f"{p}_high")], f"{p}_neg")
        turned = g.n("Mul", [g.n("Concat", [high, low], f"{p}_turned", axis=-1), sin], f"{p}_sin")
        return g.n("Add", [g.n("Mul", [x, cos], f"{p}_cos"), turned], f"{p}_rope")

    q, k = rotated("q"), g.n("Transpose", [rotated("k")], "k_t", perm=[0, 2, 1])
    s = g.n("Mul", [g.n("MatMul", [q, k], "scores"), g.c("scale", np.float32(width**-0.5))], "scaled")
    v = g.n("MatMul", ["hidden", g.w("w_v", width, width)], "v")
    g.n("MatMul", [g.n("Softmax", [s], "weights", axis=-1), v], "out")
    dims = {"hidden": [1, tokens, width], "position_ids": [1, tokens]}
    return g.model(dims, {"out": [1, tokens, width]})

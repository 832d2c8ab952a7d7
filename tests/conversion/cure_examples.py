"""For each cure a model that it rewrites, and one that looks like it and is left as it is."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper, parser

from harness.model import Model, load_model

Arrays = dict[str, np.ndarray]
F = np.float32
RANDOM = np.random.default_rng(0)


@dataclass(frozen=True)
class Example:
    """A graph in ONNX's text syntax, with its constants."""

    graph: str
    constants: Arrays = field(default_factory=dict)
    opset: int = 18
    refused: bool = False  # whether a compiler is said to refuse all its nodes

    def model(self) -> Model:
        proto = parser.parse_model(
            f'<ir_version: 9, opset_import: ["" : {self.opset}, "ai.onnx.ml" : 1]> {self.graph}'
        )
        for name, array in self.constants.items():
            proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        onnx.checker.check_model(proto, full_check=True)
        return load_model(proto)

    def refusals(self, model: Model) -> frozenset[str] | None:
        return frozenset(node.name for node in model.nodes) if self.refused else None


def _weights(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(F)


_BAKED = "g (float[N,4,8] x) => (float[N,32] y) { r = Relu(x) y = Reshape(r, shape) }"
_NORM = (
    "m = ReduceMean(x, ax) d = Sub(x, m) q = Pow(d, two) v = ReduceMean(q, ax) e = Add(v, eps) "
    "s = Sqrt(e) n = Div(d, s) y = Mul(n, scale)"
)
_NORM_CONSTANTS = {"two": F(2), "eps": F(1e-5), "scale": _weights(8), "ax": np.array([-1])}
_RMS = "q = Mul(x, x) v = ReduceMean(q, ax) e = Add(v, eps) s = Sqrt(e) n = Div(x, s) y = Mul(n, scale)"
_ERF = "a = Div(x, root) e = Erf(a) p = Add(e, one) m = Mul(x, p) y = Mul(m, half)"
_ERF_CONSTANTS = {"root": F(2**0.5), "one": F(1), "half": F(0.5)}
_PAIR = "g (float[N,4] x) => (float[N,4] y) { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Relu(d) }"
_QUANTIZE = "g (float[N,4] x) => (%s[N,4] y) { y = QuantizeLinear(x, s, z) }"
_INTEGER = "g (uint8[N,4] x, uint8[4,3] w) => (int32[N,3] y) { y = MatMulInteger(x, w, xz, wz) }"
_LARGE = RANDOM.normal(size=(1, 4, 8)).astype(F)
LOWEST = np.finfo(F).min
_CAUSAL = np.triu(np.full((8, 8), LOWEST, F), 1)
_SCORES = "g (float[N,8,8] x, %s) => (float[N,8,8] y) "
_LOOP = (
    "g (float[N,4] x) => (float[N,4] y, float[%s,N,4] t) { y, t = Loop(n, go, x) "
    "<body = b (int64 i, bool g, float[N,4] s) => (bool h, float[N,4] u, float[N,4] r) "
    "{ h = Identity(g) f = Cast<to = 1>(i) u = Add(s, f) r = Relu(u) }> }"
)

#: What ONNX Runtime's dynamic quantisation makes of a product with a weight.
_DYNAMIC = (
    "g (float[N,64] x) => (float[N,6] y) { q, d, t = DynamicQuantizeLinear(x) i = MatMulInteger(q, w, t, z) "
    "c = Cast<to = 1>(i) m = Mul(d, %s) y = Mul(c, m) }"
)
_INTEGERS = RANDOM.integers(-127, 128, (64, 6)).astype(np.int8)

POSITIVE: dict[str, list[Example]] = {
    "baked-batch": [
        Example(_BAKED, {"shape": np.array([1, -1])}),
        Example(
            "g (float[N,5,8] x) => (float[N,6,8] y) { c = Expand(token, sizes) y = Concat<axis = 1>(c, x) }",
            {"token": _weights(1, 1, 8), "sizes": np.array([7, 1, 8])},
        ),
        Example(
            "g (float[N,4,8] x) => (float[N,4,8] y) { t = Tile(w, reps) y = Add(x, t) }",
            {"w": _LARGE, "reps": np.array([6, 1, 1])},
        ),
    ],
    "constant-folding": [
        Example("g (float[N,4] x) => (float[N,4] y) { s = Add(a, a) y = Mul(x, s) }", {"a": F(2)}),
        Example(
            'g (float[N,4] x) => (float[N,4] y) { s = Constant<value_string = "a">() t = Identity(s) y = Relu(x) }'
        ),
        Example(
            "g (float[2,4] x) => (float[2,4] y) { y = If(c) <then_branch = t () => (float[2,4] a) { a = Relu(x) }, "
            "else_branch = e () => (float[2,4] b) { b = Neg(x) }> }",
            {"c": np.array(True)},
        ),
    ],
    "float64": [
        Example(
            "g (float[N,4] x) => (float[N,4] y) { d = Cast<to = 11>(x) e = Mul(d, c) y = Cast<to = 1>(e) }",
            {"c": np.array(1.5)},
        ),
        Example(
            "g (float[N,8] x, bool[N,8] keep) => (float[N,8] y) { d = Cast<to = 11>(x) m = Where(keep, d, low) "
            "p = Softmax(m) y = Cast<to = 1>(p) }",
            {"low": np.array(np.finfo(np.float64).min)},
        ),
        Example(
            "g (float[N,8] x) => (float[N,8] y) { d = Cast<to = 11>(x) a = Max(d, low) b = Min(a, high) z = Sub(b, b) "
            "y = Cast<to = 1>(z) }",
            {"low": np.array(-1e300), "high": np.array(1e300)},
        ),
    ],
    "grid-sample-modes": [
        Example(
            'g (float[N,2,5,5] x, float[N,3,3,2] p) => (float[N,2,3,3] y) { y = GridSample<mode = "linear">(x, p) }',
            opset=20,
        )
    ],
    "explicit-upper": [
        Example("g (float[N,4,5] x) => (float[N,4,5] y) { y = Trilu(x) }"),
        Example("g (int64[4,5] x) => (int64[4,5] y) { y = Trilu(x, k) }", {"k": np.array(-1)}),
    ],
    "batch-first-recurrence": [
        Example(
            "g (float[3,5,2] x) => (float[3,5,1,4] y, float[3,1,4] h) "
            "{ y, h = RNN<hidden_size = 4, layout = 1>(x, w, r) }",
            {"w": _weights(1, 4, 2), "r": _weights(1, 4, 4)},
        ),
        Example(
            "g (float[3,5,2] x, float[3,1,4] s) => (float[3,5,1,4] y, float[3,1,4] h, float[3,1,4] c) "
            '{ y, h, c = LSTM<hidden_size = 4, layout = 1>(x, w, r, b, "", s, s) }',
            {"w": _weights(1, 16, 2), "r": _weights(1, 16, 4), "b": _weights(1, 32)},
        ),
    ],
    "ceil-mode": [
        Example(
            "g (float[N,2,2,2] x) => (float[N,2,H,W] y) "
            "{ y = MaxPool<kernel_shape = [1, 1], strides = [2, 2], ceil_mode = 1>(x) }"
        ),
        Example(
            "g (float[N,2,2,4] x) => (float[N,2,H,W] y) { y = MaxPool<kernel_shape = [1, 3], strides = [2, 2], "
            "ceil_mode = 1>(x) }"
        ),
    ],
    "inline-definition": [
        Example(
            "g (float[N,4,8] x) => (float[N,4,8] y, float[N,4,1] m) { y, m = LayerNormalization(x, s) }",
            {"s": _weights(8)},
        ),
        Example(
            "g (float[8,6] x) => (float[5,9] y) { y = CenterCropPad(x, size) }", {"size": np.array([5, 9])}
        ),
        Example(
            'g (float[N,4] x, int64[N] t) => (float l) { l = SoftmaxCrossEntropyLoss<reduction = "mean">(x, t) }'
        ),
    ],
    "inline-refused-definition": [
        Example(
            "g (float[N,2,4,8] q, float[N,2,6,8] k, float[N,2,6,8] v) => (float[N,2,4,8] y) "
            "{ y = Attention<softcap = 2.0>(q, k, v) }",
            opset=23,
            refused=True,
        )
    ],
    "unrolled-loop": [
        Example(_LOOP % 3, {"n": np.array(3), "go": np.array(True)}, refused=True),
    ],
    "scatter-with-reduction": [
        *(
            Example(
                "g (float[N,8] x, int64[M,1] i, float[M,8] u) => (float[N,8] y) "
                f'{{ y = ScatterND<reduction = "{kind}">(x, i, u) }}'
            )
            for kind in ("add", "mul", "max", "min")
        ),
        Example(
            "g (float[M,N] x, int64[M,3] i, float[M,3] u) => (float[M,N] y) "
            '{ y = ScatterElements<axis = 1, reduction = "add">(x, i, u) }'
        ),
    ],
    "tensor-scatter": [
        Example(
            "g (float[2,3,8,4] c, float[2,3,5,4] u, int64[2] w) => (float[2,3,8,4] y) "
            '{ y = TensorScatter<mode = "circular">(c, u, w) }',
            opset=24,
        )
    ],
    "dilated-pool": [
        Example(
            "g (float[N,3,H,W] x) => (float[N,3,P,Q] y) "
            "{ y = MaxPool<kernel_shape = [2, 2], dilations = [2, 2], strides = [2, 1], pads = [1, 1, 1, 1]>(x) }"
        ),
        Example(
            "g (float[N,3,9,8] x) => (float[N,3,4,4] y, int64[N,3,4,4] i) "
            "{ y, i = MaxPool<kernel_shape = [3, 2], strides = [2, 2]>(x) }"
        ),
        Example(  # of equal numbers the first in rows counts, though places are numbered by columns
            "g (float[N,3,9,8] x) => (float[N,3,4,4] y, int64[N,3,4,4] i) "
            "{ y, i = MaxPool<kernel_shape = [3, 2], strides = [2, 2], storage_order = 1>(x) }"
        ),
        Example(
            "g (float[N,3,9,8] x) => (float[N,3,P,Q] y) "
            "{ y = AveragePool<kernel_shape = [2, 2], dilations = [2, 2], pads = [1, 1, 1, 1], ceil_mode = 1>(x) }",
            opset=19,
        ),
        Example("g (float[N,3,9] x) => (float[N,3,P] y) { y = LpPool<kernel_shape = [3], p = 3>(x) }"),
    ],
    "max-unpool": [
        Example(
            "g (float[1,1,2,2] x) => (float[1,1,4,4] y) "
            "{ y = MaxUnpool<kernel_shape = [2, 2], strides = [2, 2]>(x, i) }",
            {"i": np.array([[[[5, 7], [13, 15]]]])},
        )
    ],
    "bitwise": [
        *(
            Example(f"g (int32[N,4] a, int32[4] b) => (int32[N,4] y) {{ y = Bitwise{kind}(a, b) }}")
            for kind in ("And", "Or", "Xor")
        ),
        Example("g (uint8[N,4] a) => (uint8[N,4] y) { y = BitwiseNot(a) }"),
        Example(
            'g (uint8[N,4] a, uint8[N,4] b) => (uint8[N,4] y) { y = BitShift<direction = "LEFT">(a, b) }'
        ),
        Example(
            'g (uint8[N,4] a, uint8[N,4] b) => (uint8[N,4] y) { y = BitShift<direction = "RIGHT">(a, b) }'
        ),
    ],
    "8-bit-arithmetic": [
        Example("g (uint8[N,4] a, uint8[N,4] b) => (uint8[N,4] y) { y = Add(a, b) }"),
        Example("g (uint8[N,4] a, uint8[N,4] b) => (bool[N,4] y) { y = Less(a, b) }"),
        Example("g (bool[N,4] a) => (bool[N,1] y) { y = ReduceMax(a, ax) }", {"ax": np.array([1])}, opset=20),
    ],
    "same-byte": [Example("g (int8[N,4] a) => (uint8[N,4] y) { y = BitCast<to = 2>(a) }", opset=26)],
    "classic-features": [
        Example("g (float[N,4] a) => (float[N,4] y) { y = ai.onnx.ml.Binarizer<threshold = 0.5>(a) }"),
        Example(
            "g (float[N,4] a) => (float[N,2] y) { y = ai.onnx.ml.ArrayFeatureExtractor(a, i) }",
            {"i": np.array([0, 2])},
        ),
    ],
    "floored-mod": [Example("g (float[N,4] a, float[4] b) => (float[N,4] y) { y = Mod(a, b) }", opset=28)],
    "determinant": [Example("g (float[N,3,3] a) => (float[N] y) { y = Det(a) }")],
    "cumulative-product": [
        Example(
            "g (float[N,M] a) => (float[N,M] y) { y = CumProd<exclusive = 1>(a, ax) }",
            {"ax": np.array(1)},
            26,
        ),
        Example(
            "g (float[N,4,3] a) => (float[N,4,3] y) { y = CumProd<reverse = 1>(a, ax) }",
            {"ax": np.array(1)},
            26,
        ),
    ],
    "celu-16-bits": [
        Example("g (float16[N,4] a) => (float16[N,4] y) { y = Celu<alpha = 2.0>(a) }", opset=28)
    ],
    "vector-times-stack": [Example("g (float[4] a, float[N,4,3] b) => (float[N,3] y) { y = MatMul(a, b) }")],
    "training-mode": [
        Example(
            "g (float[N,3,H] x) => (float[N,3,H] y, float[3] m, float[3] v) "
            "{ y, m, v = BatchNormalization<training_mode = 1>(x, s, b, mean, var) }",
            {"s": _weights(3), "b": _weights(3), "mean": _weights(3), "var": np.abs(_weights(3))},
        ),
        Example(
            "g (float[N,4] x) => (float[N,4] y) { y = Dropout(x, r, t) }", {"r": F(0), "t": np.array(True)}
        ),
    ],
    "optional-tensor": [Example("g (float[N,4] x) => (bool y) { y = OptionalHasElement(x) }")],
    "compress-by-constant": [
        Example(
            "g (float[N,4] x) => (float[N,2] y) { y = Compress<axis = 1>(x, c) }",
            {"c": np.array([True, False, True])},
        )
    ],
    "topk-beyond-limit": [
        Example(
            "g (float[N,4100] x) => (float[N,4000] y, int64[N,4000] i) { y, i = TopK(x, k) }",
            {"k": np.array([4000])},
        )
    ],
    "resize-by-sizes": [
        Example(
            "g (float[N,2,H,W] x) => (float[N,2,8,6] y) { s = Shape(x) h = Slice(s, two, four) f = Cast<to = 1>(h) "
            "d = Div(wanted, f) c = Concat<axis = 0>(ones, d) y = Resize(x, roi, c) }",
            {
                "two": np.array([2]),
                "four": np.array([4]),
                "wanted": np.array([8, 6], F),
                "ones": np.ones(2, F),
                "roi": np.zeros(0, F),
            },
        )
    ],
    "asymmetric-pair": [
        Example(_PAIR, {"s": F(0.05), "z": np.uint8(128)}),
        Example(_PAIR, {"s": F(0.05), "z": np.uint8(100)}),
    ],
    "stored-bias": [
        Example(
            "g (float[N,4] x) => (float[N,4] y) { d = DequantizeLinear<axis = 0>(b, s) y = Add(x, d) }",
            {"b": np.array([10, -200, 3, 1 << 20], np.int32), "s": np.linspace(0.001, 0.1, 4).astype(F)},
        ),
        Example(
            "g (float[N,4] x) => (float[N,4] y) { d = DequantizeLinear(b, s, z) y = Add(x, d) }",
            {"b": np.array([10, -200, 3, 7], np.int32), "s": F(0.01), "z": np.int32(0)},
        ),
    ],
    "static-quantisation": [
        Example(_DYNAMIC % "s", {"w": _INTEGERS, "z": np.int8(0), "s": F(0.01)}),
        Example(_DYNAMIC % "s", {"w": _INTEGERS.astype(np.uint8), "z": np.uint8(128), "s": F(0.01)}),
        Example(
            _DYNAMIC % "s",
            {"w": _INTEGERS, "z": np.zeros(6, np.int8), "s": np.linspace(0.001, 0.1, 6).astype(F)},
        ),
        Example(
            "g (float[N,2,6,6] x) => (float[N,3,6,6] y) { q, d, t = DynamicQuantizeLinear(x) "
            "i = ConvInteger<pads = [1, 1, 1, 1]>(q, w, t, z) c = Cast<to = 1>(i) m = Mul(d, s) p = Mul(c, m) "
            "y = Relu(p) }",
            {"w": RANDOM.integers(0, 255, (3, 2, 3, 3)).astype(np.uint8), "z": np.uint8(120), "s": F(0.02)},
        ),
    ],
    "integer-products": [
        Example(_INTEGER, {"xz": np.uint8(7), "wz": np.uint8(9)}),
        Example(
            "g (uint8[N,4] x) => (uint8[N,3] y) { y = QLinearMatMul(x, xs, xz, w, ws, wz, ys, yz) }",
            {
                "xs": F(0.02),
                "xz": np.uint8(7),
                "w": RANDOM.integers(0, 255, (4, 3)).astype(np.uint8),
                "ws": F(0.03),
                "wz": np.uint8(9),
                "ys": F(0.3),
                "yz": np.uint8(80),
            },
        ),
    ],
    "asymmetric-quantisation": [
        Example(_QUANTIZE % "uint8", {"s": F(0.05), "z": np.uint8(100)}),
        Example(
            "g (float[N,4] x) => (uint8[N,4] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear(x) }"
        ),
        # scales and zero points that are no constants: along an axis, and in blocks
        Example(
            "g (float[N,4,3] x, float[4] s, uint8[4] z) => (uint8[N,4,3] y) "
            "{ a = Abs(s) p = Add(a, one) y = QuantizeLinear<axis = 1>(x, p, z) }",
            {"one": F(1)},
        ),
        Example(
            "g (int8[N,4,3] x, float[4] s, int8[4] z) => (float[N,4,3] y) { y = DequantizeLinear<axis = 1>(x, s, z) }"
        ),
        Example(
            "g (uint8[N,5] x, float[N,2] s, uint8[N,2] z) => (float[N,5] y) "
            "{ y = DequantizeLinear<axis = 1, block_size = 3>(x, s, z) }",
            opset=21,
        ),
    ],
    "resize-mode": [
        Example(
            "g (float[N,2,8,8] x) => (float[N,2,5,6] y) "
            '{ y = Resize<mode = "linear", antialias = 1>(x, roi, scales) }',
            {"roi": np.zeros(0, F), "scales": np.array([1, 1, 0.63, 0.75], F)},
        ),
        Example(
            "g (float[N,2,8,8] x) => (float[N,2,4,5] y) "
            '{ y = Resize<mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize", axes = [2, 3], '
            "extrapolation_value = 3.0>(x, roi, none, sizes) }",
            {"roi": np.array([0.2, 0.1, 1.3, 0.9], F), "none": np.zeros(0, F), "sizes": np.array([4, 5])},
        ),
    ],
    "deformable-convolution": [
        Example(
            "g (float[N,4,5,6] x, float[N,16,4,5] o, float[N,8,4,5] m) => (float[N,2,4,5] y) "
            "{ y = DeformConv<offset_group = 2, group = 2>(x, w, o, b, m) }",
            {"w": _weights(2, 2, 2, 2), "b": _weights(2)},
            opset=19,
        )
    ],
    "region-align": [
        Example(
            "g (float[2,3,8,8] x, float[4,4] r) => (float[4,3,2,3] y) "
            "{ y = RoiAlign<output_height = 2, output_width = 3, sampling_ratio = 2>(x, r, i) }",
            {"i": np.array([0, 1, 1, 0])},
            refused=True,
        )
    ],
    "columns-to-image": [
        Example(
            "g (float[N,12,20] x) => (float[N,3,5,6] y) { y = Col2Im(x, image, block) }",
            {"image": np.array([5, 6]), "block": np.array([2, 2])},
        )
    ],
    "fourier-transform": [
        Example("g (float[N,9,1] x) => (float[N,5,2] y) { y = DFT<onesided = 1>(x) }"),
        Example(
            "g (float[N,8,2] x) => (float[N,8,2] y) { y = DFT<inverse = 1>(x, , ax) }",
            {"ax": np.array(-2)},
            20,
        ),
    ],
    "count-ngrams": [
        Example(
            "g (int32[N,9] x) => (float[N,4] y) { y = TfIdfVectorizer<max_gram_length = 2, min_gram_length = 1, "
            'max_skip_count = 2, mode = "TF", ngram_counts = [0, 2], ngram_indexes = [0, 1, 2, 3], '
            "pool_int64s = [0, 1, 0, 1, 1, 0]>(x) }"
        )
    ],
    "layer-normalisation": [
        Example(f"g (float[N,4,8] x) => (float[N,4,8] y) {{ {_NORM} }}", _NORM_CONSTANTS)
    ],
    "layer-normalisation-bias": [
        Example(
            "g (float[N,4,8] x) => (float[N,4,8] y) { n = LayerNormalization(x, s) y = Add(n, b) }",
            {"s": _weights(8), "b": _weights(8)},
        )
    ],
    "rms-normalisation": [Example(f"g (float[N,4,8] x) => (float[N,4,8] y) {{ {_RMS} }}", _NORM_CONSTANTS)],
    "gelu": [
        Example(f"g (float[N,8] x) => (float[N,8] y) {{ {_ERF} }}", _ERF_CONSTANTS),
        Example(
            "g (float[N,8] x) => (float[N,8] y) { q = Pow(x, three) k = Mul(q, c) a = Add(x, k) b = Mul(a, s) "
            "t = Tanh(b) p = Add(t, one) h = Mul(x, half) y = Mul(h, p) }",
            {"c": F(0.044715), "one": F(1), "half": F(0.5), "three": F(3), "s": F((2 / np.pi) ** 0.5)},
        ),
    ],
    "safe-mask": [
        Example(
            "g (float[N,8] x, bool[N,8] keep) => (float[N,8] y) { m = Where(keep, x, low) y = Softmax(m) }",
            {"low": F(-np.inf)},
        ),
        Example(
            _SCORES % "bool[N,1,8] keep" + "{ w = Where(keep, zero, low) a = Add(x, w) y = Softmax(a) }",
            {"low": LOWEST, "zero": F(0)},
        ),
        Example(
            _SCORES % "float[N,8] attention_mask"
            + "{ u = Unsqueeze(attention_mask, ax) s = Sub(one, u) w = Mul(s, low) a = Add(x, w) y = Softmax(a) }",
            {"low": LOWEST, "one": F(1), "ax": np.array([1])},
        ),
        Example(
            _SCORES % "float[N,8] attention_mask"
            + "{ u = Unsqueeze(attention_mask, ax) s = Sub(u, one) w = Mul(s, high) a = Add(x, w) y = Softmax(a) }",
            {"high": F(1e30), "one": F(1), "ax": np.array([1])},
        ),
        Example(
            _SCORES
            % "bool[N,1,8] keep"
            + "{ c = Cast<to = 1>(keep) s = Sub(c, one) w = Mul(high, s) m = Add(w, causal) a = Add(m, x) "
            "y = Softmax(a) }",
            {"high": F(1e9), "one": F(1), "causal": _CAUSAL},
        ),
        Example(
            _SCORES
            % "int64[N,8] attention_mask"
            + "{ u = Unsqueeze(attention_mask, ax) c = Cast<to = 1>(u) s = Sub(one, c) b = Cast<to = 9>(s) "
            "f = Where(b, low, s) m = Add(f, causal) a = Add(x, m) y = Softmax(a) }",
            {"low": LOWEST, "one": F(1), "ax": np.array([1]), "causal": _CAUSAL},
        ),
        Example(
            _SCORES % "bool[N,1,8] leave_out"
            + "{ b = Add(x, causal) w = Where(leave_out, low, zero) a = Add(b, w) g = Max(a, low) y = Softmax(g) }",
            {"low": LOWEST, "zero": F(0), "causal": _CAUSAL},
        ),
        Example(
            _SCORES
            % "bool[N,8,8] keep"
            + "{ w = Where(keep, zero, low) q = Equal(w, low) i = Cast<to = 6>(q) r = ReduceMin(i, last) "
            "b = Cast<to = 9>(r) n = Not(b) f = Cast<to = 1>(n) s = Mul(w, f) a = Add(x, s) y = Softmax(a) }",
            {"low": LOWEST, "zero": F(0), "last": np.array([-1])},
        ),
        Example(
            "g (float[N,8,8] x) => (float[N,8,8] y) { s = Shape<start: int = 1>(x) "
            "c = ConstantOfShape<value: tensor = float[1] {-3.4028234e38}>(s) t = Trilu<upper = 1>(c, k) "
            "a = Add(x, t) y = Softmax(a) }",
            {"k": np.array(1)},
        ),
        Example(
            "g (float[N,2,8,16] q, bool[N,1,8,8] keep) => (float[N,2,8,16] y) "
            "{ w = Where(keep, zero, low) y = Attention(q, q, q, w) }",
            {"low": F(-np.inf), "zero": F(0)},
            opset=23,
        ),
    ],
    "view-of-first-size": [
        Example(
            "g (float[N,4,8] x) => (float[N,32] y) { s = Shape(x) i = Gather(s, z) u = Unsqueeze(i, ax) "
            "t = Concat<axis = 0>(u, rest) y = Reshape(x, t) }",
            {"z": np.array(0), "ax": np.array([0]), "rest": np.array([-1])},
        )
    ],
    "einsum-of-many": [
        Example(
            "g (float[N,3,4] a, float[N,4,5] b, float[N,5,6] c) => (float[N,3,6] y) "
            '{ y = Einsum<equation = "...ij,...jk,...kl->...il">(a, b, c) }'
        )
    ],
}

NEGATIVE: dict[str, Example] = {
    "baked-batch": Example(_BAKED, {"shape": np.array([0, -1])}),
    "constant-folding": Example("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"),
    "float64": Example("g (double[N,4] x) => (double[N,4] y) { y = Relu(x) }"),
    "grid-sample-modes": Example(
        'g (float[N,2,5,5] x, float[N,3,3,2] p) => (float[N,2,3,3] y) { y = GridSample<mode = "nearest">(x, p) }',
        opset=20,
    ),
    "explicit-upper": Example("g (float[4,5] x) => (float[4,5] y) { y = Trilu<upper = 0>(x) }"),
    "batch-first-recurrence": Example(
        "g (float[5,3,2] x) => (float[5,1,3,4] y) { y = RNN<hidden_size = 4>(x, w, r) }",
        {"w": _weights(1, 4, 2), "r": _weights(1, 4, 4)},
    ),
    "ceil-mode": Example(
        "g (float[N,2,4,4] x) => (float[N,2,2,2] y) { y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], "
        "ceil_mode = 1>(x) }"
    ),
    "inline-definition": Example(
        "g (float[N,4,8] x) => (float[N,4,8] y) { y = LayerNormalization(x, s) }", {"s": _weights(8)}
    ),
    "inline-refused-definition": Example("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }", refused=True),
    "unrolled-loop": Example(_LOOP % 100, {"n": np.array(100), "go": np.array(True)}, refused=True),
    "scatter-with-reduction": Example(
        "g (float[N,8] x, int64[M,1] i, float[M,8] u) => (float[N,8] y) { y = ScatterND(x, i, u) }"
    ),
    "tensor-scatter": Example(
        "g (float[2,3,8,4] c, float[2,3,5,4] u, int64[2] w) => (float[2,3,8,4] y) { y = TensorScatter(c, u, w) }",
        opset=24,
    ),
    "dilated-pool": Example(
        "g (float[N,3,9] x) => (float[N,3,P] y) { y = LpPool<kernel_shape = [3], p = 2>(x) }"
    ),
    "max-unpool": Example("g (float[N,3,9] x) => (float[N,3,P] y) { y = MaxPool<kernel_shape = [3]>(x) }"),
    "bitwise": Example("g (bool[N,4] a, bool[N,4] b) => (bool[N,4] y) { y = And(a, b) }"),
    "8-bit-arithmetic": Example("g (int32[N,4] a, int32[N,4] b) => (int32[N,4] y) { y = Add(a, b) }"),
    "same-byte": Example("g (float[N,4] a) => (int32[N,4] y) { y = BitCast<to = 6>(a) }", opset=26),
    "classic-features": Example("g (float[N,4] a) => (float[N,4] y) { y = Relu(a) }"),
    "floored-mod": Example("g (float[N,4] a, float[4] b) => (float[N,4] y) { y = Mod<fmod = 1>(a, b) }"),
    "determinant": Example("g (float[N,4,4] a) => (float[N] y) { y = Det(a) }"),
    "cumulative-product": Example(
        "g (float[N,4,3] a, int64 ax) => (float[N,4,3] y) { y = CumProd(a, ax) }", opset=26
    ),
    "celu-16-bits": Example("g (float[N,4] a) => (float[N,4] y) { y = Celu(a) }"),
    "vector-times-stack": Example("g (float[4] a, float[4,3] b) => (float[3] y) { y = MatMul(a, b) }"),
    "training-mode": Example(
        "g (float[N,4] x) => (float[N,4] y) { y = Dropout(x, r, t) }", {"r": F(0.5), "t": np.array(True)}
    ),
    "optional-tensor": Example("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"),
    "compress-by-constant": Example(
        "g (float[N,4] x, bool[4] c) => (float[N,M] y) { y = Compress<axis = 1>(x, c) }"
    ),
    "topk-beyond-limit": Example(
        "g (float[N,4100] x) => (float[N,3840] y, int64[N,3840] i) { y, i = TopK(x, k) }",
        {"k": np.array([3840])},
    ),
    "resize-by-sizes": Example(
        "g (float[N,2,4,4] x, float[4] s) => (float[P,2,Q,R] y) { y = Resize(x, , s) }"
    ),
    "asymmetric-pair": Example(_PAIR, {"s": F(0.05), "z": np.int8(0)}),
    "stored-bias": Example(
        "g (int32[N,4] b) => (float[N,4] y) { y = DequantizeLinear(b, s) }", {"s": F(0.01)}
    ),
    "static-quantisation": Example(
        "g (float[N,64] x) => (float[N,6] y, uint8[N,64] q) { q, d, t = DynamicQuantizeLinear(x) "
        "i = MatMulInteger(q, w, t) c = Cast<to = 1>(i) y = Mul(c, d) }",
        {"w": _INTEGERS},
    ),
    "integer-products": Example("g (float[N,4] x, float[4,3] w) => (float[N,3] y) { y = MatMul(x, w) }"),
    "asymmetric-quantisation": Example(_QUANTIZE % "int8", {"s": F(0.05), "z": np.int8(0)}),
    "resize-mode": Example(
        'g (float[N,2,8,8] x) => (float[N,2,4,4] y) { y = Resize<mode = "linear">(x, roi, scales) }',
        {"roi": np.zeros(0, F), "scales": np.array([1, 1, 0.5, 0.5], F)},
    ),
    "deformable-convolution": Example(
        "g (float[N,4,H,W] x, float[N,8,4,5] o) => (float[N,2,4,5] y) { y = DeformConv(x, w, o) }",
        {"w": _weights(2, 4, 2, 2)},
        opset=19,
    ),
    "region-align": Example(
        "g (float[2,3,8,8] x, float[4,4] r) => (float[4,3,2,3] y) "
        "{ y = RoiAlign<output_height = 2, output_width = 3>(x, r, i) }",
        {"i": np.array([0, 1, 1, 0])},
        refused=True,
    ),
    "columns-to-image": Example(
        "g (float[N,12,20] x, int64[2] image) => (float[N,3,P,Q] y) { y = Col2Im(x, image, block) }",
        {"block": np.array([2, 2])},
    ),
    "fourier-transform": Example("g (float[N,M,1] x) => (float[N,M,2] y) { y = DFT(x) }"),
    "count-ngrams": Example(
        "g (int32[N,M] x) => (float[N,2] y) { y = TfIdfVectorizer<max_gram_length = 1, min_gram_length = 1, "
        'max_skip_count = 0, mode = "TF", ngram_counts = [0], ngram_indexes = [0, 1], pool_int64s = [0, 1]>(x) }'
    ),
    "layer-normalisation": Example(
        f"g (float[N,4,8] x) => (float[N,4,8] y) {{ {_NORM} }}", _NORM_CONSTANTS | {"ax": np.array([1])}
    ),
    "layer-normalisation-bias": Example(
        "g (float[N,4,8] x, float[N,4,8] b) => (float[N,4,8] y) { n = LayerNormalization(x, s) y = Add(n, b) }",
        {"s": _weights(8)},
    ),
    "rms-normalisation": Example(
        f"g (float[N,4,8] x) => (float[N,4,8] y) {{ {_RMS} }}", _NORM_CONSTANTS | {"ax": np.array([1])}
    ),
    "gelu": Example(f"g (float[N,8] x) => (float[N,8] y) {{ {_ERF} }}", _ERF_CONSTANTS | {"root": F(2)}),
    "safe-mask": Example(
        "g (float[N,8] x, bool[N,8] keep) => (float[N,8] y) { y = Where(keep, x, low) }", {"low": F(-np.inf)}
    ),
    "view-of-first-size": Example(
        "g (float[N,4,8] x) => (float[P,32] y) { s = Shape(x) i = Gather(s, z) u = Unsqueeze(i, ax) "
        "t = Concat<axis = 0>(rest, u) y = Reshape(x, t) }",
        {"z": np.array(1), "ax": np.array([0]), "rest": np.array([-1])},
    ),
    "einsum-of-many": Example(
        'g (float[N,3,4] a, float[N,4,5] b) => (float[N,3,5] y) { y = Einsum<equation = "bij,bjk->bik">(a, b) }'
    ),
}

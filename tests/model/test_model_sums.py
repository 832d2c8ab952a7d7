"""FP16 sums as ONNX graphs, against a NumPy model whose sums of blocks are FP64."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import graph_model
from onnx import helper

from benchmarks.emulation.accumulators import accumulate_in_fp16, convolve
from benchmarks.emulation.convolutions import Convolution
from cases.models.recurrent import lstm
from harness.backends import GraphRunner
from harness.model import (
    EXACT,
    Arithmetic,
    Model,
    Summation,
    fp16_sums,
    load_model,
    lower,
    round_array,
    splits_of,
    stands_in,
)
from harness.model.sums.rules import order_of
from harness.model.sums.summation import Order
from harness.tensors import Precision
from harness.worker.protocol import TENSORRT, TENSORRT_RTX


def values(*shape: int, steps: int = 32) -> np.ndarray:
    """Multiples of 1/8, of which FP32 holds every sum of 16 products exactly."""
    rng = np.random.default_rng(sum(shape))
    return (rng.integers(-steps, steps, shape) / 8).astype(np.float32)


def axes_of(array: np.ndarray) -> list[str]:
    return [f"axis{number}" for number in range(array.ndim)]


def product(op: str, left: np.ndarray, right: np.ndarray, opset: int = 13, **attributes: object) -> Model:
    node = helper.make_node(op, ["x", "w"], ["y"], name="product", **attributes)
    return load_model(
        graph_model(
            [node],
            inputs={"x": list(left.shape)},
            outputs={"y": axes_of(left)},
            weights={"w": right},
            opset=opset,
        )
    )


def emulated(model: Model, x: np.ndarray, *, lowered: bool = True, switched: bool = False) -> np.ndarray:
    arithmetic = Arithmetic(fp16_sums(model, model.shapes))
    assert "product" in arithmetic.sums
    graph = lower(model, Precision.FP16, ["y"], switched=switched, arithmetic=arithmetic)
    chosen = graph.units if lowered else ()
    return GraphRunner(model, graph, Precision.FP16, {}).run({"x": x}, chosen)["y"]


@pytest.mark.parametrize("opset", [9, 13, 17])
def test_a_product_is_the_model_in_numpy_to_the_last_bit(opset: int) -> None:
    left, right = values(24, 100), values(100, 33)
    assert (emulated(product("MatMul", left, right, opset), left) == accumulate_in_fp16(left, right)).all()


def test_gaussian_values_are_one_step_off_at_most_and_hardly_ever() -> None:
    rng = np.random.default_rng(3)
    left, right = (
        rng.standard_normal(shape).astype(np.float16).astype(np.float32) for shape in ((64, 1024), (1024, 96))
    )
    wanted, found = accumulate_in_fp16(left, right), emulated(product("MatMul", left, right), left)
    assert np.mean(found != wanted) < 0.005
    assert np.abs(found - wanted).max() <= 2 * np.spacing(np.float16(np.abs(wanted).max()))


def test_the_sums_of_parts_are_added_in_fp16() -> None:
    left, right = values(8, 4096, steps=9), values(4096, 64, steps=9)
    assert splits_of(1, 8, 4096, 64) == 8
    found = emulated(product("MatMul", left, right), left)
    assert (found == accumulate_in_fp16(left, right, parts=8)).all()
    assert (found != accumulate_in_fp16(left, right)).mean() > 0.3


def test_batches_and_transposed_operands_are_added_up_alike() -> None:
    left, right = values(2, 3, 24, 40), values(2, 3, 40, 16)
    wanted = np.array(
        [
            [accumulate_in_fp16(*pair) for pair in zip(*both, strict=True)]
            for both in zip(left, right, strict=True)
        ]
    )
    assert (emulated(product("MatMul", left, right), left) == wanted).all()
    turned = emulated(
        product("Gemm", left[0, 0].T, right[0, 0].T, transA=1, transB=1, alpha=0.5), left[0, 0].T
    )
    assert (turned == round_array(0.5 * wanted[0, 0], Precision.FP16)).all()


def test_a_batch_may_share_an_operand() -> None:
    left, right = values(2, 3, 24, 40), values(3, 40, 16)
    wanted = [[accumulate_in_fp16(*pair) for pair in zip(each, right, strict=True)] for each in left]
    assert (emulated(product("MatMul", left, right), left) == np.array(wanted)).all()


@pytest.mark.parametrize(
    ("op", "image", "weights", "attributes"),
    [
        ("Conv", (1, 40, 7, 7), (8, 40, 3, 3), {"kernel_shape": [3, 3], "pads": [1] * 4}),
        ("Gemm", (24, 100), (64, 100), {"transB": 1}),
    ],
)
def test_no_inference_moves_weights(
    op: str, image: tuple[int, ...], weights: tuple[int, ...], attributes: dict[str, object]
) -> None:
    model = product(op, values(*image), values(*weights), **attributes)
    graph = lower(
        model, Precision.FP16, ["y"], switched=False, arithmetic=Arithmetic(fp16_sums(model, model.shapes))
    )
    (feed,) = graph.weights
    fed = [node for node in graph.proto.graph.node if feed.feed in node.input]
    assert [node.op_type for node in fed] == ["Scan"]
    assert {"", "com.microsoft"} == {entry.domain for entry in graph.proto.opset_import}
    switched = lower(model, Precision.FP16, ["y"], arithmetic=Arithmetic(fp16_sums(model, model.shapes)))
    runner = GraphRunner(model, switched, Precision.FP16, {})
    kept = runner.run({"x": values(*image)}, ())["y"]
    low = runner.run({"x": values(*image)}, ("product",))["y"]
    assert (low == emulated(model, values(*image))).all()
    assert (low != kept).any()


def test_partial_sums_overflow_where_the_result_does_not() -> None:
    left = np.ones((64, 1024), np.float32)
    right = np.where(np.arange(1024) < 512, 1000.0, -1000.0).astype(np.float32)[:, None] * np.ones(
        (1, 32), np.float32
    )
    assert (left @ right == 0).all()
    assert not np.isfinite(emulated(product("MatMul", left, right), left)).any()


def test_one_row_by_few_columns_rounds_each_product_and_one_by_many_nothing() -> None:
    left, right = values(1, 64), values(64, 48)
    products = round_array(left.T * right, Precision.FP16)
    wanted = round_array(products.sum(axis=0, keepdims=True), Precision.FP16)
    assert (emulated(product("MatMul", left, right), left) == wanted).all()
    many = product("MatMul", values(1, 512), values(512, 512))
    assert fp16_sums(many, many.shapes) == {}


def convolved(image: np.ndarray, filters: np.ndarray, stride: int, tile: int) -> np.ndarray:
    """Tiles of channels, their taps one after the other."""
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    size = (image.shape[2] - 1) // stride + 1
    rows, columns = [], []
    for first in range(0, image.shape[1], tile):
        channels = slice(first, first + tile)
        for a, b in np.ndindex(3, 3):
            window = padded[0, channels, a::stride, b::stride][:, :size, :size].reshape(-1, size * size)
            lacking = ((0, tile - len(window)), (0, 0))
            columns.append(np.pad(window, lacking))
            rows.append(np.pad(filters[:, channels, a, b], lacking[::-1]))
    return accumulate_in_fp16(np.concatenate(rows, 1), np.concatenate(columns, 0)).reshape(1, -1, size, size)


@pytest.mark.parametrize(
    ("channels", "filters", "tile", "stride", "opset"),
    [
        (6, 8, 8, 1, 9),
        (8, 8, 8, 2, 13),
        (8, 64, 16, 1, 13),
        (16, 8, 16, 1, 13),
        (40, 8, 32, 1, 13),
        (64, 8, 32, 2, 13),
        (64, 8, 32, 2, 9),
        (8, 64, 16, 3, 13),  # windows side by side
        (40, 8, 32, 3, 9),
    ],
)
def test_a_convolution_adds_up_tiles_of_channels_tap_by_tap(
    channels: int, filters: int, tile: int, stride: int, opset: int
) -> None:
    image, weights = values(1, channels, 7, 7), values(filters, channels, 3, 3)
    options = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [stride] * 2}
    model = product("Conv", image, weights, opset, **options)
    assert (emulated(model, image) == convolved(image, weights, stride, tile)).all()


@pytest.mark.parametrize("order", [each for each in Order if each is not Order.FP32])
@pytest.mark.parametrize(("channels", "groups", "opset"), [(3, 1, 13), (40, 1, 9), (48, 2, 13), (6, 6, 13)])
def test_a_convolution_adds_up_in_its_order(order: Order, channels: int, groups: int, opset: int) -> None:
    each = Convolution(channels, 2 * groups, groups=groups, size=6, stride=2, batch=2)
    image, filters = values(2, channels, 6, 6), values(2 * groups, channels // groups, 3, 3)
    options = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [2, 2], "group": groups}
    model = product("Conv", image, filters, opset, **options)
    how = Summation((image.shape, filters.shape), (2, 2 * groups, 3, 3), order=order)
    graph = lower(model, Precision.FP16, ["y"], switched=False, arithmetic=Arithmetic({"product": how}))
    given = GraphRunner(model, graph, Precision.FP16, {}).run({"x": image}, graph.units)["y"]
    assert (given == convolve(each, image, filters, order)).all()


@pytest.mark.parametrize(
    ("sizes", "release", "order"),
    [
        ((1, 32, 32, 9), "", Order.WOVEN),
        ((1, 40, 8, 9), "", Order.TILES_32),
        ((8, 8, 8, 9), "", Order.FP32),
        ((1, 8, 8, 9), "", Order.TILES_8),
        ((1, 4, 8, 9), "", Order.WOVEN),
        ((1, 64, 64, 9), "8.5.3.1", Order.TILES_64),
        ((8, 8, 8, 9), "8.5.3.1", Order.TILES_32),
        ((1, 3, 64, 49), "8.5.3.1", Order.TILES_32),
        ((1, 3, 64, 49), "8.6.0", Order.WOVEN),
        ((1, 3, 64, 49), "10.1.0", Order.WOVEN),
        ((64, 1, 1, 9), "8.6.0", Order.TILES_32),
        ((64, 1, 1, 9), "8.4.1", Order.FP32),
    ],
)
def test_the_order_of_a_convolution_is_that_of_the_nearest_measured(
    sizes: tuple[int, int, int, int], release: str, order: Order
) -> None:
    assert order_of(*sizes, product=TENSORRT if release else TENSORRT_RTX, release=release) is order


@pytest.mark.parametrize(("same", "groups"), [("SAME_UPPER", 1), ("SAME_LOWER", 2), ("VALID", 1)])
def test_pads_and_groups_are_those_of_the_convolution(same: str, groups: int) -> None:
    image, filters = values(2, 32, 6, 5), values(4, 32 // groups, 3, 2)
    model = product("Conv", image, filters, auto_pad=same, group=groups, strides=[2, 1], kernel_shape=[3, 2])
    exact = emulated(model, image, lowered=False, switched=True)
    assert np.abs(emulated(model, image) - exact).max() <= 4 * np.spacing(np.float16(np.abs(exact).max()))


def test_an_island_is_added_up_in_fp32_in_the_same_session() -> None:
    left, right = values(16, 1024), values(1024, 16)
    model = product("MatMul", left, right)
    arithmetic = Arithmetic(fp16_sums(model, model.shapes))
    graph = lower(model, Precision.FP16, ["y"], arithmetic=arithmetic)
    runner = GraphRunner(model, graph, Precision.FP16, {})
    kept, low = (runner.run({"x": left}, chosen)["y"] for chosen in ((), ("product",)))
    assert np.allclose(kept, left @ right, rtol=1e-6)
    assert (low == accumulate_in_fp16(left, right)).all()


@pytest.mark.parametrize("unrounded", [False, True])
def test_a_product_in_fp32_reads_tf32_unless_nothing_else_may_err(*, unrounded: bool) -> None:
    rng = np.random.default_rng(4)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 64), (64, 8)))
    x = np.abs(x)
    nodes = [
        helper.make_node("Sqrt", ["x"], ["t"], name="root"),
        helper.make_node("MatMul", ["t", "w"], ["y"], name="product"),
    ]
    model = load_model(
        graph_model(nodes, inputs={"x": list(x.shape)}, outputs={"y": [16, 8]}, weights={"w": w})
    )
    kept = frozenset({"t"}) if unrounded else frozenset()
    arithmetic = Arithmetic(unrounded=kept, tf32=frozenset({"product"}))
    for switched in (True, frozenset({"root", "product"})):
        graph = lower(model, Precision.FP16, ["y"], switched=switched, arithmetic=arithmetic)
        runner = GraphRunner(model, graph, Precision.FP16, {})
        root = np.sqrt(x)
        cut, cut_w = (round_array(value, Precision.TF32) for value in (root, w))
        assert np.allclose(runner.run({"x": x})["y"], cut @ cut_w, rtol=0, atol=2e-5)
        assert np.allclose(runner.run({"x": x}, [EXACT])["y"], root @ w, rtol=0, atol=2e-5)
        low = round_array(x, Precision.FP16)
        read = np.sqrt(low) if unrounded else round_array(np.sqrt(low), Precision.FP16)
        lowered = round_array(read @ round_array(w, Precision.FP16), Precision.FP16)
        assert np.allclose(runner.run({"x": x}, graph.units)["y"], lowered, rtol=1e-3, atol=1e-4)
        assert np.abs(cut @ cut_w - root @ w).max() > 1e-4


def test_unknown_shapes_and_depthwise_convolutions_stay_in_fp32() -> None:
    image, filters = values(1, 8, 6, 6), values(8, 1, 3, 3)
    assert (
        fp16_sums(product("Conv", image, filters, group=8), product("Conv", image, filters, group=8).shapes)
        == {}
    )
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    dynamic = load_model(
        graph_model([node], inputs={"x": ["n", 64]}, outputs={"y": ["m", "k"]}, weights={"w": values(64, 8)})
    )
    assert fp16_sums(dynamic, dynamic.shapes) == {}
    known = {**dynamic.shapes, "x": (4, 64)}
    assert set(fp16_sums(dynamic, known)) == {"product"}


def stepped(
    node: onnx.NodeProto, x: np.ndarray, weights: dict[str, np.ndarray], *, rounds: bool = True
) -> np.ndarray:
    model = load_model(
        graph_model([node], inputs={"x": list(x.shape)}, outputs={"y": axes_of(x)}, weights=weights, opset=17)
    )
    graph = lower(model, Precision.FP16, ["y"], switched=False, arithmetic=Arithmetic(steps={"step": rounds}))
    return GraphRunner(model, graph, Precision.FP16, {}).run({"x": x}, graph.units)["y"]


def test_a_log_softmax_is_the_logarithm_of_a_probability_that_underflows() -> None:
    x = np.array([[0.0, -30.0]], np.float32)
    node = helper.make_node("LogSoftmax", ["x"], ["y"], name="step", axis=-1)
    assert np.isneginf(stepped(node, x, {})[0, 1])


def test_a_division_by_the_smallest_numbers_overflows_where_it_is_a_reciprocal() -> None:
    node = helper.make_node("Div", ["x", "w"], ["y"], name="step")
    small = np.full((1, 4), 3e-6, np.float32)
    assert np.isinf(stepped(node, np.full((1, 4), 1e-4, np.float32), {"w": small})).all()


def test_a_sigmoid_in_steps_rounds_a_tanh() -> None:
    x = values(4, 64, steps=40)
    node = helper.make_node("Sigmoid", ["x"], ["y"], name="step")
    wanted = rounded(0.5 * rounded(np.tanh(0.5 * x)) + 0.5)
    assert np.mean(stepped(node, x, {}) == wanted) > 0.98
    assert np.mean(rounded(sigmoid(x)) == wanted) < 0.9


@pytest.mark.parametrize("rounds", [True, False])
def test_a_batch_norm_is_a_multiplication_and_an_addition(rounds: bool) -> None:
    x = values(1, 4, 3, 3)
    gain, offset, mean, variance = (abs(values(4)) + each for each in (0.3, 0.1, 0.2, 1.7))
    weights = dict(zip("gomv", (gain, offset, mean, variance), strict=True))
    node = helper.make_node("BatchNormalization", ["x", *"gomv"], ["y"], name="step", epsilon=1e-5)
    low = {name: round_array(value, Precision.FP16) for name, value in weights.items()}
    factor = round_array(low["g"] / np.sqrt(low["v"] + 1e-5), Precision.FP16)
    shift = round_array(low["o"] - low["m"] * factor, Precision.FP16).reshape(1, 4, 1, 1)
    scaled = round_array(x, Precision.FP16) * factor.reshape(1, 4, 1, 1)
    scaled = round_array(scaled, Precision.FP16) if rounds else scaled
    wanted = round_array(scaled + shift, Precision.FP16)
    assert (stepped(node, x, weights, rounds=rounds) == wanted).all()


def test_a_layer_norm_is_rounded_before_its_weights_come_to_it() -> None:
    x, gain, offset = values(4, 64), values(64, steps=9), values(64, steps=7)
    node = helper.make_node("LayerNormalization", ["x", "g", "o"], ["y"], name="step", epsilon=1e-5)
    centred = x - x.mean(axis=1, keepdims=True)
    normed = round_array(centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5), Precision.FP16)
    wanted = round_array(normed * gain + offset, Precision.FP16)
    assert np.mean(stepped(node, x, {"g": gain, "o": offset}) == wanted) > 0.98


def test_fused_attention_rounds_the_powers_before_it_divides_them_by_their_sum() -> None:
    x = values(4, 64, steps=40)
    node = helper.make_node("Softmax", ["x"], ["y"], name="step", axis=-1)
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    shares = round_array(powers, Precision.FP16) / powers.sum(axis=1, keepdims=True)
    assert np.mean(stepped(node, x, {}, rounds=False) == round_array(shares, Precision.FP16)) > 0.98


@pytest.mark.parametrize(("terms", "parts"), [(3072, 5), (4096, 7), (1024, 3), (2048, 4)])
def test_parts_may_differ_by_a_tile_and_are_folded_onto_a_power_of_two(terms: int, parts: int) -> None:
    left, right = values(8, terms, steps=5), values(terms, 16, steps=5)
    model = product("MatMul", left, right)
    arithmetic = Arithmetic({"product": Summation((left.shape, right.shape), (8, 16), parts)})
    graph = lower(model, Precision.FP16, ["y"], switched=False, arithmetic=arithmetic)
    given = GraphRunner(model, graph, Precision.FP16, {}).run({"x": left}, ["product"])["y"]
    assert (given == accumulate_in_fp16(left, right, parts=parts)).all()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def unrolled(x: np.ndarray, w: np.ndarray, r: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The states of an LSTM of one direction, each step rounded."""
    hidden, bias = r.shape[1], rounded(b[: len(w)] + b[len(w) :])
    state = cell = np.zeros((x.shape[1], hidden))
    states = []
    for read in x:
        gates = rounded(accumulate_in_fp16(read, w.T) + accumulate_in_fp16(state, r.T))
        parts = np.split(rounded(gates + bias), 4, axis=1)
        entry, leave, forget = (rounded(sigmoid(part)) for part in parts[:3])
        cell = rounded(forget * cell + rounded(entry * rounded(np.tanh(parts[3]))))
        state = rounded(leave * rounded(np.tanh(cell)))
        states.append(state)
    return np.stack(states)


def unrolled_rnn(x: np.ndarray, w: np.ndarray, r: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The states of an RNN of one direction, each step rounded."""
    bias, state, states = rounded(b[: len(w)] + b[len(w) :]), np.zeros((x.shape[1], r.shape[1])), []
    for read in x:
        gates = rounded(accumulate_in_fp16(read, w.T) + accumulate_in_fp16(state, r.T))
        states.append(state := rounded(np.tanh(rounded(gates + bias))))
    return np.stack(states)


def unrolled_gru(x: np.ndarray, w: np.ndarray, r: np.ndarray, b: np.ndarray, before: bool) -> np.ndarray:
    """The states of a GRU of one direction, each step rounded."""
    hidden = r.shape[1]
    state, states = np.zeros((x.shape[1], hidden)), []
    (of_read, of_state), both, new = np.split(b, 2), slice(0, 2 * hidden), slice(2 * hidden, None)
    for read in x:
        given = accumulate_in_fp16(read, w.T)
        gates = rounded(given[:, both] + accumulate_in_fp16(state, r[both].T))
        gates = rounded(sigmoid(rounded(rounded(gates + of_read[both]) + of_state[both])))
        update, reset = np.split(gates, 2, axis=1)
        if before:
            kept = rounded(accumulate_in_fp16(state, r[new].T) + of_state[new])
            made = rounded(rounded(reset * kept + of_read[new]) + given[:, new])
        else:
            kept = rounded(given[:, new] + accumulate_in_fp16(rounded(reset * state), r[new].T))
            made = rounded(kept + rounded(of_read[new] + of_state[new]))
        state = rounded(rounded(update * state) + rounded(1 - update) * rounded(np.tanh(made)))
        states.append(state)
    return np.stack(states)


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
UNROLLED = {
    "LSTM": unrolled,
    "RNN": unrolled_rnn,
    "GRU": lambda *given: unrolled_gru(*given, before=False),
    "GRU before": lambda *given: unrolled_gru(*given, before=True),
}


def rounded(values: np.ndarray) -> np.ndarray:
    return round_array(values, Precision.FP16).astype(np.float64)


@pytest.mark.parametrize(("direction", "opset"), [("forward", 9), ("reverse", 13), ("bidirectional", 14)])
@pytest.mark.parametrize("kind", list(UNROLLED))
def test_a_recurrent_layer_in_steps_is_the_model_in_numpy(kind: str, direction: str, opset: int) -> None:
    op, _, before = kind.partition(" ")
    both, hidden, width, gates = 2 if direction == "bidirectional" else 1, 24, 40, GATES[op]
    x = values(5, 3, width)
    weights = {
        "w": values(both, gates * hidden, width) / 16,
        "r": values(both, gates * hidden, hidden) / 16,
        "b": rounded(values(both, 2 * gates * hidden) / 16).astype(np.float32),
    }
    given = {"hidden_size": hidden, "direction": direction, **({"linear_before_reset": 1} if before else {})}
    node = helper.make_node(op, ["x", "w", "r", "b"], ["y", "h"], "step", **given)
    model = load_model(
        graph_model(
            [node],
            inputs={"x": list(x.shape)},
            outputs={"y": [5, both, 3, hidden], "h": [both, 3, hidden]},
            weights=weights,
            opset=opset,
        )
    )
    arithmetic = Arithmetic(fp16_sums(model, model.shapes), steps={"step": True})
    expected = []
    for place, reverse in enumerate({"forward": [0], "reverse": [1], "bidirectional": [0, 1]}[direction]):
        read = x[::-1] if reverse else x
        found = UNROLLED[kind](read, *(weights[name][place].astype(np.float64) for name in "wrb"))
        expected.append(found[::-1] if reverse else found)
    wanted = np.stack(expected, axis=1)
    for switched in (False, True):
        graph = lower(model, Precision.FP16, ["y", "h"], switched=switched, arithmetic=arithmetic)
        given = GraphRunner(model, graph, Precision.FP16, {}).run({"x": x}, ["step"])
        assert np.mean(given["y"] == wanted) > 0.97
        assert given["h"].shape == (both, 3, hidden)


def one_row(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """One row times a matrix, each product of two numbers rounded."""
    return rounded(rounded(left.T * right).sum(axis=0, keepdims=True))


def at_once(read: np.ndarray, w: np.ndarray, state: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Two products of one row, added up at once."""
    made, kept = read.T * w, rounded(state.T * r)
    made = made if made.shape == kept.shape else rounded(made)
    count = max(len(made), len(kept))
    made, kept = (np.pad(each, ((0, count - len(each)), (0, 0))) for each in (made, kept))
    return rounded(rounded(made + kept).sum(axis=0, keepdims=True))


def rnn_of_one_row(x: np.ndarray, w: np.ndarray, r: np.ndarray, b: np.ndarray, both: bool) -> np.ndarray:
    bias, state, states = rounded(b[: len(w)] + b[len(w) :]), np.zeros((1, r.shape[1])), []
    for read in x:
        apart = rounded(rounded(read @ w.T) + one_row(state, r.T))
        gates = apart if both else at_once(read, w.T, state, r.T)
        states.append(state := rounded(np.tanh(rounded(gates + bias))))
    return np.stack(states)


def gru_of_one_row(x: np.ndarray, w: np.ndarray, r: np.ndarray, b: np.ndarray, both: bool) -> np.ndarray:
    hidden = r.shape[1]
    state, states = np.zeros((1, hidden)), []
    (of_read, of_state), of_gates, new = np.split(b, 2), slice(0, 2 * hidden), slice(2 * hidden, None)
    for read in x:
        given = rounded(read @ w.T) if both else one_row(read, w.T)
        gates = rounded(given[:, of_gates] + one_row(state, r[of_gates].T))
        gates = rounded(sigmoid(rounded(rounded(gates + of_read[of_gates]) + of_state[of_gates])))
        update, reset = np.split(gates, 2, axis=1)
        kept = rounded(given[:, new] + one_row(rounded(reset * state), r[new].T))
        made = rounded(kept + rounded(of_read[new] + of_state[new]))
        state = rounded(rounded(update * state) + rounded(1 - update) * rounded(np.tanh(made)))
        states.append(state)
    return np.stack(states)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("op", "width"), [("RNN", 24), ("RNN", 40), ("RNN", 16), ("GRU", 40)])
def test_the_products_of_one_row_are_generated_code(op: str, width: int, direction: str) -> None:
    both, hidden, gates = 2 if direction == "bidirectional" else 1, 24, GATES[op]
    x = values(5, 1, width)
    weights = {
        "w": values(both, gates * hidden, width) / 16,
        "r": values(both, gates * hidden, hidden) / 16,
        "b": rounded(values(both, 2 * gates * hidden) / 16).astype(np.float32),
    }
    node = helper.make_node(op, ["x", "w", "r", "b"], ["y"], "step", hidden_size=hidden, direction=direction)
    outputs = {"y": [5, both, 1, hidden]}
    model = load_model(
        graph_model([node], inputs={"x": list(x.shape)}, outputs=outputs, weights=weights, opset=14)
    )
    arithmetic = Arithmetic(fp16_sums(model, model.shapes), steps={"step": True})
    unrolled = {"RNN": rnn_of_one_row, "GRU": gru_of_one_row}[op]
    expected = []
    for place, reverse in enumerate({"forward": [0], "reverse": [1], "bidirectional": [0, 1]}[direction]):
        read = x[::-1] if reverse else x
        found = unrolled(read, *(weights[name][place].astype(np.float64) for name in "wrb"), both == 2)
        expected.append(found[::-1] if reverse else found)
    wanted = np.stack(expected, axis=1)
    for switched in (False, True):
        graph = lower(model, Precision.FP16, ["y"], switched=switched, arithmetic=arithmetic)
        given = GraphRunner(model, graph, Precision.FP16, {}).run({"x": x}, ["step"])
        assert np.mean(given["y"] == wanted) > 0.97


@pytest.mark.parametrize(
    ("release", "taken"),
    [("1.4.0.76", None), ("1.6.9.1", None), ("1.3.0.1", "1.4"), ("1.7.1.116", "1.6"), ("2.0.0.1", "1.6")],
)
def test_a_release_that_was_not_measured_takes_the_nearest(release: str, taken: str | None) -> None:
    assert stands_in("TensorRT for RTX", release) == taken
    assert stands_in("Another", release) is None


def test_an_lstm_in_steps_may_read_another_one() -> None:
    model = load_model(lstm(), name="lstm")
    steps = {node.name: True for node in model.nodes if node.op == "LSTM"}
    x = values(16, 2, 32)
    for switched in (False, True):
        graph = lower(
            model,
            Precision.FP16,
            ["logits"],
            switched=switched,
            arithmetic=Arithmetic({}, frozenset(), steps),
        )
        given = GraphRunner(model, graph, Precision.FP16, {}).run({"sequence": x}, graph.units)
        assert np.isfinite(given["logits"]).all()

"""What is reported of a model whose own float16 overflows, or whose own Q/DQ nodes saturate."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import graph_model, norm_chain, own_norm
from onnx import TensorProto, helper, numpy_helper
from report_models import detection_head
from rich.console import Console

from harness.diagnosis.context import make_bench
from harness.judge import Cause, OwnRoundings, RunResult, Verdict, Workbench, run
from harness.model import load_model
from harness.report import print_report, run_page
from harness.tensors import to_json

SHAPE = [4, 64]  # of own_norm, too
RNG = np.random.default_rng(0)
X = RNG.standard_normal(SHAPE).astype(np.float32)


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def node(op: str, reads: str, writes: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, reads.split(), writes.split(), name=writes.split()[0], **attributes)


def quantised(
    scale: float | np.ndarray, zero: np.generic | np.ndarray, *, relu: bool = True
) -> onnx.ModelProto:
    """x, rectified, through a Q/DQ pair, times a matrix."""
    nodes = [
        node("Relu" if relu else "Identity", "x", "a"),
        node("QuantizeLinear", "a s zero", "quantize"),
        node("DequantizeLinear", "quantize s zero", "dequantize"),
        node("MatMul", "dequantize w", "y"),
    ]
    weights = {
        "s": np.float32(scale),
        "zero": np.asarray(zero),
        "w": np.random.default_rng(1).standard_normal((64, 8), np.float32),
    }
    return graph_model(nodes, inputs={"x": SHAPE}, outputs={"y": [4, 8]}, weights=weights)


def workbench(proto: onnx.ModelProto, *samples: np.ndarray) -> Workbench:
    return make_bench(load_model(proto, name="m"), [{"x": x} for x in samples or (X,)])


def judged(proto: onnx.ModelProto, precision: str) -> RunResult:
    onnx.save(proto, "m.onnx")
    return run("m.onnx", precisions=[precision]).results[0]


def test_an_overflow_of_the_models_own_float16_is_reported_and_the_file_is_at_fault() -> None:
    own = workbench(own_norm(500.0)).own_roundings
    (overflow,) = own.overflows
    assert (overflow.node, overflow.dtype, overflow.size) == ("sq", "float16", 256)
    assert overflow.elements == np.count_nonzero(np.abs(X * 500) > np.sqrt(65520))
    assert own.cost == pytest.approx(1.0), "what is divided by infinity is 0"
    (warning,) = own.warnings
    assert warning.startswith("sq (Mul) overflows the model's own float16: ")
    assert own.fault.startswith("the file itself: its own float16 makes y wrong: nrmse 1 ")


def test_float16_of_the_model_that_fits_is_not_reported() -> None:
    own = workbench(own_norm(2.0)).own_roundings
    assert own.warnings == ()
    assert 0 < own.cost < 1e-3
    plain = {"overflows": [], "saturations": [], "cost": own.cost, "dtypes": ["float16"]}
    assert to_json(own) == plain


def test_an_overflow_is_counted_over_all_samples() -> None:
    (overflow,) = workbench(own_norm(500.0), X * 0.01, X).own_roundings.overflows
    assert overflow.size == 512
    assert workbench(own_norm(500.0), X * 0.01).own_roundings.overflows == ()


def test_a_model_without_roundings_of_its_own_runs_nothing_more() -> None:
    bench = make_bench(load_model(norm_chain()), [{"x": np.ones((2, 16), np.float32)}])
    assert bench.own_roundings.facts is None
    assert "expected" not in vars(bench)


@pytest.mark.parametrize(
    ("scale", "zero", "relu", "share"),
    [
        (0.03, np.int8(0), True, 0.0),
        (0.0005, np.int8(0), True, np.mean(np.rint(X / 0.0005) > 127)),
        (0.03, np.int8(0), False, 0.0),
        (0.0005, np.int8(0), False, np.mean((np.rint(X / 0.0005) > 127) | (np.rint(X / 0.0005) < -128))),
        (0.03, np.uint8(0), False, 0.0),  # negative values are clipped at 0, as by a ReLU
        (0.0005, np.uint8(0), False, np.mean(np.rint(X / 0.0005) > 255)),
        (0.0005, np.uint8(200), False, np.mean((np.rint(X / 0.0005) > 55) | (np.rint(X / 0.0005) < -200))),
        (np.full(64, 0.03), np.zeros(64, np.int8), True, 0.0),
        (np.where(np.arange(64), 0.03, 1e-5), np.zeros(64, np.int8), True, np.mean(X[:, 0] > 0) / 64),
        (0.015, np.int8(0), True, np.mean(np.rint(X / 0.015) > 127)),
    ],
)
def test_a_quantizer_that_saturates_is_reported_with_its_share(
    scale: float | np.ndarray, zero: np.generic | np.ndarray, relu: bool, share: float
) -> None:
    own = workbench(quantised(scale, zero, relu=relu)).own_roundings
    if share <= 0.01:
        assert own.saturations == ()
        return
    (found,) = own.saturations
    assert found.share == pytest.approx(share)
    assert found.scale == pytest.approx(np.min(scale))
    reached = np.maximum(X, 0) if relu else np.abs(X)
    assert found.largest == reached.max()
    saturating = [warning for warning in own.warnings if "saturates" in warning]
    assert bool(saturating) == (own.cost > 0.1), "what the outputs hardly notice is only in the facts"
    if saturating:
        assert saturating[0].startswith(f"quantize (QuantizeLinear) saturates {share:.0%} of its elements")


def test_the_cost_of_quantisation_is_reported_where_it_is_beyond_the_gate_of_int8() -> None:
    fine = workbench(quantised(0.03, np.int8(0))).own_roundings
    assert 0 < fine.cost < 0.05
    assert fine.warnings == ()
    assert fine.fault == ""
    coarse = workbench(quantised(1.5, np.int8(0))).own_roundings
    assert coarse.saturations == ()
    assert coarse.fault.startswith("the file itself: its Q/DQ nodes make y wrong: nrmse 0.")


def test_int8_on_the_emulator_judges_nothing_of_a_quantised_model_and_says_what_it_costs() -> None:
    result = judged(quantised(0.03, np.int8(0)), "int8")
    assert result.verdict is Verdict.SKIP
    assert "the INT8 of this model is its own Q/DQ nodes, and the reference has them, too" in result.reason
    assert "the model's Q/DQ nodes cost nrmse 0.0127" in result.reason


@pytest.mark.parametrize("precision", ["int8", "fp16", "fp32"])
def test_a_file_that_its_own_quantisation_ruins_fails_at_every_precision(precision: str) -> None:
    result = judged(quantised(0.0005, np.int8(0)), precision)
    assert (result.verdict, result.cause) == (Verdict.FAIL, Cause.FILE)
    assert result.reason.startswith("the file itself: its Q/DQ nodes make y wrong: nrmse 0.9")
    assert "saturates" in result.warnings[0]
    assert result.to_dict()["facts"]["own_roundings"]["saturations"][0]["node"] == "quantize"


def test_a_model_of_float16_throughout_is_skipped_with_what_its_types_cost() -> None:
    nodes = [node("Mul", "x x", "sq"), node("Min", "sq most", "y")]
    proto = graph_model(
        nodes,
        inputs={"x": SHAPE},
        outputs={"y": SHAPE},
        weights={"most": np.float16(8)},
        dtypes={"x": TensorProto.FLOAT16, "y": TensorProto.FLOAT16},
    )
    result = judged(proto, "fp16")
    assert result.verdict is Verdict.SKIP
    assert "no node computes float32 tensors" in result.reason
    assert "the model's own float16 costs nrmse" in result.reason
    assert judged(proto, "fp32").verdict is Verdict.PASS


def test_a_quantizer_that_makes_0_of_what_was_joined_is_named_with_the_part() -> None:
    result = judged(detection_head(quantised=True), "int8")
    assert result.cause is Cause.FILE
    assert result.reason.startswith("the file itself: its Q/DQ nodes make output0 wrong: nrmse of scores 1 ")
    (warning,) = result.warnings
    assert warning.startswith(
        "head_q (QuantizeLinear) rounds 1600 of 1600 elements of scores to 0: its scale is 5.04"
    )


def test_a_tensor_that_was_joined_along_another_axis_than_the_channels_is_named(tmp_path) -> None:
    scale, zero = numpy_helper.from_array(np.float32(5), "s"), numpy_helper.from_array(np.int8(0), "z")
    nodes = [
        helper.make_node("Mul", ["x", "pixels"], ["boxes"], name="boxes"),
        helper.make_node("Sigmoid", ["x"], ["scores"], name="scores"),
        helper.make_node("Concat", ["boxes", "scores"], ["head"], name="head", axis=2),
        helper.make_node("QuantizeLinear", ["head", "s", "z"], ["q"], name="head_q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="head_dq"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 32])],
        [scale, zero, numpy_helper.from_array(np.float32(300), "pixels")],
    )
    opsets = [helper.make_opsetid("", 17)]
    result = judged(helper.make_model(graph, opset_imports=opsets, ir_version=9), "fp16")
    assert result.cause is Cause.FILE
    assert any(
        "head_q (QuantizeLinear) rounds 128 of 128 elements of scores to 0" in each
        for each in result.warnings
    )


def test_a_quantizer_is_watched_channel_by_channel() -> None:
    x = (X * np.where(np.arange(64) == 0, 1e-4, 1)).astype(np.float32)
    own = workbench(quantised(np.full(64, 0.03), np.zeros(64, np.int8), relu=False), x).own_roundings
    assert [(each.part, each.elements, each.size) for each in own.vanishings] == [("[:, 0]", 4, 4)]
    assert own.warnings == (), "the outputs hardly notice one channel of 64"


def with_a_dead_channel(channels: int, side: int) -> RunResult:
    """x through a Q/DQ pair whose scale for channel 2 is larger than what it reads."""
    nodes = [
        node("Tanh", "x", "t"),
        node("QuantizeLinear", "t s zero", "quantize", axis=1),
        node("DequantizeLinear", "quantize s zero", "y", axis=1),
    ]
    scale = np.where(np.arange(channels) == 2, 8.0, 0.01).astype(np.float32)
    shape = [1, channels, side, side]
    weights = {"s": scale, "zero": np.zeros(channels, np.int8)}
    model = graph_model(nodes, inputs={"x": shape}, outputs={"y": shape}, weights=weights)
    return judged(model, "fp32")


@pytest.mark.parametrize("side", [3, 4, 8])
def test_a_channel_that_a_file_makes_0_of_fails_however_few_elements_it_has(side: int) -> None:
    result = with_a_dead_channel(64, side)
    assert (result.verdict, result.cause) == (Verdict.FAIL, Cause.FILE)
    assert "its Q/DQ nodes make y wrong: nrmse of [:, 2, :, :] 1 against" in result.reason


def test_channels_of_one_node_are_not_counted_as_nodes() -> None:
    own = workbench(quantised(100.0, np.int8(0))).own_roundings
    (*named, last) = own.warnings
    assert last.endswith(
        f"; and {len(own.vanishings) - len(named) - 1} more, of 1 QuantizeLinear node in all"
    )


def test_the_channel_is_named_where_the_whole_output_of_the_file_fails_too() -> None:
    result = with_a_dead_channel(8, 4)
    assert result.reason.startswith("the file itself: its Q/DQ nodes make y wrong: nrmse 0.")
    assert result.reason.endswith("limit 0.25; worst in [:, 2, :, :], nrmse 1")


def test_a_reference_that_the_models_own_types_make_infinite_says_so() -> None:
    result = judged(own_norm(5e4, returned="wide"), "fp16")
    assert (result.verdict, result.cause) == (Verdict.FAIL, Cause.FILE)
    assert result.reason.startswith("the file itself: low (Cast) overflows the model's own float16: ")
    assert "elements of output 'wide' are not finite" in result.reason
    assert "has to be changed" in result.reason


@pytest.mark.parametrize(
    ("dtypes", "quantized", "words"),
    [
        (("float16",), False, "own float16 costs"),
        (("float16", "bfloat16"), False, "own float16 and own bfloat16 cost"),
        (("float16",), True, "own float16 and Q/DQ nodes cost"),
        ((), True, "Q/DQ nodes cost"),
    ],
)
def test_the_cost_of_roundings_has_a_verb_in_their_number(
    dtypes: tuple[str, ...], quantized: bool, words: str
) -> None:
    roundings = OwnRoundings(cost=0.5, dtypes=dtypes, quantized=quantized)
    assert f"the model's {words} nrmse 0.5 " in roundings.price


def test_the_figure_of_a_ruined_file_is_the_one_that_failed(tmp_path: Path) -> None:
    onnx.save(detection_head(quantised=True), tmp_path / "head.onnx")
    report = run(tmp_path / "head.onnx", precisions=["fp32", "fp16"])
    stream = io.StringIO()
    print_report(Console(file=stream, width=100, highlight=False), report)
    row = next(line for line in stream.getvalue().splitlines() if line.startswith("head"))
    assert row.split() == ["head", *("✗", "FAIL", "1") * 2, "output0"]
    text = " ".join(stream.getvalue().split())
    said = (
        "the file itself: its Q/DQ nodes make output0 wrong: nrmse of scores 1 against the same model without"
    )
    assert f"✗ FAIL head at fp32 and fp16: {said}, limit 0.25" in text
    assert text.count(said) == 1
    assert "nrmse 0 ≤" not in text, "it passes against itself, which says nothing"
    page = run_page(report)
    for precision in ("fp32", "fp16"):  # each with its outputs and layers
        assert f"<b>head at {precision}</b>" in page

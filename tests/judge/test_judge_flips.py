"""Files with Q/DQ pairs at FP16: what flipped steps cost is no fault, and what is lost beside them is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import graph_model
from onnx import TensorProto, helper, numpy_helper

from cases.models.mlp import rmsnorm_mlp
from harness import compare, run
from harness.backends import Computed
from harness.case import Tolerance
from harness.comparison import DEFAULT_GATES
from harness.judge import Given, JudgeOptions, RunResult, TensorGates, Verdict, Workbench, select_cases
from harness.model import load_model, save_model, zero_point_of
from harness.quantization import quantize
from harness.tensors import Precision

X = np.random.default_rng(0).standard_normal((5, 64, 256)).astype(np.float32)


@pytest.fixture(scope="module", params=[1.0, 600.0], ids=["healthy", "overflows"])
def judged(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[float, RunResult]:
    """The norm's input is scaled in one block: by 600 its square overflows FP16, which nothing quantised computes."""
    folder = tmp_path_factory.mktemp("flips")
    model = load_model(rmsnorm_mlp(scale=request.param, blocks=6, scaled_block=3))
    (x,) = model.inputs
    made = quantize(model, [{x.name: each} for each in X[:4]], unseen=[], keep_float=0).quantized
    np.savez(folder / "x.npz", **{x.name: X[4]})
    path = save_model(made, folder / "q.onnx")
    return request.param, only(path, "fp16")


def only(path: Path, precision: str) -> RunResult:
    return run(path, precisions=precision, given=Given(data=(path.with_name("x.npz"),))).results[0]


def test_a_quantised_file_may_err_as_far_as_flipped_steps_carry(judged: tuple[float, RunResult]) -> None:
    scale, result = judged
    (gate,) = [gate for output in result.outputs for gate in output.gates if gate.metric == "nrmse"]
    bound = DEFAULT_GATES[Precision.FP16].bound
    assert gate.value > bound, "the files are ones that need it"
    assert result.verdict is (Verdict.PASS if scale == 1.0 else Verdict.FAIL)
    assert bound < gate.limit < 0.1


def gates(error: float, emulated: float | None, flips: float | None) -> dict[str, tuple[bool, float]]:
    model = load_model(
        graph_model(
            [helper.make_node("Relu", ["x"], ["y"], "y")], inputs={"x": [64, 64]}, outputs={"y": [64, 64]}
        )
    )
    reference, noise = np.random.default_rng(1).standard_normal((2, 64, 64)).astype(np.float32)
    reference, noise = (each / np.sqrt(np.square(each).mean()) for each in (reference, noise))

    def off(by: float) -> Computed:
        return Computed({"y": reference + np.float32(by) * noise})

    (output,) = TensorGates(model, (), Precision.FP16).judge(
        0,
        {"y": reference},
        off(error),
        None if emulated is None else off(emulated),
        flips=None if flips is None else {"y": np.float32(flips) * noise},
    )
    return {gate.metric: (gate.passed, gate.limit) for gate in output.gates}


@pytest.mark.parametrize(
    ("emulated", "metric", "limit"),
    [(None, "nrmse", 0.01 + 0.02), (0.0, "rmse", 0.001 + 0.02), (0.5, "rmse", 1.5 * 0.01 + 0.001 + 0.02)],
    ids=["emulator", "engine", "beside a predicted fault"],
)
def test_flips_add_to_what_the_precision_may_err_by(
    emulated: float | None, metric: str, limit: float
) -> None:
    """An engine flips other steps than the emulator: one that is lucky must not condemn the other."""
    for error, passes in ((0.99 * limit, True), (1.01 * limit, False)):
        found = gates(error, emulated, 0.02)
        assert found[metric] == (passes, pytest.approx(limit, rel=1e-4))
    assert gates(0.99 * limit, emulated, None)[metric][0] is False


def test_only_quantised_files_have_flips_and_none_at_their_own_precision(tmp_path: Path) -> None:
    model = load_model(rmsnorm_mlp(blocks=2, width=32, batch=8))
    (x,) = model.inputs
    feeds = [{x.name: each[:8, :32]} for each in X]
    plain, made = tmp_path / "plain.onnx", tmp_path / "q.onnx"
    save_model(model, plain)
    save_model(quantize(model, feeds[:4], unseen=[], keep_float=0).quantized, made)
    np.savez(tmp_path / "x.npz", **feeds[4])
    given = Given(data=(tmp_path / "x.npz",))
    (without,), (bench,) = (
        [
            Workbench(case, memory_budget=JudgeOptions().memory_budget)
            for case in select_cases(path, given=given)
        ]
        for path in (plain, made)
    )
    assert not without.flips(Precision.FP16, 0)
    assert not bench.flips(Precision.INT8, 0)
    sizes = [
        np.abs(bench.flips(each, 0)[info.name]).mean()
        for each in (Precision.FP16, Precision.BF16)
        for info in bench.model.outputs
    ]
    assert 0 < sizes[0] < sizes[1]


WEIGHT = np.random.default_rng(2).standard_normal((64, 64)).astype(np.float32) / np.float32(8)
SCALE = np.float32(4 / 127)
MOVED = [
    helper.make_node("Reshape", ["q", "shape"], ["r"], "r"),
    helper.make_node("Transpose", ["r"], ["t"], "t", perm=[0, 2, 1]),
    helper.make_node("Concat", ["t", "t"], ["y"], "y", axis=1),
]


def save_steps(
    path: Path, *, dtype: type = np.uint8, zero: int = 120, scale: np.ndarray = SCALE, factor: float = 1.0
) -> Path:
    """x of [16, 64] times a weight and `factor`, squared, rooted, divided again and quantised; `y` is that, moved."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], "product"),
        helper.make_node("Mul", ["product", "factor"], ["large"], "large"),
        helper.make_node("Mul", ["large", "large"], ["square"], "square"),
        helper.make_node("Sqrt", ["square"], ["root"], "root"),
        helper.make_node("Div", ["root", "factor"], ["back"], "back"),
        helper.make_node("Sub", ["back", "one"], ["centred"], "centred"),
        helper.make_node("QuantizeLinear", ["centred", "scale", "zero"], ["q"], "quantize"),
        *MOVED,
    ]
    weights = {
        "w": WEIGHT,
        "factor": np.float32(factor),
        "one": np.float32(1),
        "scale": scale,
        "zero": dtype(zero),
        "shape": np.int64([16, 8, 8]),
    }
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    made = graph_model(
        nodes, inputs={"x": [16, 64]}, outputs={"y": [16, 16, 8]}, weights=weights, dtypes={"y": kind}
    )
    path.parent.mkdir(exist_ok=True)
    save_model(load_model(made), path)
    np.savez(path.with_name("x.npz"), x=np.random.default_rng(3).standard_normal((16, 64)).astype(np.float32))
    return path


@pytest.mark.parametrize(("dtype", "zero"), [(np.int8, 0), (np.uint8, 120)])
@pytest.mark.parametrize("precision", ["tf32", "fp16", "bf16"])
def test_an_output_of_steps_may_have_flipped_ones(
    tmp_path: Path, dtype: type, zero: int, precision: str
) -> None:
    """A QuantizeLinear right in front of the output, or moved: its steps are no indices that must be equal."""
    result = only(save_steps(tmp_path / "q.onnx", dtype=dtype, zero=zero), precision)
    (output,) = result.outputs
    assert output.metrics.mismatch_fraction > 0, "the files are ones that need it"
    assert output.metrics.reference_rms < 40, "counted from the zero point"
    assert (output.metrics.max_abs, result.verdict) == (1.0, Verdict.PASS)


def test_an_output_of_steps_that_overflows_before_fails(tmp_path: Path) -> None:
    result = only(save_steps(tmp_path / "q.onnx", factor=400.0), "fp16")
    assert result.verdict is Verdict.FAIL
    assert {gate.metric for gate in result.outputs[0].gates if not gate.passed} >= {"nrmse"}
    assert [layer.node for layer in result.origins] == ["square"]


@pytest.mark.parametrize("wrong", [{"zero": 125}, {"scale": np.float32(1.1) * SCALE}], ids=["zero", "scale"])
def test_steps_of_another_scale_or_zero_point_fail(tmp_path: Path, wrong: dict[str, object]) -> None:
    right, other = save_steps(tmp_path / "q.onnx"), save_steps(tmp_path / "other" / "q.onnx", **wrong)
    for path, verdict in ((right, Verdict.PASS), (other, Verdict.FAIL)):
        given = Given(data=(tmp_path / "x.npz",), reference=right)
        assert run(path, precisions="fp16", given=given).results[0].verdict is verdict


@pytest.mark.parametrize("saved", [False, True], ids=["two files", "saved outputs"])
@pytest.mark.parametrize("wrong", [{}, {"zero": 125}], ids=["flipped", "another zero point"])
def test_compare_judges_steps_as_a_run_does(tmp_path: Path, wrong: dict[str, object], saved: bool) -> None:
    right = save_steps(tmp_path / "q.onnx")
    model = onnx.load(save_steps(tmp_path / "other" / "q.onnx", **wrong))
    (weight,) = (each for each in model.graph.initializer if each.name == "w")
    halves = numpy_helper.to_array(weight).astype(np.float16).astype(np.float32)
    weight.CopyFrom(numpy_helper.from_array(halves, "w"))  # as a file that was converted to FP16 holds it
    candidate = tmp_path / "candidate.onnx"
    onnx.save(model, candidate)
    if saved:
        feeds = dict(np.load(right.with_name("x.npz")))
        (y,) = onnxruntime.InferenceSession(candidate).run(None, feeds)
        candidate = tmp_path / "candidate.npz"
        np.savez(candidate, y=y)
    given = Given(data=(tmp_path / "x.npz",))
    (result,) = compare(right, candidate, precision="fp16", given=given).results
    assert result.outputs[0].metrics.mismatch_fraction > 0
    assert result.verdict is (Verdict.FAIL if wrong else Verdict.PASS)


def test_integers_that_are_no_steps_must_be_equal(tmp_path: Path) -> None:
    """Sums of steps, indices into them, and steps of which not all have one zero point."""
    path = save_steps(tmp_path / "q.onnx")
    assert zero_point_of(load_model(path), "y") == 120
    assert zero_point_of(load_model(path), "centred") is None
    shapes, weights = {"x": [8, 64]}, {"s": SCALE, "a": np.uint8(3), "b": np.uint8(4)}
    quantized = [
        helper.make_node("QuantizeLinear", ["x", "s", zero], [f"q{zero}"], f"q{zero}") for zero in ("a", "b")
    ]
    for last in (
        helper.make_node("Concat", ["qa", "qb"], ["y"], "y", axis=0),
        helper.make_node("ArgMax", ["qa"], ["y"], "y", axis=1),
        helper.make_node("BitShift", ["qa", "qb"], ["y"], "y", direction="LEFT"),
    ):
        kind = TensorProto.INT64 if last.op_type == "ArgMax" else TensorProto.UINT8
        made = graph_model(
            [*quantized, last], inputs=shapes, outputs={"y": ["m", "n"]}, weights=weights, dtypes={"y": kind}
        )
        reference = np.arange(64, dtype=np.uint8)
        off = reference + (np.arange(64) == 5).astype(np.uint8)
        (output,) = TensorGates(load_model(made), (), Precision.FP16).judge(
            0, {"y": reference}, Computed({"y": off}), None, flips={"y": np.ones(64, np.float32)}
        )
        assert [(gate.metric, gate.passed) for gate in output.gates if not gate.passed] == [
            ("mismatch_fraction", False)
        ]


def test_what_a_case_limits_of_steps_is_as_the_case_sees_it(tmp_path: Path) -> None:
    path = save_steps(tmp_path / "q.onnx")
    model, rule = load_model(path), Tolerance(output=["y"], max_abs=1.0)
    reference = np.full((16, 16, 8), 130, np.uint8)
    for off, passes in ((1, True), (2, False)):
        (output,) = TensorGates(model, (rule,), Precision.FP16).judge(
            0, {"y": reference}, Computed({"y": reference + np.uint8(off)}), None
        )
        assert (output.passed, output.metrics.reference_rms) == (passes, 130.0)

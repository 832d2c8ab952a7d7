"""Files with Q/DQ pairs at FP16: what flipped steps cost is no fault, and what is lost beside them is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graphs import graph_model
from onnx import helper

from cases.models.mlp import rmsnorm_mlp
from harness import run
from harness.backends import Computed
from harness.comparison import DEFAULT_GATES
from harness.judge import Given, JudgeOptions, RunResult, TensorGates, Verdict, Workbench, select_cases
from harness.model import load_model, save_model
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

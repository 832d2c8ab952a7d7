"""References that are infinite by intent, as masked logits are, and those that only overflow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import graph_model, masked_logits
from onnx import helper

import harness
from harness.golden import GoldenState
from harness.history import DriftOptions
from harness.judge import JudgeOptions, RunResult, Verdict, is_faithful, run

INFINITY = np.float32(-np.inf)


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CI", raising=False)


def judged(proto: onnx.ModelProto, *precisions: str) -> tuple[RunResult, ...]:
    onnx.save(proto, "m.onnx")
    return run("m.onnx", precisions=precisions or ["fp16"]).results


def unary(*nodes: tuple[str, Sequence[str], str], **weights: object) -> onnx.ModelProto:
    """A chain of (op, reads, writes) from x to y."""
    protos = [helper.make_node(op, list(reads), [writes], name=writes) for op, reads, writes in nodes]
    arrays = {name: np.asarray(value, dtype=np.float32) for name, value in weights.items()}
    return graph_model(protos, inputs={"x": [4, 8]}, outputs={"y": [4, 8]}, weights=arrays)


COLUMNS = np.where(np.arange(8) < 4, 0.0, 1.0)
MEANT = {
    "an initializer": masked_logits(),
    "the logarithm of a mask": unary(("Log", ["mask"], "log"), ("Add", ["x", "log"], "y"), mask=COLUMNS),
    "a division by zero": unary(("Abs", ["x"], "size"), ("Add", ["size", "one"], "near"),
                                ("Div", ["near", "mask"], "y"), mask=COLUMNS, one=1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", MEANT)
def test_infinities_that_a_model_means_are_judged(name: str) -> None:
    results = judged(MEANT[name], "fp32", "fp16", "bf16")
    assert [result.verdict for result in results] == [Verdict.PASS] * 3
    (output,) = results[1].outputs
    assert (output.metrics.reference_nonfinite, output.metrics.nonfinite) == (16, 0)
    assert 0 < output.metrics.nrmse < 1e-2


def test_an_infinite_input_is_intended() -> None:
    proto = unary(("Add", ["x", "x"], "y"))
    onnx.save(proto, "m.onnx")
    np.save("x.npy", np.where(COLUMNS, np.ones((4, 8)), INFINITY).astype(np.float32))
    Path("m.case.yaml").write_text(
        "model: {path: m.onnx}\ninputs: {x: {shape: [4, 8], fill: {kind: file, path: x.npy}}}\nruns: [fp16]\n"
    )
    assert run("m.case.yaml").results[0].verdict is Verdict.PASS


BIG = 3e38
REFUSED = {
    "an overflow in FP32 alone": (unary(("Mul", ["x", "big"], "a"), ("Mul", ["a", "big"], "y"), big=BIG), "y"),
    "an overflow in FP64, too": (unary(("Abs", ["x"], "size"), ("Add", ["size", "big"], "far"),
                                       ("Exp", ["far"], "y"), big=1e4), "y"),
    "an overflow beside a mask": (masked_logits(scale=BIG), "h"),
    "a mask that underflows": (unary(("Abs", ["x"], "a"), ("Mul", ["a", "tiny"], "b"), ("Mul", ["b", "tiny"], "c"),
                                     ("Log", ["c"], "y"), tiny=1e-30), "y"),
    "infinity less infinity": (unary(("Add", ["x", "low"], "a"), ("Sub", ["a", "low"], "y"), low=INFINITY), "y"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_infinities_of_numbers_that_were_too_large_are_refused_and_nan_always(name: str) -> None:
    proto, first = REFUSED[name]
    (result,) = judged(proto)
    assert result.verdict is Verdict.ERROR
    assert result.mistake
    assert "the FP32 reference is not finite" in result.reason
    if first != "y":
        assert f"the first tensor that is not finite is {first!r}" in result.reason


def test_golden_references_hold_infinities() -> None:
    onnx.save(masked_logits(), "m.onnx")
    Path("m.case.yaml").write_text("model: {path: m.onnx}\nruns: [fp16]\n")
    run("m.case.yaml", options=JudgeOptions(golden_update=True))
    assert run("m.case.yaml").results[0].golden == GoldenState.SAME
    onnx.save(masked_logits(masked=5), "m.onnx")
    (changed,) = run("m.case.yaml").results
    assert (changed.verdict, changed.golden) == (Verdict.FAIL, GoldenState.CHANGED)


def test_a_drift_between_infinities_is_measured_over_the_others(tmp_path: Path) -> None:
    onnx.save(masked_logits(), "m.onnx")
    releases = "emulator:fp16", "emulator:bf16"
    report = harness.drift(
        "m.onnx",
        environments=releases,
        precisions=["fp16"],
        options=DriftOptions(repeats=2),
        history=tmp_path / "h",
    )
    (moved,) = report.runs
    assert 0 < moved.worst.old < moved.worst.new < 0.1


@pytest.mark.parametrize(
    ("observed", "unobserved", "faithful"),
    [
        ([1.0, 2.0, INFINITY], [1.0, 2.0, INFINITY], True),
        ([1.0, 2.0, INFINITY], [1.0, 9.0, INFINITY], False),  # looking at it cured it
        ([1.0, 2.0, INFINITY], [1.0, 2.0, 3.0], False),
    ],
)
def test_an_infinity_of_the_reference_hides_no_fault_beside_it(
    observed: list[float], unobserved: list[float], faithful: bool
) -> None:
    reference = [1.0, 2.0, INFINITY]
    tensors = ({"y": np.array(values)} for values in (observed, unobserved, reference))
    assert is_faithful(*tensors, {"y": 0.01}) is faithful

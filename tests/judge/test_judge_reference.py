"""Runs that would pass without saying anything: no elements, nothing to round, a reference that is drawn anew."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
from graphs import graph_model, norm_chain
from onnx import TensorProto, helper

from harness.backends import Candidate, Emulator, Reference
from harness.case import Case, InputSpec, ModelSource, RunSpec, Tolerance, load_case
from harness.diagnosis.context import make_bench
from harness.errors import InputDataError, ReferenceNotReproducibleError
from harness.judge import Candidates, Judge, JudgeOptions, RunReport, Verdict, Workbench, run
from harness.judge.reference import check_not_empty, check_reproducible
from harness.model import load_model
from harness.tensors import Precision

WEIGHT = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
SHAPE = [4, 16]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def judged(proto: onnx.ModelProto, *precisions: str, **inputs: list[int]) -> RunReport:
    onnx.save(proto, "m.onnx")
    return run("m.onnx", precisions=precisions, inputs=inputs)


def drawing(
    *nodes: onnx.NodeProto,
    dtype: int = TensorProto.FLOAT,
    shape: Sequence[int] = SHAPE,
    **weights: np.ndarray,
) -> onnx.ModelProto:
    """x → `nodes` → y."""
    return graph_model(nodes, inputs={"x": SHAPE}, outputs={"y": shape}, weights=weights, dtypes={"y": dtype})


def node(op: str, reads: str, writes: str, name: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, reads.split(), writes.split(), name=name, **attributes)


ADD = node("Add", "x r", "y", "add")
TRAINING = {"ratio": np.float32(0.5), "train": np.array(True)}
DRAWN = {
    "normal": drawing(node("RandomNormalLike", "x", "r", "draw"), ADD),
    "hardly": drawing(node("RandomNormalLike", "x", "r", "draw", scale=1e-4), ADD),
    "seeded": drawing(node("RandomNormalLike", "x", "r", "draw", seed=1.0), ADD),
    "uniform": drawing(node("RandomUniform", "", "r", "draw", shape=SHAPE), ADD),
    "multinomial": drawing(
        node("Relu", "x", "p", "squash"),
        node("Multinomial", "p", "y", "draw", sample_size=20),
        dtype=TensorProto.INT32,
        shape=[4, 20],
    ),
    "bernoulli": drawing(node("Sigmoid", "x", "p", "squash"), node("Bernoulli", "p", "y", "draw")),
    "dropout": drawing(node("Dropout", "x ratio train", "y", "draw"), **TRAINING),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_reference_that_is_drawn_anew_is_refused_with_the_node(name: str) -> None:
    report = judged(DRAWN[name], "fp32", "fp16")
    assert {result.verdict for result in report.results} == {Verdict.ERROR}
    assert report.exit_code == 2
    reason = report.results[0].reason
    assert "the FP32 reference is not reproducible: output 'y' differs" in reason
    assert "at draw (" in reason
    assert "input of the model" in reason


def test_random_numbers_in_a_branch_count_as_the_nodes_around_it() -> None:
    body = helper.make_graph(
        [node("RandomNormalLike", "x", "r", "inner")],
        "body",
        [],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, SHAPE)],
    )
    report = judged(
        drawing(node("If", "yes", "y", "choice", then_branch=body, else_branch=body), yes=np.array(True))
    )
    assert "choice (If)" in report.results[0].reason


@pytest.mark.parametrize(
    "proto",
    [
        drawing(node("RandomNormalLike", "x", "r", "draw"), node("Relu", "x", "y", "relu")),
        drawing(
            node("RandomNormalLike", "x", "r", "draw"),
            node("Mul", "r zero", "none", "silence"),
            node("Add", "x none", "y", "add"),
            zero=np.float32(0),
        ),
        drawing(node("Dropout", "x ratio train", "y", "draw"), ratio=np.float32(0.5), train=np.array(False)),
    ],
    ids=["unused", "scaled by 0", "not training"],
)
def test_random_numbers_that_reach_no_output_do_no_harm(proto: onnx.ModelProto) -> None:
    report = judged(proto, "fp32", "fp16")
    assert [result.verdict.value for result in report.results] == ["pass", "pass"]


def test_int8_without_quantizers_is_skipped_on_the_emulator_and_no_success() -> None:
    report = judged(norm_chain(), "int8", x=[5, 16])
    (result,) = report.results
    assert result.verdict is Verdict.SKIP
    assert "nothing to round for int8: the model has no Q/DQ nodes" in result.reason
    assert "--env" in result.reason
    assert report.exit_code == 5
    assert judged(norm_chain(), "int8", "fp16", x=[5, 16]).exit_code == 0, "one run was judged"


class Calibrating(Candidates):
    """An environment whose engines are calibrated; here one is another emulator."""

    def check(self, names: tuple[str, ...]) -> None:
        """Any name will do."""

    def lanes(self, names: Iterable[str]) -> list[tuple[str, ...]]:
        return [tuple(names)]

    def get(self, name: str, bench: Workbench) -> Candidate:
        return Emulator(bench.model)

    def lacking(self, name: str, case: Case, spec: RunSpec) -> str | None:
        return None


def test_int8_without_quantizers_is_judged_on_an_engine_that_is_calibrated() -> None:
    onnx.save(norm_chain(), "m.onnx")
    with Judge(JudgeOptions(layers=False), Calibrating()) as judge:
        report = run("m.onnx", precisions=["int8"], environments=["trt"], inputs={"x": [5, 16]}, judge=judge)
    assert [result.verdict for result in report.results] == [Verdict.PASS]


@pytest.mark.parametrize(
    ("precision", "dtype", "why"),
    [("tf32", TensorProto.FLOAT, "the model has none"), ("fp16", TensorProto.FLOAT16, "computes float32")],
)
def test_a_precision_that_rounds_nothing_else_is_skipped_too(precision: str, dtype: int, why: str) -> None:
    nodes = [node("Relu", "x", "y", "relu")]
    proto = graph_model(nodes, inputs={"x": SHAPE}, outputs={"y": SHAPE}, dtypes={"x": dtype, "y": dtype})
    (result,) = judged(proto, precision).results
    assert result.verdict is Verdict.SKIP
    assert why in result.reason
    assert judged(proto, "fp32").results[0].verdict is Verdict.PASS, "there is a reference, and that is shown"


def test_draws_that_agree_by_chance_are_caught_by_the_next_ones() -> None:
    bench = make_bench(load_model(DRAWN["normal"], name="drawn"), [{}])
    agreeing = [{"y": np.zeros(SHAPE, np.float32)}] * 3

    class Drawn:
        values = iter([*agreeing, {"y": np.ones(SHAPE, np.float32)}])

        def run(self, feeds: object) -> dict[str, np.ndarray]:
            return next(self.values)

    bench.reference = cast(Reference, Drawn())
    with pytest.raises(ReferenceNotReproducibleError, match="'y'"):
        check_reproducible(bench, {}, agreeing[0])


def test_an_empty_sample_before_one_with_elements_is_no_mistake() -> None:
    empty, full = ({"y": np.zeros((rows, 4), np.float32)} for rows in (0, 2))
    check_not_empty([empty, full], [empty, full], "here")
    with pytest.raises(InputDataError, match="nothing to compare"):
        check_not_empty([empty, empty], [empty, empty], "here")


def test_outputs_without_elements_are_no_comparison() -> None:
    report = judged(norm_chain(), x=[0, 16])
    assert {result.verdict for result in report.results} == {Verdict.ERROR}
    assert report.exit_code == 2
    assert "no output has an element, y [0, 16] for inputs of x [0, 16]" in report.results[0].reason


def test_one_empty_output_beside_others_is_a_warning_and_an_empty_input_is_not() -> None:
    proto = graph_model(
        [node("Relu", "past", "kept", "keep"), node("Exp", "x", "y", "exp")],
        inputs={"past": ["n", 4], "x": SHAPE},
        outputs={"kept": ["n", 4], "y": SHAPE},
    )
    (result,) = judged(proto, "fp16", past=[0, 4]).results
    assert result.verdict is Verdict.PASS
    assert result.warnings == ("output 'kept' has no element: nothing of it was compared",)


def overflowing(**options: object) -> Case:
    """Its squares overflow at FP16; its output is let pass."""
    onnx.save(norm_chain(600.0), "m.onnx")
    path = Path("loose.case.yaml")
    path.write_text(
        "model: {path: m.onnx}\ninputs: {x: [5, 16]}\nruns: [fp16]\n"
        "tolerances: [{output: y, max_abs: 1e9}, {layer: mean, nrmse: 1e-3}]\n"
    )
    return load_case(path).model_copy(update=options)


def test_a_run_that_passes_has_no_origin_anywhere() -> None:
    report = run(overflowing())
    (result,) = report.results
    assert result.verdict is Verdict.PASS
    assert [layer.node for layer in result.layers if layer.diverged][:2] == ["sq", "mean"]
    assert result.origins == ()
    (document,) = json.loads(json.dumps(report.to_dict()))["results"]
    assert not any(layer["origin"] for layer in document["layers"])
    assert any(layer["diverged"] for layer in document["layers"])
    failing = run(overflowing(tolerances=()))
    assert [layer.node for layer in failing.results[0].origins] == ["sq"]


def test_layers_beyond_limits_of_their_own_are_a_warning_of_a_run_that_passes() -> None:
    (result,) = run(overflowing()).results
    assert result.warnings == (
        "mean is beyond the limits that the case gives these layers, although every output passes",
    )


def test_layers_within_limits_of_their_own_are_not_spoken_of() -> None:
    (result,) = run(
        overflowing(tolerances=(Tolerance(output="y", max_abs=1e9), Tolerance(layer="scaled", nrmse=1.0)))
    ).results
    assert (result.verdict, result.warnings) == (Verdict.PASS, ())


def test_an_unexpected_pass_has_no_origin_either() -> None:
    spec = RunSpec(precision=Precision.FP16, expect="fail", reason="squares overflow", origin=("sq",))
    with Judge() as judge:
        result = judge.run(overflowing(), spec)
    assert (result.verdict, result.origins) == (Verdict.XPASS, ())


def test_a_sample_without_elements_is_a_warning() -> None:
    proto = graph_model([node("Relu", "x", "y", "relu")], inputs={"x": ["n", 4]}, outputs={"y": ["n", 4]})
    onnx.save(proto, "m.onnx")
    np.save("full.npy", np.ones((2, 4), dtype=np.float32))
    np.save("empty.npy", np.ones((0, 4), dtype=np.float32))
    fill = {"kind": "file", "path": ["full.npy", "empty.npy"]}
    case = Case(
        name="two",
        model=ModelSource(path="m.onnx"),
        samples=2,
        inputs={"x": InputSpec.model_validate({"fill": fill})},
        runs=(RunSpec(precision=Precision.FP16),),
    )
    (result,) = run(case).results
    assert result.warnings == ("output 'y' has no element in sample 1: nothing of it was compared",)

"""Where an error starts when not everything was observed: a region with its nodes and kernels, never a guess."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import norm_chain
from onnx import TensorProto, helper, numpy_helper

import harness
from harness.backends import Candidate, Evaluation, Observation, Plan, Timing
from harness.case import Case, InputSpec, ModelSource, RunSpec, UniformFill
from harness.judge import (
    Candidates,
    Judge,
    JudgeOptions,
    MadeWith,
    Observed,
    RunReport,
    RunResult,
    Verdict,
    Workbench,
)
from harness.judge.layers import observation_for
from harness.report import failure_text, run_markdown
from harness.report.run.view import matrix
from harness.tensors import Precision
from harness.worker.protocol import EngineFacts, LayerInfo, ProbeReply


class Partly(Candidates):
    """The emulator, called an engine that shows some tensors only."""

    def __init__(self, seen: set[str]) -> None:
        super().__init__()
        self.seen = seen

    def get(self, name: str, bench: Workbench) -> Candidate:
        emulator, seen, model = bench.emulator, self.seen, bench.model
        layers = (
            LayerInfo("kernel 1", onnx_nodes=("scaled", "sq", "mean")),
            LayerInfo("kernel 2", onnx_nodes=("root", "norm")),
        )

        class Engine(Candidate):
            name = "env"

            def evaluate(self, plan: Plan, feeds, *, timing: Timing | None = None) -> Evaluation:
                lowered = emulator.units(plan.precision)
                found = emulator.attempt(feeds, plan.precision, lowered=lowered, tensors=model.float_tensors)
                outputs = {info.name for info in model.outputs}
                tensors = {
                    name: np.asarray(value)
                    for name, value in found.tensors.items()
                    if name in outputs or (plan.observation is not Observation.NONE and name in seen)
                }
                return Evaluation(tensors, EngineFacts(layers=layers))

        return Engine()

    def lacking(self, name: str, case: Case, spec: RunSpec) -> None:
        return None


@pytest.fixture
def case(tmp_path: Path) -> Case:
    path = tmp_path / "m.onnx"
    onnx.save(norm_chain(600.0), path)
    return Case(
        name="m",
        model=ModelSource(path=str(path)),
        inputs={"x": InputSpec(shape=(5, 16), fill=UniformFill(low=0.5, high=1.0))},
    )


def judged(case: Case, seen: set[str], **expectation) -> RunResult:
    spec = RunSpec(precision=Precision.FP16, **expectation)
    with Judge(JudgeOptions(observation=Observation.DEBUG), Partly(seen)) as judge:
        return judge.run(case, spec, "env")


BETWEEN = ("scaled", "sq", "mean", "root", "norm", "proj", "relu", "y")


def test_a_region_is_named_where_only_the_output_was_observed(case: Case) -> None:
    result = judged(case, set())
    assert (result.verdict, result.origins) == (Verdict.FAIL, ())
    (region,) = result.regions
    assert (region.tensor, region.between, region.nodes) == ("y", ("x",), BETWEEN)
    assert region.kernels == ("kernel 1", "kernel 2")
    assert result.observed == Observed("debug", 1, BETWEEN[:-1])


def test_a_region_ends_at_the_nearest_observed_tensors(case: Case) -> None:
    result = judged(case, {"scaled", "norm", "relu"})
    (region,) = result.regions
    assert (region.tensor, region.between) == ("norm", ("scaled",))
    assert region.nodes == ("sq", "mean", "root", "norm")
    assert [layer.tensor for layer in result.layers if layer.diverged] == ["norm", "relu", "y"]
    text = failure_text(result, width=300)
    assert "region" in text
    assert (
        "the error starts between scaled and norm, among sq, mean, root, norm; kernels kernel 1, kernel 2"
        in text
    )


def test_tables_show_the_size_of_a_region(case: Case) -> None:
    report = RunReport(MadeWith(), (judged(case, {"scaled", "norm"}),))
    (row,) = matrix(report).rows
    assert row.region == "4 nodes to norm"
    assert "4 nodes to norm" in run_markdown(report)
    assert "region: the error starts between scaled and norm" in run_markdown(report)
    (row,) = matrix(RunReport(MadeWith(), (judged(case, set(BETWEEN)),))).rows
    assert (row.region, row.origins[0].node) == ("", "sq")


def test_an_origin_is_claimed_where_everything_behind_it_was_observed(case: Case) -> None:
    result = judged(case, {"scaled", "sq", "relu"})
    assert ([layer.node for layer in result.origins], result.regions) == (["sq"], ())
    result = judged(case, set(BETWEEN))
    assert ([layer.node for layer in result.origins], result.regions) == (["sq"], ())
    assert result.observed == Observed("debug", 8)


@pytest.mark.parametrize(
    ("seen", "origin", "verdict"),
    [
        ({"scaled", "norm"}, "sq", "xfail"),  # one of the nodes of the region
        ({"scaled", "norm"}, "root", "xfail"),
        ({"scaled", "norm"}, "scaled", "fail"),
        ({"scaled", "norm"}, "proj", "fail"),
        ({"scaled", "norm"}, ("sq", "proj"), "fail"),
        ({"scaled", "sq"}, "sq", "xfail"),
        ({"scaled", "sq"}, "mean", "fail"),
    ],
)
def test_an_expected_origin_may_lie_in_the_region(case: Case, seen, origin, verdict: str) -> None:
    expected = (origin,) if isinstance(origin, str) else origin
    result = judged(case, seen, expect="fail", reason="r", origin=expected)
    assert result.verdict == verdict
    if verdict == "fail" and "sq" not in seen:
        assert "starts at one of the 4 nodes up to norm, not" in result.reason


def test_json_says_what_was_observed_and_where_the_error_starts(case: Case) -> None:
    document = json.loads(json.dumps(judged(case, {"scaled", "norm"}).to_dict()))
    assert document["regions"] == [
        {
            "tensor": "norm",
            "between": ["scaled"],
            "nodes": ["sq", "mean", "root", "norm"],
            "kernels": ["kernel 1", "kernel 2"],
        }
    ]
    unseen = ["sq", "mean", "root", "proj", "relu"]
    assert document["observed"] == {"how": "debug", "tensors": 3, "not_observed": unseen}
    plain = Judge().run(case, RunSpec(precision=Precision.FP16)).to_dict()
    assert "regions" not in plain
    assert "observed" not in plain


def test_nothing_starts_anywhere_where_the_outputs_pass(case: Case) -> None:
    with Judge(JudgeOptions(observation=Observation.DEBUG), Partly({"norm"})) as judge:
        result = judge.run(case, RunSpec(precision=Precision.BF16), "env")
    assert (result.verdict, result.origins, result.regions) == (Verdict.PASS, (), ())
    assert result.observed is not None


@pytest.mark.parametrize(
    ("capabilities", "wanted", "how"),
    [
        (("debug_tensors", "unfused_debug_tensors"), None, "debug"),
        (("debug_tensors", "unfused_debug_tensors"), Observation.TYPED, "typed"),
        (("debug_tensors",), None, "typed"),  # marks by name block fusions
        (None, None, "typed"),
        ((), Observation.PREFIX, "prefix"),
    ],
)
def test_engines_are_observed_by_what_their_release_has(capabilities, wanted, how: str) -> None:
    class Engine(Candidate):
        name = "env"

        def evaluate(self, plan: Plan, feeds, *, timing: Timing | None = None) -> Evaluation:
            pytest.fail("choosing how to observe evaluates nothing")

        def probe(self) -> ProbeReply | None:
            return None if capabilities is None else ProbeReply("1.6.1.120", capabilities=capabilities)

    assert observation_for(Engine(), wanted) == how


def test_an_index_that_is_wrong_although_what_decides_it_passes_is_a_region_of_its_node(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["logits"], "head"),
        helper.make_node("ArgMax", ["logits"], ["best"], "argmax", axis=1, keepdims=0),
    ]
    values = (
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 64]),
        helper.make_tensor_value_info("best", TensorProto.INT64, [64]),
    )
    w = (1 + rng.normal(size=(64, 1000)) * 1e-4).astype(np.float32)
    graph = helper.make_graph(nodes, "ties", [values[0]], [values[1]], [numpy_helper.from_array(w, "w")])
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, tmp_path / "m.onnx")
    (result,) = harness.run(tmp_path / "m.onnx", precisions="fp16").results
    assert result.verdict is Verdict.FAIL
    assert result.reason == "best: 64 of 64 elements differ"
    (region,) = result.regions
    assert (region.tensor, region.between, region.nodes) == ("best", ("logits",), ("argmax",))
    assert "best goes wrong at node argmax; logits passes" in failure_text(result, width=120)

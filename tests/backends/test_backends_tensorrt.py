"""The TensorRT client against a real worker, whose engines are ONNX Runtime sessions."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from graphs import graph_model, norm_chain
from onnx import TensorProto, helper

from harness.backends import Evaluation, Observation, Plan, Reference, TensorRTCandidate, Timing
from harness.case import BuildOptions
from harness.environments import Environment, Supervisor
from harness.errors import (
    BuildFailedError,
    CandidateError,
    InputDataError,
    ModelError,
    NothingSelectedError,
    UnsupportedByReleaseError,
    WorkerCrashedError,
)
from harness.model import load_model
from harness.tensors import Precision
from harness.worker import protocol

ADAPTER = Path(__file__).parent / "cpu_engine.py"
X = np.random.default_rng(1).standard_normal((5, 16)).astype(np.float32)
FP16 = Plan(Precision.FP16)
TYPED = replace(FP16, observation=Observation.TYPED)
INNER = ("scaled", "sq", "mean", "root", "norm", "proj", "relu")
Make = Callable[..., TensorRTCandidate]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("s")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_SCRATCH", str(folder))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        yield folder / "harness"
    assert list((folder / "harness").glob("*")) == []


def environment(**variables: str) -> Environment:
    return Environment("cpu", (sys.executable,), variables=tuple(sorted(variables.items())))


@pytest.fixture(scope="module")
def supervisor(scratch: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(environment(), adapter=ADAPTER)
    yield supervisor
    supervisor.close()


@pytest.fixture
def candidate(supervisor: Supervisor) -> Iterator[TensorRTCandidate]:
    candidate = TensorRTCandidate(environment(), load_model(norm_chain()), supervisor=supervisor)
    yield candidate
    candidate.close()
    candidate.close()
    folder = supervisor.worker().folder
    assert {path.name for path in folder.iterdir() if not path.name.startswith("calibration")} == {
        "socket",
        "tmp",
    }


@pytest.fixture
def make(scratch: Path) -> Iterator[Make]:
    """Makes a candidate in an environment of its own, with these variables."""
    made: list[TensorRTCandidate] = []

    def make_candidate(options: dict[str, Any] | None = None, **variables: str) -> TensorRTCandidate:
        where = environment(**variables)
        supervisor = Supervisor(where, adapter=ADAPTER)
        made.append(
            TensorRTCandidate(where, load_model(norm_chain()), supervisor=supervisor, **(options or {}))
        )
        return made[-1]

    yield make_candidate
    for candidate in made:
        candidate.supervisor.close()


ASKED: list[protocol.BuildRequest] = []


@pytest.fixture(autouse=True)
def _record_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Supervisor.ask
    ASKED.clear()

    def record(self: Supervisor, message: protocol.Request, seconds: float | None = None) -> Any:
        if isinstance(message, protocol.BuildRequest):
            ASKED.append(message)
        return ask(self, message, seconds)

    monkeypatch.setattr(Supervisor, "ask", record)


def request_of(_just_made: Evaluation) -> protocol.BuildRequest:
    """What the worker was asked for the first engine of an evaluation that was just made."""
    request = ASKED[0]
    ASKED.clear()
    return request


def test_the_unobserved_engine_gives_the_outputs_and_its_facts(candidate: TensorRTCandidate) -> None:
    evaluation = candidate.evaluate(FP16, {"x": X})

    assert list(evaluation.tensors) == ["y"]
    np.testing.assert_array_equal(
        evaluation.tensors["y"], Reference(candidate.model).run({"x": X})["y"], strict=True
    )
    assert evaluation.observed == ()
    facts = evaluation.facts
    assert (facts.builds, facts.build_seconds, facts.engine_bytes) == (1, 0.25, 1000)
    assert [layer.name for layer in facts.layers] == [*INNER, "y"]
    assert facts.fingerprint.tensorrt == "8.6.0"
    assert facts.fingerprint.environment == "cpu"
    assert facts.warnings == ("built on a CPU",)
    assert facts.latency is None


def test_an_engine_is_built_once_and_serves_every_sample_of_its_shape(candidate: TensorRTCandidate) -> None:
    assert candidate.evaluate(FP16, {"x": X}).facts.builds == 1
    again = candidate.evaluate(FP16, {"x": 2 * X})
    assert again.facts.builds == 0
    np.testing.assert_array_equal(again.tensors["y"], Reference(candidate.model).run({"x": 2 * X})["y"])
    assert candidate.evaluate(FP16, {"x": X[:3]}).facts.builds == 1  # its own optimization profile
    assert candidate.evaluate(replace(FP16, islands=frozenset({"sq"})), {"x": X}).facts.builds == 1


def test_given_profiles_serve_all_shapes(supervisor: Supervisor) -> None:
    profile = ((1, 16), (5, 16), (9, 16))
    candidate = TensorRTCandidate(
        environment(), load_model(norm_chain()), supervisor=supervisor, profiles={"x": profile}
    )
    first = candidate.evaluate(FP16, {"x": X})
    assert request_of(first).profiles == {"x": profile}
    assert candidate.evaluate(FP16, {"x": X[:3]}).facts.builds == 0
    candidate.close()


def test_the_plan_reaches_the_worker_and_overrides_the_environment(supervisor: Supervisor) -> None:
    where = replace(
        environment(), build=BuildOptions(workspace_mib=64, tactic_sources=("jit_convolutions",), tf32=True)
    )
    candidate = TensorRTCandidate(where, load_model(norm_chain()), supervisor=supervisor)
    plan = replace(FP16, islands=frozenset({"sq", "mean"}), build=BuildOptions(workspace_mib=128))
    request = request_of(candidate.evaluate(plan, {"x": X}))
    candidate.close()

    assert request.precision == "fp16"
    assert request.typing == "weak"
    assert request.islands == ("mean", "sq")
    assert request.observation == "none"
    assert request.marks == ()
    assert request.mark_dtype is None
    assert request.profiles == {"x": ((5, 16),) * 3}
    assert request.options == protocol.BuilderOptions(
        workspace_mib=128, tactic_sources=("jit_convolutions",), tf32=True
    )
    assert request.nodes[1] == protocol.NodeHint("sq", "Mul", ("sq",))


def test_typed_observation_marks_with_the_dtype_under_test(candidate: TensorRTCandidate) -> None:
    evaluation = candidate.evaluate(TYPED, {"x": X})

    assert set(evaluation.tensors) == {*INNER, "y"}
    assert evaluation.tensors["sq"].dtype == np.float16
    assert evaluation.tensors["y"].dtype == np.float32
    assert request_of(evaluation).mark_dtype == "float16"
    (engine,) = evaluation.observed
    assert engine.marks == set(INNER)
    np.testing.assert_array_equal(engine.outputs["y"], evaluation.tensors["y"])


def test_bfloat16_comes_back_as_bfloat16(candidate: TensorRTCandidate) -> None:
    plan = Plan(Precision.BF16, observation=Observation.TYPED, marks=frozenset({"sq"}))
    value = candidate.evaluate(plan, {"x": X}).tensors["sq"]
    assert value.dtype == ml_dtypes.bfloat16
    exact = Reference(candidate.model).run({"x": X}, ["sq"])["sq"]
    np.testing.assert_array_equal(value, exact.astype(ml_dtypes.bfloat16))


def test_plain_marks_leave_the_dtype_as_it_is(supervisor: Supervisor) -> None:
    candidate = TensorRTCandidate(
        environment(), load_model(norm_chain()), supervisor=supervisor, plain_marks=True
    )
    evaluation = candidate.evaluate(TYPED, {"x": X})
    candidate.close()
    assert request_of(evaluation).mark_dtype is None
    assert evaluation.tensors["sq"].dtype == np.float32


def test_marks_are_split_under_the_memory_budget_and_each_engine_is_reported(supervisor: Supervisor) -> None:
    budget = 2 * (5 * 16 * 2)  # two tensors of 5 × 16 in FP16
    candidate = TensorRTCandidate(
        environment(), load_model(norm_chain()), supervisor=supervisor, mark_budget=budget
    )
    evaluation = candidate.evaluate(TYPED, {"x": X})
    candidate.close()

    assert set(evaluation.tensors) == {*INNER, "y"}
    assert [sorted(engine.marks) for engine in evaluation.observed] == [
        ["scaled", "sq"],
        ["mean", "norm", "root"],  # two of one column count little
        ["proj", "relu"],
    ]
    assert [engine.marks for engine in evaluation.facts.engines] == [2, 3, 2]
    assert evaluation.facts.builds == 3


def test_the_budget_follows_the_free_memory_of_the_gpu(make: Make) -> None:
    evaluation = make(FREE_BYTES=str(4 * 2 * 5 * 16 * 2)).evaluate(TYPED, {"x": X})
    assert len(evaluation.observed) == 3


@pytest.mark.parametrize(
    ("variables", "missing"),
    [
        ({"MARKS_FAIL": "root"}, {"root"}),
        ({"MARKS_FAIL": "scaled,relu"}, {"scaled", "relu"}),
        ({"MARKS_FAIL": "root", "MARKS_BLAMED": "root,norm"}, {"root"}),
        ({"MARKS_CRASH": "proj"}, {"proj"}),
        ({"MARKS_LIMIT": "2"}, set()),
    ],
)
def test_marks_that_break_a_build_are_split_off_and_skipped_with_a_reason(
    make: Make, variables: dict[str, str], missing: set[str]
) -> None:
    candidate = make(**variables)
    evaluation = candidate.evaluate(TYPED, {"x": X})

    assert set(evaluation.tensors) == {*INNER, "y"} - missing
    assert set(evaluation.facts.skipped_marks) == missing
    assert all("build fails with it" in reason for reason in evaluation.facts.skipped_marks.values())

    again = candidate.evaluate(TYPED, {"x": X + 1})  # nothing that failed is tried again
    assert set(again.tensors) == set(evaluation.tensors)
    assert set(again.facts.skipped_marks) == missing


def test_unmarkable_tensors_are_reported(make: Make) -> None:
    evaluation = make(UNMARKABLE="sq").evaluate(TYPED, {"x": X})
    assert "sq" not in evaluation.tensors
    assert evaluation.facts.skipped_marks == {"sq": "it lies inside a loop"}


def test_a_build_that_fails_without_marks_is_no_fault_of_the_marks(candidate: TensorRTCandidate) -> None:
    plan = replace(TYPED, build=BuildOptions(workspace_mib=1))
    with pytest.raises(BuildFailedError, match="no implementation"):
        candidate.evaluate(plan, {"x": X})
    with pytest.raises(BuildFailedError, match="no implementation"):
        candidate.evaluate(replace(plan, observation=Observation.NONE), {"x": X})


def test_prefixes_are_engines_of_the_graph_cut_at_each_tensor(candidate: TensorRTCandidate) -> None:
    plan = replace(FP16, observation=Observation.PREFIX, marks=frozenset({"mean", "sq"}))
    evaluation = candidate.evaluate(replace(plan, islands=frozenset({"sq", "norm"})), {"x": X})

    assert set(evaluation.tensors) == {"y", "sq", "mean"}
    assert evaluation.tensors["mean"].dtype == np.float16
    assert evaluation.facts.builds == 3
    assert [(engine.marks, dict(engine.outputs)) for engine in evaluation.observed] == [
        ({"sq"}, {}),
        ({"mean"}, {}),
    ]


def test_debug_tensors_without_an_onnx_name_are_counted(candidate: TensorRTCandidate) -> None:
    evaluation = candidate.evaluate(replace(FP16, observation=Observation.DEBUG), {"x": X})
    assert request_of(evaluation).observation == "debug"
    assert set(evaluation.tensors) == {"y"}
    assert evaluation.facts.internal_tensors == 1


def test_strong_typing_gets_a_graph_that_carries_precision_and_islands(make: Make) -> None:
    candidate = make(CAPABILITIES="fp16,strong")
    plan = replace(TYPED, islands=frozenset({"sq"}))
    evaluation = candidate.evaluate(plan, {"x": X})

    request = request_of(evaluation)
    assert request.typing == "strong"
    assert any(node.op == "Cast" for node in request.nodes)
    assert evaluation.tensors["norm"].dtype == np.float16
    assert request_of(candidate.evaluate(Plan(Precision.FP32), {"x": X})).typing == "auto"


def test_islands_can_be_held_by_casts_where_typing_is_weak(candidate: TensorRTCandidate) -> None:
    plan = replace(FP16, islands=frozenset({"sq"}), casts=True, build=BuildOptions(pin_precision=True))
    request = request_of(candidate.evaluate(plan, {"x": X}))
    assert request.typing == "weak"
    assert request.islands == ("sq",)
    assert any(node.op == "Cast" for node in request.nodes)
    assert not request.options.pin_precision, "the graph says it"
    plain = request_of(candidate.evaluate(replace(plan, casts=False), {"x": X}))
    assert not any(node.op == "Cast" for node in plain.nodes)
    assert plain.options.pin_precision


def test_engines_make_room_for_the_one_that_runs(make: Make) -> None:
    candidate = make(ENGINES_LIMIT="2")
    plans = [replace(FP16, islands=frozenset({name})) for name in ("sq", "mean", "root", "norm")]
    for plan in plans:
        assert candidate.evaluate(plan, {"x": X}).facts.builds == 1
    assert candidate.evaluate(plans[-1], {"x": X}).facts.builds == 0
    assert candidate.evaluate(plans[0], {"x": X}).facts.builds == 1


def test_the_engine_that_was_not_used_for_longest_is_freed_first(make: Make) -> None:
    candidate = make({"capacity": 2})
    plans = [replace(FP16, islands=frozenset({name})) for name in ("sq", "mean", "root")]
    builds = [candidate.evaluate(plans[at], {"x": X}).facts.builds for at in (0, 1, 0, 2, 0, 1)]
    assert builds == [1, 1, 0, 1, 0, 1]


def test_all_engines_of_an_observation_are_kept_for_the_next_sample(make: Make) -> None:
    candidate = make({"capacity": 1, "mark_budget": 1})
    assert candidate.evaluate(TYPED, {"x": X}).facts.builds == len(INNER)
    assert candidate.evaluate(TYPED, {"x": X + 1}).facts.builds == 0


def test_engines_are_timed_once(supervisor: Supervisor) -> None:
    candidate = TensorRTCandidate(
        environment(),
        load_model(norm_chain()),
        supervisor=supervisor,
        timing=Timing(repeats=7, layers=True),
    )
    first, second = candidate.evaluate(FP16, {"x": X}), candidate.evaluate(FP16, {"x": X})
    candidate.close()
    assert first.facts.latency == second.facts.latency == protocol.Latency(1.0, 2.0, 7)
    assert first.facts.layer_ms == {"layer": 1.0}


def test_integers_come_back_as_the_model_declares_them(supervisor: Supervisor) -> None:
    proto = graph_model(
        [helper.make_node("ArgMax", ["x"], ["y"], name="top", axis=1, keepdims=0)],
        inputs={"x": [5, 16]},
        outputs={"y": [5]},
        dtypes={"y": TensorProto.INT64},
    )
    candidate = TensorRTCandidate(environment(), load_model(proto), supervisor=supervisor)
    found = candidate.evaluate(Plan(Precision.FP32), {"x": X}).tensors["y"]
    candidate.close()
    np.testing.assert_array_equal(found, X.argmax(1), strict=True)


def test_int8_without_quantizers_is_calibrated_with_what_is_fed_first(candidate: TensorRTCandidate) -> None:
    plan = Plan(Precision.INT8)
    first = candidate.evaluate(plan, {"x": X})
    (path,) = request_of(first).calibration
    assert Path(path).is_file()
    assert candidate.evaluate(plan, {"x": X + 1}).facts.builds == 0


def test_the_worker_may_be_replaced_between_evaluations(make: Make) -> None:
    candidate = make()
    candidate.evaluate(FP16, {"x": X})
    worker = candidate.supervisor.worker()
    os.kill(worker.hello.pid, 9)
    while worker.alive:
        pass
    assert candidate.evaluate(FP16, {"x": X}).facts.builds == 1


def test_a_crash_without_marks_is_raised(make: Make) -> None:
    candidate = make(CRASH_MODELS="model")
    with pytest.raises(WorkerCrashedError, match="SIGSEGV during a build of model at fp16"):
        candidate.evaluate(FP16, {"x": X})
    with pytest.raises(WorkerCrashedError):
        candidate.evaluate(TYPED, {"x": X})


def test_a_full_scratch_folder_is_reported_before_anything_is_asked(
    candidate: TensorRTCandidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate.evaluate(FP16, {"x": X})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(CandidateError, match="HARNESS_SCRATCH"):
            candidate.evaluate(FP16, {"x": X})
    assert candidate.evaluate(FP16, {"x": X}).facts.builds == 0


def test_what_does_not_fit_the_model_is_a_mistake_of_the_caller(candidate: TensorRTCandidate) -> None:
    with pytest.raises(InputDataError, match="float64"):
        candidate.evaluate(FP16, {"x": X.astype(np.float64)})
    with pytest.raises(NothingSelectedError, match="did you mean `norm`"):
        candidate.evaluate(replace(FP16, islands=frozenset({"nrm"})), {"x": X})
    with pytest.raises(NothingSelectedError, match="'nowhere'"):
        candidate.evaluate(replace(TYPED, marks=frozenset({"nowhere"})), {"x": X})


def test_the_key_depends_on_all_that_the_evaluation_depends_on(supervisor: Supervisor) -> None:
    model = load_model(norm_chain())
    candidate = TensorRTCandidate(environment(), model, supervisor=supervisor)
    key = candidate.key(FP16, {"x": X})
    renamed = TensorRTCandidate(replace(environment(), name="other"), model, supervisor=supervisor)
    options = replace(environment(), build=BuildOptions(workspace_mib=64))
    others = [
        candidate.key(Plan(Precision.BF16), {"x": X}),
        candidate.key(replace(FP16, islands=frozenset({"sq"})), {"x": X}),
        candidate.key(TYPED, {"x": X}),
        candidate.key(replace(TYPED, marks=frozenset({"sq"})), {"x": X}),
        candidate.key(replace(FP16, build=BuildOptions(tf32=True)), {"x": X}),
        candidate.key(replace(FP16, islands=frozenset({"sq"}), casts=True), {"x": X}),
        candidate.key(FP16, {"x": X + 1}),
        TensorRTCandidate(environment(), load_model(norm_chain(2.0)), supervisor=supervisor).key(
            FP16, {"x": X}
        ),
        TensorRTCandidate(options, model, supervisor=supervisor).key(FP16, {"x": X}),
        TensorRTCandidate(environment(), model, supervisor=supervisor, plain_marks=True).key(FP16, {"x": X}),
    ]
    assert renamed.key(FP16, {"x": X}) == candidate.key(FP16, {"x": X.copy()}) == key
    assert len({key, *others}) == len(others) + 1


def test_a_model_without_a_typed_graph_is_what_the_release_cannot_do(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise ModelError("opset 9 cannot be converted to 13", where="chain", hint="export it anew")

    monkeypatch.setattr("harness.backends.requests.with_islands", refuse)
    candidate = make(CAPABILITIES="bf16")
    with pytest.raises(UnsupportedByReleaseError, match=r"no typed graph of .* at bf16: opset 9") as caught:
        candidate.evaluate(Plan(Precision.BF16), {"x": X})
    assert caught.value.hint == "export it anew"


@pytest.mark.parametrize("observation", [Observation.NONE, Observation.TYPED, Observation.PREFIX])
def test_nodes_that_the_parser_refuses_stay_in_fp32_and_are_named(
    make: Make, observation: Observation
) -> None:
    candidate = make(CAPABILITIES="fp16", REFUSED_LOW="mean,sq")
    plan = replace(FP16, observation=observation)
    evaluation = candidate.evaluate(plan, {"x": X})
    assert evaluation.engine is not None
    assert evaluation.engine.realised.kept == ("sq", "mean")
    assert "the parser of TensorRT 8.6.0 refuses sq, mean at fp16: kept in FP32" in evaluation.engine.warnings
    assert evaluation.engine.skipped_marks == {}
    asked = len(ASKED)
    again = candidate.evaluate(replace(plan, islands=frozenset({"mean"})), {"x": X})
    assert again.engine is not None
    assert again.engine.realised.kept == ("sq",), "mean is asked for"
    assert len(ASKED) - asked == again.builds, "nothing was refused again"


def test_a_node_that_is_refused_in_fp32_too_is_an_error(make: Make) -> None:
    candidate = make(CAPABILITIES="fp16", REFUSED="sq")
    for plan in (FP16, TYPED, Plan(Precision.FP32)):
        with pytest.raises(BuildFailedError, match="cannot parse"):
            candidate.evaluate(plan, {"x": X})
    assert [request.precision for request in ASKED] == ["fp16", "fp16", "fp16", "fp32"], (
        "kept once, for all plans"
    )

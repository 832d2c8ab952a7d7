"""TF32 of TensorRT for RTX, which a variable of the worker turns off, and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from graphs import graph_model, norm_chain
from onnx import TensorProto, helper, numpy_helper

from harness.backends import Observation, Plan, Reference, TensorRTCandidate
from harness.case import BuildOptions
from harness.environments import Environment, Supervisor
from harness.errors import CandidateError, UnsupportedByReleaseError, WorkerCrashedError
from harness.model import load_model
from harness.tensors import Precision
from harness.worker.protocol import TF32_OFF, TF32_ON, TF32_STAYS

ADAPTER = Path(__file__).parents[1] / "worker" / "doubled.py"
X = np.random.default_rng(1).standard_normal((5, 16)).astype(np.float32)
FP32, TF32, FP16 = (Plan(precision) for precision in (Precision.FP32, Precision.TF32, Precision.FP16))
Make = Callable[..., TensorRTCandidate]


@pytest.fixture
def make(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes a candidate of a release, whose environment has these variables."""
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path_factory.mktemp("s")))
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE"):
        monkeypatch.delenv(name, raising=False)
    made: list[Supervisor] = []

    def candidate(release: str, **variables: str) -> TensorRTCandidate:
        given = tuple(sorted({"RELEASE": release, "TF32": "1", **variables}.items()))
        environment = Environment("rtx", (sys.executable,), variables=given)
        made.append(Supervisor(environment, adapter=ADAPTER, keep_cache=False))
        return TensorRTCandidate(environment, load_model(norm_chain()), supervisor=made[-1])

    yield candidate
    for supervisor in made:
        supervisor.close()


def error(candidate: TensorRTCandidate, plan: Plan) -> tuple[float, str | None]:
    """How far the output is off, relative to its size, and what the engine says of TF32."""
    expected = Reference(candidate.model).run({"x": X})["y"]
    evaluation = candidate.evaluate(plan, {"x": X})
    off = float(np.abs(evaluation.tensors["y"] - expected).max() / np.abs(expected).max())
    assert evaluation.engine is not None
    return off, evaluation.engine.realised.tf32


@pytest.mark.parametrize("release", ["1.5.0.114", "1.6.1.120"])
def test_fp32_runs_in_a_worker_without_tf32(make: Make, release: str) -> None:
    candidate = make(release)
    off, said = error(candidate, FP32)
    assert (off < 1e-5, said) == (True, TF32_OFF)
    off, said = error(candidate, TF32)
    assert (1e-4 < off < 1e-3, said) == (True, TF32_ON)
    assert error(candidate, FP16)[1] == TF32_ON, "FP32 products in islands run as the product runs them"


def test_each_worker_stays_while_the_other_is_asked(make: Make) -> None:
    candidate = make("1.6.1.120")
    evaluations = [candidate.evaluate(plan, {"x": X}) for plan in (FP32, TF32, FP32, FP16, FP32)]
    assert [evaluation.builds for evaluation in evaluations] == [1, 1, 0, 1, 0]
    assert candidate.supervisor.generation == 1
    assert candidate.supervisor.with_variables(NVIDIA_TF32_OVERRIDE="0").generation == 1


def test_an_option_decides_at_other_precisions(make: Make) -> None:
    candidate = make("1.6.1.120")
    assert error(candidate, replace(FP32, build=BuildOptions(tf32=True)))[1] == TF32_ON
    assert error(candidate, replace(FP16, build=BuildOptions(tf32=False)))[1] == TF32_OFF


@pytest.mark.parametrize("observation", [Observation.NONE, Observation.TYPED, Observation.PREFIX])
@pytest.mark.parametrize("variables", [{}, {"STARTS_NOTHING": "1"}], ids=["no context", "no inference"])
def test_where_no_engine_runs_without_tf32_the_evaluation_says_so(
    make: Make, observation: Observation, variables: dict[str, str]
) -> None:
    candidate = make("1.4.0.76", **variables)
    off, said = error(candidate, replace(FP32, observation=observation))
    assert (1e-4 < off < 1e-3, said) == (True, TF32_STAYS)
    evaluation = candidate.evaluate(FP32, {"x": X})
    assert evaluation.judged_as(Precision.FP32) is Precision.TF32
    assert evaluation.judged_as(Precision.FP16) is Precision.FP16


def test_an_environment_that_runs_no_products_without_tf32_is_asked_once(make: Make) -> None:
    first = make("1.4.0.76")
    assert error(first, FP32)[1] == TF32_STAYS
    without = first.supervisor.with_variables(NVIDIA_TF32_OVERRIDE="0")
    asked: list[str] = []
    ask = without.ask
    without.ask = lambda message, *rest: asked.append(type(message).__name__) or ask(message, *rest)  # type: ignore[method-assign]
    other = TensorRTCandidate(
        first.supervisor.environment, load_model(norm_chain(2.0)), supervisor=first.supervisor
    )
    assert error(other, FP32)[1] == TF32_STAYS
    assert asked == []
    node = helper.make_node("Relu", ["x"], ["y"], name="relu")
    plain = load_model(graph_model([node], inputs={"x": [5, 16]}, outputs={"y": [5, 16]}))
    none = TensorRTCandidate(first.supervisor.environment, plain, supervisor=first.supervisor)
    assert error(none, FP32)[1] == TF32_STAYS  # the double runs nothing at all without TF32
    assert "BuildRequest" in asked, "what has no products may run"


def test_a_file_in_fp16_throughout_is_judged_as_that_at_bf16(make: Make) -> None:
    weight = numpy_helper.from_array(np.eye(16, dtype=np.float16), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("Relu", ["h"], ["y"], name="relu"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT16, [5, 16]) for name in "xy")
    graph = helper.make_graph(nodes, "half", [x], [y], [weight])
    model = load_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), name="half"
    )
    supervisor = make("1.6.1.120").supervisor
    candidate = TensorRTCandidate(supervisor.environment, model, supervisor=supervisor)
    evaluation = candidate.evaluate(Plan(Precision.BF16), {"x": X.astype(np.float16)})
    assert evaluation.engine is not None
    assert (evaluation.engine.realised.own, evaluation.engine.realised.precision) == ("fp16", "fp16")
    assert evaluation.judged_as(Precision.BF16) is Precision.FP16
    evaluation = candidate.evaluate(FP16, {"x": X.astype(np.float16)})
    assert evaluation.judged_as(Precision.FP16) is Precision.FP16
    assert candidate.requests.own_precision(FP16) is None


def test_a_failing_build_is_no_reason_to_go_back_to_tf32(make: Make) -> None:
    candidate = make("1.6.1.120")
    plan = replace(FP32, build=BuildOptions(preview_features=("+no_such_feature",)))
    with pytest.raises(UnsupportedByReleaseError, match="preview feature"):
        candidate.evaluate(plan, {"x": X})
    assert error(candidate, FP32)[1] == TF32_OFF


def test_a_variable_that_the_user_set_is_left_alone(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    forced = make("1.6.1.120", NVIDIA_TF32_OVERRIDE="1")
    assert error(forced, FP32)[1] == TF32_ON
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    everywhere = make("1.6.1.120")
    assert [error(everywhere, plan)[1] for plan in (FP32, FP16)] == [TF32_OFF, TF32_OFF]


def test_tensorrt_takes_a_flag_and_one_worker(make: Make) -> None:
    candidate = make("10.13.3.9")
    assert error(candidate, FP32)[1] == TF32_OFF
    assert error(candidate, TF32)[1] == TF32_ON
    assert candidate._without_tf32 is None


def test_no_context_in_either_worker_is_an_error(make: Make) -> None:
    candidate = make("1.4.0.76", NVIDIA_TF32_OVERRIDE="0")
    with pytest.raises(CandidateError, match="no execution context") as caught:
        candidate.evaluate(FP32, {"x": X})
    assert any("cuDNN graph compilation" in line for line in caught.value.evidence)


def test_compiled_kernels_are_kept_in_a_file_for_each_way(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def warnings_of_a_run() -> list[str]:
        environment = make("1.6.1.120").supervisor.environment
        supervisor = Supervisor(environment, adapter=ADAPTER)
        candidate = TensorRTCandidate(environment, load_model(norm_chain()), supervisor=supervisor)
        found = [
            line for plan in (FP32, FP16, FP32) for line in candidate.evaluate(plan, {"x": X}).facts.warnings
        ]
        supervisor.close()
        return [line for line in found if "its kernels" in line]

    assert warnings_of_a_run() == []
    names = sorted(path.name for path in (tmp_path / "harness" / "runtime").glob("*.cache"))
    assert len(names) == 2
    assert [name.endswith("-tf32_0.cache") for name in names] == [True, False]
    assert warnings_of_a_run() == []
    stale = tmp_path / "harness" / "runtime" / names[0]
    stale.write_bytes(b"of another driver")
    (warning,) = warnings_of_a_run()
    assert str(stale) in warning
    assert stale.read_bytes().startswith(b"kernels 1.6.1.120"), "the next one is kept"
    assert warnings_of_a_run() == []


def test_kernels_with_which_a_new_worker_crashes_are_dropped(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    environment = make("1.6.1.120", CRASH="1").supervisor.environment
    supervisor = Supervisor(environment, adapter=ADAPTER)
    supervisor.probe()
    (folder := tmp_path / "harness" / "runtime").mkdir(parents=True)
    candidate = TensorRTCandidate(environment, load_model(norm_chain()), supervisor=supervisor)
    supervisor.close()
    kept = supervisor._caches["runtime"].path
    kept.write_bytes(b"kernels 1.6.1.120\nof a worker that is no more")
    with pytest.raises(WorkerCrashedError):
        candidate.evaluate(FP16, {"x": X})
    assert list(folder.iterdir()) == []
    assert any(str(kept) in warning for warning in candidate.evaluate(FP16, {"x": X}).facts.warnings)
    supervisor.close()

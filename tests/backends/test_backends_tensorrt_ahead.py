"""Engines of TensorRT for RTX that are begun before they are needed, by a real worker."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from graphs import norm_chain

from harness.backends import Observation, Plan, TensorRTCandidate
from harness.case import BuildOptions
from harness.compiler import kernels_of
from harness.environments import Environment, Supervisor
from harness.errors import CandidateError
from harness.model import load_model
from harness.tensors import Precision
from harness.worker import protocol

ADAPTER = Path(__file__).parent / "cpu_engine.py"
X = {"x": np.random.default_rng(1).standard_normal((5, 16)).astype(np.float32)}
FP16 = Plan(Precision.FP16)
DEBUG = replace(FP16, observation=Observation.DEBUG)
Make = Callable[..., TensorRTCandidate]
CAPABILITIES = "fp16,strong,debug_tensors,unfused_debug_tensors"


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made: list[TensorRTCandidate] = []

    def make_candidate(**variables: str) -> TensorRTCandidate:
        given = {"CAPABILITIES": CAPABILITIES, "PRODUCT": protocol.TENSORRT_RTX} | variables
        where = Environment("cpu", (sys.executable,), variables=tuple(sorted(given.items())))
        supervisor = Supervisor(where, adapter=ADAPTER)
        made.append(TensorRTCandidate(where, load_model(norm_chain()), supervisor=supervisor))
        return made[-1]

    yield make_candidate
    for candidate in made:
        candidate.close()
        candidate.supervisor.close()
    assert list((tmp_path / "harness").glob("*")) == []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """By build that a worker was asked for: how it is observed, and in which thread it was asked for."""
    builds: list[tuple[str, str]] = []
    ask = Supervisor.ask

    def record(self: Supervisor, message: protocol.Request, seconds: float | None = None) -> object:
        if isinstance(message, protocol.BuildRequest):
            builds.append((message.observation, threading.current_thread().name))
        return ask(self, message, seconds)

    monkeypatch.setattr(Supervisor, "ask", record)
    return builds


def test_an_engine_that_was_begun_is_not_built_again(make: Make, asked: list[tuple[str, str]]) -> None:
    candidate = make()
    candidate.build_ahead(FP16, X)
    evaluation = candidate.evaluate(FP16, X)
    assert evaluation.engine.builds == 1
    assert asked == [("debug", "build ahead")]
    assert set(evaluation.tensors) == {"y"}


def test_the_caller_goes_on_while_an_engine_is_built(
    make: Make, asked: list[tuple[str, str]], tmp_path: Path
) -> None:
    built = tmp_path / "built"
    candidate = make(BUILT=str(built))
    candidate.build_ahead(DEBUG, X)
    assert candidate.fingerprint().product == protocol.TENSORRT_RTX  # known, and not asked for
    built.touch()
    assert set(candidate.evaluate(DEBUG, X).tensors) == {"y"}
    assert [how for how, _ in asked] == ["debug"]


@pytest.mark.parametrize("plan", [FP16, replace(FP16, islands=frozenset({"sq"}))])
def test_the_kernels_of_an_engine_that_was_begun_are_not_asked_of_a_compiler(make: Make, plan: Plan) -> None:
    candidate = make(KERNELS="yes", SLOW="0.3")
    model, supervisor = candidate.model, candidate.supervisor
    candidate.build_ahead(plan, X)
    how = {"profiles": candidate.requests.shapes(model, X), "supervisor": supervisor}
    where = supervisor.environment
    kernels = kernels_of(model, Precision.FP16, where, islands=plan.islands, **how)  # it has no compiler
    engine = candidate.evaluate(plan, X).engine
    assert engine is not None
    assert kernels == engine.kernels
    with pytest.raises(CandidateError):  # of other nodes in FP32 nobody knows them
        kernels_of(model, Precision.FP16, where, islands=("mean",), **how)


@pytest.mark.parametrize(
    "plan",
    [replace(FP16, fp32_sums=frozenset({"proj"})), replace(FP16, build=BuildOptions(workspace_mib=64))],
)
def test_kernels_of_another_graph_or_other_options_are_not_taken(make: Make, plan: Plan) -> None:
    candidate = make(KERNELS="yes")
    candidate.build_ahead(plan, X)
    with pytest.raises(CandidateError):
        kernels_of(
            candidate.model,
            Precision.FP16,
            candidate.supervisor.environment,
            profiles=candidate.requests.shapes(candidate.model, X),
            supervisor=candidate.supervisor,
        )


def test_one_engine_gives_the_outputs_and_the_debug_tensors(make: Make, asked: list[tuple[str, str]]) -> None:
    candidate = make()
    first, observed = candidate.evaluate(FP16, X), candidate.evaluate(DEBUG, X)
    assert asked == [("debug", "MainThread")]
    assert (first.engine.internal_tensors, observed.engine.internal_tensors) == (0, 1), "only if asked"
    assert not first.observed
    np.testing.assert_array_equal(first.tensors["y"], observed.tensors["y"])
    assert (first.engine.builds, observed.engine.builds) == (1, 0)


@pytest.mark.parametrize(
    "given", [{"PRODUCT": protocol.TENSORRT}, {"CAPABILITIES": "fp16,strong,debug_tensors"}]
)
def test_other_engines_have_debug_tensors_only_where_they_are_observed(
    make: Make, asked: list[tuple[str, str]], given: dict[str, str]
) -> None:
    candidate = make(**given)
    first, observed = candidate.evaluate(FP16, X), candidate.evaluate(DEBUG, X)
    assert [how for how, _ in asked] == ["none", "debug"]
    assert (first.engine.builds, observed.engine.builds) == (1, 1)


def test_one_engine_is_begun_at_a_time_and_counted_where_it_is_asked_for(
    make: Make, asked: list[tuple[str, str]], tmp_path: Path
) -> None:
    built = tmp_path / "built"
    candidate, island = make(BUILT=str(built)), replace(FP16, islands=frozenset({"sq"}))
    assert candidate.build_ahead(island, X)
    assert candidate.build_ahead(FP16, X), "one is under way, which is not waited for"
    built.touch()
    evaluations = [candidate.evaluate(plan, X) for plan in (FP16, island)]
    assert asked == [("debug", "build ahead"), ("debug", "MainThread")]
    assert [evaluation.engine.builds for evaluation in evaluations] == [1, 1]
    assert not candidate.build_ahead(island, X), "it is there"


def test_the_next_engine_is_begun_when_the_one_before_is_there(
    make: Make, asked: list[tuple[str, str]]
) -> None:
    candidate, island = make(), replace(FP16, islands=frozenset({"sq"}))
    candidate.build_ahead(island, X)
    candidate.store._begun.reply.result()
    assert candidate.build_ahead(FP16, X)
    evaluations = [candidate.evaluate(plan, X) for plan in (FP16, island)]
    assert asked == [("debug", "build ahead")] * 2
    assert [evaluation.engine.builds for evaluation in evaluations] == [1, 1]


def test_what_goes_wrong_ahead_is_raised_by_the_evaluation(make: Make) -> None:
    candidate = make(CRASH_MODELS="model", CAPABILITIES="fp16,weak")
    candidate.build_ahead(FP16, X)
    with pytest.raises(CandidateError, match="SIGSEGV"):
        candidate.evaluate(FP16, X)


def test_a_worker_that_was_replaced_builds_again(make: Make, asked: list[tuple[str, str]]) -> None:
    candidate = make()
    candidate.build_ahead(FP16, X)
    candidate.supervisor.worker().kill()
    assert set(candidate.evaluate(FP16, X).tensors) == {"y"}
    assert len(asked) == 2


def test_an_engine_that_nobody_asks_for_is_freed(make: Make) -> None:
    candidate = make()
    candidate.build_ahead(FP16, X)
    candidate.close()
    assert set(candidate.evaluate(FP16, X).tensors) == {"y"}


@pytest.mark.parametrize(("certain", "thread"), [(False, "MainThread"), (True, "build ahead")])
def test_tensorrt_builds_ahead_what_is_certain_to_be_needed(
    make: Make, asked: list[tuple[str, str]], certain: bool, thread: str
) -> None:
    candidate = make(PRODUCT=protocol.TENSORRT)
    assert candidate.build_ahead(FP16, X, certain=certain) == certain
    assert candidate.evaluate(FP16, X).engine.builds == 1
    assert asked == [("none", thread)]

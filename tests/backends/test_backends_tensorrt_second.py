"""Engines of TensorRT for RTX that a second worker builds while the first is at work on another one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from graphs import norm_chain

from harness.backends import Plan, TensorRTCandidate
from harness.environments import Environment, SecondBuilder, Supervisor, WorkerLimits
from harness.errors import CandidateError
from harness.model import load_model
from harness.tensors import Precision
from harness.worker import protocol

ADAPTER = Path(__file__).parent / "cpu_engine.py"
X = {"x": np.random.default_rng(1).standard_normal((5, 16)).astype(np.float32)}
FAILING, CURED, OTHER = (
    Plan(Precision.FP16, islands=frozenset(island)) for island in ((), ("sq",), ("sq", "mean"))
)
TWO = WorkerLimits(workers=2)
PYTHON = os.environ.get("HARNESS_RTX_PYTHON")
Make = Callable[..., TensorRTCandidate]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "record"


@pytest.fixture
def make(tmp_path: Path, record: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    made: list[TensorRTCandidate] = []

    def make_candidate(limits: WorkerLimits = TWO, **variables: str) -> TensorRTCandidate:
        given = {
            "CAPABILITIES": "fp16,strong,debug_tensors,unfused_debug_tensors",
            "PRODUCT": protocol.TENSORRT_RTX,
            "RECORD": str(record),
            **variables,
        }
        where = Environment("cpu", (sys.executable,), variables=tuple(sorted(given.items())), limits=limits)
        supervisor = Supervisor(where, adapter=ADAPTER)
        made.append(TensorRTCandidate(where, load_model(norm_chain()), supervisor=supervisor))
        return made[-1]

    yield make_candidate
    for candidate in made:
        candidate.close()
        candidate.supervisor.close()
    wait_for(lambda: not list((tmp_path / "harness").glob("*")))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def events(record: Path) -> list[str]:
    return record.read_text().splitlines()


def begin(candidate: TensorRTCandidate, plan: Plan = CURED, *, wait: bool = True) -> None:
    """Begin the engine that fails, and beside it that of `plan`, whose end is waited for."""
    assert candidate.build_ahead(FAILING, X)
    candidate.start_second()
    second = candidate.store._second
    candidate.prebuild(plan, X)
    if wait:
        wait_for(second._built.done)


def run(candidate: TensorRTCandidate, *plans: Plan) -> list[int]:
    """How many engines the evaluations of `plans` are said to have built."""
    return [candidate.evaluate(plan, X).engine.builds for plan in plans]


@pytest.mark.parametrize("ahead", [False, True])
def test_the_first_worker_loads_what_the_second_has_built(make: Make, record: Path, ahead: bool) -> None:
    candidate = make(KERNELS="yes")
    begin(candidate)
    assert run(candidate, FAILING) == [1]
    if ahead:
        assert candidate.build_ahead(CURED, X)
    found = candidate.evaluate(CURED, X)
    assert sorted(events(record)) == ["build on a GPU", "load on a GPU", "write on no GPU"]
    assert (found.engine.builds, found.engine.build_seconds) == (1, 7.0), "as the second has built it"
    built = make(KERNELS="yes").evaluate(CURED, X)
    np.testing.assert_array_equal(found.tensors["y"], built.tensors["y"])
    assert found.engine.kernels == built.engine.kernels
    assert found.engine.realised == built.engine.realised
    assert run(candidate, CURED, FAILING) == [0, 0]


def test_it_builds_while_the_first_worker_is_at_work(make: Make, record: Path, tmp_path: Path) -> None:
    settled = tmp_path / "settled"
    candidate = make(SETTLED=str(settled))
    begin(candidate)
    assert events(record) == ["build on a GPU", "write on no GPU"]
    settled.touch()
    assert run(candidate, FAILING, CURED) == [1, 1]
    assert events(record)[2:] == ["load on a GPU"]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"WRITING": how} for how in ("crash", "refuse", "hang", "cut", "other")),
        *({"LOADING": how} for how in ("crash", "refuse")),
    ],
    ids=lambda wrong: " ".join(*wrong.items()),
)
@pytest.mark.parametrize("ahead", [False, True])
def test_what_goes_wrong_with_it_is_built_again(
    make: Make, record: Path, wrong: dict[str, str], ahead: bool
) -> None:
    candidate = make(**wrong)
    begin(candidate, wait=wrong != {"WRITING": "hang"})
    assert run(candidate, FAILING) == [1]
    if ahead:
        candidate.build_ahead(CURED, X)
    found = candidate.evaluate(CURED, X)
    assert (found.engine.builds, found.engine.build_seconds) == (1, 0.25)
    assert events(record).count("build on a GPU") == 2
    assert "load on a GPU" in events(record) or "WRITING" in wrong


def test_what_the_first_worker_refuses_is_told_by_it(make: Make) -> None:
    """The error is the one without a second worker."""
    messages = []
    for second in (True, False):
        candidate = make(REFUSED="proj")
        if second:
            begin(candidate)
        with pytest.raises(CandidateError) as caught:
            candidate.evaluate(CURED, X)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "cannot parse" in messages[0]


def test_one_engine_is_built_beside_another_one(make: Make, record: Path) -> None:
    candidate = make()
    begin(candidate)
    candidate.start_second()
    candidate.prebuild(CURED, X)
    candidate.prebuild(OTHER, X)
    candidate.prebuild(FAILING, X)
    assert run(candidate, FAILING, CURED, OTHER) == [1, 1, 1]
    wanted = ["build on a GPU", "build on a GPU", "load on a GPU", "write on no GPU"]
    assert sorted(events(record)) == wanted


def test_what_is_under_way_or_there_is_not_built_beside(make: Make, record: Path) -> None:
    candidate = make()
    begin(candidate, FAILING, wait=False)
    assert run(candidate, FAILING) == [1]
    candidate.prebuild(FAILING, X)
    assert run(candidate, FAILING) == [0]
    assert events(record) == ["build on a GPU"]


def test_it_ends_when_another_engine_is_built(make: Make, record: Path) -> None:
    candidate = make(WRITING="hang")
    begin(candidate, wait=False)
    second = candidate.supervisor._second
    assert run(candidate, FAILING) == [1]
    assert second is not None
    wait_for(lambda: "write on no GPU" in events(record))
    assert run(candidate, OTHER, CURED) == [1, 1]
    assert not second.running


def test_an_engine_that_nobody_asks_for_is_not_counted(make: Make) -> None:
    candidate = make()
    begin(candidate)
    assert run(candidate, FAILING) == [1]
    assert candidate.store.builds == 1


@pytest.mark.parametrize("end", ["close the candidate", "close the worker", "abort"])
@pytest.mark.parametrize("started", [False, True])
def test_it_ends_with_the_first_one(make: Make, record: Path, end: str, started: bool) -> None:
    candidate = make(WRITING="hang")
    begin(candidate, wait=False)
    second = candidate.supervisor._second
    assert second is not None
    if started:
        wait_for(lambda: "write on no GPU" in events(record))
    assert run(candidate, FAILING) == [1]
    if end == "abort":
        candidate.supervisor.abort()
    else:
        (candidate if end == "close the candidate" else candidate.supervisor).close()
    assert not second.running or not started
    wait_for(lambda: not second.running)
    if end == "abort":
        with pytest.raises(CandidateError, match="aborted"):
            candidate.evaluate(CURED, X)


@pytest.mark.parametrize(
    ("limits", "variables"),
    [
        (WorkerLimits(workers=1), {}),
        (WorkerLimits(memory_gib=64), {}),
        (TWO, {"PRODUCT": protocol.TENSORRT}),
    ],
)
def test_where_it_does_not_pay_there_is_none(
    make: Make, record: Path, limits: WorkerLimits, variables: dict[str, str]
) -> None:
    candidate = make(limits, **variables)
    candidate.start_second()
    candidate.prebuild(CURED, X)
    assert candidate.supervisor._second is None
    assert run(candidate, CURED) == [1]
    assert events(record) == ["build on a GPU"]


def test_where_memory_is_short_there_is_none(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = make()
    weights = sum(tensor.nbytes for tensor in candidate.model.weights.values())
    monkeypatch.setattr("harness.backends.tensorrt.available_memory", lambda: (1 << 30) + 4 * weights)
    candidate.start_second()
    assert candidate.supervisor._second is None
    monkeypatch.setattr("harness.backends.tensorrt.available_memory", lambda: (1 << 30) + 4 * weights + 1)
    candidate.start_second()
    assert candidate.supervisor._second is not None


@pytest.mark.parametrize(("cores", "second"), [(3, False), (4, True)])
def test_it_takes_four_cores(monkeypatch: pytest.MonkeyPatch, cores: int, second: bool) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    assert WorkerLimits().second is second
    assert TWO.second


@pytest.mark.skipif(PYTHON is None, reason="HARNESS_RTX_PYTHON names no Python with TensorRT for RTX")
def test_a_second_builder_of_tensorrt_for_rtx_makes_the_bytes_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    where = Environment("rtx", (str(PYTHON),), limits=TWO)
    supervisor = Supervisor(where)
    candidate = TensorRTCandidate(where, load_model(norm_chain()), supervisor=supervisor)
    wanted = candidate.requests.unobserved(CURED, X)
    request = candidate.store._located(wanted.model, wanted.request)
    first = tmp_path / "first"
    supervisor.call(protocol.Compile(replace(request, engine_path=str(first))))
    candidate.start_second()
    second = candidate.store._second
    assert isinstance(second, SecondBuilder)
    candidate.prebuild(CURED, X)
    wait_for(second._built.done)
    prebuilt = second.take(second._key, 0.0)
    assert prebuilt is not None
    assert prebuilt.path.read_bytes() == first.read_bytes()
    candidate.close()
    supervisor.close()

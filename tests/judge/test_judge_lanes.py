"""Runs on several GPUs go at the same time; on one they follow each other."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.backends import sharing_cores, tensorrt
from harness.backends.session import session_options
from harness.environments import Environment, Supervisor
from harness.environments.process import WorkerProcess
from harness.judge import (
    Candidates,
    Judge,
    JudgeOptions,
    RunEvent,
    RunProgress,
    RunReport,
    Verdict,
    Workbench,
    run,
)
from harness.judge.lanes import side_by_side
from harness.tensors import to_json
from harness.worker.protocol import TENSORRT, TENSORRT_RTX, BuildRequest, InferRequest

ADAPTER = Path(__file__).parents[1] / "worker" / "doubled.py"
ENGINES = Path(__file__).parents[1] / "backends" / "cpu_engine.py"
CONFIG = """
[environments.old]
python = "{python}"
variables = {{ RELEASE = "8.6.0" }}

[environments.new]
python = "{python}"
gpu = {gpu}
variables = {{ RELEASE = "10.13.3.9" }}
"""


@pytest.fixture
def supervisors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[Environment, Supervisor]]:
    """The environments of `configure`, with doubles of TensorRT in their workers."""
    made: dict[Environment, Supervisor] = {}

    def shared(environment: Environment) -> Supervisor:
        return made.setdefault(environment, Supervisor(environment, adapter=ADAPTER, keep_cache=False))

    for module in (tensorrt, sys.modules["harness.environments"]):
        monkeypatch.setattr(module, "shared_supervisor", shared)
    monkeypatch.chdir(tmp_path)
    yield made
    for supervisor in made.values():
        supervisor.close()


SHARED = """
[environments.rtx]
python = "{python}"
limits = {{ workers = {workers} }}
variables = {{ PRODUCT = "{product}", CAPABILITIES = "fp16,strong,unfused_debug_tensors"{more} }}
"""


@pytest.fixture
def shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[tuple[int, object, float, float]]]:
    """What the workers of an environment are asked for: in which lane, what, from when to when."""
    made: dict[Environment, Supervisor] = {}
    asked: list[tuple[int, object, float, float]] = []
    request = WorkerProcess.request

    def supervisor_of(environment: Environment) -> Supervisor:
        return made.setdefault(environment, Supervisor(environment, adapter=ENGINES, keep_cache=False))

    def recorded(self: WorkerProcess, message: object, seconds: float) -> object:
        began = time.monotonic()
        try:
            return request(self, message, seconds)
        finally:
            asked.append((self.environment.lane, message, began, time.monotonic()))

    for module in (tensorrt, sys.modules["harness.environments"]):
        monkeypatch.setattr(module, "shared_supervisor", supervisor_of)
    monkeypatch.setattr(WorkerProcess, "request", recorded)
    monkeypatch.chdir(tmp_path)
    yield asked
    for supervisor in made.values():
        supervisor.close()


def share(workers: int, product: str = TENSORRT_RTX, more: str = "") -> None:
    text = SHARED.format(python=sys.executable, workers=workers, product=product, more=more)
    Path("harness.toml").write_text(text)


def run_fp16(cases: Path, progress: RunProgress | None = None) -> RunReport:
    """The runs at fp16, beside an emulator that asks no compiler."""
    options = JudgeOptions(kernels="none")
    return run(cases, environments="rtx", precisions="fp16", options=options, progress=progress)


def many(tiny_cases) -> Path:
    """A folder of six cases that can be judged, and two that cannot."""
    folder = tiny_cases("clean", "mistaken", "skipped")
    for number in range(5):
        (folder / f"clean-{number}.case.yaml").write_text((folder / "clean.case.yaml").read_text())
    return folder


def test_workers_that_share_a_gpu_say_what_one_says(tiny_cases, shared) -> None:
    cases = many(tiny_cases)
    share(1)
    alone = run_fp16(cases).results
    assert {lane for lane, *_ in shared} == {0}
    shared.clear()
    share(3)
    beside = run_fp16(cases).results
    assert {lane for lane, message, *_ in shared if isinstance(message, BuildRequest)} == {0, 1, 2}
    assert [each.verdict.value for each in alone] == ["pass"] * 6 + ["error", "skip"]
    assert [to_json(replace(one, timings={})) for one in beside] == [
        to_json(replace(one, timings={})) for one in alone
    ]


def test_nothing_goes_on_on_a_gpu_beside_what_is_timed(tiny_cases, shared) -> None:
    share(3, more=', SLOW = "0.2"')
    run_fp16(many(tiny_cases))
    timed = [each for each in shared if isinstance(each[1], InferRequest) and each[1].repeats]
    others = [each for each in shared if isinstance(each[1], BuildRequest | InferRequest)]
    assert len({lane for lane, *_ in timed}) == 3
    for one in timed:
        beside = [each for each in others if each is not one and each[2] < one[3] and one[2] < each[3]]
        assert beside == []


def test_nothing_more_is_told_once_the_caller_is_interrupted(tiny_cases, shared) -> None:
    share(3, more=', SLOW = "0.2"')
    told: list[str] = []

    def interrupt(event: RunEvent) -> None:
        told.append(event.kind)
        if event.kind == "done":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_fp16(many(tiny_cases), interrupt)
    assert told.count("done") == 1
    assert told[-1] == "done"


def test_builds_of_tensorrt_do_not_share_a_gpu(tiny_cases, shared) -> None:
    share(3, TENSORRT)
    run_fp16(many(tiny_cases))
    assert {lane for lane, *_ in shared} == {0}


def test_a_worker_that_dies_costs_its_own_run_alone(tiny_cases, shared) -> None:
    share(2, more=', CRASH_MODELS = "broken-fp16"')
    cases = many(tiny_cases)
    (cases / "broken.case.yaml").write_text((cases / "clean.case.yaml").read_text())
    found = {each.case: each for each in run_fp16(cases).results}
    assert [name for name, each in found.items() if each.verdict is Verdict.ERROR] == ["broken", "mistaken"]
    assert found["broken"].error.kind == "WorkerCrashedError"


def test_what_fails_beside_others_is_repeated_alone(tiny_cases, shared, tmp_path: Path) -> None:
    once = tmp_path / "once"
    once.touch()
    share(2, more=f', CRASH_ONCE = "{once}"')
    told: list[tuple[int, str]] = []
    report = run_fp16(many(tiny_cases), lambda event: told.append((event.index, event.kind)))
    assert not once.exists()
    assert [each.case for each in report.results if each.verdict is Verdict.ERROR] == ["mistaken"]
    done = [index for index, kind in told if kind == "done"]
    assert sorted(done) == list(range(8)), "each once"


def configure(gpu: int) -> None:
    Path("harness.toml").write_text(CONFIG.format(python=sys.executable, gpu=gpu))


def test_lanes_wait_less_for_pythons_lock_as_long_as_there_are_several() -> None:
    before = sys.getswitchinterval()
    beside = side_by_side([sys.getswitchinterval] * 2, lambda: None)
    assert beside == [pytest.approx(0.0005)] * 2
    assert side_by_side([sys.getswitchinterval], lambda: None) == [before]
    assert sys.getswitchinterval() == before


def test_sessions_of_a_thread_get_its_part_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    made = side_by_side([lambda: session_options().intra_op_num_threads] * 2, lambda: None)
    with sharing_cores(4):
        assert session_options().intra_op_num_threads == 4
    assert made == [session_options().intra_op_num_threads] * 2 == [0, 0], "as ONNX Runtime chooses"


def test_results_keep_their_order_whichever_gpu_is_faster(tiny_cases, supervisors) -> None:
    configure(gpu=1)
    events: list[RunEvent] = []
    threads: dict[str, set[int]] = {}

    def tell(event: RunEvent) -> None:
        events.append(event)
        threads.setdefault(event.candidate, set()).add(threading.get_ident())

    report = run(tiny_cases("clean", "skipped"), environments=["old", "new"], progress=tell)
    assert [(item.case, item.candidate, item.precision.value) for item in report.results] == [
        *(("clean", "old", precision) for precision in ("fp32", "fp16", "bf16")),
        *(("clean", "new", precision) for precision in ("fp32", "fp16", "bf16")),
        ("skipped", "old", "fp16"),
        ("skipped", "new", "fp16"),
    ]
    assert sorted(event.index for event in events if event.kind == "done") == list(range(8))
    assert all(len(of) == 1 for of in threads.values())
    assert threads["old"] != threads["new"], "each GPU has a thread of its own"


def test_environments_on_one_gpu_take_turns(tiny_cases, supervisors) -> None:
    configure(gpu=0)
    order: list[int] = []
    run(
        tiny_cases("clean"),
        environments=["old", "new"],
        progress=lambda event: order.append(event.index),
    )
    assert order == sorted(order)


def test_golden_references_are_rewritten_by_one_lane_only(tiny_cases, supervisors, monkeypatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    configure(gpu=1)
    threads: set[threading.Thread] = set()
    run(
        tiny_cases("clean"),
        environments=["old", "new"],
        options=JudgeOptions(layers=False, golden_update=True),
        progress=lambda event: threads.add(threading.current_thread()),
    )
    assert threads == {threading.current_thread()}


def test_a_failure_of_the_caller_ends_every_lane(tiny_cases, supervisors) -> None:
    configure(gpu=1)
    done: list[str] = []

    def tell(event: RunEvent) -> None:
        if event.kind == "done":
            done.append(event.candidate)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_cases("clean", "expected"), environments=["old", "new"], progress=tell)
    assert len(done) <= 2, "at most what each lane was at"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lane")]


def test_a_precision_that_a_release_does_not_know_is_skipped(tiny_cases, supervisors) -> None:
    configure(gpu=0)
    report = run(tiny_cases("clean"), environments=["old", "new"], options=JudgeOptions(layers=False))
    found = {(item.candidate, item.precision.value): item for item in report.results}
    assert found["old", "bf16"].verdict is Verdict.SKIP
    assert found["old", "bf16"].reason == "TensorRT 8.6.0 has no precision bf16"
    assert found["new", "bf16"].verdict is not Verdict.SKIP


def test_a_release_that_a_case_does_not_want_is_skipped(tiny_cases, supervisors) -> None:
    configure(gpu=0)
    folder = tiny_cases("clean")
    path = folder / "clean.case.yaml"
    path.write_text(path.read_text() + "requires: tensorrt >=8.5,<9\n")
    report = run(folder, environments=["old", "new"], precisions=["fp16"])
    assert [item.verdict is Verdict.SKIP for item in report.results] == [False, True]
    assert report.results[1].reason == "needs tensorrt >=8.5,<9, and new has TensorRT 10.13.3.9"
    assert run(folder, precisions=["fp16"]).results[0].verdict is Verdict.PASS, "the emulator has no release"


def test_lanes_are_gpus_and_the_emulator(supervisors) -> None:
    configure(gpu=1)
    assert Candidates().lanes(["emulator", "old", "new"]) == [("emulator",), ("old",), ("new",)]
    configure(gpu=0)
    assert Candidates().lanes(["emulator", "old", "new"]) == [("emulator",), ("old", "new")]


def test_the_next_case_is_prepared_while_an_engine_is_built(tiny_cases, supervisors, monkeypatch) -> None:
    configure(gpu=0)
    prepared: list[tuple[str, bool]] = []
    prepare = Workbench.prepare

    def watched(bench: Workbench) -> None:
        prepare(bench)
        ready = {"model", "feeds", "expected"} <= vars(bench).keys()
        prepared.append((bench.case.name, ready))

    monkeypatch.setattr(Workbench, "prepare", watched)
    cases = tiny_cases("clean", "expected", "failing")
    report = run(cases, environments=["old"])
    assert prepared == [("expected", True), ("failing", True)]
    prepared.clear()
    alone = [
        item for path in sorted(cases.glob("*.case.yaml")) for item in run(path, environments=["old"]).results
    ]
    assert prepared == [], "there is no next one"
    verdicts = [(item.case, item.precision, item.verdict) for item in alone]
    assert [(item.case, item.precision, item.verdict) for item in report.results] == verdicts
    run(cases)
    assert prepared == [], "on the emulator it would only take turns"


def test_workers_start_while_the_models_are_made(tiny_cases, supervisors, monkeypatch) -> None:
    configure(gpu=0)
    started: list[str] = []
    start_ahead = Supervisor.start_ahead

    def watched(supervisor: Supervisor) -> None:
        started.append(supervisor.environment.name)
        start_ahead(supervisor)

    monkeypatch.setattr(Supervisor, "start_ahead", watched)
    report = run(tiny_cases("clean"), environments=["old", "new"])
    assert started == ["old"], "of those that take turns the first"
    assert {item.verdict for item in report.results} == {Verdict.PASS, Verdict.SKIP}, "8.6 has no bf16"


def test_close_waits_for_workers_whose_end_was_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    go_on = threading.Event()

    calls = []

    def close_slowly() -> None:
        calls.append(None)
        if len(calls) == 1:  # there are no workers left for the next one
            go_on.wait(60)
            said.append("ended")

    monkeypatch.setattr("harness.environments.close_shared", close_slowly)
    judge = Judge()
    assert judge.candidates.environments is not None  # of a file that is read when it is first asked for
    judge.end_workers()
    closing = threading.Thread(target=lambda: (judge.close(), said.append("closed")))
    closing.start()
    closing.join(0.2)
    assert said == []
    go_on.set()
    closing.join(60)
    assert said == ["ended", "closed"]

"""Runs on several GPUs go at the same time; on one they follow each other."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.backends import tensorrt
from harness.environments import Environment, Supervisor
from harness.judge import Candidates, JudgeOptions, ProgressEvent, Verdict, Workbench, run

ADAPTER = Path(__file__).parents[1] / "worker" / "doubled.py"
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


def configure(gpu: int) -> None:
    Path("harness.toml").write_text(CONFIG.format(python=sys.executable, gpu=gpu))


def test_results_keep_their_order_whichever_gpu_is_faster(tiny_cases, supervisors) -> None:
    configure(gpu=1)
    events: list[ProgressEvent] = []
    threads: dict[str, set[int]] = {}

    def tell(event: ProgressEvent) -> None:
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

    def tell(event: ProgressEvent) -> None:
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

"""Units on the workers of a scheduler: the same answers as on one machine, whoever dies."""

from __future__ import annotations

import datetime
import json
import logging.handlers
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import onnx
import pytest

import harness
from benchmarks.scheduler import cluster as started
from benchmarks.scheduler import traffic
from harness import errors
from harness.cli import main
from harness.cluster import OnStage, Unit, open_cluster, remote
from harness.errors import CandidateError, HarnessError, MissingDependencyError, SchedulerError, UsageError
from harness.history import DriftOptions
from harness.judge import JudgeOptions, Verdict
from harness.report import drift_page

distributed = pytest.importorskip("distributed", reason="pip install -c constraints.txt -e '.[cluster]'")

pytestmark = pytest.mark.slow

DEADLY = """

def deadly(times, folder, spare):
    # the process that has it built is killed, so many times, if it is not the one to spare
    import os, pathlib, signal
    died = pathlib.Path(folder, str(len(list(pathlib.Path(folder).iterdir()))))
    if os.getppid() != spare and int(died.name) < times:
        died.touch()
        os.kill(os.getppid(), signal.SIGKILL)
    return squares()
"""


@pytest.fixture(scope="module", name="cluster")
def two_workers() -> Iterator[Any]:
    with started(2) as made:
        yield made


@pytest.fixture
def scheduler(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a scheduler with two workers, which are replaced when they die."""
    monkeypatch.chdir(tmp_path)
    cluster.wait_for_workers(1, timeout=120)
    return str(cluster.scheduler_address)


@pytest.fixture
def deadly(tiny_cases, tmp_path: Path):
    """Write a case whose builder kills the process that has it built, so many times."""

    def write(times: int) -> Path:
        folder = tiny_cases("clean", "failing")
        (folder / "models.py").write_text((folder / "models.py").read_text() + DEADLY)
        (tmp_path / "deaths").mkdir(exist_ok=True)
        arguments = json.dumps({"times": times, "folder": str(tmp_path / "deaths"), "spare": os.getpid()})
        (folder / "deadly.case.yaml").write_text(
            f"model: {{builder: models:deadly, args: {arguments}}}\nruns: [fp16]\n"
        )
        return folder

    return write


TIMES = ("timings", "parse_seconds", "build_seconds")


def without_times(document: Any) -> Any:
    """A JSON document without what no two runs have in common."""
    if isinstance(document, dict):
        return {key: without_times(value) for key, value in document.items() if key not in TIMES}
    return [without_times(item) for item in document] if isinstance(document, list) else document


def test_a_run_says_what_it_says_on_one_machine(tiny_cases, scheduler) -> None:
    targets = tiny_cases("clean", "expected", "failing", "cured", "skipped", "mistaken")
    here = harness.run(targets, options=JudgeOptions(keep_outputs=True))
    events = []
    there = harness.run(
        targets, options=JudgeOptions(keep_outputs=True), scheduler=scheduler, progress=events.append
    )
    assert without_times(there.to_dict()) == without_times(here.to_dict())
    assert [set(result.values[0]) for result in there.results if result.values] == [
        set(result.values[0]) for result in here.results if result.values
    ]
    done = [event for event in events if event.kind == "done"]
    assert len(done) >= len(there.results)


def test_a_unit_whose_worker_dies_is_repeated(deadly, scheduler) -> None:
    report = harness.run(deadly(times=1), scheduler=scheduler)
    assert [(result.case, result.verdict) for result in report.results] == [
        *(("clean", Verdict.PASS) for _ in range(3)),
        ("deadly", Verdict.PASS),
        ("failing", Verdict.PASS),
        ("failing", Verdict.FAIL),
    ]


def test_a_unit_that_two_workers_died_of_is_an_error_and_the_others_are_judged(
    deadly, scheduler, tmp_path: Path
) -> None:
    report = harness.run(deadly(times=9), scheduler=scheduler)
    by_case = {result.case: result for result in report.results}
    assert by_case["deadly"].verdict is Verdict.ERROR
    assert "2 workers died while they carried it out" in by_case["deadly"].reason
    assert len(list((tmp_path / "deaths").iterdir())) == 2, "repeated once, and no more"
    assert by_case["failing"].verdict is Verdict.FAIL
    assert report.exit_code == 3


def frame_of(history: Path) -> Any:
    rows = harness.load_history(history)
    return rows.drop(columns=["run", "time"]).astype(object).where(rows.notna(), None)


def page_of(report: Any) -> str:
    """The page of a drift, as if its run had another id and had begun another day."""
    day = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    records = report.records.assign(run="RUN", time=day)
    return drift_page(replace(report, run="RUN", time=day, records=records, files=()), seconds=None)


@pytest.mark.parametrize("times", [0, 1])
def test_a_drift_has_the_rows_and_the_page_of_one_machine(times, deadly, scheduler, tmp_path: Path) -> None:
    targets = deadly(times=times)
    releases = ["emulator:fp16,noise=0.2", "emulator:fp16,seed=1,plant=square@bf16"]
    there = harness.drift(targets, environments=releases, history=tmp_path / "there", scheduler=scheduler)
    assert len(list((tmp_path / "deaths").iterdir())) == times
    here = harness.drift(targets, environments=releases, history=tmp_path / "here")
    assert frame_of(tmp_path / "there").equals(frame_of(tmp_path / "here"))
    assert page_of(there) == page_of(here)
    assert there.exit_code == here.exit_code


def test_what_others_are_compared_with_goes_from_worker_to_worker(cluster, scheduler, tmp_path: Path) -> None:
    found = traffic(tmp_path, cluster)
    assert found["builds"] == 12
    assert found["sent_mb"] < 0.05 * found["first_builds_mb"]
    assert found["received_mb"] < 1.1 * found["first_builds_mb"]


def test_the_death_of_the_worker_that_keeps_them_changes_nothing(
    cluster, tiny_cases, scheduler, tmp_path
) -> None:
    targets = tiny_cases("clean", "failing")
    releases = ["emulator:fp16,noise=0.2", "emulator:fp16,seed=1,plant=square@bf16"]
    killed: list[int] = []

    def kill(event: Any) -> None:
        if event.kind == "done" and not killed:  # the first build of a part; five are to come
            killed.extend(worker.pid for worker in cluster.workers.values())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    there = harness.drift(
        targets, environments=releases, history=tmp_path / "there", scheduler=scheduler, progress=kill
    )
    here = harness.drift(targets, environments=releases, history=tmp_path / "here")
    assert len(killed) == 2
    assert frame_of(tmp_path / "there").equals(frame_of(tmp_path / "here"))
    assert page_of(there) == page_of(here)


def test_a_unit_that_waits_for_what_a_dead_worker_kept_is_begun_anew(cluster, scheduler) -> None:
    with open_cluster(scheduler) as workers:
        kept = workers.submit_kept(Numbers(3)).result(60)
        begun: list[None] = []
        os.kill(kept.result.pid, signal.SIGKILL)
        futures = [
            workers.submit(Numbers(number), lambda: begun.append(None), given=kept) for number in (4, 5)
        ]
        assert [future.result(60).number for future in futures] == [7, 8]
        assert len(begun) == 2


@dataclass(frozen=True)
class Number:
    number: int
    pid: int


@dataclass(frozen=True)
class Numbers(Unit["Numbers", Number]):
    """Its number, and that of what it is given, added up."""

    number: int
    title = subject = "numbers"
    files = ()
    desk = None

    def open(self) -> Numbers:
        return self

    def close(self) -> None:
        pass

    def given(self, result: Number) -> Numbers:
        return replace(self, number=self.number + result.number)

    def carry_out(self, desk: Numbers, stage: OnStage) -> Number:
        return Number(self.number, os.getpid())


def test_a_drift_that_is_interrupted_is_resumed_here_or_there(tiny_cases, scheduler, tmp_path: Path) -> None:
    targets, releases = tiny_cases("clean", "failing"), ["emulator:fp16", "emulator:fp16,seed=1"]
    options = DriftOptions(repeats=1)
    done: list[str] = []

    def stop(event: Any) -> None:
        done.append(event.case) if event.kind == "done" else None
        if len(done) == 6:  # of eight in four parts, so that two are whole
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harness.drift(
            targets,
            environments=releases,
            precisions=["fp32", "fp16"],
            options=options,
            history=tmp_path / "h",
            scheduler=scheduler,
            progress=stop,
        )
    report = harness.drift(
        targets,
        environments=releases,
        precisions=["fp32", "fp16"],
        options=options,
        history=tmp_path / "h",
        resume=True,
    )
    assert sorted((run.case, run.precision) for run in report.runs) == [
        ("clean", "fp16"),
        ("clean", "fp32"),
        ("failing", "fp16"),
        ("failing", "fp32"),
    ]


def test_a_build_that_two_workers_died_of_leaves_a_row(deadly, scheduler, tmp_path: Path) -> None:
    report = harness.drift(
        deadly(times=9),
        environments=["emulator:fp16", "emulator:fp16,seed=1"],
        options=DriftOptions(repeats=1),
        history=tmp_path / "h",
        scheduler=scheduler,
    )
    by_case = {run.case: run for run in report.runs}
    assert "workers died" in by_case["deadly"].reason
    assert by_case["clean"].status.value == "pass"


def test_a_check_by_rules_finds_what_it_finds_on_one_machine(tiny_cases, scheduler) -> None:
    targets = tiny_cases("clean", "failing")
    there, here = harness.check(targets, scheduler=scheduler), harness.check(targets)
    assert there.to_dict() == here.to_dict()


def test_compilers_on_workers_say_what_they_say_here(tiny_cases, scheduler, tmp_path: Path) -> None:
    python = os.environ.get("HARNESS_RTX_PYTHON")
    if python is None:
        missing = "HARNESS_RTX_PYTHON names no TensorRT for RTX"
        (pytest.fail if os.environ.get("HARNESS_RTX_REQUIRED") else pytest.skip)(missing)
    (tmp_path / "harness.toml").write_text(
        "".join(f'[environments.{name}]\npython = "{python}"\n' for name in ("one", "two"))
    )
    targets, names = tiny_cases("clean", "failing"), ["one", "two"]
    there = harness.check(targets, environments=names, scheduler=scheduler)
    here = harness.check(targets, environments=names)
    assert without_times(there.to_dict()) == without_times(here.to_dict())
    structure = DriftOptions(structure=True)
    for folder, address in (("there", scheduler), ("here", None)):
        harness.drift(
            targets, environments=names, options=structure, history=tmp_path / folder, scheduler=address
        )
    assert frame_of(tmp_path / "there").equals(frame_of(tmp_path / "here"))


def test_a_model_is_quantised_as_on_one_machine(scheduler, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = [onnx.numpy_helper.from_array(rng.random((16, 16), np.float32) - 0.5, name) for name in "ab"]
    nodes = [
        onnx.helper.make_node(op, inputs, [output], output)
        for op, inputs, output in (("MatMul", "xa", "p"), ("Relu", "p", "r"), ("MatMul", "rb", "y"))
    ]
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4, 16]) for name in "xy")
    graph = onnx.helper.make_graph(nodes, "two", [x], [y], weights)
    case, written = tmp_path / "two.onnx", []
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), case
    )
    for name, more in (("here", []), ("there", ["--scheduler", scheduler])):
        document = tmp_path / f"{name}.json"
        words = [
            "quantize",
            str(case),
            "--out",
            str(tmp_path / f"{name}.onnx"),
            "--json",
            str(document),
            *more,
        ]
        written.append((main(words), document.read_text() if document.exists() else None))
    assert written[0] == written[1]
    assert written[0][0] == 0
    assert onnx.load(tmp_path / "here.onnx") == onnx.load(tmp_path / "there.onnx")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("tcp://127.0.0.1:1", "no scheduler answers"),
        ("nonsense", "no scheduler answers: missing port"),
    ],
)
def test_a_scheduler_that_does_not_answer_is_one_message(
    address, said, tiny_cases, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.cluster.dispatch.CONNECT_SECONDS", 1.0)
    assert main(["run", str(tiny_cases("clean")), "--scheduler", address]) == 2
    told = capsys.readouterr().err
    assert f"--scheduler {address}: {said}" in told
    assert "Traceback" not in told


def test_a_server_that_is_no_scheduler_is_one_message(
    tiny_cases, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.cluster.dispatch.CONNECT_SECONDS", 1.0)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"tcp://127.0.0.1:{server.server_port}"
            assert main(["run", str(tiny_cases("clean")), "--scheduler", address]) == 2
        finally:
            server.shutdown()
            thread.join()
    told = capsys.readouterr().err
    assert "no scheduler answers" in told
    assert "Traceback" not in told


def test_an_environment_that_no_worker_has_is_one_message(tiny_cases, scheduler) -> None:
    with pytest.raises(SchedulerError, match=r"no worker has the environment 'trt-8\.6'; they have none"):
        harness.run(tiny_cases("clean"), environments=["trt-8.6"], scheduler=scheduler)


def test_a_worker_of_another_version_is_one_message(tiny_cases, scheduler, monkeypatch) -> None:
    monkeypatch.setattr(remote, "version", lambda: "harness 9.9 (0) on Python 3.11")
    with pytest.raises(SchedulerError, match=r"the worker on .* has harness .*, and this is harness 9\.9"):
        harness.run(tiny_cases("clean"), scheduler=scheduler)


def test_a_file_that_a_worker_does_not_see_is_one_message(scheduler) -> None:
    with (
        pytest.raises(SchedulerError, match=r"does not see nowhere\.onnx"),
        open_cluster(scheduler, files=[Path("nowhere.onnx")]),
    ):
        pass


def test_golden_references_are_not_written_by_many(tiny_cases, scheduler, monkeypatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(UsageError, match="written on one machine"):
        harness.run(tiny_cases("clean"), options=JudgeOptions(golden_update=True), scheduler=scheduler)


def test_without_the_extra_the_message_says_what_to_install(tiny_cases, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'harness\[cluster\]'"):
        harness.run(tiny_cases("clean"), scheduler="tcp://127.0.0.1:1")


def test_a_scheduler_that_goes_away_is_one_message(tiny_cases, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    file, python = tmp_path / "scheduler.json", sys.executable
    words = ["--no-dashboard", "--scheduler-file", str(file)]
    started = [
        subprocess.Popen(
            [python, "-m", f"distributed.cli.dask_{what}", *words, *more],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for what, more in (("scheduler", ["--port", "0"]), ("worker", ["--nthreads", "1", "--no-nanny"]))
    ]
    try:
        until = time.monotonic() + 60
        while not file.exists() and time.monotonic() < until:
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        with distributed.Client(address) as client:
            client.wait_for_workers(1, timeout=60)

        def end(event: Any) -> None:
            if event.kind == "start":
                os.kill(started[0].pid, signal.SIGKILL)

        said = logging.handlers.QueueHandler(queue := Queue())
        logging.getLogger("distributed.client").addHandler(said)
        with pytest.raises(SchedulerError, match="the scheduler is gone") as raised:
            harness.run(tiny_cases("clean", "failing"), scheduler=address, progress=end)
        assert raised.value.message == "the scheduler is gone"
        assert queue.empty()  # dask says it, too, in words of its own
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_errors_come_back_as_they_were() -> None:
    made = [
        CandidateError("broke", environment="trt", request="build", evidence=("a", "b")),
        errors.ReferenceNotReproducibleError("case", tensor="y", nodes=[("n", "RandomNormal")]),
        errors.ChecksumError("m.onnx", expected="a", actual="b"),
        errors.CaseFileError([errors.Mistake("x.yaml", 3, 1, "runs", "wrong")]),
    ]
    for error in made:
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is type(error)
        assert str(back) == str(error)
        assert isinstance(back, HarnessError)
        assert vars(back).keys() == vars(error).keys()

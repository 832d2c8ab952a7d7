"""A worker may do what it likes: the run ends with evidence, the next one goes on, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.environments import Environment, Supervisor, WorkerLimits
from harness.environments.process import WorkerProcess
from harness.errors import (
    BuildFailedError,
    CandidateError,
    UnsupportedByReleaseError,
    WorkerCrashedError,
    WorkerProtocolError,
    WorkerTimeoutError,
)
from harness.worker import protocol

Build = Callable[..., protocol.BuildRequest]
MISBEHAVING = Path(__file__).parents[1] / "worker" / "misbehaving.py"


@pytest.mark.parametrize(
    ("misbehave", "error", "number", "said"),
    [
        ("segfault", WorkerCrashedError, signal.SIGSEGV, "last words before the crash"),
        ("abort", WorkerCrashedError, signal.SIGABRT, "Fatal Python error: Aborted"),
        ("oom kill", WorkerCrashedError, signal.SIGKILL, "SIGKILL"),
        ("exit", WorkerCrashedError, None, "exited with status 7"),
        ("half a message", WorkerCrashedError, None, "exited with status 0"),
        ("children", WorkerCrashedError, signal.SIGSEGV, "SIGSEGV"),
        ("garbage", WorkerProtocolError, None, "no message begins with"),
        ("bad checksum", WorkerProtocolError, None, "wrong checksum"),
        ("wrong reply", WorkerProtocolError, None, "Done does not answer BuildRequest"),
        ("cuda", CandidateError, None, "cudaErrorIllegalAddress"),
        ("defect", CandidateError, None, "KeyError"),
        ("oom", CandidateError, None, "out of memory"),
        ("quota", CandidateError, None, "No such file or directory"),
    ],
)
def test_a_failure_has_its_evidence_and_the_next_request_gets_another_worker(
    supervisor: Supervisor, build: Build, misbehave: str, error: type, number: int | None, said: str
) -> None:
    first = supervisor.worker().hello.pid

    with pytest.raises(error) as caught:
        supervisor.call(build(misbehave))

    assert type(caught.value) is error
    if isinstance(caught.value, WorkerCrashedError):
        assert caught.value.signal == number
    text_of_error = "\n".join((str(caught.value), *caught.value.lines))
    assert said in text_of_error
    assert "toy at fp16" in text_of_error
    assert "2 nodes in fp32 (n1, n2)" in text_of_error
    assert "4 tensors observed (typed: t1, t2, t3, …)" in text_of_error
    assert "environment fake-8.6" in text_of_error

    assert supervisor.call(build()).engine_id == "engine-0"
    assert supervisor.worker().hello.pid != first
    assert supervisor.generation == 2


@pytest.mark.parametrize(
    ("misbehave", "error", "said"),
    [
        ("build_failed", BuildFailedError, "no implementation for node n3"),
        ("unsupported", UnsupportedByReleaseError, "has no bf16"),
        ("full disk", CandidateError, "no space is left"),
    ],
)
def test_what_the_worker_can_refuse_leaves_it_running(
    supervisor: Supervisor, build: Build, misbehave: str, error: type, said: str
) -> None:
    with pytest.raises(error, match=said):
        supervisor.call(build(misbehave))

    assert supervisor.call(build()).engine_id == "engine-0"
    assert supervisor.generation == 1


@pytest.mark.parametrize("misbehave", ["hang", "sleep"])
def test_a_hang_is_ended_at_its_limit_and_the_evidence_says_where_it_was(
    supervisor: Supervisor, build: Build, misbehave: str
) -> None:
    supervisor.worker()
    began = time.monotonic()

    with pytest.raises(WorkerTimeoutError, match=r"within 0\.5 s") as caught:
        supervisor.ask(build(misbehave), 0.5)

    assert time.monotonic() - began < 5
    assert any("misbehaving.py" in line for line in caught.value.evidence)  # the stack, from faulthandler
    assert supervisor.call(build()).engine_id == "engine-0"


def test_limits_of_the_environment_apply_by_kind_of_request(environment: Environment, build: Build) -> None:
    supervisor = Supervisor(replace(environment, limits=WorkerLimits(build=0.5)), adapter=MISBEHAVING)
    with pytest.raises(WorkerTimeoutError, match="raise `limits` of fake"):
        supervisor.call(build("sleep"))
    supervisor.close()


def test_an_interrupt_ends_the_worker_and_passes_on(supervisor: Supervisor, build: Build) -> None:
    worker = supervisor.worker()
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        supervisor.call(build("sleep"))

    assert not worker.alive
    assert supervisor.call(build()).engine_id == "engine-0"


def test_aborting_frees_the_thread_that_waits(supervisor: Supervisor, build: Build) -> None:
    supervisor.worker()
    threading.Timer(0.3, supervisor.abort).start()

    with pytest.raises(WorkerCrashedError):
        supervisor.call(build("hang"))

    with pytest.raises(CandidateError, match="aborted"):  # a search would go on with another worker
        supervisor.call(build())
    assert supervisor.generation == 1
    supervisor.close()
    assert supervisor.call(build()).engine_id == "engine-0"


def test_what_is_printed_to_stdout_never_reaches_the_channel(supervisor: Supervisor, build: Build) -> None:
    assert supervisor.call(build("noise")).engine_id == "engine-0"
    supervisor.call(protocol.Ping())
    expected = {"on stdout", "[E] on stderr"}  # without its colour
    deadline = time.monotonic() + 10
    while not expected <= set(supervisor.worker().log()) and time.monotonic() < deadline:
        time.sleep(0.01)  # what is printed comes by a thread of its own, beside the replies
    assert expected <= set(supervisor.worker().log())


def test_a_program_that_is_no_python_is_reported_with_its_output(environment: Environment) -> None:
    with pytest.raises(WorkerCrashedError, match="exited with status 3 during its start") as caught:
        WorkerProcess(replace(environment, command=("/bin/sh", "-c", "echo no license; exit 3")))
    assert "no license" in caught.value.evidence


def test_a_program_that_is_not_there_is_reported_with_what_to_correct(environment: Environment) -> None:
    with pytest.raises(CandidateError, match="correct `python` or `command`") as caught:
        WorkerProcess(replace(environment, command=("/nowhere/python",)))
    assert "/nowhere/python" in caught.value.message


def test_a_program_that_never_connects_is_ended(environment: Environment) -> None:
    with pytest.raises(WorkerTimeoutError, match="during its start"):
        WorkerProcess(
            replace(environment, command=("/bin/sh", "-c", "sleep 3600"), limits=WorkerLimits(start=0.3))
        )


@pytest.mark.parametrize(
    ("at_start", "error"), [("import error", "libnvinfer.so.8"), ("sleep in probe", "during the probe")]
)
def test_a_worker_that_cannot_start_is_not_tried_for_ever(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, at_start: str, error: str
) -> None:
    monkeypatch.setenv("MISBEHAVE", at_start)
    supervisor = Supervisor(replace(environment, limits=WorkerLimits(start=0.8)), adapter=MISBEHAVING)
    for _ in range(2):
        with pytest.raises(CandidateError, match=error):
            supervisor.probe()

    began = time.monotonic()
    with pytest.raises(CandidateError, match=error):
        supervisor.probe()
    assert time.monotonic() - began < 0.1


@pytest.mark.parametrize("at_start", ["hang at close", "full disk at close"])
def test_a_worker_that_does_not_shut_down_is_ended(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, at_start: str
) -> None:
    monkeypatch.setenv("MISBEHAVE", at_start)
    worker = WorkerProcess(environment, adapter=MISBEHAVING)
    worker.request(protocol.Probe(), 10)
    worker.close(seconds=0.3)
    worker.close()
    assert not worker.alive


@pytest.mark.parametrize("shell", ['exec {} "$@"', '{} "$@"; exit $?', 'setsid --wait {} "$@"'])
def test_a_wrapper_script_changes_nothing(
    environment: Environment, build: Build, tmp_path: Path, shell: str
) -> None:
    wrapper = tmp_path / "python-trt"
    wrapper.write_text("#!/bin/sh\necho Loading the module\n" + shell.format(sys.executable) + "\n")
    wrapper.chmod(0o755)
    supervisor = Supervisor(replace(environment, command=(str(wrapper),)), adapter=MISBEHAVING)

    with pytest.raises(WorkerCrashedError) as caught:
        supervisor.call(build("segfault"))
    assert caught.value.signal == signal.SIGSEGV
    with pytest.raises(WorkerTimeoutError):
        supervisor.ask(build("hang"), 0.3)
    assert supervisor.call(build()).engine_id == "engine-0"
    supervisor.close()


@pytest.mark.parametrize("misbehave", [None, "hang", "sleep"])
def test_a_killed_host_leaves_no_worker_and_the_next_one_removes_its_folder(
    environment: Environment, scratch: Path, misbehave: str | None
) -> None:
    script = textwrap.dedent(
        f"""
        import sys, time, threading
        from pathlib import Path
        from harness.environments.config import Environment
        from harness.environments.process import WorkerProcess
        from harness.worker import protocol

        worker = WorkerProcess(Environment("host", ({sys.executable!r},)), adapter=Path({str(MISBEHAVING)!r}))
        request = protocol.BuildRequest("/m.onnx", "fp16", options=protocol.BuilderOptions(build_route={misbehave!r}))
        if {misbehave!r}:
            threading.Thread(target=worker.request, args=(request, 100)).start()
            time.sleep(0.3)
        print(worker.hello.pid, flush=True)
        time.sleep(100)
        """
    )
    host = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    pid = int(host.stdout.readline())
    left_behind = [path for path in scratch.iterdir() if path.is_dir()]
    host.kill()
    host.communicate()

    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()

    assert len(left_behind) == 1
    WorkerProcess(environment, adapter=MISBEHAVING).close()
    assert not left_behind[0].exists()


def test_a_host_that_ends_without_closing_leaves_nothing(scratch: Path) -> None:
    script = textwrap.dedent(
        f"""
        import os, sys
        from pathlib import Path
        from harness.environments.config import Environment
        from harness.environments.process import WorkerProcess
        from harness.worker import protocol

        worker = WorkerProcess(Environment("host", ({sys.executable!r},)), adapter=Path({str(MISBEHAVING)!r}))
        if os.fork() == 0:
            sys.exit()  # its end is not the host's
        os.wait()
        worker.request(protocol.Ping(), 10)
        print("done")
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"
    assert list(scratch.glob("*")) == []


def test_a_host_whose_thread_ends_keeps_its_worker(environment: Environment) -> None:
    started: list[WorkerProcess] = []
    thread = threading.Thread(target=lambda: started.append(WorkerProcess(environment, adapter=MISBEHAVING)))
    thread.start()
    thread.join()
    time.sleep(0.1)
    assert isinstance(started[0].request(protocol.Ping(), 10), protocol.Done)
    started[0].close()

"""The worker that is always there: its timing cache, its scratch folder, and what is shared."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.environments import Environment, Supervisor, WorkerLimits, close_shared, shared_supervisor
from harness.environments.caches import CacheFile
from harness.environments.folders import ScratchFolder, cache_folder, data_folder, scratch_root, sweep
from harness.environments.started import LogTail
from harness.errors import CandidateError, EnvironmentConfigError
from harness.worker import protocol

MISBEHAVING = Path(__file__).parents[1] / "worker" / "misbehaving.py"
Build = Callable[..., protocol.BuildRequest]


def cache_file(supervisor: Supervisor) -> CacheFile:
    return CacheFile(protocol.TIMING, supervisor.probe())


def test_the_timing_cache_outlives_the_worker(environment: Environment, build: Build) -> None:
    first = Supervisor(environment, adapter=MISBEHAVING)
    first.call(build("slow"))
    first.close()
    file = cache_folder() / "timing" / "8.6.0-No_GPU_at_all-9.0.cache"
    assert file.read_text() == "timings"

    second = Supervisor(environment, adapter=MISBEHAVING)
    second.probe()
    assert second.take_warnings() == ()
    second.close()
    assert file.read_text() == "timings"


def test_a_refused_timing_cache_is_dropped_with_one_warning_for_ever(
    environment: Environment, build: Build
) -> None:
    first = Supervisor(environment, adapter=MISBEHAVING)
    file = cache_file(first)
    first.close()
    file.path.parent.mkdir(parents=True)
    file.path.write_text("another release's timings")

    second = Supervisor(environment, adapter=MISBEHAVING)
    second.call(build("slow"))
    (warning,) = second.take_warnings()
    assert "TensorRT refuses the timing cache" in warning
    assert second.take_warnings() == ()
    second.close()
    assert not file.path.exists()

    third = Supervisor(environment, adapter=MISBEHAVING)
    third.call(build("slow"))
    third.close()
    assert third.take_warnings() == ()
    assert not file.path.exists()


def test_a_worker_started_ahead_is_the_one_that_is_asked(supervisor: Supervisor) -> None:
    assert not supervisor.running
    supervisor.start_ahead()
    assert supervisor.probe().tensorrt == "8.6.0"
    assert supervisor.running
    assert supervisor.generation == 1
    supervisor.start_ahead()
    assert supervisor.generation == 1


def test_a_worker_that_cannot_start_ahead_says_so_when_it_is_asked(environment: Environment) -> None:
    lost = Supervisor(replace(environment, command=("/nowhere/python",)))
    tries = []
    lost._start = lambda start=lost._start: tries.append(1) or start()  # type: ignore[method-assign,func-returns-value]
    lost.start_ahead()
    for thread in threading.enumerate():
        if thread.name.startswith("start "):
            thread.join()
    with pytest.raises(CandidateError, match="/nowhere/python"):
        lost.probe()
    assert len(tries) == 1, "its failure is reported, and not waited for again"
    with pytest.raises(CandidateError, match="/nowhere/python"):
        lost.probe()
    assert len(tries) == 2


def test_an_unusable_scratch_folder_is_one_message_and_not_also_a_traceback_of_a_thread(
    environment: Environment, tmp_path: Path, monkeypatch
) -> None:
    printed: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", printed.append)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path / "file"))
    lost = Supervisor(environment)
    lost.start_ahead()
    for thread in threading.enumerate():
        if thread.name.startswith("start "):
            thread.join()
    with pytest.raises(EnvironmentConfigError, match="the scratch folder cannot be used"):
        lost.probe()
    assert not printed


def test_no_cache_is_kept_of_a_worker_that_built_nothing(supervisor: Supervisor) -> None:
    file = cache_file(supervisor)
    supervisor.close()
    assert not file.path.exists()


def test_all_candidates_of_an_environment_share_its_worker(environment: Environment) -> None:
    same = replace(environment)
    assert shared_supervisor(environment) is shared_supervisor(same)
    assert shared_supervisor(replace(environment, gpu=1)) is not shared_supervisor(environment)
    close_shared()
    assert shared_supervisor(environment) is not None
    close_shared()


def test_a_fresh_probe_asks_the_worker_again(supervisor: Supervisor) -> None:
    assert supervisor.probe() is supervisor.probe()
    assert supervisor.probe(fresh=True) is not supervisor.probe(fresh=True)


def test_the_folder_of_a_living_owner_is_not_swept(scratch: Path) -> None:
    folder = ScratchFolder()
    (folder.path / "tensors").write_text("mine")
    assert sweep(scratch) == []
    code = (
        "import sys; from pathlib import Path; from harness.environments.folders import sweep;"
        "print(sweep(Path(sys.argv[1])))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, str(scratch)], capture_output=True, text=True, check=True
    )
    assert other.stdout == "[]\n"
    assert (folder.path / "tensors").exists()
    folder.remove()
    folder.remove()
    assert list(scratch.iterdir()) == []


def test_the_folder_of_a_dead_owner_is_swept(scratch: Path) -> None:
    ScratchFolder().remove()
    (scratch / "w1-dead").mkdir()
    (scratch / "w1-dead.lock").touch()
    (scratch / "w2-alive").mkdir()
    with (scratch / "w2-alive.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert sweep(scratch) == [scratch / "w1-dead"]
    assert sweep(scratch) == [scratch / "w2-alive"]


def test_a_scratch_folder_that_cannot_be_used_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path / "file"))
    with pytest.raises(EnvironmentConfigError, match="set HARNESS_SCRATCH"):
        ScratchFolder()


def test_a_scratch_folder_may_lie_deeper_than_a_socket_has_room_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: Environment
) -> None:
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path / ("x" * 120)))
    supervisor = Supervisor(environment, adapter=MISBEHAVING)
    try:
        assert supervisor.probe().tensorrt
    finally:
        supervisor.close()


def test_scratch_is_in_memory_unless_that_is_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HARNESS_SCRATCH")
    monkeypatch.setattr("harness.environments.folders.SHARED_MEMORY", tmp_path)
    assert scratch_root() == tmp_path / f"harness-{os.getuid()}"
    monkeypatch.setattr("harness.environments.folders.ENOUGH_BYTES", 1 << 60)
    assert tmp_path not in scratch_root().parents


def test_folders_follow_the_base_directory_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative paths are ignored")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert cache_folder() == Path("/home/me/.cache/harness")
    assert data_folder() == Path("/home/me/.local/share/harness")


def test_the_log_keeps_its_end_and_never_blocks() -> None:
    reading, writing = os.pipe()
    tail = LogTail(reading)
    for number in range(50_000):
        os.write(writing, f"line {number}\x00\n\n".encode())
    os.write(writing, "\x1b[31mred\x1b[0m ä".encode() + b"\xff")
    os.close(writing)
    tail.wait_for_end(5)
    assert tail.lines(2) == ("line 49999", "red ä\ufffd")
    assert len(tail.lines(10**6)) < 20_000


def test_the_product_is_known_before_it_is_loaded(tmp_path: Path) -> None:
    """Importing it takes a second and more, which others need not wait for."""
    (tmp_path / "tensorrt_rtx.py").write_text("import time\ntime.sleep(600)\n")
    variables = (("PYTHONPATH", str(tmp_path)),)
    where = Environment("rtx", (sys.executable,), variables=variables, limits=WorkerLimits(start=4.0))
    supervisor = Supervisor(where, keep_cache=False)
    assert supervisor.product() == protocol.TENSORRT_RTX
    assert not supervisor.running, "it is still being loaded"
    with pytest.raises(CandidateError, match="within 4 s during the probe"):
        supervisor.probe()
    supervisor.close()

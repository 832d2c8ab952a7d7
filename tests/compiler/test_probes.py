"""What a compiler said of itself is kept, as long as its packages are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.compiler import probe_of
from harness.environments import Environment
from harness.errors import CandidateError
from harness.worker.protocol import TENSORRT_RTX, ProbeReply

REPLY = ProbeReply("1.7.1.116", product=TENSORRT_RTX, capabilities=("strong",))


class Worker:
    """A supervisor that counts how often it is asked."""

    def __init__(self, reply: ProbeReply | None = REPLY, *, running: bool = False) -> None:
        self.asked, self.running, self._reply = 0, running, reply

    def probe(self) -> ProbeReply:
        self.asked += 1
        if self._reply is None:
            raise CandidateError("it does not start")
        return self._reply


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    packages = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"
    (packages / "tensorrt_rtx-1.7.1.116.dist-info").mkdir(parents=True)
    return Environment("rtx", (str(tmp_path / "venv" / "bin" / "python"),))


def asked(environment: Environment, worker: Worker) -> int:
    assert probe_of(environment, worker) == worker.probe()  # type: ignore[arg-type]
    return worker.asked - 1


def test_it_is_asked_once(environment: Environment) -> None:
    assert [asked(environment, Worker()) for _ in range(3)] == [1, 0, 0]


def test_a_worker_that_runs_answers_for_itself(environment: Environment) -> None:
    asked(environment, Worker())
    assert asked(environment, Worker(replace(REPLY, tensorrt="1.8"), running=True)) == 1


def test_another_package_or_another_environment_is_asked_anew(
    environment: Environment, tmp_path: Path
) -> None:
    asked(environment, Worker())
    assert asked(replace(environment, variables=(("A", "b"),)), Worker()) == 1
    (packages,) = tmp_path.glob("venv/lib/python3.11/site-packages")
    (packages / "tensorrt_rtx-1.7.1.116.dist-info").rename(packages / "tensorrt_rtx-1.8.0.dist-info")
    assert asked(environment, Worker(replace(REPLY, tensorrt="1.8.0"))) == 1


@pytest.mark.parametrize("reply", [replace(REPLY, gpu="H200"), replace(REPLY, product="TensorRT")])
def test_what_depends_on_the_machine_is_not_kept(environment: Environment, reply: ProbeReply) -> None:
    assert [asked(environment, Worker(reply)) for _ in range(2)] == [1, 1]


def test_a_container_and_foreign_paths_are_asked_each_time(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = replace(environment, command=("docker", "run", "python3"))
    assert [asked(container, Worker()) for _ in range(2)] == [1, 1]
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert [asked(environment, Worker()) for _ in range(2)] == [1, 1]


def test_a_worker_that_does_not_start_is_an_error(environment: Environment) -> None:
    with pytest.raises(CandidateError):
        probe_of(environment, Worker(None))  # type: ignore[arg-type]

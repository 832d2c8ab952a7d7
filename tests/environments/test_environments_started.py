"""Processes of workers that are started before anybody asks for them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from harness.environments import Supervisor, select, start_ahead
from harness.environments.process import WorkerProcess
from harness.environments.started import end_untaken, take_started

MISBEHAVING = Path(__file__).parents[1] / "worker" / "misbehaving.py"


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    """A harness.toml whose environment `cpu` notes the processes that it starts in a file."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho $$ >> {tmp_path}/pids\nexec {sys.executable} "$@" --adapter {MISBEHAVING}\n'
    )
    python.chmod(0o755)
    path = tmp_path / "harness.toml"
    path.write_text('[environments.cpu]\npython = "./python"\nvariables = { B = "2", A = "1" }\n')
    return path


def pids(configured: Path) -> list[str]:
    path = configured.with_name("pids")
    return path.read_text().split() if path.exists() else []


def test_the_supervisor_takes_the_process_that_was_started_ahead(configured: Path) -> None:
    start_ahead("cpu")
    supervisor = Supervisor(select("cpu"))
    try:
        assert supervisor.probe().tensorrt == "8.6.0"
        assert supervisor.worker().hello.pid == int(pids(configured)[0])
        assert len(pids(configured)) == 1
    finally:
        supervisor.close()


def test_one_that_was_started_otherwise_than_it_is_needed_is_not_taken_and_is_ended(configured: Path) -> None:
    start_ahead("cpu")
    supervisor = Supervisor(select("cpu")).with_variables(B="3")
    try:
        assert supervisor.probe().tensorrt == "8.6.0"
        assert len(pids(configured)) == 2
        assert take_started(supervisor.environment.launch) is None
    finally:
        supervisor.close()
        end_untaken()  # and the fixture looks for what is left
    assert take_started(select("cpu").launch) is None


@pytest.mark.parametrize(
    "table", ["", "python = 3", 'python = "/nowhere/python"', "python =", 'python = "./python"\ngpu = "1,2"']
)
def test_what_is_wrong_with_the_file_is_left_to_its_reader(configured: Path, table: str, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    configured.write_text(f"[environments.cpu]\n{table}\n")
    start_ahead("cpu")
    start_ahead("another")
    end_untaken()
    assert pids(configured) == []


def test_a_worker_probes_its_environment_before_it_is_asked(environment, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter.py"
    adapter.write_text(
        "from harness_worker.server import Adapter\n"
        "from pathlib import Path\n"
        "def create_adapter(log):\n"
        "    return Probed()\n"
        "class Probed(Adapter):\n"
        "    def probe(self, request):\n"
        f"        Path({os.fspath(tmp_path / 'probed')!r}).touch()\n"
        "    def close(self):\n"
        "        pass\n"
    )
    worker = WorkerProcess(environment, adapter=adapter)
    deadline = time.monotonic() + 20
    while not (tmp_path / "probed").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    worker.close()
    assert (tmp_path / "probed").exists()

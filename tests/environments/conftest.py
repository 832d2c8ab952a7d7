"""Real worker processes on the CPU, in folders of the test's own, of which nothing may be left."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.environments import Environment, Supervisor, WorkerLimits
from harness.worker import protocol

MISBEHAVING = Path(__file__).parents[1] / "worker" / "misbehaving.py"


def processes_of(scratch: Path) -> list[str]:
    """Command lines of the processes whose TMPDIR is in `scratch`: workers and what they started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            if any(item.startswith(b"TMPDIR=" + os.fsencode(scratch)) for item in variables):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return [line for line in found if line]  # a process that is dead already has an empty one


@pytest.fixture(autouse=True)
def scratch(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The folder above all scratch folders; after the test neither a file nor a process of it is left."""
    for name in ("HARNESS_CONFIG", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower().split("_")[1]))
    short = tmp_path_factory.mktemp("s")  # with the name of the test in it, under xdist, no socket has room
    monkeypatch.setenv("HARNESS_SCRATCH", str(short))
    monkeypatch.chdir(tmp_path)
    folder = short / "harness"
    yield folder
    deadline = time.monotonic() + 5
    while (processes_of(folder) or list(folder.glob("*"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes_of(folder) == []
    assert list(folder.glob("*")) == []


@pytest.fixture
def environment() -> Environment:
    return Environment(
        name="fake-8.6", command=(sys.executable,), limits=WorkerLimits(start=20, build=10, inference=10)
    )


@pytest.fixture
def supervisor(environment: Environment) -> Iterator[Supervisor]:
    supervisor = Supervisor(environment, adapter=MISBEHAVING)
    yield supervisor
    supervisor.close()


@pytest.fixture
def build() -> Callable[..., protocol.BuildRequest]:
    """Makes a request whose build misbehaves in the way named."""

    def make(misbehave: str | None = None) -> protocol.BuildRequest:
        return protocol.BuildRequest(
            "/models/toy.onnx",
            "fp16",
            islands=("n1", "n2"),
            marks=("t1", "t2", "t3", "t4"),
            observation="typed",
            options=protocol.BuilderOptions(build_route=misbehave),
        )

    return make

"""Jobs on GPUs: none shares one, each ends at its limit, and what is done is not done again."""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import on_gpu
from benchmarks.on_gpu import DONE, Job, Machine, jobs_for, start

NOTE = """
import json, os, sys, time
began = time.time()
time.sleep(float(sys.argv[2]))
variables = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "HARNESS_CONFIG", "XDG_CACHE_HOME")}
json.dump({**variables, "began": began, "ended": time.time()}, open(sys.argv[1], "w"))
"""
STUBBORN = """
import time
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("kept what there was")
    exit(7)
"""


@pytest.fixture
def environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tables = [f'[environments."{name}"]\npython = "{sys.executable}"\n' for name in ("old", "new")]
    (tmp_path / "harness.toml").write_text("# mine\n" + "\n".join(tables))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def note(folder: Path, name: str, seconds: float, *, gpus: int = 1) -> Job:
    command = [sys.executable, "-c", NOTE, str(folder / f"{name}.note"), str(seconds)]
    return Job(name, command, 60, least=0.0, gpus=gpus)


def run(folder: Path, jobs: list[Job], gpus: list[str], *, seconds: float = 60.0) -> dict[str, str]:
    machine = Machine(gpus, time.monotonic() + seconds)
    return machine.carry_out(jobs, lambda job, taken, limit: start(job, taken, limit, folder))


def test_no_two_jobs_share_a_gpu(tmp_path: Path) -> None:
    jobs = [note(tmp_path, "pair", 0.3, gpus=2), *(note(tmp_path, f"one{i}", 0.3) for i in range(4))]
    states = run(tmp_path, jobs, ["2", "5"])
    assert all(state.startswith("done in ") for state in states.values()), states
    notes = {job.name: json.loads((tmp_path / f"{job.name}.note").read_text()) for job in jobs}
    assert notes["pair"]["CUDA_VISIBLE_DEVICES"] == "2,5"
    assert notes["pair"]["HARNESS_CONFIG"].endswith("harness-2.toml")
    assert len({each["XDG_CACHE_HOME"] for each in notes.values()}) == len(jobs)
    for gpu in ("2", "5"):
        here = sorted(
            (each["began"], each["ended"])
            for each in notes.values()
            if gpu in each["CUDA_VISIBLE_DEVICES"].split(",")
        )
        assert all(ended <= began for (_, ended), (began, _) in pairwise(here))


def test_at_its_limit_a_job_is_asked_to_end(tmp_path: Path) -> None:
    job = Job("slow", [sys.executable, "-c", STUBBORN], 0.5, least=0.0)
    (state,) = run(tmp_path, [job], ["0"]).values()
    assert state.startswith("ended with 7 after ")
    assert "kept what there was" in (tmp_path / "slow.log").read_text()
    assert not (tmp_path / "slow" / DONE).exists()


def test_what_has_no_time_left_is_not_begun(tmp_path: Path) -> None:
    jobs = [note(tmp_path, "first", 0.4), Job("second", ["false"], 60, least=30.0)]
    states = run(tmp_path, jobs, ["0"], seconds=20)
    assert states["second"] == "not begun: the time is up"


def test_a_job_that_ended_well_is_not_run_again(
    environments: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = environments / "out"
    jobs = [note(environments, "a", 0), Job("b", ["false"], 9)]
    monkeypatch.setattr(on_gpu, "jobs_for", lambda old, new, folder, **precisions: jobs)
    monkeypatch.setattr(sys, "argv", ["on_gpu", "--old", "old", "--new", "new", "--out", str(out)])
    assert on_gpu.main() == 1
    said = capsys.readouterr().out.splitlines()
    assert "a: begins on GPU 0" in said
    assert any(line.startswith("b: ended with 1 ") for line in said)
    assert on_gpu.main() == 1
    assert "a: begins on GPU 0" not in capsys.readouterr().out.splitlines()
    config = (out / "harness-2.toml").read_text()
    assert config.startswith("# mine")
    assert "gpu = 1" in config
    assert "gpu = 1" not in (out / "harness-1.toml").read_text()


def test_every_job_is_a_command_that_exists(environments: Path) -> None:
    jobs = jobs_for("old", "new", environments, run_at=["fp16"], drift_at=["fp32"])
    assert [job.command[-6:-4] for job in jobs if job.name == "run"] == [["--precision", "fp16"]]
    assert len({job.name for job in jobs}) == len(jobs)
    root = Path(on_gpu.__file__).parents[1]
    for job in jobs:
        module = job.command[2]
        path = root / module.replace(".", "/")
        assert module == "pytest" or path.with_suffix(".py").exists() or (path / "__main__.py").exists(), (
            module
        )

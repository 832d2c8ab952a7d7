"""The worker that is always there: its timing cache, its scratch folder, and what is shared."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.environments import Environment, Supervisor, close_shared, shared_supervisor
from harness.environments.check import check_all, check_environment
from harness.environments.doctor import Finding, Status, examine
from harness.environments.folders import cache_folder, data_folder
from harness.environments.install import environments_folder, install, uninstall
from harness.environments.logtail import LogTail
from harness.environments.scratch import ScratchFolder, scratch_root, sweep
from harness.environments.timing_cache import TimingCacheFile
from harness.errors import CandidateError, EnvironmentConfigError
from harness.worker import messages

MISBEHAVING = Path(__file__).parents[1] / "worker" / "misbehaving.py"
Build = Callable[..., messages.BuildRequest]


def cache_file(supervisor: Supervisor) -> TimingCacheFile:
    return TimingCacheFile(supervisor.probe())


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
        "import sys; from pathlib import Path; from harness.environments.scratch import sweep;"
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


def test_a_scratch_folder_that_cannot_be_used_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path / "file"))
    with pytest.raises(EnvironmentConfigError, match="set HARNESS_SCRATCH"):
        ScratchFolder()
    long = tmp_path / ("x" * 100)
    monkeypatch.setenv("HARNESS_SCRATCH", str(long))
    with pytest.raises(EnvironmentConfigError, match="shorter path"):
        ScratchFolder()
    assert list((long / "harness").iterdir()) == []


def test_scratch_is_in_memory_unless_that_is_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HARNESS_SCRATCH")
    monkeypatch.setattr("harness.environments.scratch.SHARED_MEMORY", tmp_path)
    assert scratch_root() == tmp_path / f"harness-{os.getuid()}"
    monkeypatch.setattr("harness.environments.scratch.ENOUGH_BYTES", 1 << 60)
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


# --- check and doctor -----------------------------------------------------------------------------------------


def test_a_check_tells_what_the_environment_is(environment: Environment) -> None:
    check = check_environment(environment, adapter=MISBEHAVING)
    assert check.passed
    told = check.to_dict()
    assert told["tensorrt"] == "8.6.0"
    assert told["capabilities"] == ["fp16", "weak"]
    assert told["name"] == "fake-8.6"


def test_checks_of_several_environments_come_in_order_with_their_evidence(environment: Environment) -> None:
    broken = replace(environment, name="broken", command=("/bin/sh", "-c", "echo no libnvinfer; exit 1"))
    no_gpu = replace(environment, name="no-gpu", gpu=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "0")
        first, second, third = check_all([broken, environment, no_gpu], adapter=MISBEHAVING)
    assert (first.passed, second.passed, third.passed) == (False, True, False)
    assert "no libnvinfer" in first.evidence
    assert "lets only 1 be seen" in third.problems[0]


def findings(**options: bool) -> dict[str, Finding]:
    return {finding.area: finding for finding in examine(**options)}


def test_the_doctor_needs_nothing_but_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = findings()
    assert {name: finding.status for name, finding in found.items()} == {
        "python": Status.OK,
        "onnxruntime": Status.OK,
        "polygraphy": Status.OK,
        "gpu": Status.WARNING,
        "scratch": Status.OK,
        "cache": Status.OK,
        "harness.toml": Status.OK,
    }
    assert "the emulator, which is the default, needs no GPU" in found["gpu"].message
    assert all(finding.advice for finding in found.values() if finding.status is not Status.OK)


def test_the_doctor_reads_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H200, 580.159.03, 142771, 143771'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert findings()["gpu"] == Finding(
        "gpu", Status.OK, "GPU 0: NVIDIA H200, 139.4 GiB of 140.4 GiB free, driver 580.159.03"
    )
    smi.write_text('#!/bin/sh\necho "couldn\'t communicate with the NVIDIA driver"; exit 9\n')
    assert "couldn't communicate" in findings()["gpu"].message
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert findings()["gpu"].advice == "unset CUDA_VISIBLE_DEVICES"


def test_the_doctor_tries_the_environments() -> None:
    Path("harness.toml").write_text("[environments.none]\npython = '/nowhere/python'\n")
    found = findings()
    assert found["harness.toml"].message.endswith("environments: none")
    assert found["environment none"].status is Status.BROKEN
    assert "environment none" not in findings(probe=False)
    Path("harness.toml").write_text("[environments.none]\npyton = '/nowhere/python'\n")
    assert findings()["harness.toml"].status is Status.BROKEN


# --- install --------------------------------------------------------------------------------------------------


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels in place of the package index: a TensorRT 8.6.1, and two NumPys."""
    import zipfile

    folder = tmp_path / "wheels"
    folder.mkdir()
    for name, version in (("tensorrt", "8.6.1"), ("numpy", "1.26.4"), ("numpy", "2.1.0")):
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", f"__version__ = {version!r}\n")
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.mark.slow
def test_a_release_is_installed_into_a_venv_of_its_own_and_uninstalled(wheels: Path) -> None:
    told: list[str] = []
    python = install("trt-8.6", "tensorrt==8.6.1", tell=told.append)
    code = "import numpy, tensorrt; print(tensorrt.__version__, numpy.__version__)"
    found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "8.6.1 1.26.4\n"  # releases before 10 were built for NumPy 1
    assert any("Successfully installed" in line for line in told)

    with pytest.raises(EnvironmentConfigError, match="installed here already"):
        install("trt-8.6", "tensorrt==8.6.1")
    assert uninstall(["/usr/bin/python3"]) is None
    assert uninstall([str(python)]) == environments_folder() / "trt-8.6"
    assert list(environments_folder().iterdir()) == []


def test_an_installation_that_fails_leaves_nothing_and_tells_why(tmp_path: Path) -> None:
    python = tmp_path / "python"  # makes a venv in which pip finds nothing
    python.write_text(
        '#!/bin/sh\nmkdir -p "$3/bin"; printf "#!/bin/sh\\necho No matching distribution; exit 1" > "$3/bin/python"\n'
        'chmod +x "$3/bin/python"\n'
    )
    python.chmod(0o755)
    with pytest.raises(CandidateError, match="choose one with --python") as caught:
        install("trt-9", "tensorrt==9.9", python=str(python))
    assert caught.value.evidence == ("No matching distribution",)
    with pytest.raises(CandidateError, match="/nowhere/python"):
        install("trt-9", "tensorrt==9.9", python="/nowhere/python")
    assert list(environments_folder().iterdir()) == []


@pytest.mark.parametrize("requirement", ["torch==2.0", "tensorrt = 8", "-r evil.txt"])
def test_only_tensorrt_is_installed(requirement: str) -> None:
    with pytest.raises(EnvironmentConfigError, match="write it as pip does"):
        install("x", requirement)

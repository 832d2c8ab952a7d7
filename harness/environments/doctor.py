"""What works on this machine and in its environments, and what to do about what does not."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from harness.case import find_config
from harness.environments.config import Environment, load
from harness.environments.folders import ENOUGH_BYTES, SHARED_MEMORY, cache_folder, scratch_root
from harness.environments.process import end_all
from harness.environments.supervisor import Supervisor
from harness.errors import CandidateError, HarnessError
from harness.tensors import host_fingerprint, to_json
from harness.text import size
from harness.worker.protocol import Probe, ProbeReply


@dataclass(frozen=True)
class EnvironmentCheck:
    """What a probe found.

    Args:
        environment: the environment.
        probe: what it is; None if it cannot be used at all.
        problems: what does not work.
        hint: what to try.
        evidence: the last lines of a worker that failed.
    """

    environment: Environment
    probe: ProbeReply | None
    problems: tuple[str, ...] = ()
    hint: str | None = None
    evidence: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether models can be built here; `ability` says whether engines also run."""
        return self.probe is not None and not self.problems

    @property
    def ability(self) -> str:
        """What the environment can do, in a few words."""
        if self.probe is None or not self.probe.builder_ok:
            return "nothing"
        return "builds and runs" if self.probe.cannot_run is None else f"builds here; {self.probe.cannot_run}"

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        environment = {
            "name": self.environment.name,
            "command": self.environment.command,
            "gpu_index": self.environment.gpu,
            "passed": self.passed,
            "ability": self.ability,
        }
        probe = {} if self.probe is None else vars(self.probe)
        found = {"problems": self.problems, "hint": self.hint, "evidence": self.evidence}
        document: dict[str, Any] = to_json({**environment, **probe, **found})
        return document


def check_environment(environment: Environment, *, adapter: Path | None = None) -> EnvironmentCheck:
    """Probe `environment` in a worker of its own, which is ended again. Raises nothing that a probe can."""
    supervisor = Supervisor(environment, adapter=adapter, keep_cache=False)
    try:
        probe = supervisor.call(Probe(load=True))
    except HarnessError as error:
        evidence = error.lines if isinstance(error, CandidateError) else ()
        return EnvironmentCheck(environment, None, (error.message,), error.hint, evidence)
    finally:
        supervisor.close()
    problems = probe.problems
    if not probe.builder_ok and not problems:
        problems = ("a builder cannot be made",)
    return EnvironmentCheck(environment, probe, problems)


def check_all(
    environments: Sequence[Environment], *, adapter: Path | None = None
) -> Iterator[EnvironmentCheck]:
    """Check environments, four at the same time, and give the results in order."""
    with ThreadPoolExecutor(max_workers=4) as pool, _ending_workers_on_interrupt():
        yield from pool.map(lambda environment: check_environment(environment, adapter=adapter), environments)


@contextlib.contextmanager
def _ending_workers_on_interrupt() -> Iterator[None]:
    """Threads that wait for a worker do not see Ctrl-C; they see that their worker is gone."""
    try:
        yield
    except KeyboardInterrupt:
        end_all()
        raise


_GIB = 1 << 30
#: A release that installs and compiles on every machine.
RTX_TO_INSTALL = "tensorrt-rtx==1.7.1.116"
_GPU_FIELDS = ("name", "driver_version", "memory.free", "memory.total")


class Status(StrEnum):
    """How a thing is."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True)
class DoctorFinding:
    """One thing that was looked at.

    Args:
        area: what it is: `python`, `gpu`, `environment trt-8.6`, …
        status: how it is.
        message: what was found, in plain words.
        advice: what to do about it.
    """

    area: str
    status: Status
    message: str
    advice: str | None = None


def examine(*, probe: bool = True) -> Iterator[DoctorFinding]:
    """Look at everything, from what every command needs to the environments.

    Args:
        probe: whether to start a worker in each environment, which takes seconds.
    """
    found = f"Python {platform.python_version()} at {sys.executable}, harness {host_fingerprint().harness}"
    yield DoctorFinding("python", Status.OK, found)
    yield from _packages()
    yield from _gpus()
    yield _scratch()
    yield _cache()
    yield from _environments(probe)


def _packages() -> Iterator[DoctorFinding]:
    try:
        import onnxruntime

        available = onnxruntime.get_available_providers()
        providers = ", ".join(name.removesuffix("ExecutionProvider") for name in available)
        found = f"ONNX Runtime {onnxruntime.__version__} ({providers}): the reference and the emulator work"
        yield DoctorFinding("onnxruntime", Status.OK, found)
    except Exception as error:  # whatever a broken installation raises
        advice = "install it again: pip install --force-reinstall onnxruntime"
        yield DoctorFinding("onnxruntime", Status.BROKEN, f"ONNX Runtime cannot be imported: {error}", advice)


def _gpus() -> Iterator[DoctorFinding]:
    no_gpu = "no engines can be run on this machine; the emulator, which is the default, needs no GPU"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        message = f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU: {no_gpu}"
        yield DoctorFinding("gpu", Status.WARNING, message, "unset CUDA_VISIBLE_DEVICES")
        return
    smi = shutil.which("nvidia-smi")
    if smi is None:
        message = f"no NVIDIA driver was found (there is no nvidia-smi): {no_gpu}"
        advice = "on a machine with a GPU, install the driver; in a container, start it with --gpus all"
        yield DoctorFinding("gpu", Status.WARNING, message, advice)
        return
    query = [smi, f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        message = f"nvidia-smi fails: {str(getattr(error, 'stdout', '') or error).strip()}: {no_gpu}"
        yield DoctorFinding("gpu", Status.WARNING, message, "restart or reinstall the driver")
        return
    for number, line in enumerate(listed.strip().splitlines()):
        name, driver, free, total = (part.strip() for part in line.split(","))
        message = f"GPU {number}: {name}, {_mib(free)} of {_mib(total)} free, driver {driver}"
        yield DoctorFinding("gpu", Status.OK, message)


def _scratch() -> DoctorFinding:
    root = scratch_root()
    place = next(folder for folder in (root, *root.parents) if folder.is_dir())
    if not os.access(place, os.W_OK):
        message = f"scratch folder {root} cannot be written to: no engine can be run"
        return DoctorFinding("scratch", Status.BROKEN, message, "set HARNESS_SCRATCH to a folder of yours")
    free = shutil.disk_usage(place).free
    message = f"scratch folder {root}, {size(free)} free"
    if free < ENOUGH_BYTES:
        message += ": too little for the tensors of most models"
        advice = "free some space, or set HARNESS_SCRATCH to a larger folder"
        return DoctorFinding("scratch", Status.WARNING, message, advice)
    if SHARED_MEMORY not in root.parents and not os.environ.get("HARNESS_SCRATCH"):
        message += f"; {SHARED_MEMORY} would be faster, but is missing or small"
        return DoctorFinding("scratch", Status.WARNING, message, "start the container with --shm-size=8g")
    return DoctorFinding("scratch", Status.OK, message)


def _cache() -> DoctorFinding:
    folder = cache_folder()
    place = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    free = shutil.disk_usage(place).free
    message = f"cache folder {folder}, {size(used)} used, {size(free)} free"
    if not os.access(place, os.W_OK):
        message += ": not writable, nothing is kept between runs"
        return DoctorFinding("cache", Status.WARNING, message, "set XDG_CACHE_HOME to a folder of yours")
    if free < _GIB:
        return DoctorFinding("cache", Status.WARNING, message, f"free some space, or delete {folder}")
    return DoctorFinding("cache", Status.OK, message)


def _environments(probe: bool) -> Iterator[DoctorFinding]:
    try:
        path = find_config()
        known = load(path) if path else {}
    except HarnessError as error:
        yield DoctorFinding("harness.toml", Status.BROKEN, str(error), "correct the file")
        return
    if not known:
        message = f"{path} has no environments" if path else "no harness.toml here or above"
        advice = (
            "to judge TensorRT engines: harness env add NAME --python PATH; to ask a real compiler, on any machine: "
            f"harness env add rtx --install {RTX_TO_INSTALL}"
        )
        yield DoctorFinding("harness.toml", Status.OK, f"{message}: only the emulator can be used", advice)
        return
    yield DoctorFinding("harness.toml", Status.OK, f"{path}, environments: {', '.join(known)}")
    if probe:
        for check in check_all(list(known.values())):
            yield _environment(check)


def _environment(check: EnvironmentCheck) -> DoctorFinding:
    area = f"environment {check.environment.name}"
    if check.probe is None:
        return DoctorFinding(area, Status.BROKEN, check.problems[0], check.hint)
    probe = check.probe
    message = f"{probe.product} {probe.tensorrt}"
    if probe.gpu is not None or not probe.builder_ok:
        message += f", CUDA {probe.cuda or 'unknown'}, {probe.gpu or 'no GPU'}"
    if check.problems:
        return DoctorFinding(area, Status.BROKEN, f"{message}: {'; '.join(check.problems)}", check.hint)
    return DoctorFinding(area, Status.OK, f"{message}: {check.ability}")


def _mib(text: str) -> str:
    return size(int(text) * (1 << 20)) if text.isdigit() else text

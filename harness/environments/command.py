"""The command line and the variables that a worker is started with, and so the GPU that it sees.

The GPU is chosen by number before the worker starts, because CUDA looks only once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import harness.worker.protocol
from harness.errors import EnvironmentConfigError

#: All of the worker lies beside the protocol, which is all that is imported of it here.
WORKER_FOLDER = Path(harness.worker.protocol.__file__).parents[1]
#: What belongs to the host's Python and would lead the environment's astray.
_HOST_ONLY = (
    *("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONSAFEPATH"),
    *("VIRTUAL_ENV", "__PYVENV_LAUNCHER__"),
)


@dataclass(frozen=True)
class Launch:
    """What the worker of an environment is started with: see Environment."""

    command: tuple[str, ...]
    gpu: int = 0
    variables: tuple[tuple[str, str], ...] = ()
    memory_gib: float | None = None


def program_path(program: str, folder: Path) -> str:
    """An absolute path; a bare name is looked up on PATH when the worker starts."""
    if os.sep not in program and not program.startswith("~"):
        return shutil.which(program) or program
    # Not resolved: the `python` of a venv is a link, and where it stands is what makes it that venv's.
    return os.path.normpath(folder.absolute() / Path(program).expanduser())


def start_command(launch: Launch, scratch: Path, address: Path, adapter: Path | None = None) -> list[str]:
    """The whole command line of a worker that connects to the socket at `address`.

    Args:
        launch: its `command` is filled in.
        scratch: the worker's scratch folder; the folder above it is what a container must mount.
        address: the Unix socket.
        adapter: a file with another adapter than the one for TensorRT.
    """
    gpu, folder, worker = str(launch.gpu), str(scratch.parent), str(WORKER_FOLDER)
    command = [
        part.replace("{gpu}", gpu).replace("{scratch}", folder).replace("{worker}", worker)
        for part in launch.command
    ]
    command += [str(WORKER_FOLDER / "main.py"), "--connect", str(address)]
    if adapter is not None:
        command += ["--adapter", str(adapter)]
    if launch.memory_gib is not None:
        command += ["--memory", str(int(launch.memory_gib * (1 << 30)))]
    return command


def start_variables(launch: Launch, caller: Mapping[str, str]) -> dict[str, str]:
    """The environment variables of a worker.

    Raises:
        EnvironmentConfigError: the caller does not see the environment's GPU.
    """
    variables = {name: value for name, value in caller.items() if name not in _HOST_ONLY}
    variables["PYTHONUNBUFFERED"] = "1"
    # Kernels are loaded when they first run. Measured on an H200 with TensorRT 8.6.0, a diagnosis of six engines from a
    # cold start: 32 s, and 36 s where all are loaded at the start, which is the default of older drivers.
    variables.setdefault("CUDA_MODULE_LOADING", "LAZY")
    return variables | gpu_variables(launch.gpu, caller) | dict(launch.variables)


def gpu_variables(gpu: int, caller: Mapping[str, str]) -> dict[str, str]:
    """The variables that leave a worker one GPU.

    Args:
        gpu: an index into the caller's own list: with `CUDA_VISIBLE_DEVICES=3,5`, 1 is the GPU 5. Entries may
            be UUIDs of GPUs or of MIG instances.
        caller: the caller's environment variables.

    Raises:
        EnvironmentConfigError: the caller's list has no such entry.
    """
    listed = caller.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        # The order in which nvidia-smi counts; CUDA's own default puts the fastest GPU first.
        order = caller.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        return {"CUDA_VISIBLE_DEVICES": str(gpu), "CUDA_DEVICE_ORDER": order}
    # CUDA reads no further than an entry that names no GPU.
    entries = list(takewhile(lambda entry: entry not in ("", "-1"), map(str.strip, listed.split(","))))
    if gpu >= len(entries):
        raise EnvironmentConfigError(
            f"gpu = {gpu}, but CUDA_VISIBLE_DEVICES={listed!r} lets only {len(entries)} be seen",
            hint="the number is an index into the caller's own list, from 0; unset CUDA_VISIBLE_DEVICES to see all",
        )
    return {"CUDA_VISIBLE_DEVICES": entries[gpu]}

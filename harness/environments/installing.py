"""Make an environment from a release of TensorRT or TensorRT for RTX: a venv of its own, filled by pip."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.environments.folders import data_folder
from harness.errors import CandidateError, EnvironmentConfigError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

#: Before TensorRT 10 the bindings were built for NumPy 1.
_FIRST_WITH_NUMPY_2 = "10"
_RTX = "tensorrt-rtx"
#: CUDA of the driver → flavour of TensorRT for RTX and the CUDA runtime, which it does not bring.
_RTX_FLAVOURS = {
    12: (f"{_RTX}-cu12", "nvidia-cuda-runtime-cu12"),
    13: (f"{_RTX}-cu13", "nvidia-cuda-runtime"),
}


def environments_folder() -> Path:
    """Where environments are installed, one folder each."""
    return data_folder() / "environments"


def install(
    name: str, requirement: str, *, python: str | None = None, tell: Callable[[str], None] = lambda _: None
) -> Path:
    """Install `requirement` and NumPy into a new venv and return its interpreter.

    `tensorrt-rtx` becomes its flavour for the CUDA of the driver, with CUDA's runtime; without a driver it stays what
    it is, CUDA 13.

    Args:
        name: name of the environment and of its folder.
        requirement: what to install, such as `tensorrt==10.13.3.9` or `tensorrt-cu12`.
        python: the interpreter to make the venv with; by default the one that runs harness. TensorRT has
            wheels for few versions of Python each.
        tell: is given what pip prints, line by line.

    Raises:
        EnvironmentConfigError: `requirement` is not a TensorRT package, or the folder is there already.
        CandidateError: the venv or the installation failed; nothing is left of it.
    """
    parsed = _checked(requirement)
    wanted = [*_for_driver(parsed, driver_cuda()), _numpy_for(parsed)]
    folder = environments_folder() / name
    if folder.exists():
        raise EnvironmentConfigError(
            "an environment is installed here already",
            where=folder,
            hint="remove the folder, or choose another name",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    interpreter = folder / "bin" / "python"
    try:
        _run([python or sys.executable, "-m", "venv", str(folder)], "making the venv", tell)
        pip = [str(interpreter), "-m", "pip", "--disable-pip-version-check", "install"]
        _run([*pip, *wanted], f"installing {requirement}", tell)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return interpreter


def uninstall(command: Sequence[str]) -> Path | None:
    """Remove the venv whose interpreter `command` starts, if `install` made it; return its folder."""
    folder = Path(command[0]).parent.parent
    if folder.parent != environments_folder():
        return None
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _checked(requirement: str) -> Requirement:
    from packaging.requirements import InvalidRequirement, Requirement

    hint = "write it as pip does: tensorrt==10.13.3.9"
    try:
        parsed = Requirement(requirement)
    except InvalidRequirement as error:
        raise EnvironmentConfigError(f"{requirement!r} is not a requirement: {error}", hint=hint) from None
    if not parsed.name.lower().startswith("tensorrt"):
        raise EnvironmentConfigError(f"{parsed.name!r} is not a TensorRT package", hint=hint)
    return parsed


def _canonical(requirement: Requirement) -> str:
    return requirement.name.lower().replace("_", "-")


def driver_cuda() -> int | None:
    """The newest major version of CUDA that the driver takes; None without a driver."""
    found = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(found))
    except (OSError, AttributeError):
        return None
    return None if failed else found.value // 1000


def _for_driver(requirement: Requirement, cuda: int | None) -> list[str]:
    """What to ask pip for: the flavour of `tensorrt-rtx` for a driver of CUDA `cuda`, and CUDA's runtime."""
    if _canonical(requirement) != _RTX or cuda is None:
        return [str(requirement)]
    flavour, runtime = _RTX_FLAVOURS[min(max(_RTX_FLAVOURS), max(min(_RTX_FLAVOURS), cuda))]
    return [f"{flavour}{requirement.specifier}", runtime]


def _numpy_for(requirement: Requirement) -> str:
    from packaging.version import Version

    if _canonical(requirement).startswith(_RTX):
        return "numpy"
    pinned = [item.version for item in requirement.specifier if item.operator == "=="]
    old = any(Version(version.rstrip(".*")) < Version(_FIRST_WITH_NUMPY_2) for version in pinned)
    return "numpy<2" if old else "numpy"


def _run(command: Sequence[str], what: str, tell: Callable[[str], None]) -> None:
    last: deque[str] = deque(maxlen=15)
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        raise CandidateError(f"{what} failed: {error.strerror}: {command[0]}") from error
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line.rstrip())
            tell(last[-1])
    if process.returncode:
        raise CandidateError(
            f"{what} failed with status {process.returncode}",
            hint="each TensorRT release has wheels for some versions of Python only: choose one with --python",
            evidence=tuple(last),
        )

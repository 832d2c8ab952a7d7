"""Environments that pip fills, from wheels of the test's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.environments import install, installing, uninstall
from harness.environments.installing import environments_folder
from harness.errors import CandidateError, EnvironmentConfigError


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
    printed: list[str] = []
    python = install("trt-8.6", "tensorrt==8.6.1", tell=printed.append)
    code = "import numpy, tensorrt; print(tensorrt.__version__, numpy.__version__)"
    found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "8.6.1 1.26.4\n"  # releases before 10 were built for NumPy 1
    assert any("Successfully installed" in line for line in printed)

    with pytest.raises(EnvironmentConfigError, match="installed here already"):
        install("trt-8.6", "tensorrt==8.6.1")
    assert uninstall(["/usr/bin/python3"]) is None
    assert uninstall([str(python)]) == environments_folder() / "trt-8.6"
    assert list(environments_folder().iterdir()) == []


@pytest.mark.parametrize(
    ("requirement", "cuda", "asked"),
    [
        ("tensorrt-rtx==1.7.1.116", None, ["tensorrt-rtx==1.7.1.116", "numpy"]),
        ("tensorrt-rtx==1.7.1.116", 13, ["tensorrt-rtx-cu13==1.7.1.116", "nvidia-cuda-runtime", "numpy"]),
        ("tensorrt_rtx", 14, ["tensorrt-rtx-cu13", "nvidia-cuda-runtime", "numpy"]),
        ("tensorrt-rtx>=1.5", 12, ["tensorrt-rtx-cu12>=1.5", "nvidia-cuda-runtime-cu12", "numpy"]),
        ("tensorrt-rtx-cu12==1.4.0.76", 13, ["tensorrt-rtx-cu12==1.4.0.76", "numpy"]),
        ("tensorrt==8.6.1", 12, ["tensorrt==8.6.1", "numpy<2"]),
    ],
)
def test_tensorrt_for_rtx_is_installed_in_the_flavour_of_the_driver(
    requirement: str, cuda: int | None, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(installing, "driver_cuda", lambda: cuda)
    monkeypatch.setattr(installing, "_run", lambda command, what, tell: commands.append(list(command)))
    install("rtx", requirement)
    assert commands[-1][-len(asked) - 1 :] == ["install", *asked]


def test_an_installation_that_fails_leaves_nothing_and_says_why(tmp_path: Path) -> None:
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

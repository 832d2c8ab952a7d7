"""The real compiler, asked through harness.toml."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PYTHON = os.environ.get("HARNESS_RTX_PYTHON")
HOW = (
    "python3 -m venv .venv-rtx && .venv-rtx/bin/pip install tensorrt-rtx==1.7.1.116 numpy && "
    "HARNESS_RTX_PYTHON=$PWD/.venv-rtx/bin/python python -m pytest tests/conversion"
)


@pytest.fixture
def rtx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an environment with the compiler of TensorRT for RTX; the working folder is the test's."""
    if PYTHON is None:
        (pytest.fail if os.environ.get("HARNESS_RTX_REQUIRED") else pytest.skip)(f"to run these: {HOW}")
    (tmp_path / "harness.toml").write_text(f'[environments.rtx]\npython = "{PYTHON}"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HARNESS_CONFIG", raising=False)
    return "rtx"

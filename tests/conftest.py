"""What tests of several rooms share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_cases import write_cases


@pytest.fixture
def tiny_cases(tmp_path: Path):
    """Write some of the tiny cases to a folder: `tiny_cases("clean", "failing")`."""

    def write(*names: str, folder: Path = tmp_path / "cases") -> Path:
        return write_cases(folder, *names)

    return write

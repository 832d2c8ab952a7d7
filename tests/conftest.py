"""What tests of several rooms share."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tiny_cases import write_cases

# A shell starts what it puts in the background with SIGINT ignored, and children inherit that: the tests that interrupt
# their children would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def tiny_cases(tmp_path: Path):
    """Write some of the tiny cases to a folder: `tiny_cases("clean", "failing")`."""

    def write(*names: str, folder: Path = tmp_path / "cases") -> Path:
        return write_cases(folder, *names)

    return write

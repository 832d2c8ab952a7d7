"""What tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.cli import main

Command = Callable[..., tuple[int, str, str]]
"""`harness("run", "cases")`: exit status, stdout, stderr."""


@pytest.fixture
def harness(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = main([*map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run

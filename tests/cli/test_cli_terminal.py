"""`harness run` at a real terminal."""

from __future__ import annotations

import os
import re
import sys

import pytest

pexpect = pytest.importorskip("pexpect")

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def at_terminal(tiny_cases):
    """Run the tiny cases at a terminal of 80 columns and return everything that it got."""

    def start(*names: str, **variables: str) -> str:
        folder = tiny_cases(*names)
        environment = {
            key: value for key, value in os.environ.items() if key not in ("CI", "COLUMNS", "NO_COLOR")
        }
        child = pexpect.spawn(
            sys.executable,
            ["-m", "harness", "run", str(folder)],
            dimensions=(40, 80),
            env={**environment, "TERM": "xterm-256color", **variables},
            encoding="utf-8",
            timeout=60,
        )
        text: str = child.read()
        child.close()
        return text

    return start


def test_a_terminal_shows_a_bar_and_takes_it_away(at_terminal) -> None:
    text = at_terminal("clean", "failing")
    assert "━━━" in text
    assert re.search(r"\d/5", text)
    bar, report = text.rsplit("\x1b[2K", 1)
    assert "━━━" in bar
    assert "━━━" not in report
    assert "\x1b[1;31m✗ FAIL" in report
    assert all(len(CODES.sub("", line)) <= 80 or "harness " in line for line in report.split("\r\n"))


def test_ci_gets_plain_lines_even_at_a_terminal(at_terminal) -> None:
    text = at_terminal("clean", CI="true")
    assert "━━━" not in text
    assert "[1/3] clean at fp32: pass" in text


def test_no_color_is_respected(at_terminal) -> None:
    assert not re.search(r"\x1b\[[0-9;]*3[1-6]m", at_terminal("clean", "failing", NO_COLOR="1"))

"""`harness explore` at a real terminal, on a bundled case."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pexpect = pytest.importorskip("pexpect")

CASES = Path(__file__).parents[2] / "cases"
OVERFLOW = CASES / "rmsnorm-overflow.case.yaml"
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[^A-Za-z]*$|\r")
TAB, CTRL_C, CTRL_D, CTRL_U, ENTER = "\t", "\x03", "\x04", "\x15", "\r"
PROMPT = "fp16 › "
SECONDS = 30.0
BIG = """
model: {builder: models:rmsnorm_mlp, args: {seed: 0, scale: 600.0, scaled_block: 3, blocks: 30, width: 64}}
runs: [fp16]
"""


class Terminal:
    """A terminal of 80 columns with `harness explore` in it."""

    def __init__(self, folder: Path, *arguments: object, **variables: str) -> None:
        left_out = ("CI", "COLUMNS", "NO_COLOR")
        environment = {key: value for key, value in os.environ.items() if key not in left_out}
        # What answers at this end is no terminal program: it does not say where the cursor is.
        environment |= {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", **variables}
        self.raw = ""
        self._place = 0
        self._child = pexpect.spawn(
            sys.executable,
            ["-m", "harness", "explore", *map(str, arguments)],
            dimensions=(40, 80),
            env=environment,
            cwd=str(folder),
            encoding="utf-8",
        )

    @property
    def text(self) -> str:
        """Everything that was printed, without colours and movements of the cursor."""
        return CODES.sub("", self.raw)

    def type(self, keys: str) -> None:
        self._child.send(keys)

    def see(self, expected: str) -> str:
        """Wait until `expected` is printed behind what was seen before; what was printed up to there."""
        deadline = time.monotonic() + SECONDS
        while expected not in self.text[self._place :]:
            left = deadline - time.monotonic()
            try:
                self.raw += self._child.read_nonblocking(65536, timeout=max(left, 0.01))
            except (pexpect.TIMEOUT, pexpect.EOF):
                raise AssertionError(f"{expected!r} is not in {self.text[self._place :]!r}") from None
        before = self._place
        self._place = self.text.index(expected, before) + len(expected)
        return self.text[before : self._place]

    def do(self, line: str, expected: str) -> None:
        """Type a line, and wait for something of its answer."""
        self.type(line + ENTER)
        self.see(expected)

    def leave(self) -> int:
        """Ctrl-D; the exit status."""
        self.type(CTRL_D)
        self.raw += self._child.read()
        self._child.close()
        return int(self._child.exitstatus)

    def kill(self) -> None:
        self._child.close(force=True)


@pytest.fixture
def explore(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    terminals = []

    def start(*arguments: object, **variables: str) -> Terminal:
        terminals.append(Terminal(tmp_path, *arguments, **variables))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.kill()


def complete_with_tab(terminal: Terminal) -> None:
    """A command, a name, then what begins alike, then a glob; Ctrl-C takes the line away, and that is all."""
    terminal.see(PROMPT)
    terminal.type("wh" + TAB)
    terminal.see("why")
    terminal.type("b7_sqr" + TAB)
    terminal.see("b7_sqrt")
    terminal.type(ENTER)
    terminal.see("b7_sqrt (Sqrt), node 81 of 132, lowered")
    terminal.see(PROMPT)
    terminal.type("keep b10_s" + TAB)
    terminal.see("b10_scale")
    terminal.see("b10_sq")
    terminal.type(CTRL_U + "keep b7_*" + TAB)
    terminal.see("11 nodes")
    terminal.type(CTRL_C)
    terminal.do("keep", "all 132 nodes are lowered")


def test_a_person_bisects_an_overflow(explore, tmp_path: Path) -> None:
    terminal = explore(OVERFLOW, "-p", "fp16")
    terminal.see(PROMPT)
    screen = CODES.sub("", terminal.raw.rsplit("\x1b[2K", 1)[1])  # behind the line of progress
    assert "FAIL b11_add: nrmse of [:, 148] 1.02 (limit 0.02), 51.1× the limit" in screen
    assert "origin    b7_sq (Pow)" in screen
    lines = screen.splitlines()
    assert len(lines) <= 16
    assert max(map(len, lines)) <= 80

    terminal.do("layers by introduced", "ORIGIN overflow")
    terminal.do("why b7_sq", "squares of values up to 5.7e3 reach 3.3e7")
    terminal.do("why b7_sqq", "did you mean `b7_sq`")
    complete_with_tab(terminal)
    terminal.do("kep b7_*", "did you mean `keep`?")
    terminal.do("keep b7_*", "11 nodes back to FP32: b7_scale, b7_sq and 9 more")
    terminal.do("try", "PASS nrmse 1.1e-3 (limit 0.01) with 11 of 132 nodes in FP32")
    terminal.do("bisect", "b7_sq, b7_mean, b7_addeps, b7_sqrt: 4 of 11 are needed")
    terminal.do("undo", "11 of 132 in FP32: PASS")
    terminal.do("history", "bisect: PASS")
    terminal.do("plot", "rmsnorm-overflow-fp16/growth-1.png")
    assert (tmp_path / "rmsnorm-overflow-fp16" / "growth-1.png").read_bytes().startswith(b"\x89PNG")

    terminal.see(PROMPT)
    assert terminal.leave() == 0
    assert "--precision fp16 --resume" in terminal.text.replace("\n", "")
    assert "keep b7_*" in (tmp_path / ".harness" / "explore.history").read_text()


def test_ctrl_c_cancels_the_command_and_not_the_session(explore, tmp_path: Path) -> None:
    shutil.copytree(CASES / "models", tmp_path / "models")
    (tmp_path / "big.case.yaml").write_text(BIG)
    terminal = explore("big.case.yaml", OMP_NUM_THREADS="1")
    terminal.see(PROMPT)
    terminal.do("keep b1_sq", "1 node back to FP32")
    terminal.type("bisect b?_* b1?_* b20_*" + ENTER)
    terminal.see("one at a time")
    terminal.type(CTRL_C)
    terminal.see("cancelled; what is kept is as it was")
    terminal.do("keep", "1 of 330 nodes in FP32: b1_sq")
    terminal.do("bisect", "4 of 330 are needed")
    terminal.see(PROMPT)
    assert terminal.leave() == 0

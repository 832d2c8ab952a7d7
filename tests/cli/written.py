"""Commands that write, and every write of one to a folder: also of code that knows nothing of atomic writes."""

from __future__ import annotations

import io
import os
import shlex
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser
from tiny_cases import write_cases

from harness.cli import main

REPORTS = "--json out/r.json --html out/r.html --markdown out/r.md"
PYTHON = shlex.quote(sys.executable)
RTX = os.environ.get("HARNESS_RTX_PYTHON", "")
"""A Python with the compiler that some commands ask; empty where there is none."""


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Args:
        line: what is typed.
        before: a command that is carried out first.
        script: what comes from a pipe.
        cases: of `tiny_cases`.
        every: at which of its writes it is killed, where there are too many of them.
        again: what is added to go on where it was killed.
    """

    line: str
    before: str = ""
    script: str = ""
    cases: tuple[str, ...] = ("failing",)
    every: int = 1
    again: str = ""

    def start(self, folder: Path) -> None:
        """Write what it reads, and do what comes before it."""
        write_cases(folder / "cases", *self.cases)
        onnx.save(FLOORED, folder / "floored.onnx")
        onnx.save(net(), folder / "net.onnx")
        np.savez(folder / "data.npz", x=np.random.default_rng(1).standard_normal((4, 8, 4)).astype("f"))

    def carry_out(self, more: str = "") -> int:
        """Carry it out in the working folder; its exit status."""
        sys.stdin = io.StringIO(self.script)
        return main(shlex.split(f"{self.line} {more}"))


DRIFT = "drift cases -e emulator:fp32 -e emulator:fp16 -k 1 -q"
COMMANDS = {
    "run": Command(f"run cases -q {REPORTS}"),
    "saved outputs": Command("run cases -p fp32 -q --save-outputs out/outputs.json --json out/r.json"),
    "golden": Command("run cases -q --golden-update"),
    "check": Command(f"check floored.onnx --input x:[2,4] --fix out/fixed.onnx {REPORTS}"),
    "compare": Command(f"compare net.onnx net.onnx {REPORTS}"),
    "quantize": Command(
        "quantize net.onnx --data data.npz -o out/q.onnx --write-cache out/q.cache --json out/q.json --html out/q.html"
    ),
    "diagnose": Command(f"diagnose cases/failing.case.yaml -p fp16 --out out/diagnosis {REPORTS}", every=3),
    "explore": Command(
        "explore cases/failing.case.yaml -p fp16 --out out/explored",
        script="keep square root\ntry\nplot out/plot.png\nexport out/exported\n",
        every=2,
    ),
    "drift": Command(f"{DRIFT} {REPORTS}", cases=("clean", "failing"), again="--resume"),
    "baselines": Command("drift cases -e emulator:fp16 -k 1 -q --baseline-update", cases=("clean",)),
    "table": Command(f"{DRIFT} --table out/t.csv --table out/t.parquet", cases=("clean",), again="--resume"),
    "history": Command("history export out/rows.csv", before=DRIFT),
    "nightly": Command(f"history show {REPORTS}", before=DRIFT),
    "environment": Command(f"env add second --python {PYTHON}", before=f"env add first --python {PYTHON}"),
    "case": Command("case new net.onnx --out cases/net.case.yaml"),
    "schema": Command("case schema --out out/schema.json"),
}
"""Every command that writes files, with all the files that it can write here."""
if RTX:
    COMMANDS["split"] = Command(
        "check floored.onnx --input x:[2,4] -e first --split out/parts --json out/r.json",
        before=f"env add first --python {shlex.quote(RTX)}",
    )
FLOORED = parser.parse_model(
    '<ir_version: 9, opset_import: ["" : 18]> g (float[N,4] x, float[4] b) => (float[N,4] y) { y = Mod(x, b) }'
)


def net() -> onnx.ModelProto:
    """A product that can be quantised."""
    made = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> g (float[8,4] x) => (float[8,4] y) { y = MatMul(x, w) }'
    )
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype("f")
    made.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return made


WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC


class Writes:
    """Calls `before` with its kind before each write below `folder`: "fsync" of a file, "rename", or "open" where a
    file is opened to be written to whose name is a final one. Of such a file nothing is there yet but its name.

    An audit hook stays as long as the process: `folder` None ends the watch.
    """

    def __init__(self, before: Callable[[str], None]) -> None:
        self.folder: Path | None = None
        self._before = before
        self._busy = False
        self._sync = os.fsync
        sys.addaudithook(self._hear)

    def fsync(self, descriptor: int) -> None:
        """In place of os.fsync, which no hook hears."""
        if self.folder is not None and stat.S_ISREG(os.fstat(descriptor).st_mode):
            self._before("fsync")
        self._sync(descriptor)

    def _hear(self, event: str, given: tuple[object, ...]) -> None:
        if self.folder is None or self._busy or event not in ("open", "os.rename"):
            return
        self._busy = True
        try:
            if event == "os.rename":
                if self._is_below(given[1]):
                    self._before("rename")
            elif isinstance(given[2], int) and given[2] & WRITING and self._is_final(given[0]):
                if given[2] & os.O_TRUNC:
                    Path(os.fsdecode(given[0])).write_bytes(b"")  # type: ignore[arg-type]
                self._before("open")
        finally:
            self._busy = False

    def _is_below(self, path: object) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and Path(
            os.path.abspath(os.fsdecode(path))
        ).is_relative_to(self.folder or "/")

    def _is_final(self, path: object) -> bool:
        """Whether a path below the folder is neither a temporary file nor in a temporary folder, nor in a cache.

        Of a temporary file without a name, its folder is opened.
        """
        if not self._is_below(path) or os.path.isdir(path):  # type: ignore[arg-type]
            return False
        parts = Path(os.path.abspath(os.fsdecode(path))).relative_to(self.folder or "/").parts  # type: ignore[arg-type]
        return not {"cache", "__pycache__"}.intersection(parts) and not any(
            part.startswith(".") for part in parts
        )

"""A process that is killed at any write: no half file under a final name, and what was kept is still there."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import onnx
import pytest
from safetensors.numpy import load_file
from written import Writes

from harness.cli import main
from harness.history import load_history

COMMANDS = {
    "run": [
        "run",
        "cases",
        "-q",
        "--json",
        "out/run.json",
        "--html",
        "out/run.html",
        "--markdown",
        "out/run.md",
    ],
    "golden": ["run", "cases", "-q", "--golden-update"],
    "diagnose": ["diagnose", "cases/failing.case.yaml", "-p", "fp16", "--out", "out/diagnosis"],
    "drift": [
        "drift",
        "cases",
        "-e",
        "emulator:fp32",
        "-e",
        "emulator:fp16",
        "-k",
        "1",
        "-q",
        "--json",
        "out/d.json",
        "--html",
        "out/d.html",
    ],
    "history": ["history", "export", "out/rows.csv"],
}
#: What there must be first.
BEFORE = {"history": COMMANDS["drift"]}
#: How each is continued: what it kept is not made again.
AGAIN = {"drift": ["--resume"]}
HISTORY = Path("reports/history")


def carry_out(folder: str, words: list[str], last: int | None, counts: str) -> None:
    """Carry out a command in `folder`, and die just before its write number `last` reaches the disk.

    What is written before a write (see Writes) lies in the file, what comes after does not. Runs in a process of its
    own; how many writes there were is left in the file `counts`.
    """
    os.chdir(folder)
    os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
    os.environ.pop("CI", None)
    done = 0

    def write(kind: str) -> None:
        nonlocal done
        if done == last:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1

    writes = Writes(write)
    os.fsync = writes.fsync  # type: ignore[assignment]
    writes.folder = Path(folder)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - ends with the process
    status = main(words)
    writes.folder = None
    Path(counts).write_text(json.dumps([status, done]))


def in_a_process(folder: Path, words: list[str], last: int | None, counts: Path) -> int | None:
    """The exit status of the process: negative if a signal ended it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["harness.judge", "harness.diagnosis", "harness.history", "onnxruntime", "pandas"]
    )
    process = context.Process(target=carry_out, args=(str(folder), words, last, str(counts)))
    process.start()
    process.join(300)
    return process.exitcode


def check_whole(folder: Path) -> None:
    """Check that every file under a name of its own is no empty one, and can be read to its end."""
    for path in filter(Path.is_file, folder.rglob("*")):
        if path.suffix == ".tmp" or "cache" in path.relative_to(folder).parts:
            continue
        assert path.stat().st_size or path.name.endswith("lock"), path
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".html":
            assert path.read_bytes().rstrip().endswith(b"</html>"), path
        elif path.suffix == ".jsonl":
            for line in path.read_text().splitlines():
                json.loads(line)
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".onnx":
            assert onnx.load(path).graph.output, path


def parts(folder: Path) -> set[str]:
    return {path.name for path in (folder / HISTORY).rglob("*.parquet")}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_at_any_write_loses_nothing_that_was_kept(name: str, tiny_cases, tmp_path: Path) -> None:
    words, counts = COMMANDS[name], tmp_path / "counts.json"

    def start(folder: Path) -> Path:
        tiny_cases(*(["clean"] if name == "drift" else []), "failing", folder=folder / "cases")
        if name in BEFORE:
            assert in_a_process(folder, BEFORE[name], None, counts) == 0
        return folder

    counted = start(tmp_path / "counted")
    assert in_a_process(counted, words, None, counts) == 0
    expected, writes = json.loads(counts.read_text())
    assert expected in (0, 1)
    assert writes > (1 if name == "history" else 2)
    whole = {path.name for path in counted.rglob("*") if path.is_file() and "cache" not in path.parts}
    for number in range(0, writes, 3 if name == "diagnose" else 1):  # all 21 of a diagnosis take minutes
        folder = start(tmp_path / f"killed{number}")
        assert in_a_process(folder, words, number, counts) == -signal.SIGKILL
        check_whole(folder)
        kept = parts(folder)
        if kept:
            assert len(load_history(folder / HISTORY, columns=["case"])) > 0
        more = AGAIN.get(name, []) if list(folder.glob(f"{HISTORY}/*.parts/plan.json")) else []
        counts.unlink(missing_ok=True)
        assert in_a_process(folder, [*words, *more], None, counts) == 0
        assert json.loads(counts.read_text())[0] == expected, number
        check_whole(folder)
        left = {path.name for path in folder.rglob("*") if path.is_file() and "cache" not in path.parts}
        missing = {each for each in whole - left if not each.endswith(".parquet")}
        assert not missing, (number, missing)

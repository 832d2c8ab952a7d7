"""A process that is killed at any write: no half file under a final name, and what was kept is still there."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from safetensors.numpy import load_file
from written import COMMANDS, Command, Writes

from harness.history import load_history

HISTORY = Path("reports/history")


def carry_out(folder: str, command: Command, more: str, last: int | None, counts: str) -> None:
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
    status = command.carry_out(more)
    writes.folder = None
    Path(counts).write_text(json.dumps([status, done]))


def in_a_process(
    folder: Path, command: Command, last: int | None, counts: Path, more: str = ""
) -> int | None:
    """The exit status of the process: negative if a signal ended it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["harness.judge", "harness.diagnosis", "harness.history", "onnxruntime", "pandas"]
    )
    process = context.Process(target=carry_out, args=(str(folder), command, more, last, str(counts)))
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
        elif path.suffix == ".npz":
            assert dict(np.load(path)), path
        elif path.suffix == ".yaml":
            assert yaml.safe_load(path.read_text()), path
        elif path.suffix == ".toml":
            assert "first" in tomllib.loads(path.read_text())["environments"], path


def parts(folder: Path) -> set[str]:
    return {path.name for path in (folder / HISTORY).rglob("*.parquet")}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_at_any_write_loses_nothing_that_was_kept(name: str, tmp_path: Path) -> None:
    command, counts = COMMANDS[name], tmp_path / "counts.json"

    def start(folder: Path) -> Path:
        command.start(folder)
        if command.before:
            assert in_a_process(folder, Command(command.before), None, counts) == 0
        return folder

    counted = start(tmp_path / "counted")
    assert in_a_process(counted, command, None, counts) == 0
    expected, writes = json.loads(counts.read_text())
    assert expected in (0, 1)
    assert writes >= 2
    whole = {path.name for path in counted.rglob("*") if path.is_file() and "cache" not in path.parts}
    for number in range(0, writes, command.every):
        folder = start(tmp_path / f"killed{number}")
        assert in_a_process(folder, command, number, counts) == -signal.SIGKILL
        check_whole(folder)
        kept = parts(folder)
        if kept:
            assert len(load_history(folder / HISTORY, columns=["case"])) > 0
        more = command.again if list(folder.glob(f"{HISTORY}/*.parts/plan.json")) else ""
        counts.unlink(missing_ok=True)
        assert in_a_process(folder, command, None, counts, more) == 0
        assert json.loads(counts.read_text())[0] == expected, number
        check_whole(folder)
        left = {path.name for path in folder.rglob("*") if path.is_file() and "cache" not in path.parts}
        missing = {each for each in whole - left if not each.endswith(".parquet")}
        assert not missing, (number, missing)

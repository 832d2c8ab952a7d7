"""A disk that is full at any write: one message, nothing half-written, and what was there before stays."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import pytest
from written import COMMANDS, Command, Writes


class Disk:
    """Counts what reaches the disk; the write with the number `full` does not."""

    def __init__(self) -> None:
        self.writes = 0
        self.full: int | None = None

    def write(self, kind: str) -> None:
        if kind == "rename":  # which takes no room
            return
        self.writes += 1
        if self.writes - 1 == self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_message_whichever_write_meets_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = COMMANDS[name]
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("sys.stdin", sys.stdin)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def start(folder: Path) -> None:
        command.start(folder)
        monkeypatch.chdir(folder)
        if command.before:
            assert Command(command.before).carry_out() in (0, 1)

    disk = Disk()
    watch = Writes(disk.write)
    monkeypatch.setattr(os, "fsync", watch.fsync)
    counted = tmp_path / "counted"
    start(counted)
    watch.folder = counted
    expected = command.carry_out()
    watch.folder = None
    assert expected in (0, 1)
    writes = disk.writes
    assert writes >= 1
    whole = files(counted)
    for number in range(writes):
        folder = tmp_path / f"full{number}"
        start(folder)
        disk.writes, disk.full, watch.folder = 0, number, folder
        status = command.carry_out()
        disk.full = watch.folder = None
        said = "\n".join(capsys.readouterr())
        if disk.writes <= number:  # it wrote less: what a compiler says is in its cache by now
            assert status == expected
            break
        if status == expected:  # a diagnosis stands without its repro, and says why there is none
            said += (folder / "out/diagnosis/diagnosis.json").read_text()
        else:
            assert status == 2, (number, status, said)
        assert "internal error" not in said
        assert "No space left on device" in said
        for path, content in files(folder).items():
            assert not path.endswith(".tmp"), (number, path)
            assert content or path.endswith("lock"), (number, path)
            if path.endswith(".json"):
                json.loads(content)
            if path.endswith(".html"):
                assert content.rstrip().endswith(b"</html>")
            assert path in whole or {"journal", "history"} & set(Path(path).parts), (number, path)

"""A reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.tensors import atomic_path, write_bytes, write_text


def test_writes_and_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_text(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    write_bytes(path, b"\r\n")
    assert path.read_bytes() == b"\r\n"
    assert os.listdir(path.parent) == ["b.txt"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_text(path, "old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_the_file_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "new"


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    write_text(tmp_path / "x", "")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_writers_at_the_same_time_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    texts = [str(number) * 10_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_text(path, text), texts))
    assert path.read_text() in texts
    assert os.listdir(tmp_path) == ["x"]


def test_a_symbolic_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    file, link, chain = tmp_path / "real" / "x", tmp_path / "link", tmp_path / "chain"
    file.write_text("old")
    link.symlink_to(Path("real", "x"))
    chain.symlink_to(link)
    with file.open() as before:
        write_text(chain, "new")
        assert before.read() == "old"  # replaced, not written over
    assert link.is_symlink()
    assert chain.is_symlink()
    assert file.read_text() == "new"
    assert os.listdir(file.parent) == ["x"]
    assert sorted(os.listdir(tmp_path)) == ["chain", "link", "real"]


def test_a_link_to_what_is_not_there_makes_it(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "later" / "x")
    write_text(link, "new")
    assert link.is_symlink()
    assert (tmp_path / "later" / "x").read_text() == "new"


def test_a_link_to_itself_is_an_error_and_stays(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(link)
    with pytest.raises(OSError, match="symbolic links"):
        write_text(link, "new")
    assert os.listdir(tmp_path) == ["link"]


@pytest.mark.parametrize("linked", [False, True])
def test_a_fifo_is_written_through(tmp_path: Path, linked: bool) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    path = fifo
    if linked:
        path = tmp_path / "link"
        path.symlink_to(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)  # opening does not wait for a writer
    try:
        write_text(path, "new")
        assert os.read(reader, 100) == b"new"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert path.is_symlink() is linked
    assert len(os.listdir(tmp_path)) == 1 + linked


def test_a_block_that_raises_sends_nothing_through_a_fifo(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    def write_half() -> None:
        with atomic_path(fifo) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    try:
        with pytest.raises(RuntimeError, match="stop"):
            write_half()
        assert os.read(reader, 100) == b""
    finally:
        os.close(reader)


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, 3))  # a node of this test's own, like /dev/null
        os.close(os.open(device, os.O_WRONLY))
    except OSError as error:
        pytest.skip(f"device nodes cannot be made or opened here: {error.strerror}")
    write_text(device, "new")
    assert stat.S_ISCHR(device.lstat().st_mode)
    assert os.listdir(tmp_path) == ["null"]


def test_an_open_file_is_written_on_rather_than_replaced(tmp_path: Path) -> None:
    log, link = tmp_path / "log", tmp_path / "stdout"
    log.write_text("before ")
    with log.open("ab", buffering=0) as file:  # as a shell opens `>> log`
        link.symlink_to(f"/proc/self/fd/{file.fileno()}")  # as /dev/stdout is
        if not link.exists():
            pytest.skip("this system has no /proc")
        write_text(link, "new")
        file.write(b" after")
    assert log.read_text() == "before new after"


def test_an_open_file_is_written_where_it_stands(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb", buffering=0) as file:
        file.write(b"before ")
        path = Path("/proc/self/fd", str(file.fileno()))
        if not path.exists():
            pytest.skip("this system has no /proc")
        write_text(path, "new")
        file.write(b" after")
    assert log.read_text() == "before new after"


def test_a_private_file_stays_private(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch(0o600)
    write_text(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

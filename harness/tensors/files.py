"""Atomic writes: a reader sees the old file or the new one, never half of one; devices are written through."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def typed_path(path: str | Path) -> Path:
    """A path as typed. A shell expands `~` in `--out ~/x`, but not in `--out=~/x`."""
    return Path(os.path.expanduser(path))


def is_node(path: str | Path) -> bool:
    """Whether `path` is there and is a device, a FIFO or a socket, which must never be replaced by a file."""
    path = Path(path)
    return path.exists() and not path.is_file() and not path.is_dir()


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to; what it holds becomes that of `path` when the block ends without an error.

    The parent folder is made if it is missing. The data reach the disk (fsync) before the rename, so a crash
    leaves the old file or the new one. When the block raises, the temporary file is removed and `path` is as
    it was. A symbolic link stays: the file that it names is replaced. A device, FIFO or socket stays, too: the
    data are written through it, and a FIFO waits for its reader.

    Raises:
        OSError: the folder, the device or the FIFO cannot be written to.
    """
    if is_node(path):
        with _written_through(Path(path)) as temporary:
            yield temporary
        return
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
        _sync(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _written_through(node: Path) -> Iterator[Path]:
    """A temporary path whose content goes to the device, FIFO or socket `node` when the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, node.name)
        temporary.touch()
        yield temporary
        # No O_CREAT: were the node removed meanwhile, no file must take its place.
        with temporary.open("rb") as source, open(os.open(node, os.O_WRONLY), "wb") as file:
            shutil.copyfileobj(source, file)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8 with the newlines that it has."""
    write_bytes(path, text.encode("utf-8"))


def _sync(path: Path) -> None:
    """Flush a file or a folder to the disk; folders only where the system can open them."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return  # Windows cannot open folders
    try:
        os.fsync(descriptor)
    except OSError:
        if path.is_file():
            raise
    finally:
        os.close(descriptor)

"""Atomic writes: a reader sees the old file or the new one, never half of one; devices are written through."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_DESCRIPTOR = re.compile(r"/proc/(?:self|thread-self|\d+)(?:/task/\d+)?/fd/\d+")
_LINKS = 40
"""Links that are followed, as many as Linux follows."""


def typed_path(path: str | Path) -> Path:
    """A path as typed. A shell expands `~` in `--out ~/x`, but not in `--out=~/x`."""
    return Path(os.path.expanduser(path))


def is_node(path: str | Path) -> bool:
    """Whether `path` is a device, a FIFO, a socket or an open file's descriptor: a file must never replace it."""
    path = Path(path)
    return path.exists() and not path.is_dir() and (not path.is_file() or _descriptor(path) is not None)


def _descriptor(path: Path) -> Path | None:
    """The open file in /proc that `path` leads to, as /dev/stdout does; what a shell appends to is then a file."""
    for _ in range(_LINKS):
        path = Path(os.path.realpath(path.parent), path.name)
        if _DESCRIPTOR.fullmatch(str(path)):
            return path
        if not path.is_symlink():
            break
        path = path.parent / os.readlink(path)
    return None


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to; what it holds becomes that of `path` when the block ends without an error.

    The parent folder is made if it is missing. The data reach the disk (fsync) before the rename, so a crash
    leaves the old file or the new one. When the block raises, the temporary file is removed and `path` is as
    it was. A symbolic link stays: the file that it names is replaced, by one with its permissions. A device, FIFO
    or socket stays, too: the data are written through it, and a FIFO waits for its reader. What is written to the
    descriptor of an open file, such as /dev/stdout, follows what was written before.

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
        if target.exists():
            shutil.copymode(target, temporary)  # a private report stays private
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
        with temporary.open("rb") as source, open(_opened(node), "wb") as file:
            shutil.copyfileobj(source, file)


def _opened(node: Path) -> int:
    """A descriptor that writes to `node`; of this process's own descriptors a copy, which has their position."""
    found = _descriptor(node)
    if found is not None and found.parent == Path(os.path.realpath("/proc/self/fd")):
        sys.stdout.flush()
        return os.dup(int(found.name))
    # No O_CREAT: were the node removed meanwhile, no file must take its place.
    return os.open(node, os.O_WRONLY | os.O_APPEND)


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

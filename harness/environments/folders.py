"""Folders: scratch ones for a run, in memory where possible, and those that outlive it.

Host and worker hand each other sockets and tensor files in scratch folders. Such a folder stands beside a lock file of
the same name, which the host keeps locked as long as it lives. The kernel drops the lock when the host dies, however it
dies, so whoever comes next can tell a folder that was left behind from one in use (in another container too, where
process ids mean nothing), and removes it. What outlives a run lies where the XDG base directory specification says.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from harness.errors import EnvironmentConfigError

SHARED_MEMORY = Path("/dev/shm")
#: Containers get 64 MiB of shared memory unless configured otherwise: too little for tensors.
ENOUGH_BYTES = 1 << 30


def scratch_root() -> Path:
    """Where scratch folders are made: `$HARNESS_SCRATCH`, else /dev/shm if large enough, else $TMPDIR."""
    given = os.environ.get("HARNESS_SCRATCH")
    if given:
        return Path(given).absolute() / "harness"
    shared = SHARED_MEMORY
    usable = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free >= ENOUGH_BYTES
    return (shared if usable else Path(tempfile.gettempdir())) / f"harness-{os.getuid()}"


class ScratchFolder:
    """A folder of this process alone, removed by `remove`, or by the next process if this one is killed."""

    def __init__(self, root: Path | None = None) -> None:
        root = scratch_root() if root is None else root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if root.stat().st_uid != os.getuid():
                raise PermissionError(f"it belongs to the user with id {root.stat().st_uid}")
        except OSError as error:
            raise EnvironmentConfigError(
                f"the scratch folder cannot be used: {error}",
                where=root,
                hint="set HARNESS_SCRATCH to a folder of yours",
            ) from error
        sweep(root)
        self._lock, self.path = _make(root)

    def remove(self) -> None:
        """Remove the folder and what is in it. Calling it twice is allowed."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            _lock_file(self.path).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1


def sweep(root: Path) -> list[Path]:
    """Remove the folders in `root` whose owners are gone, and return them."""
    removed = []
    for lock_file in root.glob("*.lock"):
        try:
            lock = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # removed by its owner this moment
        with contextlib.suppress(BlockingIOError), contextlib.closing(os.fdopen(lock, "rb")):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            folder = lock_file.with_suffix("")
            shutil.rmtree(folder, ignore_errors=True)
            lock_file.unlink(missing_ok=True)
            removed.append(folder)
    return removed


def _make(root: Path) -> tuple[int, Path]:
    """A new folder and the descriptor of its locked lock file."""
    while True:
        path = root / f"w{os.getpid()}-{os.urandom(4).hex()}"
        lock = os.open(_lock_file(path), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:  # else a sweep came between the two calls
            path.mkdir(mode=0o700)
            return lock, path
        os.close(lock)


def _lock_file(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def cache_folder() -> Path:
    """What can be made again: `$XDG_CACHE_HOME/harness`."""
    return _base("XDG_CACHE_HOME", ".cache") / "harness"


def data_folder() -> Path:
    """What was installed: `$XDG_DATA_HOME/harness`."""
    return _base("XDG_DATA_HOME", ".local/share") / "harness"


def _base(variable: str, default: str) -> Path:
    given = os.environ.get(variable, "")
    return Path(given) if os.path.isabs(given) else Path.home() / default

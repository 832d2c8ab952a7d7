"""Caches of a worker between runs: timings of tactics, and compiled kernels."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout  # here, as nothing can be imported that starts threads at exit

from harness.environments.folders import cache_folder
from harness.tensors import atomic_path
from harness.worker import protocol

_LOCK_SECONDS = 10.0


class CacheFile:
    """A cache between runs: one file for each release and GPU, since no cache carries over to another.

    A worker sees only its scratch folder, so the file is copied in and out. Some releases refuse every timing cache
    that comes from a file (8.5 and 8.6: "Myelin error from unknown graph … The timing cache will not be used!"). Then
    the file is dropped, once and for all, and a note beside it says so; within one worker the cache still works. A
    cache of kernels is refused when the driver changed, say: it is dropped, and the next one is kept.
    Reading and writing never fails a run: a cache is only a saving. What another worker has kept since is not lost:
    `news` is taken before this one's is stored, under `locked`.

    Args:
        kind: TIMING or RUNTIME.
        probe: what the environment is.
        variant: what else its content depends on.
        folder: where the file is; by default harness's own.
    """

    def __init__(
        self, kind: str, probe: protocol.ProbeReply, variant: str = "", folder: Path | None = None
    ) -> None:
        parts = (probe.tensorrt, probe.gpu or "no-gpu", probe.compute_capability or "", variant)
        name = "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", part) for part in parts if part)
        folder = cache_folder() / kind if folder is None else folder
        self.kind = kind
        self.path = folder / f"{name}.cache"
        self._refusal = folder / f"{name}.refused"
        self._known: tuple[int, int] | None = None

    @property
    def wanted(self) -> bool:
        """Whether it is worth keeping: no cache of this kind was refused before."""
        return not self._refusal.exists()

    def fetch(self, folder: Path) -> Path | None:
        """A copy in `folder`; None if there is nothing to copy."""
        target = folder / f"{self.kind}.cache"
        if not self.wanted:
            return None
        try:
            known = self._stamp()
            shutil.copyfile(self.path, target)
        except OSError:
            return None
        self._known = known
        return target

    def news(self, folder: Path) -> Path | None:
        """A copy in `folder` of what another worker has stored since this one read or wrote the file, if it has."""
        with contextlib.suppress(OSError):
            if self._stamp() != self._known:
                return self.fetch(folder)
        return None

    def store(self, source: Path) -> None:
        """Replace the file by a copy of `source`, atomically."""
        with contextlib.suppress(OSError):
            with atomic_path(self.path) as target:
                shutil.copyfile(source, target)
            self._known = self._stamp()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from reading and writing the file; after ten seconds, go on without."""
        lock = FileLock(self.path.with_suffix(".lock"))
        with contextlib.suppress(OSError, Timeout):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=_LOCK_SECONDS)
        try:
            yield
        finally:
            lock.release()

    def _stamp(self) -> tuple[int, int]:
        found = self.path.stat()
        return found.st_ino, found.st_mtime_ns

    def drop(self) -> str:
        """Remove the file, remember a timing cache that was refused, and return the warning."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        if self.kind == protocol.RUNTIME:
            return f"{self.path} is dropped: its kernels are of no use here, and are compiled again"
        with contextlib.suppress(OSError):
            self._refusal.write_text(f"TensorRT refused {self.path.name}. Delete this note to try again.\n")
        return (
            f"TensorRT refuses the timing cache {self.path}, which is dropped: the first build of each "
            f"worker is slow; delete {self._refusal} to keep a cache file again"
        )

"""The timing cache between runs: one file a TensorRT release and GPU, since no cache carries over to another.

A worker sees only its scratch folder, so the file is copied in and out. Some releases refuse every cache that
comes from a file (8.5 and 8.6: "Myelin error from unknown graph … The timing cache will not be used!"). Then
the file is dropped, once and for all, and a note beside it says so; within one worker the cache still works.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

from harness.environments.folders import cache_folder
from harness.tensors import atomic_path
from harness.worker.protocol import ProbeReply


class TimingCacheFile:
    """The file of one release and GPU. Reading and writing it never fails a run: a cache is only a saving."""

    def __init__(self, probe: ProbeReply, folder: Path | None = None) -> None:
        parts = (probe.tensorrt, probe.gpu or "no-gpu", probe.compute_capability or "")
        name = "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", part) for part in parts if part)
        folder = cache_folder() / "timing" if folder is None else folder
        self.path = folder / f"{name}.cache"
        self._refusal = folder / f"{name}.refused"

    @property
    def wanted(self) -> bool:
        """Whether it is worth keeping: no cache of this kind was refused before."""
        return not self._refusal.exists()

    def fetch(self, folder: Path) -> Path | None:
        """A copy in `folder`; None if there is nothing to copy."""
        target = folder / "timing.cache"
        if not self.wanted:
            return None
        try:
            shutil.copyfile(self.path, target)
        except OSError:
            return None
        return target

    def store(self, source: Path) -> None:
        """Replace the file by a copy of `source`, atomically."""
        with contextlib.suppress(OSError), atomic_path(self.path) as target:
            shutil.copyfile(source, target)

    def drop(self) -> str:
        """Remove the file, remember that it was refused, and return the warning."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
            self._refusal.write_text(f"TensorRT refused {self.path.name}. Delete this note to try again.\n")
        return (
            f"TensorRT refuses the timing cache {self.path}, which is dropped: the first build of each "
            f"worker is slow; delete {self._refusal} to keep a cache file again"
        )

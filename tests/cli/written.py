"""Every write of a process to a folder, whoever makes it: also one that knows nothing of atomic writes."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

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

"""A store of fsspec that promises as little as one of objects: no renames, no appending, old lists, errors of its own.

It stands for S3 in the tests: an error of boto's is no OSError, and s3fs keeps the lists that it was given.
"""

from __future__ import annotations

from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

PROTOCOL = "objects"


class EndpointError(Exception):
    """The store does not answer; no OSError, as the errors of many plug-ins."""


class ObjectStore(MemoryFileSystem):
    """Objects in memory, `down` of which every request fails."""

    protocol = PROTOCOL
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    lists: ClassVar[dict[str, Any]] = {}
    """What was listed, and is not asked for again."""
    down: ClassVar[bool] = False

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).removeprefix(f"{PROTOCOL}://"))

    def _ask(self) -> None:
        if self.down:
            raise EndpointError("Could not connect to the endpoint URL\nmore of it")

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        self._ask()
        path = self._strip_protocol(path)
        if path not in self.lists:
            self.lists[path] = super().ls(path, detail=True, **options)
        return self.lists[path] if detail else [entry["name"] for entry in self.lists[path]]

    def invalidate_cache(self, path: str | None = None) -> None:
        self.lists.clear()

    def info(self, path: str, **options: Any) -> Any:
        self._ask()
        return super().info(path, **options)

    def exists(self, path: str, **options: Any) -> bool:
        self._ask()
        return bool(super().exists(path, **options))

    def _open(self, path: str, mode: str = "rb", *more: Any, **options: Any) -> Any:
        self._ask()
        if mode not in ("rb", "wb"):
            raise NotImplementedError(f"an object is read or written as a whole, and not opened as {mode}")
        return super()._open(path, mode, *more, **options)

    def mv(self, *given: Any, **options: Any) -> None:
        raise NotImplementedError("objects cannot be renamed")

    mv_file = cp_file = copy = mv


fsspec.register_implementation(PROTOCOL, ObjectStore, clobber=True)

"""The timing cache: one object, kept across the builds of a process, and optionally a file.

The object is what makes the second build fast (5 s instead of 12 s in the same process, 44 s in a fresh one,
measured on an H200 with TensorRT 8.6.0). A file may be refused when it is loaded again, by other releases and
by some releases always: then it is dropped, and said once.
"""

import os
import tempfile
from typing import Any, Optional

from .log import Log

#: What TensorRT says when it takes a cache and then does not use it.
_REFUSAL = "timing cache will not be used"


class TimingCache:
    """The timing cache of a process.

    Args:
        log: TensorRT's log, where it says that it does not use a cache.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._cache: Optional[Any] = None
        self._loaded = False

    def attach(self, config: Any) -> bool:
        """Let the build of `config` use the cache; False if TensorRT refused the one that was loaded."""
        if self._cache is None:
            self._cache = config.create_timing_cache(b"")
        if config.set_timing_cache(self._cache, ignore_mismatch=False):
            return True
        refused = self._loaded
        self._drop()
        self._cache = config.create_timing_cache(b"")
        config.set_timing_cache(self._cache, ignore_mismatch=False)
        return not refused

    def after_build(self, mark: int) -> bool:
        """Whether the loaded cache was good; if TensorRT said since `mark` that it was not, it is dropped."""
        if self._loaded and self._refused_since(mark):
            self._drop()
            return False
        return True

    def load(self, config: Any, path: str) -> bool:
        """Take the cache from a file, in place of what there is; False if TensorRT refuses it.

        A file that is not there is no refusal: the first run on a machine has none.
        """
        try:
            with open(path, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return True
        mark = self._log.mark()
        cache = config.create_timing_cache(content) if content else None
        if (
            cache is None
            or not config.set_timing_cache(cache, ignore_mismatch=False)
            or self._refused_since(mark)
        ):
            self._drop()
            return False
        self._cache, self._loaded = cache, True
        return True

    def save(self, path: str) -> None:
        """Write the cache to a file, atomically; nothing if there was no build yet."""
        if self._cache is None:
            return
        write_atomically(path, self._cache.serialize())

    def close(self) -> None:
        """Let go of the cache."""
        self._drop()

    def _drop(self) -> None:
        self._cache, self._loaded = None, False

    def _refused_since(self, mark: int) -> bool:
        return any(_REFUSAL in line.text.lower() for line in self._log.since(mark))


def write_atomically(path: str, content: Any) -> None:
    """Write a buffer so that `path` is never half of it."""
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(path)), prefix=".harness-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise

"""The caches of a process, each one object, and optionally a file: of timings, and of compiled kernels.

The timing cache is what makes the second build fast (5 s instead of 12 s in the same process, 44 s in a fresh one,
measured on an H200 with TensorRT 8.6.0). A file may be refused when it is loaded again, by other releases and
by some releases always: then it is dropped, and said once.
"""

import os
import tempfile
from typing import Any, Optional

from .log import Log
from .release import Release

#: What TensorRT says when it takes a cache and then does not use it.
_REFUSAL = "timing cache will not be used"


class _Kept:
    """A cache object of TensorRT's, once there is one."""

    def __init__(self) -> None:
        self._cache: Optional[Any] = None

    def save(self, path: str) -> None:
        """Write the cache to a file, atomically; nothing if there is none yet."""
        if self._cache is not None:
            write_atomically(path, self._cache.serialize())

    def close(self) -> None:
        """Let go of the cache, once no engine uses it."""
        self._cache = None


class TimingCache(_Kept):
    """The timing cache of a process."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log
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
        content = _content(path)
        if content is None:
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

    def _drop(self) -> None:
        self._cache, self._loaded = None, False

    def _refused_since(self, mark: int) -> bool:
        return any(_REFUSAL in line.text.lower() for line in self._log.since(mark))


class RuntimeCache(_Kept):
    """The kernels that TensorRT for RTX compiles where an execution context is made, for all engines of a process.

    Making a context takes 0.6 to 3.4 s on an H200, and 0.01 to 0.05 s with the cache. Only an engine can make the
    object, so a file waits for the first one.
    """

    def __init__(self, release: Release) -> None:
        super().__init__()
        self._offered = release.offers("runtime_cache")
        self._content = b""
        self._refused = False

    def configure(self, engine: Any) -> Optional[Any]:
        """The runtime configuration for the contexts of `engine`; None where the release has no such cache."""
        if not self._offered:
            return None
        config = engine.create_runtime_config()
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if self._content and not self._take(self._content):
                self._refused, self._cache = True, config.create_runtime_cache()
            self._content = b""
        return config if config.set_runtime_cache(self._cache) else None

    def load(self, path: str) -> None:
        """Take the cache from a file, once the first engine is there, in addition to what there is; none is no refusal.

        That it is added, and nothing replaced, was seen on an H200 with TensorRT for RTX 1.4 and 1.6.
        """
        content = _content(path)
        if self._cache is None:
            self._content = content or b""
        elif content is not None:
            self._take(content)

    def take_refusal(self) -> bool:
        """Whether the file was refused; said once."""
        refused, self._refused = self._refused, False
        return refused

    def _take(self, content: bytes) -> bool:
        try:
            return bool(self._cache is not None and self._cache.deserialize(content))
        except Exception:  # whatever the bindings make of bytes that are no cache
            return False


def _content(path: str) -> Optional[bytes]:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


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

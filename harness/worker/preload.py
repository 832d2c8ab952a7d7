"""Make CUDA libraries that pip installed findable before TensorRT looks for them.

pip puts libcudart, cuBLAS, cuDNN, NVRTC and nvJitLink under `site-packages/nvidia/*/lib*`, where the dynamic
linker does not look; TensorRT opens them by their bare names and fails, or worse, finds another version in
`/usr/lib`. A library that is loaded already is found by its name, so loading them first, with global symbols,
is enough. `LD_LIBRARY_PATH` would do as well, but it must be set before the process starts.
"""

import ctypes
import glob
import os
import re
import sys
from typing import Iterable, List, NamedTuple, Optional, Tuple

#: In the order in which they need each other.
_WANTED = (
    "libcudart",
    "libnvJitLink",
    "libnvrtc-builtins",
    "libnvrtc",
    "libcublasLt",
    "libcublas",
    "libcudnn",
)


class Preloaded(NamedTuple):
    """The libraries that were loaded, and those that were not, each with the linker's reason."""

    loaded: Tuple[str, ...]
    failed: Tuple[Tuple[str, str], ...]


def candidates(search: Optional[Iterable[str]] = None) -> List[str]:
    """Paths of the libraries to load, in order; `search` is `sys.path` unless it is given."""
    found: List[Tuple[int, str]] = []
    for folder in sys.path if search is None else search:
        for path in sorted(glob.glob(os.path.join(glob.escape(folder), "nvidia", "*", "lib*", "lib*.so*"))):
            stem = re.split(r"[._]", os.path.basename(path), maxsplit=1)[0]
            if stem in _WANTED:
                found.append((_WANTED.index(stem), path))
    return [path for _, path in sorted(found)]


def preload(search: Optional[Iterable[str]] = None) -> Preloaded:
    """Load what pip installed of CUDA. What needs something that comes later is tried again."""
    waiting = candidates(search)
    loaded: List[str] = []
    failed: List[Tuple[str, str]] = []
    while waiting:
        failed = []
        for path in waiting:
            try:
                ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
                loaded.append(path)
            except OSError as error:
                failed.append((path, str(error)))
        if len(failed) == len(waiting):
            break
        waiting = [path for path, _ in failed]
    return Preloaded(tuple(loaded), tuple(failed))

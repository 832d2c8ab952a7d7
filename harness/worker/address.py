"""Unix sockets at paths of any length.

The kernel takes 107 bytes for the path of a socket, and folders may lie deeper than that.
"""

import os
from typing import Any, Callable

_LONGEST = 107


def use(path: str, act: Callable[[str], Any]) -> Any:
    """Call `act` (a socket's `bind` or `connect`) with `path`, spelled so that it fits."""
    if len(os.fsencode(path)) <= _LONGEST:
        return act(path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return act("/proc/self/fd/{}/{}".format(folder, os.path.basename(path)))
    finally:
        os.close(folder)

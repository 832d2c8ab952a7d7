"""The address of a Unix socket, which the kernel wants short."""

import os
from typing import Callable

_LONGEST_SOCKET_PATH = 107  # the kernel takes no more bytes


def use_socket(path: str, act: Callable[[str], None]) -> None:
    """Call `act` (a socket's `bind` or `connect`) with `path`, spelled so that it fits whatever its length."""
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        act(path)
        return
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        act("/proc/self/fd/{}/{}".format(folder, os.path.basename(path)))
    finally:
        os.close(folder)

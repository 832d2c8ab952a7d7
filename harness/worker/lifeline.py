"""The worker must not outlive its host, whatever happens to either.

The host holds the other end of a socket on which nothing is ever sent. When the host goes, however it goes,
the kernel closes that end and sends this process SIGIO, whose default action ends it; that works while native
code holds the interpreter lock, and from inside a container. A thread does the same where the kernel sends no
SIGIO. `prctl(PR_SET_PDEATHSIG)` is not used: it fires when the *thread* that started the worker ends, and a
wrapper script between the two takes the signal for itself.
"""

import contextlib
import fcntl
import os
import select
import signal
import socket
import threading

from .protocol import use_socket


def hold(path: str) -> None:
    """Connect to the host's socket at `path` and end this process when that connection ends."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    use_socket(path, line.connect)
    descriptor = line.detach()  # stays open as long as the process lives
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=_watch, args=(descriptor,), name="lifeline", daemon=True).start()


def _watch(descriptor: int) -> None:
    # A thread that waits in read() would take the place of the signal: the kernel sends none while one does.
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll()
    os._exit(128 + signal.SIGIO)

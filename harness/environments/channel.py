"""The host's end of a worker's channel: frames out, frames in, each before a deadline."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

from harness.worker import protocol


class ChannelClosed(Exception):
    """The other end is gone."""


class ChannelLate(Exception):
    """The deadline passed."""


class Listener:
    """A Unix socket at `address` to which one worker connects."""

    def __init__(self, address: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        protocol.use_socket(str(address), self._socket.bind)
        self._socket.listen(2)

    def accept(self, deadline: float, still_waiting: Callable[[], bool]) -> socket.socket:
        """The next connection.

        Raises:
            ChannelClosed: `still_waiting` said no.
            ChannelLate: the deadline passed.
        """
        while not _readable(self._socket, min(0.02, left(deadline))):
            if not still_waiting():
                raise ChannelClosed
            if not left(deadline):
                raise ChannelLate
        return self._socket.accept()[0]

    def close(self) -> None:
        """Take no more connections."""
        self._socket.close()


class Channel:
    """One connection to a worker. Deadlines are values of `time.monotonic`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = protocol.FrameReader()

    def send(self, number: int, message: protocol.Message, deadline: float) -> None:
        """Send `message` with the id `number`.

        Raises:
            ChannelClosed, ChannelLate: it did not get through.
        """
        frame = protocol.pack_frame(number, message)
        self._connection.settimeout(max(left(deadline), 1e-3))
        try:
            self._connection.sendall(frame)
        except TimeoutError:
            raise ChannelLate from None
        except OSError:
            raise ChannelClosed from None

    def receive(self, number: int, deadline: float) -> protocol.Message:
        """The message with the id `number`: nothing else may come.

        Raises:
            ChannelClosed, ChannelLate: it did not come.
            WireError: something else came.
        """
        while True:
            if not _readable(self._connection, left(deadline)):
                raise ChannelLate
            try:
                data = self._connection.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                raise ChannelClosed
            found = self._reader.feed(data)
            if len(found) > 1 or (found and found[0][0] != number):
                raise protocol.WireError(f"messages {[other for other, _ in found]} came, not {number}")
            if found:
                return found[0][1]

    def peer_handle(self) -> int:
        """A pidfd of the process at the other end, which may be behind a wrapper; -1 where there is none."""
        size = struct.calcsize("3i")
        credentials = self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid = struct.unpack("3i", credentials)[0]
        try:
            return os.pidfd_open(pid) if pid > 0 else -1
        except OSError:
            return -1

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def left(deadline: float) -> float:
    """Seconds until `deadline`, never negative."""
    return max(0.0, deadline - time.monotonic())


def _readable(connection: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(seconds * 1000))

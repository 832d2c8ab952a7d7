"""The end of what a process prints, kept while it prints."""

from __future__ import annotations

import os
import re
import threading

_KEPT_BYTES = 128 * 1024
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class LogTail:
    """Reads `descriptor` to its end in a thread of its own and keeps the last 128 KiB.

    A process whose output nobody reads stops when the pipe is full; and TensorRT can print without end.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._kept = bytearray()
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._read, name="harness-worker-log", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while data := os.read(self._descriptor, 1 << 16):
            with self._guard:
                self._kept += data
                del self._kept[:-_KEPT_BYTES]
        os.close(self._descriptor)

    def wait_for_end(self, seconds: float) -> None:
        """Wait until the process has closed its output, or `seconds` have passed."""
        self._thread.join(seconds)

    def lines(self, count: int = 40) -> tuple[str, ...]:
        """The last lines that hold anything, control characters and colours taken out."""
        with self._guard:
            text = self._kept.decode(errors="replace")
        plain = _COLOUR.sub("", text)
        lines = ("".join(filter(_printable, line)).rstrip() for line in plain.splitlines())
        return tuple([line for line in lines if line][-count:])


def _printable(character: str) -> bool:
    return character.isprintable() or character == "\t"

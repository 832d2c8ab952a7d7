"""Tells of what takes long: a log that is silent for minutes looks like a command that hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Self

PATIENCE_SECONDS = 60.0


@dataclass
class _Waiting:
    tell: Callable[[float], str]
    since: float
    patience: float


class Heartbeat:
    """Prints a line for what has been under way for long, and again when that has taken twice as long.

    Args:
        stream: where to print; None prints nothing.
        patience: seconds until the first line.
    """

    def __init__(self, stream: IO[str] | None, *, patience: float = PATIENCE_SECONDS) -> None:
        self._stream = stream
        self._patience = patience
        self._guard = threading.Lock()
        self._waiting: dict[str, _Waiting] = {}
        self._over = threading.Event()

    def __enter__(self) -> Self:
        if self._stream is not None:
            threading.Thread(target=self._watch, name="heartbeat", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def begins(self, key: str, tell: Callable[[float], str]) -> None:
        """`key` is under way from now on; `tell` says so, given the seconds that it has taken."""
        with self._guard:
            self._waiting[key] = _Waiting(tell, time.monotonic(), self._patience)

    def goes_on(self, key: str, tell: Callable[[float], str]) -> None:
        """There is something else to say of `key`, which may be new."""
        with self._guard:
            if key in self._waiting:
                self._waiting[key].tell = tell
                return
        self.begins(key, tell)

    def ends(self, key: str) -> None:
        """`key` is no longer under way."""
        with self._guard:
            self._waiting.pop(key, None)

    def _watch(self) -> None:
        while not self._over.wait(self._patience / 4):
            now = time.monotonic()
            with self._guard:
                for each in self._waiting.values():
                    if now >= each.since + each.patience:
                        each.patience *= 2
                        print(each.tell(now - each.since), file=self._stream, flush=True)

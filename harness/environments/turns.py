"""Who may use a GPU at a time: builds and inferences go beside each other, and what is timed goes alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Turns:
    """The turns of all workers on one GPU.

    Whoever waits to be alone goes before those that come later, or builds would keep it waiting for ever.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._beside = 0
        self._waiting = 0
        self._alone = False

    @contextlib.contextmanager
    def taken(self, *, alone: bool) -> Iterator[None]:
        """Wait for a turn, and have it until the context is left; one thread takes one at a time."""
        with self._changed:
            if alone:
                self._wait_to_be_alone()
            else:
                self._changed.wait_for(lambda: not self._alone and not self._waiting)
                self._beside += 1
        try:
            yield
        finally:
            with self._changed:
                if alone:
                    self._alone = False
                else:
                    self._beside -= 1
                self._changed.notify_all()

    def _wait_to_be_alone(self) -> None:
        self._waiting += 1
        try:
            self._changed.wait_for(lambda: not self._alone and not self._beside)
            self._alone = True
        finally:
            self._waiting -= 1
            self._changed.notify_all()  # if it was interrupted, others need not wait for it


_turns: dict[int, Turns] = {}
_guard = threading.Lock()


def turns_of(gpu: int) -> Turns:
    """The turns on the GPU of this number, the same for all environments of this process."""
    with _guard:
        return _turns.setdefault(gpu, Turns())

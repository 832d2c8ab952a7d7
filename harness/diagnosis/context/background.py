"""Work that nobody waits for yet, or that is done once for whoever asks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


def in_background(work: Callable[[], T], name: str) -> Future[T]:
    """Begin `work` in a thread of that name, which keeps no process alive; its result raises what it raises."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


class Once(Generic[T]):
    """What is made when it is first asked for: much of a diagnosis can be foreseen."""

    def __init__(self) -> None:
        self._made: dict[Hashable, T] = {}

    def of(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` makes of `key`, now or before."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

"""A second worker, which builds one engine while the first is at work on another one.

TensorRT for RTX holds one lock in a process over its builds and over the kernels that it compiles where a context is
made; two processes do not slow each other. Its builder needs no GPU, and makes the same bytes with and without one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from harness.environments.supervisor import Supervisor
from harness.errors import HarnessError
from harness.worker import protocol


@dataclass(frozen=True)
class Prebuilt:
    """The file of a serialized engine, and how many seconds it took to build."""

    path: Path
    seconds: float


class SecondBuilder:
    """Starts a second worker in the background, lets it build one engine, and ends it; at the latest with the `first`.

    It is a saving, and decides nothing: where it fails, for whatever reason, the first worker builds.
    """

    def __init__(self, first: Supervisor) -> None:
        self._first, self._second = first, first.second()
        self._key: Hashable = None
        self._building = False
        self._built: Future[Prebuilt | None] = Future()
        self._second.start_ahead()

    def build(self, key: Hashable, request: protocol.BuildRequest, path: Path) -> None:
        """Begin to build, in the background, what `take` gives under `key`; only the first time that it is asked.

        It is written to `path`, where both workers see it.
        """
        if self._key is not None:
            return
        self._key = key

        def build() -> None:
            prebuilt = None
            try:
                prebuilt = self._ask(request, path)
            finally:
                self._built.set_result(prebuilt)  # before it ends, which takes a while
                self.end()

        threading.Thread(target=build, name="second builder", daemon=True).start()

    def take(self, key: Hashable, seconds: float) -> Prebuilt | None:
        """The engine of `key`, if its build has begun and ends within `seconds`; the second worker ends in any case."""
        try:
            return self._built.result(seconds if self._building else 0.0) if key == self._key else None
        except TimeoutError:
            return None
        finally:
            if not self._built.done():
                self.end()

    def end(self) -> None:
        """End the second worker, whatever it does."""
        self._second.abort()

    def _ask(self, request: protocol.BuildRequest, path: Path) -> Prebuilt | None:
        with contextlib.suppress(HarnessError, OSError):
            probe = self._first.probe()
            self._second.worker()
            self._building = True
            reply = self._second.ask(protocol.Compile(replace(request, engine_path=str(path))))
            if isinstance(reply, protocol.CompileReply):
                report = reply.report
                same = (report.product, report.release) == (probe.product, probe.tensorrt)
                if same and report.built and path.stat().st_size == report.engine_bytes:
                    return Prebuilt(path, report.build_seconds)
        return None

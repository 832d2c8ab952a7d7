"""One worker process, from its start to its end: nothing of it is left behind, however it ends.

Host and worker speak over a Unix socket in the worker's scratch folder; the worker connects to it. Inherited
pipes would not reach it through a container, `sudo` or `conda run`, and its stdout belongs to whoever prints
there. A second connection, on which nothing is sent, ends the worker when the host dies: see the worker's
`lifeline`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import threading
import time
import weakref
from pathlib import Path
from typing import Any, TypeVar, cast

from harness.environments import failures
from harness.environments.channel import Channel, ChannelClosed, ChannelLate
from harness.environments.config import Environment
from harness.environments.started import StartedProcess, take_started
from harness.errors import CandidateError, WorkerCrashedError
from harness.worker import protocol
from harness.worker.protocol import Answered

R = TypeVar("R")
_WITH_STACK = 100  # lines of the log of a worker whose stack is among them
_CRASH_SECONDS = 5.0  # between the end of the channel and that of the process
_SHUTDOWN_SECONDS = 10.0
_living: weakref.WeakSet[WorkerProcess] = weakref.WeakSet()


class WorkerProcess:
    """A running worker, started by the constructor.

    Args:
        environment: what to start.
        adapter: a file with another adapter than the one for TensorRT.

    Raises:
        CandidateError: the program cannot be started.
        WorkerCrashedError, WorkerTimeoutError, WorkerProtocolError: it did not introduce itself.
    """

    def __init__(self, environment: Environment, *, adapter: Path | None = None) -> None:
        self.environment = environment
        self._number = 0
        self._channel: Channel | None = None
        self._lifeline: socket.socket | None = None
        self._peer = -1  # a pidfd of the worker itself, which may be a grandchild
        self._end_guard = threading.Lock()
        launch = environment.launch
        try:
            ahead = None if adapter is not None else take_started(launch)
            self._started = StartedProcess(launch, adapter) if ahead is None else ahead
        except OSError as error:
            raise failures.not_started(environment, error) from error
        _living.add(self)
        try:
            self.hello = self._meet()
        except BaseException:
            self.kill()
            raise

    @property
    def folder(self) -> Path:
        """The worker's scratch folder, for models and tensor files; it goes when the worker goes."""
        return self._started.folder

    @property
    def alive(self) -> bool:
        """Whether the worker can take a request."""
        return self._channel is not None and self._started.running

    def log(self, count: int = 30) -> tuple[str, ...]:
        """The last lines that the worker printed."""
        return () if self._started.log is None else self._started.log.lines(count)

    def request(self, message: Answered[R], seconds: float) -> R | protocol.Error:
        """Send `message` and wait for its reply, which may be a `protocol.Error`.

        Whatever is raised, KeyboardInterrupt too, the worker has been ended by then.

        Raises:
            WorkerCrashedError: the process died.
            WorkerTimeoutError: it did not reply within `seconds`.
            WorkerProtocolError: what it sent is not a reply to this request.
        """
        self._number += 1
        what = failures.describe(message)
        with self._ending_on_failure(what, seconds) as deadline:
            if self._channel is None:
                raise ChannelClosed
            self._channel.send(self._number, message, deadline)
            reply = self._channel.receive(self._number, deadline)
            if not isinstance(reply, (protocol.REPLIES[type(message)], protocol.Error)):
                raise protocol.WireError(f"{type(reply).__name__} does not answer {type(message).__name__}")
        return cast("R | protocol.Error", reply)

    def close(self, seconds: float = _SHUTDOWN_SECONDS) -> None:
        """Let the worker free what it holds and exit, and see to it. Calling it twice is allowed."""
        if self.alive:
            with contextlib.suppress(CandidateError):
                self.request(protocol.Shutdown(), seconds)
                self._started.wait_for_exit(seconds)
        self.kill()

    def kill(self) -> None:
        """End the worker and what it started, and remove its folder. Twice, and from any thread, is allowed."""
        with self._end_guard:
            self._end()

    def _end(self) -> None:
        self._started.end_process()
        if self._peer >= 0:  # in a container it outlives the command that started the container
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._peer, signal.SIGKILL)
            os.close(self._peer)
            self._peer = -1
        for connection in (self._channel, self._lifeline):
            if connection is not None:
                connection.close()
        self._channel = self._lifeline = None
        self._started.clean_up()

    # --- start ----------------------------------------------------------------------------------------------

    def _meet(self) -> protocol.Hello:
        """Wait for both connections, and for its first word."""
        with self._ending_on_failure("its start", self.environment.limits.start) as deadline:
            self._channel = Channel(self._started.accept(deadline))
            self._peer = self._channel.peer_handle()
            self._lifeline = self._started.accept(deadline)
            self._started.stop_listening()
            hello = self._channel.receive(0, deadline)
            if not isinstance(hello, protocol.Hello):
                raise protocol.WireError(f"{type(hello).__name__} is not an introduction")
        return hello

    # --- failures and the end -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _ending_on_failure(self, what: str, seconds: float) -> Any:
        """Give a deadline; end the worker on every exception, and say what happened to it."""
        try:
            yield time.monotonic() + seconds
        except ChannelLate:
            self._print_stack()
            self.kill()
            raise failures.timed_out(self.environment, what, seconds, self.log(_WITH_STACK)) from None
        except ChannelClosed:
            raise self._crash(what) from None
        except protocol.WireError as error:
            self.kill()
            raise failures.broke_protocol(self.environment, what, str(error), self.log()) from None
        except BaseException:
            self.kill()
            raise

    def _crash(self, what: str) -> WorkerCrashedError:
        """The channel ended: find out how the process did, and end it if it did not."""
        self._started.wait_for_exit(_CRASH_SECONDS)
        exited = not self._started.running
        self.kill()
        code = self._started.returncode if exited else None
        return failures.crashed(self.environment, what, code, self.log(_WITH_STACK))

    def _print_stack(self) -> None:
        """Make a worker that hangs print where it is; it answers this signal from within native code too."""
        if self._peer >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._peer, signal.SIGUSR1)
                time.sleep(0.2)


def end_all() -> None:
    """End every worker of this process; also done when it exits."""
    for worker in list(_living):
        if worker._started.owner == os.getpid():  # not in a fork of the process that started it
            worker.kill()


atexit.register(end_all)

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
import re
import signal
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from harness.environments import failures
from harness.environments.channel import Channel, ChannelClosed, ChannelLate, Listener, left
from harness.environments.command import start_command, start_variables
from harness.environments.config import Environment
from harness.environments.folders import ScratchFolder
from harness.errors import CandidateError, WorkerCrashedError
from harness.worker import protocol
from harness.worker.protocol import Answered

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


R = TypeVar("R")
_WITH_STACK = 100  # lines of the log of a worker whose stack is among them
_GRACE_SECONDS = 1.0  # between asking a process to end and ending it
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
        self._process: subprocess.Popen[bytes] | None = None
        self._log: LogTail | None = None
        self._channel: Channel | None = None
        self._lifeline: socket.socket | None = None
        self._peer = -1  # a pidfd of the worker itself, which may be a grandchild
        self._owner = os.getpid()
        self._end_guard = threading.Lock()
        self._scratch = ScratchFolder()
        _living.add(self)
        try:
            self.hello = self._start(adapter)
        except BaseException:
            self.kill()
            raise

    @property
    def folder(self) -> Path:
        """The worker's scratch folder, for models and tensor files; it goes when the worker goes."""
        return self._scratch.path

    @property
    def alive(self) -> bool:
        """Whether the worker can take a request."""
        return self._channel is not None and not self._has_exited()

    def log(self, count: int = 30) -> tuple[str, ...]:
        """The last lines that the worker printed."""
        return () if self._log is None else self._log.lines(count)

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
                self._wait_for_exit(seconds)
        self.kill()

    def kill(self) -> None:
        """End the worker and what it started, and remove its folder. Twice, and from any thread, is allowed."""
        with self._end_guard:
            self._end()

    def _end(self) -> None:
        self._end_process()
        if self._peer >= 0:  # in a container it outlives the command that started the container
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._peer, signal.SIGKILL)
            os.close(self._peer)
            self._peer = -1
        for connection in (self._channel, self._lifeline):
            if connection is not None:
                connection.close()
        self._channel = self._lifeline = None
        if self._log is not None:
            self._log.wait_for_end(_GRACE_SECONDS)
        self._scratch.remove()

    # --- start ----------------------------------------------------------------------------------------------

    def _start(self, adapter: Path | None) -> protocol.Hello:
        address = self.folder / "socket"
        with self._ending_on_failure("its start", self.environment.limits.start) as deadline:
            listener = Listener(address)
            try:
                self._spawn(start_command(self.environment, self.folder, address, adapter))
                self._channel = Channel(listener.accept(deadline, self._is_running))
                self._peer = self._channel.peer_handle()
                self._lifeline = listener.accept(deadline, self._is_running)
            finally:
                listener.close()
            hello = self._channel.receive(0, deadline)
            if not isinstance(hello, protocol.Hello):
                raise protocol.WireError(f"{type(hello).__name__} is not an introduction")
        return hello

    def _spawn(self, command: Sequence[str]) -> None:
        temporary = self.folder / "tmp"
        temporary.mkdir()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=temporary,
                env=start_variables(self.environment, os.environ) | {"TMPDIR": str(temporary)},
                start_new_session=True,
            )
        except OSError as error:
            raise failures.not_started(self.environment, error) from error
        assert self._process.stdout is not None
        self._log = LogTail(os.dup(self._process.stdout.fileno()))
        self._process.stdout.close()

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
        self._wait_for_exit(5 * _GRACE_SECONDS)
        exited = self._has_exited()
        self.kill()
        code = self._process.returncode if exited and self._process is not None else None
        return failures.crashed(self.environment, what, code, self.log(_WITH_STACK))

    def _print_stack(self) -> None:
        """Make a worker that hangs print where it is; it answers this signal from within native code too."""
        if self._peer >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._peer, signal.SIGUSR1)
                time.sleep(0.2)

    def _has_exited(self) -> bool:
        """Whether the process is dead. It is left unreaped, so that its number is nobody else's yet."""
        process = self._process
        if process is None or process.returncode is not None:
            return True
        try:
            return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # reaped by another thread this moment
            return True

    def _is_running(self) -> bool:
        return not self._has_exited()

    def _wait_for_exit(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        pause = 0.001
        while not self._has_exited() and left(deadline):
            time.sleep(pause)
            pause = min(2 * pause, 0.05)

    def _end_process(self) -> None:
        """End the whole session of the process, and reap it."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        if not self._has_exited():
            self._signal_group(process.pid, signal.SIGTERM)  # container runtimes pass this on, and only this
            self._wait_for_exit(_GRACE_SECONDS)
        self._signal_group(process.pid, signal.SIGKILL)
        process.wait()

    @staticmethod
    def _signal_group(group: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)


def end_all() -> None:
    """End every worker of this process; also done when it exits."""
    for worker in list(_living):
        if worker._owner == os.getpid():  # not in a fork of the process that started it
            worker.kill()


atexit.register(end_all)

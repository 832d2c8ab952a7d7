"""The process of a worker before it says its first word; one may be started before anybody asks for it.

TensorRT takes longer to load than harness. So a command that names an environment starts its process first of all, with
`start_ahead`, and whoever needs that worker takes it, with `take_started`. Next to nothing is imported here.
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
import tomllib
from pathlib import Path

from harness.case import find_config, read_config
from harness.environments.channel import Listener, left
from harness.environments.command import Launch, program_path, start_command, start_variables
from harness.environments.folders import ScratchFolder

_KEPT_BYTES = 128 * 1024
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_GRACE_SECONDS = 1.0  # between asking a process to end and ending it


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
        lines = (
            "".join(c for c in line if c.isprintable() or c == "\t").rstrip() for line in plain.splitlines()
        )
        return tuple([line for line in lines if line][-count:])


class StartedProcess:
    """A process, the socket that it is to connect to, and its scratch folder, which goes when it goes.

    Args:
        launch: what to start.
        adapter: a file with another adapter than the one for TensorRT.

    Raises:
        OSError: the program cannot be started.
    """

    def __init__(self, launch: Launch, adapter: Path | None = None) -> None:
        self.owner = os.getpid()
        self.log: LogTail | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: Listener | None = None
        self._scratch = ScratchFolder()
        try:
            address, temporary = self.folder / "socket", self.folder / "tmp"
            self._listener = Listener(address)
            temporary.mkdir()
            self._process = subprocess.Popen(
                start_command(launch, self.folder, address, adapter),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=temporary,
                env=start_variables(launch, os.environ) | {"TMPDIR": str(temporary)},
                start_new_session=True,
            )
            assert self._process.stdout is not None
            self.log = LogTail(os.dup(self._process.stdout.fileno()))
            self._process.stdout.close()
        except BaseException:
            self.end()
            raise

    @property
    def folder(self) -> Path:
        """The scratch folder."""
        return self._scratch.path

    @property
    def returncode(self) -> int | None:
        """How it ended, once it was reaped."""
        return None if self._process is None else self._process.returncode

    @property
    def running(self) -> bool:
        """Whether it lives. A dead one is left unreaped, so that its number is nobody else's yet."""
        process = self._process
        if process is None or process.returncode is not None:
            return False
        try:
            return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:  # reaped by another thread this moment
            return False

    def accept(self, deadline: float) -> socket.socket:
        """Its next connection: see `Listener`."""
        assert self._listener is not None
        return self._listener.accept(deadline, lambda: self.running)

    def stop_listening(self) -> None:
        """Take no more connections."""
        if self._listener is not None:
            self._listener.close()

    def wait_for_exit(self, seconds: float) -> None:
        """Wait until it is dead, or `seconds` have passed."""
        deadline = time.monotonic() + seconds
        pause = 0.001
        while self.running and left(deadline):
            time.sleep(pause)
            pause = min(2 * pause, 0.05)

    def end(self) -> None:
        """End its whole session, and remove its folder. Calling it twice is allowed."""
        self.end_process()
        self.clean_up()

    def end_process(self) -> None:
        """End its whole session, and reap it."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        if self.running:
            _signal_group(process.pid, signal.SIGTERM)  # container runtimes pass this on, and only this
            self.wait_for_exit(_GRACE_SECONDS)
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()

    def clean_up(self) -> None:
        """Read what it said to the end, and remove its folder."""
        self.stop_listening()
        if self.log is not None:
            self.log.wait_for_end(_GRACE_SECONDS)
        self._scratch.remove()


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


_ahead: dict[Launch, StartedProcess] = {}


def start_ahead(name: str) -> None:
    """Start the process of the environment called `name`, if harness.toml says plainly how.

    What is wrong with the file or the program is said by whoever asks for the worker, and a process that was started
    otherwise than that one needs it is not taken.
    """
    with contextlib.suppress(Exception):
        path = find_config()
        assert path is not None
        table = tomllib.loads(read_config(path))["environments"][name]
        program, *rest = table.get("command") or [table["python"]]
        variables = tuple(sorted(table.get("variables", {}).items()))
        memory = table.get("limits", {}).get("memory_gib")
        launch = Launch((program_path(program, path.parent), *rest), table.get("gpu", 0), variables, memory)
        _ahead[launch] = StartedProcess(launch)


def take_started(launch: Launch) -> StartedProcess | None:
    """The process that was started ahead with `launch`, once: it is the caller's now."""
    return _ahead.pop(launch, None)


@atexit.register
def end_untaken() -> None:
    """End the processes that were started ahead and that nobody took."""
    while _ahead:
        _, started = _ahead.popitem()
        if started.owner == os.getpid():  # not in a fork of the process that started it
            started.end()

"""The process that calls users' functions: what it does with each frame that it gets.

What is called is harness's own function of the module that a frame names, which then calls the user's. The process
ends when harness does, however that ends: see `_hold`.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import faulthandler
import fcntl
import importlib
import logging
import os
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.case.functions import calls, frames
from harness.case.functions.messages import Call, Filter, Raised, Reply, Request, Returned, Warned
from harness.case.functions.state import State
from harness.case.schema import Case
from harness.errors import HarnessError, InternalError, Place

UNHEARD = 113
"""Exit status of a process whose socket is closed."""
_LAST_RESORT = logging.lastResort
_MOST = 8000
"""Characters of a message, whose parts are cut already, and of a part of a traceback."""
_filters: list[Filter] = []
"""Of warnings, as harness has sent them last."""


def serve(descriptor: int, lifeline: int, trace: int) -> None:
    """Carry out what is asked for, until harness is gone.

    Args:
        descriptor: of the socket with the frames.
        lifeline: of a socket that nothing is ever sent on.
        trace: of a file; where Python was when a signal ended the process, or when it was asked with SIGUSR1.
    """
    for number in (descriptor, lifeline, trace):
        os.set_inheritable(number, False)
    _hold(lifeline)
    faulthandler.enable(trace)
    for asked in (signal.SIGUSR1, signal.SIGTERM):
        faulthandler.register(asked, trace, chain=asked != signal.SIGUSR1)
    _trace_ends(trace)
    import numpy  # noqa: F401  # what every function works with does not count as its time
    import onnx  # noqa: F401

    line = socket.socket(fileno=descriptor)
    voice, show = _Voice(line), warnings.showwarning

    def warn(message: Warning | str, category: type[Warning], file: str, number: int, *more: Any) -> None:
        if voice.is_ours:
            voice.say(Warned(calls.cut(str(message)), category.__name__, file, number))
        else:
            show(message, category, file, number, *more)

    calls.watch(voice.say)
    warnings.showwarning = warn  # type: ignore[assignment]
    state, end = State(), os._exit
    with contextlib.suppress(EOFError, ConnectionError), _ending_without(line, end):
        while True:
            frames.take_stderr(line)
            voice.say(_reply(line, state))
            if not voice.is_ours:  # the function has forked, and returned in both processes
                with contextlib.suppress(OSError, ValueError):
                    sys.stderr.flush()
                os._exit(0)


@contextlib.contextmanager
def _ending_without(line: socket.socket, end: Callable[[int], Any]) -> Iterator[None]:
    """End with UNHEARD where the function has closed the socket: nothing else can be told."""
    try:
        yield
    except OSError:
        try:
            line.getpeername()
        except OSError as error:
            if error.errno in (errno.EBADF, errno.ENOTSOCK):
                end(UNHEARD)
        raise


class _Voice:
    """Says one frame after the other to harness, whichever thread or handler of a signal speaks; a process that was
    forked from this one says nothing."""

    def __init__(self, line: socket.socket) -> None:
        self._line, self._owner = line, os.getpid()
        self._waiting: collections.deque[frames.Frame] = collections.deque()
        self._busy = threading.Lock()

    @property
    def is_ours(self) -> bool:
        """Whether this is the process that harness has started."""
        return os.getpid() == self._owner

    def say(self, reply: Reply) -> None:
        """Send a reply, or have whoever is sending do so: a handler must not wait for what it interrupts."""
        if not self.is_ours:
            return
        try:
            frame = frames.frame_of(reply)
        except Exception as error:
            frame = frames.frame_of(_raised(InternalError.of(error), None))
        self._waiting.append(frame)
        while self._waiting and self._busy.acquire(blocking=False):
            try:
                while self._waiting:
                    frames.send(self._line, self._waiting.popleft())
            finally:
                self._busy.release()


def _reply(line: socket.socket, state: State) -> Reply:
    """What is answered to the next request. A fault of harness is told as that, and never ends the process, which would
    be taken for the function's doing."""
    try:
        request = frames.receive(line, Request)
        if isinstance(request, Call):
            return Returned(_answer(request))
        _filters.clear()
        return Returned(state.restore())
    except HarnessError as error:
        return _raised(error, error.place or error.where)
    except (EOFError, ConnectionError):
        raise
    except Exception as error:
        return _raised(InternalError.of(error), None)


def _answer(call: Call) -> Any:
    os.chdir(call.folder)
    _filter_warnings(call.filters)
    sys.path[:] = call.path
    if os.environ != call.environment:
        os.environ.clear()
        os.environ.update(call.environment)
    logging.lastResort = logging.NullHandler() if call.quiet else _LAST_RESORT
    work = getattr(importlib.import_module(call.module), call.work)
    return work(Case.model_validate_json(call.case), call.name, *call.arguments)


def _filter_warnings(filters: tuple[Filter, ...]) -> None:
    """Filter warnings as harness does, so that one that is an error there is raised where the user's code warns."""
    if tuple(_filters) == filters:
        return  # new ones would have each line warn again
    _filters[:] = filters
    warnings.resetwarnings()
    for each in reversed(filters):
        category = getattr(sys.modules.get(each.home), each.category, None)
        if isinstance(category, type) and issubclass(category, Warning):
            warnings.filterwarnings(each.action, each.message, category, each.module, each.line)  # type: ignore[arg-type]


def _raised(error: HarnessError, where: Place | str | None) -> Raised:
    evidence = tuple(map(calls.cut, error.evidence)) if isinstance(error, InternalError) else ()
    trace = "".join(calls.cut(part, _MOST) for part in traceback.format_exception(error))
    return Raised(type(error).__name__, calls.cut(error.message, _MOST), where, error.hint, evidence, trace)


def _hold(lifeline: int) -> None:
    """End with harness, and end what was started here: the kernel sends the process group SIGIO when the other end of
    the lifeline closes, also while native code holds the interpreter lock; a thread looks where the kernel sends none.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    ends, end, group = select.poll(), os.killpg, os.getpgrp()
    ends.register(lifeline, select.POLLIN)

    def watch() -> None:
        ends.poll()
        end(group, signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _trace_ends(trace: int) -> None:
    """Write down where Python is before it ends itself in a way that no handler sees."""

    def traced(function: Callable[..., Any], ends: Callable[..., bool]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if ends(*arguments):
                faulthandler.dump_traceback(trace, all_threads=False)
            return function(*arguments, **named)

        return call

    owner = os.getpid()
    os._exit = traced(os._exit, lambda *_: os.getpid() == owner)
    os.kill = traced(os.kill, lambda process=0, *_: os.getpid() == owner and process in (0, owner))


def last_line(trace: str, own: Callable[[Path], bool]) -> Place | None:
    """Where the user's code was, from what faulthandler wrote: the innermost of the current thread, else of any."""
    threads = trace.split("hread 0x")[1:] or trace.split("Stack (")[1:] or [trace]
    threads.sort(key=lambda text: not trace[: trace.find(text)].endswith("Current t"))
    for thread in threads:
        for entry in thread.splitlines():
            if entry.startswith('  File "') and '", line ' in entry:
                path, _, rest = entry.removeprefix('  File "').partition('", line ')
                number = rest.partition(" ")[0]
                if number.isdigit() and own(Path(path)):
                    return Place(calls.short(path), int(number))
    return None

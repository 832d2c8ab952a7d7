"""TensorRT's log: kept for evidence, written on for whoever looks at a worker that died."""

from collections import deque
from typing import Any, Callable, Deque, List, NamedTuple, Tuple

_KEPT = 2000


class Line(NamedTuple):
    """One message of TensorRT; `severity` is `INTERNAL_ERROR`, `ERROR`, `WARNING` or `INFO`."""

    number: int
    severity: str
    text: str


class Log:
    """The last lines of TensorRT's log; `write` gets each one as it comes, except VERBOSE ones."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._lines: Deque[Line] = deque(maxlen=_KEPT)
        self._count = 0
        #: Each gets every message, VERBOSE ones too: candidate tactics are listed nowhere else.
        self.verbose_listeners: List[Callable[[str], None]] = []

    def add(self, severity: str, text: str) -> None:
        """Take one message."""
        for listener in self.verbose_listeners:
            listener(text)
        if severity == "VERBOSE":
            return
        self._lines.append(Line(self._count, severity, text))
        self._count += 1
        self._write("[TensorRT {}] {}".format(severity.lower(), text))

    def mark(self) -> int:
        """A point in the log, for `since`."""
        return self._count

    def since(self, mark: int) -> Tuple[Line, ...]:
        """The lines after `mark`, as far as they are kept."""
        return tuple(line for line in self._lines if line.number >= mark)

    def errors(self, mark: int) -> Tuple[str, ...]:
        """The errors after `mark`."""
        return tuple(line.text for line in self.since(mark) if line.severity.endswith("ERROR"))

    def tail(self, mark: int, count: int = 20) -> Tuple[str, ...]:
        """The last lines after `mark`."""
        return tuple("{}: {}".format(line.severity, line.text) for line in self.since(mark)[-count:])


def severity_name(severity: Any) -> str:
    """`WARNING` of `trt.ILogger.WARNING`; the enum of 8.5 and 8.6.0 is not built like the others."""
    return str(getattr(severity, "name", None) or str(severity).rpartition(".")[2])


def make_logger(trt: Any, log: Log) -> Any:
    """The one `trt.ILogger` of a process: TensorRT 8 keeps the first that it gets, whatever comes later."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            try:
                log.add(severity_name(severity), msg)
            except Exception:  # an exception in here would end the process
                return

    return Logger()

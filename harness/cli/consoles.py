"""Consoles of the command line, and progress: a bar on a terminal, plain lines in CI and in pipes."""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Self

from rich.console import Console

if TYPE_CHECKING:
    from harness.judge import ProgressEvent
    from harness.judge.results import RunResult


PATIENCE_SECONDS = 60.0


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line, which has a status for it; rich would exit with that of a failure."""
        raise BrokenPipeError


def make_console(stream: IO[str]) -> Console:
    """A console on `stream`: coloured and as wide as the terminal, or plain text of 100 columns."""
    width = None if stream.isatty() or "COLUMNS" in os.environ else 100
    return _Console(file=stream, width=width, highlight=False, emoji=False, markup=False)


class RunProgress:
    """Told of every step of a run: prints a line for each run that ends, and now and then for one that does not.

    Args:
        stream: where to print; None prints nothing.
        patience: seconds until a run that has not ended is told of; then twice as many, and so on.
    """

    def __init__(self, stream: IO[str] | None, *, patience: float = PATIENCE_SECONDS) -> None:
        self.done: list[RunResult] = []
        """What has ended, so that an interruption loses nothing."""
        self._stream = stream
        self._patience = patience
        self._guard = threading.Lock()
        self._waiting: dict[str, _Waiting] = {}
        self._over = threading.Event()

    def __enter__(self) -> Self:
        if self._stream is not None:
            threading.Thread(target=self._watch, name="progress", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        """Tell of what takes long: a log that is silent for minutes looks like a run that hangs."""
        while not self._over.wait(self._patience / 4):
            now = time.monotonic()
            with self._guard:
                for each in self._waiting.values():
                    if now >= each.since + each.patience:
                        each.patience *= 2
                        print(each.told(now), file=self._stream, flush=True)

    def __call__(self, event: ProgressEvent) -> None:
        """Take note of a step."""
        run = f"{event.case} {event.precision} {event.candidate}"
        with self._guard:
            if event.kind == "done":
                self._waiting.pop(run, None)
            elif event.kind == "start" or run not in self._waiting:
                self._waiting[run] = _Waiting(event, time.monotonic(), self._patience)
            else:
                self._waiting[run].event = event
        if event.result is None:
            return
        self.done.append(event.result)
        # A single run is told by the report itself, at once.
        if self._stream is not None and event.total > 1:
            place = f"{event.index + 1:{len(str(event.total))}}/{event.total}"
            print(f"[{place}] {_ended(event.result)}", file=self._stream, flush=True)


@dataclass
class _Waiting:
    event: ProgressEvent
    since: float
    patience: float

    def told(self, now: float) -> str:
        from harness.report.words import duration

        place = f"{self.event.index + 1:{len(str(self.event.total))}}/{self.event.total}"
        return f"[{place}] {_under_way(self.event)}, {duration(now - self.since)} so far"


class BarProgress(RunProgress):
    """A bar on a terminal, gone when the runs end."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        super().__init__(None)
        self._progress = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, event: ProgressEvent) -> None:
        """Move the bar."""
        super().__call__(event)
        description = _under_way(event)
        self._progress.update(
            self._task, total=event.total, completed=len(self.done), description=description
        )


def make_progress(*, quiet: bool) -> RunProgress:
    """The progress display that fits stderr: none, a bar, or lines."""
    if quiet:
        return RunProgress(None)
    if sys.stderr.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb":
        return BarProgress(make_console(sys.stderr))
    return RunProgress(sys.stderr)


def _under_way(event: ProgressEvent) -> str:
    from harness.report.words import middle

    where = "" if event.candidate == "emulator" else f" on {event.candidate}"
    stage = f": {event.stage}" if event.stage else ""
    return f"{middle(event.case, 32)} at {event.precision}{where}{stage}"


def _ended(result: RunResult) -> str:
    from harness.report.view import worst_error
    from harness.report.words import LOOKS, duration, number, title

    worst = worst_error(result)
    error = "" if worst is None else f", nrmse {number(worst)}"
    seconds = result.timings.get("total")
    took = "" if seconds is None else f" ({duration(seconds)})"
    looked = ", perturbed by looking" if result.faithful is False else ""
    return f"{title(result)}: {LOOKS[result.verdict].word}{error}{looked}{took}"

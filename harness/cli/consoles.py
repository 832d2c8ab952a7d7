"""Consoles of the command line, and progress: a bar on a terminal, plain lines in CI and in pipes."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import IO, TYPE_CHECKING, Self

from rich.console import Console

from harness.cli.heartbeat import PATIENCE_SECONDS, Heartbeat

if TYPE_CHECKING:
    from harness.judge import ProgressEvent, RunResult


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
        patience: seconds until a run that has not ended is told of.
    """

    def __init__(self, stream: IO[str] | None, *, patience: float = PATIENCE_SECONDS) -> None:
        self.done: list[RunResult] = []
        """What has ended, so that an interruption loses nothing."""
        self._stream = stream
        self._heartbeat = Heartbeat(stream, patience=patience)

    def __enter__(self) -> Self:
        self._heartbeat.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._heartbeat.__exit__()

    def __call__(self, event: ProgressEvent) -> None:
        """Take note of a step."""
        run = f"{event.case} {event.precision} {event.candidate}"
        if event.kind == "done":
            self._heartbeat.ends(run)
        elif event.kind == "start":
            self._heartbeat.begins(run, partial(_waiting, event))
        else:
            self._heartbeat.goes_on(run, partial(_waiting, event))
        if event.result is None:
            return
        self.done.append(event.result)
        # A single run is told by the report itself, at once.
        if self._stream is not None and event.total > 1:
            print(f"{_place(event)} {_ended(event.result)}", file=self._stream, flush=True)


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


def _place(event: ProgressEvent) -> str:
    return f"[{event.index + 1:{len(str(event.total))}}/{event.total}]"


def _waiting(event: ProgressEvent, seconds: float) -> str:
    from harness.text import duration

    return f"{_place(event)} {_under_way(event)}, {duration(seconds)} so far"


def _under_way(event: ProgressEvent) -> str:
    from harness.text import shorten

    where = "" if event.candidate == "emulator" else f" on {event.candidate}"
    stage = f": {event.stage}" if event.stage else ""
    return f"{shorten(event.case, 32)} at {event.precision}{where}{stage}"


def _ended(result: RunResult) -> str:
    from harness.report import LOOKS, title, worst_error
    from harness.text import duration, number

    worst = worst_error(result)
    error = "" if worst is None else f", nrmse {number(worst)}"
    seconds = result.timings.get("total")
    took = "" if seconds is None else f" ({duration(seconds)})"
    looked = ", perturbed by looking" if result.faithful is False else ""
    return f"{title(result)}: {LOOKS[result.verdict].word}{error}{looked}{took}"

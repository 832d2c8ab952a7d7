"""Consoles and progress: a live line at a terminal, plain lines in CI and in pipes.

A log that is silent for minutes looks like a command that hangs. So plain lines come with a reminder of what has been
under way for long, and another one each time that it has taken twice as long.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Self, TypeVar

from harness.text import duration, number, plural, shorten

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

    from harness.diagnosis import DiagnosisEvent
    from harness.judge import RunEvent, RunResult

FIRST_REMINDER_SECONDS = 60.0


def make_console(stream: IO[str]) -> Console:
    """A console on `stream`: coloured and as wide as the terminal, or plain text of 100 columns."""
    from rich.console import Console

    class PlainConsole(Console):
        def on_broken_pipe(self) -> None:
            """Leave it to the command line, which has a status for it; rich would exit with that of a failure."""
            raise BrokenPipeError

    width = None if stream.isatty() or "COLUMNS" in os.environ else 100
    return PlainConsole(file=stream, width=width, highlight=False, emoji=False, markup=False)


@dataclass
class _Pending:
    text: str
    more: str
    since: float
    remind_after: float


class _Reminders:
    """Prints a line for what has been under way for `first` seconds, and again whenever that time has doubled."""

    def __init__(self, stream: IO[str], first: float) -> None:
        self._stream = stream
        self._first = first
        self._guard = threading.Lock()
        self._pending: dict[str, _Pending] = {}
        self._over = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._watch, name="reminders", daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def set(self, key: str, text: str, more: str = "", *, restart: bool) -> None:
        """`key` is under way: `{text}, 12 s so far{more}`; `restart` counts the seconds anew."""
        with self._guard:
            known = None if restart else self._pending.get(key)
            since, after = (
                (time.monotonic(), self._first) if known is None else (known.since, known.remind_after)
            )
            self._pending[key] = _Pending(text, more, since, after)

    def remove(self, key: str) -> None:
        """`key` has ended."""
        with self._guard:
            self._pending.pop(key, None)

    def _watch(self) -> None:
        while not self._over.wait(self._first / 4):
            now = time.monotonic()
            with self._guard:
                for each in self._pending.values():
                    if now >= each.since + each.remind_after:
                        each.remind_after *= 2
                        took = duration(now - each.since)
                        print(f"{each.text}, {took} so far{each.more}", file=self._stream, flush=True)


class _Progress(ABC):
    """Shows steps as they happen, from entering to leaving the context.

    Args:
        stream: gets plain lines.
        terminal: gets a live line instead; with neither there is no display.
        first_reminder: seconds until a line says that a step is still under way.
    """

    def __init__(
        self,
        stream: IO[str] | None = None,
        *,
        terminal: Console | None = None,
        first_reminder: float = FIRST_REMINDER_SECONDS,
    ) -> None:
        self._stream = stream
        self._live: Progress | None = None
        if terminal is not None:
            from rich.progress import Progress

            self._live = Progress(*self._columns(), console=terminal, transient=True)
            self._task = self._live.add_task("", total=None, spent="")
        self._reminders = None if self._stream is None else _Reminders(self._stream, first_reminder)

    @abstractmethod
    def _columns(self) -> tuple[ProgressColumn, ...]:
        """The columns of the live line."""

    def __enter__(self) -> Self:
        for display in (self._live, self._reminders):
            if display is not None:
                display.start()
        return self

    def __exit__(self, *_: object) -> None:
        for display in (self._live, self._reminders):
            if display is not None:
                display.stop()

    def _print(self, line: str) -> None:
        if self._stream is not None:
            print(line, file=self._stream, flush=True)

    def _remind(self, key: str, text: str, more: str = "", *, restart: bool = True) -> None:
        if self._reminders is not None:
            self._reminders.set(key, text, more, restart=restart)


class RunProgress(_Progress):
    """Shows the runs of cases: a bar, or a line for each run that ends."""

    def __init__(
        self,
        stream: IO[str] | None = None,
        *,
        terminal: Console | None = None,
        first_reminder: float = FIRST_REMINDER_SECONDS,
    ) -> None:
        super().__init__(stream, terminal=terminal, first_reminder=first_reminder)
        self._ended: list[tuple[int, RunResult]] = []

    @property
    def done(self) -> tuple[RunResult, ...]:
        """What has ended, in the order of the runs, so that an interruption loses nothing."""
        return tuple(result for _, result in sorted(self._ended, key=lambda each: each[0]))

    @property
    def count(self) -> int:
        """How many runs have ended."""
        return len(self._ended)

    def _columns(self) -> tuple[ProgressColumn, ...]:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

        text = TextColumn("{task.description}", markup=False)
        return BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(), text

    def __call__(self, event: RunEvent) -> None:
        """Show a step of a run."""
        run = f"{event.case} {event.precision} {event.candidate}"
        if event.result is not None:
            self._ended.append((event.index, event.result))
            if self._reminders is not None:
                self._reminders.remove(run)
            if event.total > 1:  # the report shows a single run at once
                self._print(f"{_position(event)} {_ended(event.result)}")
        else:
            self._remind(run, f"{_position(event)} {_doing(event)}", restart=event.kind == "start")
        if self._live is not None:
            self._live.update(
                self._task, total=event.total, completed=len(self._ended), description=_doing(event)
            )


class StageProgress(_Progress):
    """Shows the stages of a diagnosis: a live line with what was spent and who is suspected, or a line a stage."""

    _printed: tuple[str, str] | None = None

    def _columns(self) -> tuple[ProgressColumn, ...]:
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        text = TextColumn("{task.description}", markup=False)
        spent = TextColumn("{task.fields[spent]}", style="dim", markup=False)
        return SpinnerColumn(), text, TimeElapsedColumn(), spent

    def __call__(self, event: DiagnosisEvent) -> None:
        """Show a step of a stage."""
        step = (event.stage, event.text)
        self._remind("stage", str(event), f", {spent(event)}", restart=step != self._printed)
        if step != self._printed:
            self._printed = step
            self._print(str(replace(event, detail="")))
        if self._live is not None:
            self._live.update(self._task, description=str(event), spent=spent(event))


class CheckProgress(_Progress):
    """Shows what is being checked: a live line, or a line for what takes long."""

    def _columns(self) -> tuple[ProgressColumn, ...]:
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        return SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()

    def __call__(self, text: str) -> None:
        """Show a step."""
        self._remind("check", text)
        if self._live is not None:
            self._live.update(self._task, description=text)


P = TypeVar("P", bound=_Progress)


def make_progress(kind: type[P], *, quiet: bool) -> P:
    """The display that fits stderr: none, a live line, or plain lines."""
    if quiet:
        return kind()
    if sys.stderr.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb":
        return kind(terminal=make_console(sys.stderr))
    return kind(sys.stderr)


def _position(event: RunEvent) -> str:
    return f"[{event.index + 1:{len(str(event.total))}}/{event.total}]"


def _doing(event: RunEvent) -> str:
    where = "" if event.candidate == "emulator" else f" on {event.candidate}"
    stage = f": {event.stage}" if event.stage else ""
    return f"{shorten(event.case, 32)} at {event.precision}{where}{stage}"


def _ended(result: RunResult) -> str:
    from harness.judge import Verdict
    from harness.report import LOOKS, deciding_error, title

    worst = deciding_error(result)
    error = "" if worst is None else f", nrmse {number(worst)}"
    seconds = result.timings.get("total")
    took = "" if seconds is None else f" ({duration(seconds)})"
    perturbed = ", perturbed by observation" if result.faithful is False else ""
    compiled = result.verdict is Verdict.PASS and not result.outputs  # nothing ran that could pass
    word = "compiled" if compiled else LOOKS[result.verdict].word
    return f"{title(result)}: {word}{error}{perturbed}{took}"


def spent(event: DiagnosisEvent) -> str:
    """`12 emulations, 2 builds, 5 suspects, about 3 to go (b7_sq, b7_mean …)`."""
    parts = [
        plural(event.emulations, "emulation"),
        plural(event.builds, "build") if event.builds else None,
        None if event.suspects is None else plural(event.suspects, "suspect"),
        None if event.remaining is None else f"about {event.remaining} to go",
    ]
    text = ", ".join(filter(None, parts))
    if event.suspected:
        more = " …" if len(event.suspected) > 3 else ""
        text += f" ({', '.join(event.suspected[:3])}{more})"
    return text

"""`harness diagnose`: from a case that fails to its culprits, and to files to act on."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Self

import typer

from harness.cli.consoles import make_console
from harness.cli.heartbeat import PATIENCE_SECONDS, Heartbeat
from harness.cli.options import REPORTS, OnePrecision, OneTarget, PageFile, Shapes
from harness.cli.run import parse_shapes
from harness.cli.writable import STDOUT, check_files, check_folder
from harness.errors import UsageError
from harness.text import command

if TYPE_CHECKING:
    from rich.console import Console

    from harness.diagnosis import Diagnosis, ProgressEvent

app = typer.Typer(add_completion=False)

LIMITS = "Limits"


@app.command()
def diagnose(
    target: OneTarget,
    precision: OnePrecision = None,
    environment: Annotated[
        str | None,
        typer.Option("--env", "-e", metavar="NAME", help="Diagnose the engine of this environment."),
    ] = None,
    inputs: Shapes = None,
    max_builds: Annotated[
        int | None,
        typer.Option(metavar="N", help="Build no more engines than this (64).", rich_help_panel=LIMITS),
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Take no longer than this; with --resume the clock starts again.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where an earlier diagnosis stopped.", rich_help_panel=LIMITS),
    ] = False,
    prove: Annotated[
        bool,
        typer.Option(
            "--prove",
            help="Spend a build a culprit on the proof that the engine needs it.",
            rich_help_panel=LIMITS,
        ),
    ] = False,
    details: Annotated[bool, typer.Option("--details", "-v", help="Show all the evidence.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write everything to act on: recipes, a typed model, a repro, reports.",
            rich_help_panel=REPORTS,
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Write the diagnosis as JSON; - is stdout, with nothing else on it.",
            rich_help_panel=REPORTS,
        ),
    ] = None,
    html_file: PageFile = None,
    markdown_file: Annotated[
        Path | None,
        typer.Option("--markdown", metavar="FILE", help="Write a bug report.", rich_help_panel=REPORTS),
    ] = None,
) -> None:
    """Say what is wrong with a case that fails: what kind of fault, where it starts, why, and what cures it.

    Without --env the candidate is the emulator: it needs no GPU. Exit status: 0 nothing is wrong, 1 a fault was
    found, 3 a build or a worker failed, 4 unexplained within the limits.
    """
    from harness.diagnosis import Options
    from harness.diagnosis import diagnose as find

    files = Files(out, json_file, html_file, markdown_file)
    files.check()
    shapes = parse_shapes(inputs or ())
    try:
        with make_progress(quiet=quiet) as progress:
            diagnosis = find(
                target,
                precision=precision,
                environment=environment,
                inputs=shapes,
                max_builds=max_builds,
                max_seconds=max_seconds,
                resume=resume,
                out=out,
                progress=progress,
                options=Options(prove=prove, growth=files.wants_layers),
            )
    except KeyboardInterrupt:
        print(f"go on with: {_again()}", file=sys.stderr)
        raise
    from harness.report import print_diagnosis

    console = make_console(sys.stderr if json_file == STDOUT else sys.stdout)
    print_diagnosis(console, diagnosis, details=details)
    files.write(diagnosis, console)
    raise typer.Exit(diagnosis.exit_code)


def _again() -> str:
    """The command that was given, to be resumed."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
    return command("harness", *arguments, "--resume")


class Files:
    """The files that are asked for.

    Args:
        out: the folder that gets all of them.
        json: a JSON file, or `-`.
        html: a page.
        markdown: a bug report.
    """

    def __init__(self, out: Path | None, json: Path | None, html: Path | None, markdown: Path | None) -> None:
        self.out, self.json = out, json
        self._there = {} if out is None or not out.is_dir() else _changed(out)
        self.pages = [file for file in (html, None if out is None else out / "diagnosis.html") if file]
        self.reports = [file for file in (markdown, None if out is None else out / "diagnosis.md") if file]

    @property
    def wants_layers(self) -> bool:
        """Whether anything is asked for that shows every layer."""
        return bool(self.pages) or self.json is not None

    def check(self) -> None:
        """Find what cannot be written before anything is run.

        Raises:
            UsageError: one of them cannot be written.
        """
        check_folder(self.out)
        check_files(self.json, *self.pages, *self.reports)

    def write(self, diagnosis: Diagnosis, console: Console) -> None:
        """Write every file, each at once or not at all.

        Raises:
            UsageError: a file cannot be written.
        """
        from harness.diagnosis import document
        from harness.report import diagnosis_markdown as markdown
        from harness.report import diagnosis_page as html_page
        from harness.tensors import write_text

        try:
            if self.json == STDOUT:
                print(document(diagnosis))
            elif self.json is not None:
                write_text(self.json, document(diagnosis) + "\n")
            for file in self.pages:
                write_text(file, html_page(diagnosis))
            for file in self.reports:
                write_text(file, markdown(diagnosis))
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UsageError(f"cannot be written: {error.strerror}", where=error.filename) from error
        if self.out is not None:
            written = _changed(self.out).items() - self._there.items()  # others may use the folder, too
            names = sorted(name for name, _ in written)
            console.print(f"  files  {self.out}: {', '.join(names)}", soft_wrap=True)


def _changed(folder: Path) -> dict[str, int]:
    """What lies in `folder`, and when it was last changed, in nanoseconds; a folder with the newest of its files."""

    def newest(path: Path) -> int:
        inside = path.rglob("*") if path.is_dir() else ()
        return max(each.stat().st_mtime_ns for each in (path, *inside))

    return {path.name + ("/" if path.is_dir() else ""): newest(path) for path in folder.iterdir()}


class Lines:
    """Told of every step: prints a line for each stage, and now and then for one that takes long.

    Args:
        stream: where to print; None prints nothing.
        patience: seconds until a stage that has not ended is told of.
    """

    def __init__(self, stream: IO[str] | None, *, patience: float = PATIENCE_SECONDS) -> None:
        self._stream = stream
        self._said = ""
        self._heartbeat = Heartbeat(stream, patience=patience)

    def __enter__(self) -> Self:
        self._heartbeat.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._heartbeat.__exit__()

    def __call__(self, event: ProgressEvent) -> None:
        """Say what is new."""
        said = f"[{event.stage}] {event.text}".split(":")[0]
        if said == self._said:
            self._heartbeat.goes_on("stage", partial(_waiting, event))
            return
        self._said = said
        self._heartbeat.begins("stage", partial(_waiting, event))
        if self._stream is not None:
            print(said, file=self._stream, flush=True)


class Live(Lines):
    """A line on a terminal that says what goes on, what was spent and who is suspected; gone when it ends."""

    def __init__(self, console: Console) -> None:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        super().__init__(None)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[spent]}", style="dim", markup=False),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, spent="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, event: ProgressEvent) -> None:
        """Renew the line."""
        self._progress.update(self._task, description=f"[{event.stage}] {event.text}", spent=spent(event))


def _waiting(event: ProgressEvent, seconds: float) -> str:
    from harness.text import duration

    return f"[{event.stage}] {event.text}, {duration(seconds)} so far, {spent(event)}"


def spent(event: ProgressEvent) -> str:
    """`12 emulations, 2 builds, 5 suspects: b7_sq, b7_mean …, about 3 to go`."""
    parts = [f"{event.emulations} emulations"]
    if event.builds:
        parts.append(f"{event.builds} builds")
    if event.suspects is not None:
        parts.append(f"{event.suspects} suspects")
    if event.remaining is not None:
        parts.append(f"about {event.remaining} to go")
    text = ", ".join(parts)
    if event.suspected:
        more = " …" if len(event.suspected) > 3 else ""
        text += f" ({', '.join(event.suspected[:3])}{more})"
    return text


def make_progress(*, quiet: bool) -> Lines:
    """The progress display that fits stderr: none, a live line, or a line a stage."""
    if quiet:
        return Lines(None)
    if sys.stderr.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb":
        return Live(make_console(sys.stderr))
    return Lines(sys.stderr)

"""`harness history`: the runs that are kept, their reports, and the rows for other tools."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.consoles import make_console
from harness.cli.drift import DriftFiles, tell, write_table
from harness.errors import HistoryError, NothingSelectedError, UsageError

if TYPE_CHECKING:
    from harness.history import RunInfo

app = typer.Typer(no_args_is_help=True, add_completion=False)

Folder = Annotated[Path, typer.Option("--history", metavar="DIR", help="Folder of the history.")]
HISTORY = Path("reports/history")
#: Nights come a day apart, but for what schedulers are late by: a run this old is likely to be last night's.
STALE = datetime.timedelta(hours=23)
#: By how much the clocks of machines that share a history may differ.
SKEW = datetime.timedelta(minutes=5)


@app.callback()
def _history() -> None:
    """List, show and export the runs that `harness drift` keeps."""


@app.command("list")
def list_(folder: Folder = HISTORY) -> None:
    """List the runs, the newest last."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from harness.history import runs_at
    from harness.report import short

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", show_edge=False)
    for name in ("run", "releases", "cases", "builds", "state", "size"):
        table.add_column(name, no_wrap=name != "releases", justify="right" if name == "size" else "left")
    for info in runs_at(folder):
        size = sum(path.stat().st_size for path in info.files)
        releases = " → ".join(short(name) for name in info.releases)
        state = "finished" if info.finished else "interrupted"
        table.add_row(
            info.run, releases, str(len(info.cases)), str(info.repeats), state, f"{size / 1e6:.1f} MB"
        )
    make_console(sys.stdout).print(table)


@app.command()
def show(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="A run's id, its beginning, or its file; by default the newest. Or a folder, for its newest.",
        ),
    ] = None,
    folder: Folder = HISTORY,
    release: Annotated[
        str | None, typer.Option("--env", "-e", metavar="RELEASE", help="Nights of this environment.")
    ] = None,
    last: Annotated[
        int | None,
        typer.Option(
            "--last", metavar="N", help="Hold the newest run against the N before it, and seek steps."
        ),
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write one self-contained page.")
    ] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write a summary.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON; - is stdout.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show only what moved.")] = False,
) -> None:
    """Show a run again, or with --last the newest night against those before it.

    Exit status as that of `harness drift`.
    """
    from harness.history import nightly_report, report_of

    files = DriftFiles(json_file, html_file, markdown_file)
    files.check()
    if run is not None and Path(run).is_dir():
        folder, run = Path(run), None
    if last is not None:
        if run is not None:
            raise UsageError("--last is about the newest run; leave the run out")
        if last < 1:
            raise UsageError(f"--last needs one run or more, not {last}")
        report = nightly_report(folder, release=release, last=last)
        if report.time is not None and (doubt := doubt_age(report.time, datetime.datetime.now(datetime.UTC))):
            print(f"warning: {report.run}, the newest run, {doubt}", file=sys.stderr)
    else:
        if release is not None:
            raise UsageError("--env chooses the nights of --last", hint="add --last 30")
        info = find_run(folder, run)
        if len(info.releases) < 2:
            raise UsageError(
                "this run has one release", where=info.run, hint="hold it against earlier ones: --last 30"
            )
        if not info.finished:
            print(f"{info.run} was interrupted: this is what it had judged", file=sys.stderr)
        report = report_of(info)
    tell(report, files, brief=quiet, seconds=None)
    raise typer.Exit(report.exit_code)


@app.command()
def export(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="A .csv or a .parquet to write.")],
    folder: Folder = HISTORY,
    last: Annotated[int | None, typer.Option("--last", metavar="N", help="Only the newest N runs.")] = None,
    case: Annotated[str | None, typer.Option("--case", metavar="GLOB", help="Only these cases.")] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="NAME", help="Only this column; may be repeated."),
    ] = None,
) -> None:
    """Write the rows of the history as one table, for pandas, a spreadsheet or a database."""
    from fnmatch import fnmatchcase

    from harness.history import load_history

    DriftFiles(tables=(out,)).check()
    wanted = list(dict.fromkeys([*(columns or ()), *(["case"] if columns and case else [])])) or None
    frame = load_history(folder, columns=wanted, last=last)
    if case is not None:
        names = frame["case"].astype(str)
        frame = frame[names.map(lambda name: fnmatchcase(name, case))]
        if frame.empty:
            raise NothingSelectedError(f"no case of the history is called {case!r}", where=folder)
    write_table(frame[columns] if columns else frame, out)
    print(f"{len(frame)} rows of {folder} in {out}", file=sys.stderr)


def doubt_age(started: datetime.datetime, now: datetime.datetime) -> str | None:
    """Why a run that began at `started` may not be the one that is meant; None if nothing says so."""
    age = now - started
    if age < -SKEW:
        return f"began in the future, at {started:%Y-%m-%d %H:%M} UTC: runs of today come before it"
    if age > STALE:
        hours = int(age.total_seconds() // 3600)
        ago = f"{hours} hours" if hours < 48 else f"{hours // 24} days"
        return f"began {ago} ago: if there should be one of today, it did not end"
    return None


def find_run(folder: Path, text: str | None) -> RunInfo:
    """The run that `text` stands for; for None the newest that is finished.

    Raises:
        HistoryError: there is none, or several.
    """
    from harness.history import runs_at

    path = Path(text or "")
    if text is not None and path.is_file():
        return runs_at(path)[0]
    runs = runs_at(folder)
    found = [info for info in runs if (info.finished if text is None else info.run.startswith(text))]
    if not found:
        which = "finished run" if text is None else f"run {text}"
        raise HistoryError(f"has no {which}", where=folder, hint="harness history list")
    if text is not None and len(found) > 1:
        raise HistoryError(
            f"{text!r} is the beginning of {len(found)} runs", where=folder, hint="give more of it"
        )
    return found[-1]

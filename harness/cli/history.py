"""`harness history`: past runs of `harness drift`, their reports, and their rows for other tools."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.drift import show_report
from harness.cli.options import HtmlFile, JsonFile, MarkdownFile, history_option, history_path, path_argument
from harness.cli.outputs import Outputs, write_table
from harness.cli.progress import make_console
from harness.errors import HistoryError, NothingSelectedError, UsageError
from harness.text import plural

if TYPE_CHECKING:
    from harness.history import RunInfo

app = typer.Typer(no_args_is_help=True, add_completion=False)

Folder = Annotated[Path, history_option("The folder of the history, or its URL in a store.")]
HISTORY = Path("reports/history")
STALE = datetime.timedelta(hours=23)
"""Nightly runs come a day apart, give or take a late scheduler: a run this old is likely from last night."""
SKEW = datetime.timedelta(minutes=5)
"""How far apart the clocks of machines that share a history may be."""


@app.callback()
def _history() -> None:
    """List, show and export past runs of `harness drift`."""


@app.command("list")
def list_(folder: Folder = HISTORY) -> None:
    """List the runs, newest last."""
    from harness.history import runs_at
    from harness.report import make_table, short

    columns = ("run", "releases", "cases", "builds", "state", "size")
    table = make_table(*columns, numbers=["size"], whole=[name for name in columns if name != "releases"])
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
            metavar="RUN",
            help="A run's id or the start of it, its file, or a folder for its newest run. Default: the newest.",
        ),
    ] = None,
    folder: Folder = HISTORY,
    release: Annotated[
        str | None, typer.Option("--env", "-e", metavar="RELEASE", help="Only runs of this environment.")
    ] = None,
    last: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Compare the newest run with the N before it, and look for steps."
        ),
    ] = None,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
    markdown_file: MarkdownFile = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show only what changed and the summary.")
    ] = False,
) -> None:
    """Show a run again or, with --last, compare the newest run with those before it.

    The exit status is that of `harness drift`.
    """
    from harness.history import nightly_report, report_of

    outputs = Outputs(json_file, html_file, markdown_file)
    outputs.check()
    if run is not None and history_path(run).is_dir():
        folder, run = history_path(run), None
    if last is not None:
        if run is not None:
            raise UsageError("--last compares the newest run; leave the run out")
        report = nightly_report(folder, release=release, last=last)
        if report.time is not None and (doubt := doubt_age(report.time, datetime.datetime.now(datetime.UTC))):
            print(f"warning: {report.run}, the newest run, {doubt}", file=sys.stderr)
    else:
        if release is not None:
            raise UsageError("--env needs --last", hint="add --last 30")
        info = find_run(folder, run)
        if len(info.releases) < 2:
            raise UsageError(
                "this run has only one release",
                where=info.run,
                hint="compare it with earlier ones: --last 30",
            )
        if not info.finished:
            print(f"{info.run} was interrupted: these are its results so far", file=sys.stderr)
        report = report_of(info)
    show_report(report, outputs, brief=quiet)
    raise typer.Exit(report.exit_code)


@app.command()
def export(
    out: Annotated[Path, path_argument("FILE", "The .csv or .parquet file to write.")],
    folder: Folder = HISTORY,
    last: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only export the newest N runs.")
    ] = None,
    case: Annotated[
        str | None, typer.Option("--case", metavar="GLOB", help="Only export these cases.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="NAME", help="Only export this column. Repeatable."),
    ] = None,
) -> None:
    """Write the rows of the history as one table, for pandas, a spreadsheet or a database."""
    from fnmatch import fnmatchcase

    from harness.history import load_history

    Outputs(tables=(out,)).check()
    wanted = list(dict.fromkeys([*(columns or ()), *(["case"] if columns and case else [])])) or None
    frame = load_history(folder, columns=wanted, last=last)
    if frame.empty:
        raise HistoryError("holds no row that this version of harness reads", where=folder)
    if case is not None:
        names = frame["case"].astype(str)
        frame = frame[names.map(lambda name: fnmatchcase(name, case))]
        if frame.empty:
            hint = f"the cases are {', '.join(sorted(names.unique()))}"
            raise NothingSelectedError(f"no case in the history matches {case!r}", where=folder, hint=hint)
    write_table(frame[columns] if columns else frame, out)
    print(f"wrote {plural(len(frame), 'row')} of {folder} to {out}", file=sys.stderr)


def doubt_age(started: datetime.datetime, now: datetime.datetime) -> str | None:
    """Why a run that began at `started` may not be the expected one; None if nothing says so."""
    age = now - started
    if age < -SKEW:
        return f"began in the future, at {started:%Y-%m-%d %H:%M} UTC: runs of today sort before it"
    if age > STALE:
        hours = int(age.total_seconds() // 3600)
        ago = plural(hours, "hour") if hours < 48 else plural(hours // 24, "day")
        return f"began {ago} ago: if there should be one from today, it did not finish"
    return None


def find_run(folder: Path, text: str | None) -> RunInfo:
    """The run that `text` names; for None the newest finished one.

    Raises:
        HistoryError: there is none, or there are several.
    """
    from harness.history import runs_at

    path = history_path(text or "")
    if text is not None and path.is_file():
        return runs_at(path)[0]
    runs = runs_at(folder)
    found = [info for info in runs if (info.finished if text is None else info.run.startswith(text))]
    if not found:
        which = "finished run" if text is None else f"run {text}"
        hint = (
            "`harness history list` shows what there is" if runs else "`harness drift` keeps its runs in it"
        )
        raise HistoryError(f"has no {which}", where=folder, hint=hint)
    if text is not None and len(found) > 1:
        raise HistoryError(
            f"{text!r} is the start of {len(found)} run ids", where=folder, hint="type more of it"
        )
    return found[-1]

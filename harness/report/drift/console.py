"""The drift report on a terminal or in a CI log: table, what moved and where it starts, summary."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.history import DriftReport, RunDrift
from harness.report.drift.lines import changes_line, coverage_lines, engines_line, only_compiled, run_line
from harness.report.drift.view import explain, first_origin, is_remarkable
from harness.report.drift.words import answer, look_of, remarks, summary, title, tone_of, verdict_text
from harness.report.words import is_plain, make_table, print_statements, short
from harness.text import number, ratio, shorten

MOST_EXPLAINED = 10
WIDE = 110  # columns that the table needs to name tensors, too


def print_drift(
    console: Console, report: DriftReport, *, brief: bool = False, seconds: float | None = None
) -> None:
    """Print the table of runs, what moved and where it starts, and the summary.

    Args:
        console: where to print.
        report: the drift.
        brief: leave out the table.
        seconds: how long it took.
    """
    plain = is_plain(console)
    if not brief:
        console.print(_table(report, console.width, plain))
        console.print()
    remarkable = [run for run in report.worst_first() if is_remarkable(run)]
    for run in remarkable[:MOST_EXPLAINED]:
        _print_run(console, run, plain, several=len(report.newer) > 1)
        console.print()
    if len(remarkable) > MOST_EXPLAINED:
        console.print(Text(f"and {len(remarkable) - MOST_EXPLAINED} more runs: see --html or --json\n"))
    _print_steps(console, report, plain)
    console.print(Text(run_line(report), style="dim"), soft_wrap=True)
    if changes := changes_line(report, plain=plain):
        console.print(Text(changes, style="yellow"), soft_wrap=True)
    console.print(Text(answer(report), style=_STYLES[tone_of(report)]), soft_wrap=True)
    for label, text in coverage_lines(report):
        console.print(Text.assemble((label, "yellow"), f" {text}"), soft_wrap=True)
    if engines := engines_line(report):
        console.print(Text(engines, style="yellow"), soft_wrap=True)
    console.print(Text(summary(report, seconds)), soft_wrap=True)


_STYLES = {"bad": "bold red", "calm": "bold yellow", "good": "bold green"}


def _print_steps(console: Console, report: DriftReport, plain: bool) -> None:
    creeping = [(one, one.creep) for one in report.series if one.creep is not None]
    for one, creep in sorted(creeping, key=lambda item: item[1].ratio, reverse=True)[:MOST_EXPLAINED]:
        where = f"{one.case} at {one.precision}, {one.tensor} [{one.sample}]"
        text = f" {where}: {ratio(creep.ratio)} over {creep.nights} nights"
        console.print(Text.assemble(("creep", "yellow"), text), soft_wrap=True)
    stepped = [one for one in report.series if one.creep is None]
    found = [(one.night(step), one, step) for one in stepped for step in one.steps or ()]
    arrow = "->" if plain else "→"
    for night, one, step in sorted(found, key=lambda item: item[0], reverse=True)[:MOST_EXPLAINED]:
        levels = f"{number(step.before)} {arrow} {number(step.after)}"
        where = f"{one.case} at {one.precision}, {one.tensor} [{one.sample}]"
        console.print(Text.assemble(("step", "yellow"), f" {where}: {levels} since {night}"), soft_wrap=True)


def _table(report: DriftReport, width: int, plain: bool) -> Table:
    several, measured = len(report.newer) > 1, not only_compiled(report)
    table = make_table()
    table.add_column("case", no_wrap=True)
    table.add_column("precision", no_wrap=True)
    if several:
        table.add_column("release", no_wrap=True)
    table.add_column("drift", no_wrap=True)
    if measured:
        table.add_column("error", no_wrap=True)
        if width >= WIDE:
            table.add_column("tensor", overflow="fold")
        table.add_column("starts at", overflow="fold")
    previous = None
    for run in report.runs:
        look, worst = look_of(run), run.worst
        verdict = verdict_text(run, plain=plain, brief=True)
        row = [shorten(run.case, 28) if run.case != previous else "", str(run.precision)]
        previous = run.case
        if several:
            row.append(short(run.new, 20))
        cells: list[str | Text] = [*row, Text(verdict, style=look.style)]
        if measured:
            arrow = "->" if plain else "→"
            cells.append("" if worst is None else f"{number(worst.old)} {arrow} {number(worst.new)}")
            if width >= WIDE:
                cells.append("" if worst is None else shorten(worst.tensor, 28))
            cells.append(Text(shorten(first_origin(run), 32), style=look.style))
        table.add_row(*cells)
    return table


def _print_run(console: Console, run: RunDrift, plain: bool, *, several: bool) -> None:
    look, explanation = look_of(run), explain(run)
    name = f"{title(run)} on {short(run.new)}" if several else title(run)
    words = (f"{look.mark(plain=plain)} {look.word}", *remarks(run))
    verdict = (" - " if plain else " · ").join(words)
    console.print(Text.assemble((verdict, look.style), " ", (name, "bold"), f": {run.reason}"))
    print_statements(console, explanation.statements, indent=2)
    if explanation.command:
        console.print(
            Text.assemble("  ", ("next", "dim"), "  ", (explanation.command, "cyan")), soft_wrap=True
        )

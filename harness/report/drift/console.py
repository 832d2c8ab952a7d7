"""The drift report on a terminal or in a CI log: table, what moved and where it starts, summary."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.history import DriftReport, RunDrift, Series
from harness.report.drift.lines import changes_line, coverage_lines, engines_line, only_compiled, run_line
from harness.report.drift.view import explain, first_origin, is_remarkable
from harness.report.drift.words import answer, look_of, remarks, summary, title, tone_of, verdict_text
from harness.report.words import TONES, is_plain, make_table, print_explanation, say, short
from harness.text import number, ratio, shorten

MOST_EXPLAINED = 10
WIDE = 110  # columns that the table needs to name tensors, too


def print_drift(
    console: Console, report: DriftReport, *, brief: bool = False, seconds: float | None = None
) -> None:
    """Print the table of runs, unless `brief`, what moved and where it starts, and the summary; it took `seconds`."""
    plain = is_plain(console)
    if not brief:
        console.print(_table(report, console.width, plain))
        console.print()
    remarkable = [run for run in report.worst_first() if is_remarkable(run)]
    for run in remarkable[:MOST_EXPLAINED]:
        _print_run(console, run, plain, several=len(report.newer) > 1)
        console.print()
    if len(remarkable) > MOST_EXPLAINED:
        say(console, f"and {len(remarkable) - MOST_EXPLAINED} more runs: see --html or --json\n")
    _print_steps(console, report, plain)
    say(console, run_line(report), style="dim")
    if changes := changes_line(report, plain=plain):
        say(console, changes, style="yellow")
    say(console, answer(report), style=TONES[tone_of(report)])
    for label, text in coverage_lines(report):
        say(console, (label, "yellow"), f" {text}")
    if engines := engines_line(report):
        say(console, engines, style="yellow")
    say(console, summary(report, seconds))


def _print_steps(console: Console, report: DriftReport, plain: bool) -> None:
    creeping = [(one, one.creep) for one in report.series if one.creep is not None]
    for one, creep in sorted(creeping, key=lambda item: item[1].ratio, reverse=True)[:MOST_EXPLAINED]:
        say(console, ("creep", "yellow"), f" {_where(one)}: {ratio(creep.ratio)} over {creep.nights} nights")
    stepped = [one for one in report.series if one.creep is None]
    found = [(one.night(step), one, step) for one in stepped for step in one.steps or ()]
    for night, one, step in sorted(found, key=lambda item: item[0], reverse=True)[:MOST_EXPLAINED]:
        levels = f"{number(step.before)} {_arrow(plain)} {number(step.after)}"
        say(console, ("step", "yellow"), f" {_where(one)}: {levels} since {night}")


def _where(one: Series) -> str:
    return f"{one.case} at {one.precision}, {one.tensor} [{one.sample}]"


def _arrow(plain: bool) -> str:
    return "->" if plain else "→"


def _table(report: DriftReport, width: int, plain: bool) -> Table:
    several, measured = len(report.newer) > 1, not only_compiled(report)
    wide = measured and width >= WIDE
    whole = [
        "case",
        "precision",
        *(["release"] if several else []),
        "drift",
        *(["error"] if measured else []),
    ]
    folded = [*(["tensor"] if wide else []), *(["starts at"] if measured else [])]
    table = make_table(*whole, *folded, whole=whole)
    previous = None
    for run in report.runs:
        look, worst = look_of(run), run.worst
        cells: list[str | Text] = [shorten(run.case, 28) if run.case != previous else "", str(run.precision)]
        previous = run.case
        if several:
            cells.append(short(run.new, 20))
        cells.append(Text(verdict_text(run, plain=plain, brief=True), style=look.style))
        if measured:
            cells.append("" if worst is None else f"{number(worst.old)} {_arrow(plain)} {number(worst.new)}")
            if wide:
                cells.append("" if worst is None else shorten(worst.tensor, 28))
            cells.append(Text(shorten(first_origin(run), 32), style=look.style))
        table.add_row(*cells)
    return table


def _print_run(console: Console, run: RunDrift, plain: bool, *, several: bool) -> None:
    look = look_of(run)
    name = f"{title(run)} on {short(run.new)}" if several else title(run)
    verdict = (" - " if plain else " · ").join((look.styled(plain=plain)[0], *remarks(run)))
    console.print(Text.assemble((verdict, look.style), " ", (name, "bold"), f": {run.reason}"))
    print_explanation(console, explain(run), "next", indent=2)

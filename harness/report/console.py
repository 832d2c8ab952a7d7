"""A report on a terminal, in a CI log, or in a pytest failure: tables and short texts made with rich."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.judge.results import LayerResult, OutputResult, RunReport, RunResult, Verdict
from harness.report.view import (
    Matrix,
    Row,
    attention,
    error,
    explain,
    flags,
    gates_text,
    matrix,
    worst_error,
)
from harness.report.words import LOOKS, UNEXPECTED, middle, number, summary, title

MOST_OUTPUTS = 8  # rows of a failure's short table


def print_report(
    console: Console,
    report: RunReport,
    *,
    details: bool = False,
    brief: bool = False,
    seconds: float | None = None,
) -> None:
    """Print the matrix of verdicts, what went wrong and where, and the summary line.

    Mistakes in a case are left to whoever called: they are no finding about a candidate.

    Args:
        console: where to print; its width decides how much the table holds.
        report: the runs.
        details: also print every run's outputs and layers.
        brief: leave out the matrix.
        seconds: how long it all took.
    """
    plain = _plain(console)
    if not brief:
        console.print(matrix_table(matrix(report), width=console.width, plain=plain))
        console.print()
    for result in report.results if details else attention(report):
        if not result.mistake:
            print_run(console, result, details=details)
            console.print()
    _print_warnings(console, report, details)
    bad = any(result.verdict in UNEXPECTED for result in report.results)
    console.print(Text(summary(report, seconds), style="bold red" if bad else "bold green"), soft_wrap=True)


def matrix_table(arranged: Matrix, *, width: int, plain: bool = False) -> Table:
    """Cases and candidates down, precisions across: verdict and worst nrmse; then worst output and origin.

    In a narrow terminal the worst output goes first, then the number moves under its verdict, and then long
    names lose their middle.
    """
    named = arranged.named
    outputs = [_worst_output(row) for row in arranged.rows]
    origins = [_first_origin(row) for row in arranged.rows]
    case_width = max((len(row.case) for row in arranged.rows), default=4)
    used = case_width + 2 + (max(map(len, arranged.candidates), default=0) + 2 if named else 0)
    cells = [
        [_cell(row.runs.get(precision), plain) for row in arranged.rows] for precision in arranged.precisions
    ]
    origin_width = max(map(len, origins), default=0)
    beside = used + sum(max(len(Text(" ").join(cell)) for cell in column) + 2 for column in cells)
    beside += max(12, origin_width)
    roomy = beside + 2 + max(12, *map(len, outputs), 0) <= width
    stacked = beside > width
    left_for_origin = width - used - 9 * len(cells)
    case_width = min(case_width, max(16, case_width + left_for_origin - min(12, origin_width)))

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", show_edge=False)
    table.add_column("case", no_wrap=True)
    if named:
        table.add_column("candidate", no_wrap=True)
    for precision in arranged.precisions:
        table.add_column(precision.value, no_wrap=True)
    if roomy:
        table.add_column("worst output", overflow="fold")
    if origin_width:
        table.add_column("first origin", overflow="fold", min_width=8)
    previous = None
    for place, row in enumerate(arranged.rows):
        shown: list[RenderableType] = [middle(row.case, case_width) if row.case != previous else ""]
        previous = row.case
        if named:
            shown.append(row.candidate)
        shown += [Text("\n" if stacked else " ").join(column[place]) for column in cells]
        if roomy:
            shown.append(outputs[place])
        if origin_width:
            shown.append(origins[place])
        table.add_row(*shown)
    return table


def print_run(console: Console, result: RunResult, *, details: bool = False) -> None:
    """Print what is wrong with one run, where, and the command that goes deeper; with `details` all numbers."""
    look = LOOKS[result.verdict]
    glyph = look.plain_glyph if _plain(console) else look.glyph
    reason = f": {result.reason}" if result.reason else ""
    console.print(Text.assemble((f"{glyph} {look.word}", look.style), " ", (title(result), "bold"), reason))
    if look.tone in ("bad", "calm"):
        _print_explanation(console, result, indent=2)
    if not details:
        return
    if result.outputs:
        console.print(Padding(outputs_table(result.outputs), (0, 0, 0, 2)))
    if result.layers:
        console.print(Padding(layers_table(result.layers), (0, 0, 0, 2)))
    if result.timings:
        times = ", ".join(f"{stage} {number(seconds)} s" for stage, seconds in result.timings.items())
        console.print(Text(f"  time: {times}", style="dim"))


def outputs_table(outputs: Sequence[OutputResult]) -> Table:
    """Outputs, sample by sample: main metrics and gates."""
    table = _small_table()
    for name in ("output", "sample"):
        table.add_column(name, overflow="fold")
    for name in ("nrmse", "max abs", "cosine", "not finite"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("gates", overflow="fold")
    for output in outputs:
        metrics = output.metrics
        table.add_row(
            output.tensor,
            str(output.sample),
            number(error(metrics)),
            number(metrics.max_abs),
            f"{metrics.cosine:.6f}",
            str(metrics.nonfinite or "–"),
            Text(gates_text(output.gates), style="" if output.passed else "red"),
        )
    return table


def layers_table(layers: Sequence[LayerResult]) -> Table:
    """The observed tensors in order: accumulated and introduced error, headroom, and what is remarkable."""
    table = _small_table()
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("node", overflow="fold")
    table.add_column("op", overflow="fold")
    for name in ("accumulated", "introduced", "headroom"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for layer in layers:
        introduced = None if layer.introduced is None else error(layer.introduced)
        style = "bold red" if layer.origin else "red" if layer.diverged else ""
        table.add_row(
            str(layer.index),
            middle(layer.node, 40),
            layer.op,
            number(error(layer.metrics)),
            number(introduced),
            number(layer.metrics.headroom),
            flags(layer),
            style=style,
        )
    return table


def failure_text(result: RunResult, *, width: int) -> str:
    """A failed run as plain text of `width` columns: its outputs, its origin, and the command that goes deeper."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, no_color=True, force_terminal=False, highlight=False)
    worst_first = sorted(result.outputs, key=lambda output: output.passed)
    if worst_first:
        console.print(outputs_table(worst_first[:MOST_OUTPUTS]))
        if len(worst_first) > MOST_OUTPUTS:
            console.print(Text(f"and {len(worst_first) - MOST_OUTPUTS} more"))
        console.print()
    else:
        console.print(Text(result.reason))
    _print_explanation(console, result)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _head(result: RunResult) -> tuple[str | tuple[str, str], ...]:
    return ((title(result), "bold"), f": {result.reason}" if result.reason else "")


def _print_explanation(console: Console, result: RunResult, *, indent: int = 0) -> None:
    explanation = explain(result)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for statement in explanation.statements:
        grid.add_row(statement.label, Text(statement.text))
    if explanation.statements:
        console.print(Padding(grid, (0, 0, 0, indent)))
    label = "deeper".ljust(max((len(statement.label) for statement in explanation.statements), default=6))
    command = Text.assemble(" " * indent, (label, "dim"), "  ", (explanation.command, "cyan"))
    console.print(command, soft_wrap=True)  # a command that is wrapped here cannot be pasted


def _cell(result: RunResult | None, plain: bool) -> list[Text]:
    """The verdict, and the worst error beside or under it."""
    if result is None:
        return []
    look = LOOKS[result.verdict]
    parts = [Text(f"{look.plain_glyph if plain else look.glyph} {look.word}", style=look.style)]
    worst = worst_error(result)
    if worst is not None and result.verdict is not Verdict.ERROR:
        parts.append(Text(number(worst), style=look.style if look.tone == "bad" else "dim"))
    return parts


def _worst_output(row: Row) -> str:
    worst = row.gravest.worst
    return "" if worst is None else middle(worst.tensor, 32)


def _first_origin(row: Row) -> Text:
    if not row.origins:
        return Text("")
    first = row.origins[0]
    more = f" +{len(row.origins) - 1}" if len(row.origins) > 1 else ""
    return Text(f"{middle(first.node, 32)} ({first.op}){more}", style=LOOKS[row.gravest.verdict].style)


def _print_warnings(console: Console, report: RunReport, details: bool) -> None:
    """The warnings of runs that were not explained."""
    explained = () if details else attention(report)
    calm = [result for result in report.results if LOOKS[result.verdict].tone in ("good", "quiet")]
    for result in calm if details else report.results:
        if not any(result is other for other in explained):
            for warning in result.warnings:
                console.print(Text.assemble(("warning", "yellow"), f" {title(result)}: {warning}"))


def _small_table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)


def _plain(console: Console) -> bool:
    """Whether the terminal can only show ASCII."""
    try:
        "✓✗○●‼–".encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return True
    return False

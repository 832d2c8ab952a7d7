"""A report on a terminal, in a CI log, or in a pytest failure: tables and short texts made with rich."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.judge import LayerResult, OutputResult, RunReport, RunResult, Verdict
from harness.report.run.view import (
    Matrix,
    Row,
    alike,
    attention,
    deciding_error,
    explain,
    flags,
    gates_text,
    matrix,
    remarks,
    skips,
)
from harness.report.run.words import LOOKS, UNEXPECTED, summary
from harness.report.words import LAYER_NUMBERS, is_plain, layer_legend, make_table, print_explanation, say
from harness.text import number, shorten

EXPLAINED = ("bad", "calm")  # tones of runs that get an explanation
MOST_OUTPUTS = 8  # rows of a failure's short table
PAD = 2  # spaces between columns
STACKED = 9  # columns of the terminal that a verdict over its number takes
SHORT_NAME = 16  # names are never cut shorter than this
LEAST_NAME = 8  # but for that of an origin in a very narrow terminal, which would be folded instead


def print_report(
    console: Console,
    report: RunReport,
    *,
    details: bool = False,
    brief: bool = False,
    seconds: float | None = None,
) -> None:
    """Print the matrix of verdicts, what went wrong and where, and the summary line.

    Mistakes in a case are left to the caller: they say nothing about a candidate.

    Args:
        console: where to print; its width decides how much the table holds.
        report: the runs.
        details: also print every run's outputs and layers.
        brief: leave out the matrix.
        seconds: how long it all took.
    """
    plain = is_plain(console)
    if not brief:
        console.print(matrix_table(matrix(report), width=console.width, plain=plain))
        console.print()
    groups = [(result,) for result in report.results] if details else alike(attention(report))
    for result, *others in groups:
        if not result.mistake:
            print_run(console, result, *others, details=details)
            console.print()
    _print_warnings(console, report, details)
    idle = all(result.verdict is Verdict.SKIP for result in report.results)
    for text, cases in skips(report).items() if not details and (idle or not brief) else ():
        say(console, ("skipped", "yellow"), f" {cases}: {text}")
    bad = any(result.verdict in UNEXPECTED for result in report.results)
    say(console, summary(report, seconds), style=f"bold {'red' if bad else 'yellow' if idle else 'green'}")


def matrix_table(arranged: Matrix, *, width: int, plain: bool = False) -> Table:
    """Cases and candidates down, precisions across: verdict and worst nrmse; then worst output and origin.

    In a narrow terminal the worst output goes first, then the number moves under its verdict, and then long
    names lose their middle.
    """
    cases = [Text(row.case) for row in arranged.rows]
    candidates = [Text(row.candidate) for row in arranged.rows] if arranged.named else []
    verdicts = [
        [_cell(row.runs.get(precision), plain) for row in arranged.rows] for precision in arranged.precisions
    ]
    outputs = [Text(shorten(row.worst_output, 32)) for row in arranged.rows]
    origins = [_first_origin(row) for row in arranged.rows]

    one_line = [[Text(" ").join(cell) for cell in column] for column in verdicts]
    named = _widest(cases) + (_widest(candidates) if candidates else 0)
    beside = named + sum(map(_widest, one_line)) + _widest(origins)
    stacked = beside > width
    if stacked:
        two_lines = [[Text("\n").join(cell) for cell in column] for column in verdicts]
        spare = width - named - STACKED * len(verdicts) - min(_widest(origins), SHORT_NAME)
        longest = max(SHORT_NAME, _widest(cases) - PAD + min(spare, 0))
        cases = [Text(shorten(row.case, longest)) for row in arranged.rows]
        named = _widest(cases) + (_widest(candidates) if candidates else 0)
        room = width - named - STACKED * len(verdicts)
        origins = [_first_origin(row, min(max(room, LEAST_NAME), 32)) for row in arranged.rows]
    for place in range(1, len(cases)):
        if arranged.rows[place].case == arranged.rows[place - 1].case:
            cases[place] = Text("")  # named once, above

    table = make_table()
    columns = {"case": cases}
    if candidates:
        columns["candidate"] = candidates
    shown = two_lines if stacked else one_line
    columns |= {precision.value: column for precision, column in zip(arranged.precisions, shown, strict=True)}
    for name in columns:
        table.add_column(name, no_wrap=True)
    if beside + max(_widest(outputs), len("worst output") + PAD) <= width:
        columns["worst output"] = outputs
        table.add_column("worst output", overflow="fold")
    if any(origins):
        columns["first origin"] = origins
        table.add_column("first origin", overflow="fold", min_width=8)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def print_run(console: Console, result: RunResult, *others: RunResult, details: bool = False) -> None:
    """Print what is wrong with a run, where, and the command that goes deeper; with `details` all its numbers.

    `others` are runs of which the same holds.
    """
    look, explanation = LOOKS[result.verdict], explain(result, *others)
    verdict, reason = look.styled(plain=is_plain(console)), explanation.reason and f": {explanation.reason}"
    console.print(Text.assemble(verdict, " ", (explanation.subject, "bold"), reason))
    if look.tone in EXPLAINED:
        print_explanation(console, explanation, "next", indent=2)
    if not details:
        return
    if result.outputs:
        console.print(Padding(outputs_table(result.outputs), (0, 0, 0, 2)))
    if result.layers:
        console.print(Padding(layers_table(result.layers), (0, 0, 0, 2)))
        console.print(Padding(Text(layer_legend(), style="dim"), (0, 0, 0, 2)))
    if result.timings:
        times = ", ".join(f"{stage} {number(seconds)} s" for stage, seconds in result.timings.items())
        console.print(Text(f"  time: {times}", style="dim"))


def outputs_table(outputs: Sequence[OutputResult]) -> Table:
    """Outputs, sample by sample: main metrics and gates."""
    numbers = ("nrmse", "max abs", "cosine", "not finite")
    table = make_table("output", "sample", *numbers, "gates", numbers=numbers, gap=2, framed=False)
    for output in outputs:
        metrics = output.metrics
        table.add_row(
            Text(output.tensor),
            str(output.sample),
            number(metrics.error),
            number(metrics.max_abs),
            f"{metrics.cosine:.6f}",
            str(metrics.nonfinite or "–"),
            Text(gates_text(output.gates), style="" if output.passed else "red"),
        )
    return table


def layers_table(layers: Sequence[LayerResult]) -> Table:
    """The observed tensors in order: accumulated and introduced error, largest value, and what is remarkable."""
    numbers = ("#", *LAYER_NUMBERS)
    table = make_table("#", "node", "op", *LAYER_NUMBERS, "", numbers=numbers, gap=2, framed=False)
    for layer in layers:
        introduced = None if layer.introduced is None else layer.introduced.error
        style = "bold red" if layer.origin else "red" if layer.diverged else ""
        table.add_row(
            str(layer.index),
            Text(shorten(layer.node, 40)),
            Text(layer.op),
            number(layer.metrics.error),
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
    print_explanation(console, explain(result), "next")
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _cell(result: RunResult | None, plain: bool) -> list[Text]:
    """The verdict, and the worst error beside or under it."""
    if result is None:
        return []
    look = LOOKS[result.verdict]
    parts = [Text(*look.styled(plain=plain))]
    worst = deciding_error(result)
    if worst is not None and result.verdict is not Verdict.ERROR:
        gates = "" if result.judged_as is None else f" as {result.judged_as}"
        parts.append(Text(number(worst) + gates, style=look.style if look.tone == "bad" else "dim"))
    return parts


def _first_origin(row: Row, longest: int = 32) -> Text:
    if not row.origins:
        return Text(row.region, style=LOOKS[row.worst_run.verdict].style)
    first = row.origins[0]
    more = f" +{len(row.origins) - 1}" if len(row.origins) > 1 else ""
    name = shorten(first.node, longest)
    return Text(f"{name} ({first.op}){more}", style=LOOKS[row.worst_run.verdict].style)


def _print_warnings(console: Console, report: RunReport, details: bool) -> None:
    """What runs that were not explained have to say all the same, each once with the cases that have it."""
    explained = attention(report)
    if details:
        explained = tuple(result for result in report.results if LOOKS[result.verdict].tone in EXPLAINED)
    ties = not details  # the reason has them
    for label, cases, text in remarks(report, explained, ties=ties):
        say(console, (label, "yellow"), f" {cases}: {text}")


def _widest(column: Sequence[Text]) -> int:
    """How many columns of the terminal a column of the table takes, with the space behind it."""
    return max((len(cell) for cell in column), default=0) + PAD

"""The report of `check` on a terminal or in a CI log."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.conversion import CheckReport, CheckResult
from harness.report.conversion.view import (
    LOOKS,
    advice,
    answer,
    headline,
    look_of,
    outcome_text,
    rows,
    statements,
    subject,
)
from harness.report.words import is_plain

MOST_FINDINGS = 20
_DETAILS = frozenset({"where", "parser", "builder", "kernels", "log", "alone", "try"})
"""Statements that are shown without --details."""


def print_check(console: Console, report: CheckReport, *, details: bool = False, brief: bool = False) -> None:
    """Print what was found of each model, and the answer.

    Args:
        console: where to print.
        report: what was found.
        details: show shapes, attributes, releases and sources, and all findings.
        brief: leave out models that nothing stands against.
    """
    plain = is_plain(console)
    for result in report.results:
        if not (brief and not result.fails):
            _print_result(console, result, plain, details=details)
    console.print(
        Text(answer(report), style="bold red" if report.exit_code else "bold green"), soft_wrap=True
    )
    if hint := advice(report):
        console.print(Text(hint, style="dim"), soft_wrap=True)


def _print_result(console: Console, result: CheckResult, plain: bool, *, details: bool) -> None:
    console.print(Text(subject(result), style="bold"), soft_wrap=True)
    for environment in result.environments:
        look = look_of(result, environment)
        where = f"{environment.environment} ({environment.product} {environment.release})"
        line = Text.assemble(
            "  ", (look.mark(plain=plain), look.style), f" {where}: {outcome_text(environment)}"
        )
        console.print(line, soft_wrap=True)
    if not result.environments and not result.findings:
        console.print(Text.assemble("  ", ("+" if plain else "✓", "green"), " no rule speaks against it"))
    shown_labels = _DETAILS if result.environments else {*_DETAILS, "holds of"}
    found = rows(result)
    shown = found if details else found[:MOST_FINDINGS]
    for row in shown:
        look = LOOKS[row.finding.kind]
        words = (look.mark(plain=plain), " ", look.word, " ", row.finding.code)
        console.print(Text.assemble("  ", ("".join(words), look.style), " ", headline(row)), soft_wrap=True)
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for statement in statements(row):
            if details or statement.label in shown_labels:
                grid.add_row(statement.label, Text(statement.text))
        console.print(Padding(grid, (0, 0, 0, 6)))
    if len(found) > len(shown):
        console.print(Text(f"  and {len(found) - len(shown)} more: --details shows them", style="dim"))
    console.print()

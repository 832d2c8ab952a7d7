"""The report of `check` on a terminal or in a CI log."""

from __future__ import annotations

import io

from rich.console import Console
from rich.text import Text

from harness.conversion import CheckReport, CheckResult, EnvironmentResult, FixResult, Outcome
from harness.report.conversion.cures import cure_rows, fix_answer
from harness.report.conversion.view import (
    ERROR,
    LOOKS,
    MOST_CHANGES,
    OUTCOMES,
    Comparison,
    advice,
    answer,
    change_text,
    check_errors,
    comparisons,
    environment_text,
    expectation_lines,
    headline,
    kernel_lines,
    look_of,
    movement_text,
    outcome_text,
    rows,
    statements,
    subject,
    times_text,
    told_once,
)
from harness.report.words import is_plain, make_table, print_statements
from harness.text import names, plural

MOST_FINDINGS = 20
_DETAILS = frozenset({"where", "parser", "builder", "kernels", "log", "by", "alone", "try"})
"""Statements that are shown without --details."""


def print_check(
    console: Console,
    report: CheckReport,
    *,
    details: bool = False,
    brief: bool = False,
    kernels: bool = False,
) -> None:
    """Print what was found of each model, and the answer.

    Args:
        console: where to print.
        report: what was found.
        details: show shapes, attributes, releases and sources, and all findings.
        brief: leave out models that nothing stands against.
        kernels: show what became of each node, and what differs between engines.
    """
    plain = is_plain(console)
    for result in told_once(each for each in report.results if each.fails or not brief):
        _print_result(console, result, plain, details=details)
        for environment in result.environments:
            _print_parts(console, environment, plain)
        for environment in result.environments if kernels else ():
            _print_kernels(console, result, environment)
    for comparison in comparisons(report) if kernels else ():
        _print_comparison(console, comparison, details=details)
    bad = any(result.fails for result in report.results)
    console.print(Text(answer(report), style="bold red" if bad else "bold green"), soft_wrap=True)
    if hint := advice(report):
        console.print(Text(hint, style="dim"), soft_wrap=True)
    if report.fix is not None:
        console.print()
        _print_fix(console, report.fix, plain, details=details)


def check_text(report: CheckReport, *, width: int = 100) -> str:
    """What `print_check` prints, as text, and why models could not be checked."""
    stream = io.StringIO()
    print_check(Console(file=stream, width=width, highlight=False), report)
    return "\n".join([stream.getvalue(), *check_errors(report)]).strip() + "\n"


def _print_fix(console: Console, fix: FixResult, plain: bool, *, details: bool) -> None:
    for row in cure_rows(fix):
        words = f"{row.look.mark(plain=plain)} {row.look.word} {row.code}"
        console.print(Text.assemble("  ", (words, row.look.style), f" {row.nodes}"), soft_wrap=True)
        lines = [each for each in row.statements if details or each.label != "source"]
        print_statements(console, lines, indent=6)
    style = "bold red" if fix.fails else "bold green"
    console.print(Text(fix_answer(fix), style=style), soft_wrap=True)


def _print_result(console: Console, result: CheckResult, plain: bool, *, details: bool) -> None:
    console.print(Text(subject(result), style="bold"), soft_wrap=True)
    for environment in result.environments:
        look = look_of(result, environment)
        where = environment_text(environment)
        line = Text.assemble(
            "  ", (look.mark(plain=plain), look.style), f" {where}: {outcome_text(environment)}"
        )
        console.print(line, soft_wrap=True)
    if result.error is not None:
        console.print(Text(f"  {ERROR.mark(plain=plain)} {ERROR.word}", style=ERROR.style))
    elif not result.environments and not result.findings:
        console.print(Text.assemble("  ", ("+" if plain else "✓", "green"), " no rule speaks against it"))
    shown_labels = _DETAILS if result.environments else {*_DETAILS, "holds of"}
    found = rows(result)
    shown = found if details else found[:MOST_FINDINGS]
    for row in shown:
        look = LOOKS[row.finding.kind]
        words = (look.mark(plain=plain), " ", look.word, " ", row.finding.code)
        console.print(Text.assemble("  ", ("".join(words), look.style), " ", headline(row)), soft_wrap=True)
        lines = [each for each in statements(row) if details or each.label in shown_labels]
        print_statements(console, lines, indent=6)
    for text in expectation_lines(result):
        console.print(Text(f"  {text}", style="yellow"), soft_wrap=True)
    if len(found) > len(shown):
        console.print(Text(f"  and {len(found) - len(shown)} more: --details shows them", style="dim"))
    console.print()


_PART = {True: Outcome.BUILT, False: Outcome.REFUSED, None: Outcome.UNKNOWN}


def _print_parts(console: Console, environment: EnvironmentResult, plain: bool) -> None:
    if not environment.parts:
        return
    console.print(Text(f"  parts on {environment.environment}, run in this order:"))
    for part in environment.parts:
        look = OUTCOMES[_PART[part.is_taken]]
        text = f" {part.file}: {plural(len(part.nodes), 'node')} ({names(part.nodes, 3)})"
        console.print(Text.assemble("    ", (look.mark(plain=plain), look.style), text), soft_wrap=True)
    console.print()


def _print_kernels(console: Console, result: CheckResult, environment: EnvironmentResult) -> None:
    if environment.report.kernels is None:
        return
    title = f"{result.case} on {environment.environment}: {movement_text(environment)}"
    console.print(Text(title, style="bold"), soft_wrap=True)
    if text := times_text(environment):
        console.print(Text(f"  {text}"), soft_wrap=True)
    table = make_table()
    timed = () if environment.times is None else ("time",)
    for column in ("#", *timed, "kernel", "nodes", "reads", "writes"):
        table.add_column(column, overflow="fold")
    for row in kernel_lines(environment):
        table.add_row(*row)
    console.print(table)
    console.print()


def _print_comparison(console: Console, comparison: Comparison, *, details: bool) -> None:
    changes = comparison.changes
    title = f"{comparison.before} → {comparison.after}: {plural(len(changes), 'node')} became something else"
    console.print(Text(title, style="bold"), soft_wrap=True)
    for change in changes if details else changes[:MOST_CHANGES]:
        console.print(Text(f"  {change_text(change)}"), soft_wrap=True)
    console.print()

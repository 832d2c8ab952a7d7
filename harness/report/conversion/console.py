"""The report of `check` on a terminal or in a CI log."""

from __future__ import annotations

import io

from rich.console import Console

from harness.conversion import CheckReport, CheckResult, CompileOutcome, EnvironmentResult, FixResult
from harness.report.conversion import cures, view
from harness.report.words import TONES, is_plain, make_table, print_statements, say
from harness.text import names, plural

MOST_FINDINGS = 20
_DETAILS = frozenset({"where", "parser", "builder", "kernels", "log", "by", "alone", "try"})
"""Statements that are shown without --details."""
_PARTS = {True: CompileOutcome.BUILT, False: CompileOutcome.REFUSED, None: CompileOutcome.UNKNOWN}


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
    for result in view.told_once(each for each in report.results if each.fails or not brief):
        _print_result(console, result, plain, details=details)
        for environment in result.environments:
            _print_parts(console, environment, plain)
        for environment in result.environments if kernels else ():
            _print_kernels(console, result, environment)
    for comparison in view.comparisons(report) if kernels else ():
        say(console, comparison.title, style="bold")
        for text in comparison.lines(None if details else view.MOST_CHANGES):
            say(console, f"  {text}")
        console.print()
    say(console, view.answer(report), style=TONES[view.tone_of(report)])
    if hint := view.advice(report):
        say(console, hint, style="dim")
    if report.fix is not None:
        console.print()
        _print_fix(console, report.fix, plain, details=details)


def check_text(report: CheckReport, *, width: int = 100) -> str:
    """What `print_check` prints, as text, and why models could not be checked."""
    stream = io.StringIO()
    print_check(Console(file=stream, width=width, highlight=False), report)
    return "\n".join([stream.getvalue(), *view.check_errors(report)]).strip() + "\n"


def _print_fix(console: Console, fix: FixResult, plain: bool, *, details: bool) -> None:
    for row in cures.cure_rows(fix):
        say(console, "  ", row.look.styled(row.code, plain=plain), f" {row.nodes}")
        lines = [each for each in row.statements if details or each.label != "source"]
        print_statements(console, lines, indent=6)
    say(console, cures.fix_answer(fix), style=TONES["bad" if fix.fails else "good"])


def _print_result(console: Console, result: CheckResult, plain: bool, *, details: bool) -> None:
    say(console, view.subject(result), style="bold")
    for environment in result.environments:
        look = view.look_of(result, environment)
        text = f" {view.environment_text(environment)}: {view.outcome_text(environment)}"
        say(console, "  ", (look.mark(plain=plain), look.style), text)
    if result.error is not None:
        say(console, "  ", view.ERROR.styled(plain=plain))
    elif not result.environments and not result.findings:
        say(console, "  ", ("+" if plain else "✓", "green"), " no rule objects to it")
    shown_labels = _DETAILS if result.environments else {*_DETAILS, "applies to"}
    found = view.rows(result)
    for row in found if details else found[:MOST_FINDINGS]:
        look = view.LOOKS[row.finding.kind]
        say(console, "  ", look.styled(row.finding.code, plain=plain), f" {view.headline(row)}")
        lines = [each for each in view.statements(row) if details or each.label in shown_labels]
        print_statements(console, lines, indent=6)
    for text in view.expectation_lines(result):
        say(console, f"  {text}", style="yellow")
    if len(found) > MOST_FINDINGS and not details:
        say(console, f"  and {len(found) - MOST_FINDINGS} more: --details shows them", style="dim")
    console.print()


def _print_parts(console: Console, environment: EnvironmentResult, plain: bool) -> None:
    if not environment.parts:
        return
    say(console, f"  parts on {environment.environment}, run in this order:")
    for part in environment.parts:
        look = view.OUTCOMES[_PARTS[part.is_taken]]
        text = f" {part.file}: {plural(len(part.nodes), 'node')} ({names(part.nodes, 3)})"
        say(console, "    ", (look.mark(plain=plain), look.style), text)
    console.print()


def _print_kernels(console: Console, result: CheckResult, environment: EnvironmentResult) -> None:
    if environment.report.kernels is None:
        return
    title = f"{result.case} on {environment.environment}: {view.movement_text(environment)}"
    say(console, title, style="bold")
    if text := view.times_text(environment):
        say(console, f"  {text}")
    timed = () if environment.times is None else ("time",)
    table = make_table("#", *timed, "kernel", "nodes", "reads", "writes")
    for row in view.kernel_lines(environment):
        table.add_row(*row)
    console.print(table)
    console.print()

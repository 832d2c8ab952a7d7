"""The report of `check` as a page and as Markdown."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from harness.conversion import CheckReport
from harness.report.conversion.cures import cure_rows, fix_answer
from harness.report.conversion.picture import picture_data
from harness.report.conversion.view import (
    ERROR,
    LOOKS,
    advice,
    answer,
    cells,
    change_text,
    comparisons,
    environment_text,
    headline,
    look_of,
    movement_text,
    outcome_text,
    rows,
    statements,
    subject,
    times_text,
    told_once,
)
from harness.report.pages import render_page, trusted
from harness.report.words import escape, fit, made_with, ran_on

COLOURS = {
    "float32": "#f3b7a6",
    "float16": "#a9d8a2",
    "bfloat16": "#9ad6cf",
    "int8": "#a8c4f2",
    "float8_e4m3fn": "#cdb5ee",
    "int4": "#d9d36a",
    "other": "#d8dbe0",
}
"""The colour of a kernel, by the datatype that it computes in."""


def check_page(report: CheckReport, *, kernels: bool = False, made: datetime.datetime | None = None) -> str:
    """The report as an HTML page.

    Args:
        report: what was found.
        kernels: draw the kernels of each engine.
        made: when the page was made; now by default.
    """
    return render_page(
        "check.html.j2",
        made,
        answer=answer(report),
        advice=advice(report),
        bad=any(result.fails for result in report.results),
        fix=report.fix,
        fix_answer=fix_answer,
        cure_rows=cure_rows,
        results=list(told_once(report.results)),
        environments=_environments(report) or ("rules",),
        subject=subject,
        look_of=look_of,
        outcome_text=outcome_text,
        environment_text=environment_text,
        cells=cells,
        rows=rows,
        looks=LOOKS,
        headline=headline,
        statements=statements,
        fingerprint=made_with(report.fingerprint),
        scripts=("kernels.js",) if kernels else (),
        kernels=kernels,
        colours=COLOURS,
        movement_text=movement_text,
        times_text=times_text,
        picture=lambda environment: trusted(picture_data(environment)),
        comparisons=list(comparisons(report)) if kernels else [],
        change_text=change_text,
    )


def _environments(report: CheckReport) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.environment for result in report.results for each in result.environments))


def check_markdown(report: CheckReport) -> str:
    """The report as GitHub-flavoured Markdown, never longer than a job summary may be."""
    lines = [f"## {escape(answer(report))}", ""]
    if hint := advice(report):
        lines += [hint, ""]
    lines += list(_table(report))
    for result in told_once(report.results):
        found = rows(result)
        if found or result.error is not None:
            lines += [f"### {escape(subject(result))}", ""]
            if result.error is not None:
                lines.append(f"- {ERROR.glyph} **{ERROR.word}** {escape(str(result.error))}")
            for row in found:
                look = LOOKS[row.finding.kind]
                lines.append(f"- {look.glyph} **{look.word}** `{row.finding.code}` {escape(headline(row))}")
                lines += [f"  - {each.label}: {escape(each.text)}" for each in statements(row)]
            lines.append("")
    if report.fix is not None:
        lines += [f"### {escape(fix_answer(report.fix))}", ""]
        for cure in cure_rows(report.fix):
            lines.append(f"- {cure.look.glyph} **{cure.look.word}** `{cure.code}` {escape(cure.nodes)}")
            lines += [f"  - {each.label}: {escape(each.text)}" for each in cure.statements]
        lines.append("")
    return fit("\n".join(lines), ran_on(made_with(report.fingerprint)))


def _table(report: CheckReport) -> Iterator[str]:
    """Models by environments; without any, the outcome by the rules."""
    columns = _environments(report) or ("rules",)
    yield f"| model | {' | '.join(map(escape, columns))} |"
    yield "|---" * (len(columns) + 1) + "|"
    for result in report.results:
        shown = (f"{look.glyph} {look.word}" for look in cells(result, columns))
        yield f"| {escape(result.case)} | {' | '.join(shown)} |"
    yield ""

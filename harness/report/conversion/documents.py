"""The report of `check` as a page and as Markdown."""

from __future__ import annotations

from harness.conversion import CheckReport
from harness.report.conversion import cures, view
from harness.report.conversion.picture import picture_data
from harness.report.pages import render_page, trusted
from harness.report.words import bullets, escape, fit, made_with, markdown_table, ran_on

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


def check_page(report: CheckReport, *, kernels: bool = False) -> str:
    """The report as an HTML page; with `kernels` those of each engine are drawn."""
    return render_page(
        "check.html.j2",
        scripts=("kernels.js",) if kernels else (),
        report=report,
        view=view,
        cures=cures,
        results=list(view.told_once(report.results)),
        environments=_environments(report),
        fingerprint=made_with(report.fingerprint),
        kernels=kernels,
        colours=COLOURS,
        picture=lambda environment: trusted(picture_data(environment)),
    )


def _environments(report: CheckReport) -> tuple[str, ...]:
    """The columns of the table: environments, or the rules where none was asked."""
    names = (each.environment for result in report.results for each in result.environments)
    return tuple(dict.fromkeys(names)) or ("rules",)


def check_markdown(report: CheckReport) -> str:
    """The report as GitHub-flavoured Markdown, never longer than a job summary may be."""
    lines = [f"## {escape(view.answer(report))}", ""]
    if hint := view.advice(report):
        lines += [hint, ""]
    lines += [*_table(report), ""]
    for result in view.told_once(report.results):
        found = view.rows(result)
        if not found and result.error is None:
            continue
        lines += [f"### {escape(view.subject(result))}", ""]
        if result.error is not None:
            lines.append(f"- {view.ERROR.glyph} **{view.ERROR.word}** {escape(str(result.error))}")
        for row in found:
            look = view.LOOKS[row.finding.kind]
            title = f"`{row.finding.code}` {escape(view.headline(row))}"
            lines += [f"- {look.glyph} **{look.word}** {title}", *bullets(view.statements(row), "  ")]
        lines.append("")
    if report.fix is not None:
        lines += [f"### {escape(cures.fix_answer(report.fix))}", ""]
        for cure in cures.cure_rows(report.fix):
            lines.append(f"- {cure.look.glyph} **{cure.look.word}** `{cure.code}` {escape(cure.nodes)}")
            lines += bullets(cure.statements, "  ")
        lines.append("")
    return fit("\n".join(lines), ran_on(made_with(report.fingerprint)))


def _table(report: CheckReport) -> list[str]:
    columns = _environments(report)
    rows = [
        [escape(result.case), *(f"{look.glyph} {look.word}" for look in view.cells(result, columns))]
        for result in report.results
    ]
    return markdown_table(["model", *map(escape, columns)], rows)

"""A report as one self-contained HTML page: verdict in words first, no network, readable on a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.judge import RunReport, RunResult, Verdict
from harness.report.figures import error_growth_svg, error_map_svg
from harness.report.pages import render_page, trusted
from harness.report.run import view, words
from harness.report.words import (
    Explanation,
    code,
    escape,
    fit,
    layer_legend,
    made_with,
    markdown_table,
    ran_on,
    title,
)
from harness.text import number

if TYPE_CHECKING:
    from markupsafe import Markup

MOST_DETAILED = 24  # pages of more runs show layers and pictures only of what did not plainly pass


@dataclass(frozen=True)
class _Section:
    """What the page says of one run, or of several that ended with the same error."""

    anchors: tuple[str, ...]
    result: RunResult
    explanation: Explanation
    picture: Markup | None
    heat: Markup | None
    with_layers: bool


def run_page(report: RunReport, *, seconds: float | None = None) -> str:
    """The report as an HTML page; the runs took `seconds`."""
    anchors = {id(result): f"run-{number}" for number, result in enumerate(report.results)}
    brief = len(report.results) > MOST_DETAILED
    alike = view.alike(view.worst_first(report.results), numbers=True)
    return render_page(
        "run.html.j2",
        view=view,
        words=words,
        report=report,
        summary=words.summary(report, seconds),
        matrix=view.matrix(report),
        anchors=anchors,
        sections=[_section(anchors, runs, brief=brief) for runs in alike],
        fingerprint=made_with(report.fingerprint),
        title_of=title,
        Verdict=Verdict,
        layer_legend=layer_legend(),
    )


def _section(anchors: Mapping[int, str], runs: Sequence[RunResult], *, brief: bool) -> _Section:
    result = runs[0]
    picture = None
    detailed = bool(result.layers) and not (brief and result.verdict is Verdict.PASS)
    if detailed:
        picture = trusted(error_growth_svg(result))
    heat = None if result.error_map is None else trusted(error_map_svg(result.error_map, f"heat-{result.id}"))
    names = tuple(anchors[id(each)] for each in runs)
    return _Section(names, result, view.explain(*runs), picture, heat, detailed)


def run_markdown(report: RunReport, *, seconds: float | None = None) -> str:
    """The report as GitHub-flavoured Markdown, worst rows first, never longer than a job summary may be."""
    arranged, explained = view.matrix(report), view.attention(report)
    columns = ["case", "candidate", *(precision.value for precision in arranged.precisions), "origin"]
    rows = []
    for row in sorted(arranged.rows, key=lambda row: -row.severity):
        cells = [_cell(row.runs.get(precision)) for precision in arranged.precisions]
        origin = f"`{code(row.origins[0].node)}` ({row.origins[0].op})" if row.origins else escape(row.region)
        rows.append([escape(row.case), escape(row.candidate), *cells, origin])
    lines = [f"## {words.answer(report)}", "", words.summary(report, seconds), ""]
    lines += [*markdown_table(columns, rows), ""]
    texts = [("skipped", cases, why) for why, cases in view.skips(report).items()]
    texts += view.remarks(report, explained)
    if texts:
        lines += [*(f"- {label} {escape(cases)}: {escape(text)}" for label, cases, text in texts), ""]
    for result, *others in view.alike(explained):
        explanation = view.explain(result, *others)
        glyph = words.LOOKS[result.verdict].glyph
        lines += [f"### {glyph} {escape(explanation.headline)}", "", *explanation.markdown()]
    return fit("\n".join(lines), ran_on(made_with(report.fingerprint)))


def _cell(result: RunResult | None) -> str:
    if result is None:
        return ""
    look, worst = words.LOOKS[result.verdict], view.deciding_error(result)
    text = f"{look.glyph} {look.word}"
    if worst is not None and result.verdict is not Verdict.ERROR:
        text += f" {number(worst)}"
    return f"**{text}**" if look.tone == "bad" else text

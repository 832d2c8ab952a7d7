"""The drift report as Markdown, for a job summary or a pull request: the worst rows first, never over 1 MiB."""

from __future__ import annotations

from harness.history.outcome import RunDrift
from harness.history.report import DriftReport
from harness.report.drift_run import changes_line, run_line
from harness.report.drift_tables import Table, engines_table
from harness.report.drift_view import explain, first_origin, is_remarkable
from harness.report.drift_words import answer, look_of, ratio_text, remarks, short, summary, title
from harness.report.markdown import code, escape, fit
from harness.report.words import made_with, number

MOST_EXPLAINED = 20
MOST_ROWS = 500
MOST_ENGINE_ROWS = 30


def drift_markdown(report: DriftReport, *, seconds: float | None = None) -> str:
    """The report as GitHub-flavoured Markdown."""
    ordered = report.worst_first()
    several = len(report.newer) > 1
    lines = [f"## {escape(answer(report))}", "", escape(summary(report, seconds)), ""]
    lines.append(f"`{code(report.old)}` → " + ", ".join(f"`{code(name)}`" for name in report.newer))
    lines += ["", escape(run_line(report))]
    if changes := changes_line(report):
        lines += ["", escape(changes)]
    lines += ["", f"| verdict | case | precision |{' release |' if several else ''} error | starts at |"]
    lines.append("|---|---|---|" + ("---|" if several else "") + "---|---|")
    lines += [_row(run, several) for run in ordered[:MOST_ROWS]]
    if len(ordered) > MOST_ROWS:
        lines.append(f"\nand {len(ordered) - MOST_ROWS} runs more")
    lines.append("")
    for run in [run for run in ordered if is_remarkable(run)][:MOST_EXPLAINED]:
        lines += _explained(run)
    lines += _engines(engines_table(report))
    facts = "".join(
        f"- {escape(key)}: {escape(value)}\n"
        for key, value in {"run": report.run, **made_with(report.fingerprint)}.items()
        if value  # an emulated release has no facts
    )
    return fit("\n".join(lines), f"<details><summary>What this ran on</summary>\n\n{facts}\n</details>\n")


def _row(run: RunDrift, several: bool) -> str:
    look = look_of(run)
    word = " · ".join((f"{look.glyph} {look.word}", *remarks(run)))
    cells = [f"**{word}**" if look.tone == "bad" else word, escape(run.case), str(run.precision)]
    if several:
        cells.append(f"`{code(short(run.new))}`")
    worst = run.worst
    error = "" if worst is None else f"{number(worst.old)} → {number(worst.new)}"
    error = ", ".join(part for part in (error, ratio_text(run)) if part)
    return f"| {' | '.join([*cells, error, escape(first_origin(run))])} |"


def _explained(run: RunDrift) -> list[str]:
    look, explanation = look_of(run), explain(run)
    name = ", ".join((escape(title(run)), *remarks(run)))
    lines = [f"### {look.glyph} {name}: {escape(run.reason)}", ""]
    for statement in explanation.statements:
        lines.append(f"- {statement.label + ': ' if statement.label else ''}{escape(statement.text)}")
    if explanation.command:
        lines += ["", "```sh", explanation.command, "```"]
    return [*lines, ""]


def _engines(table: Table) -> list[str]:
    """Quantities of engines that changed beyond noise."""
    rows = [row for row in table.rows if row[0].tone != "quiet"][:MOST_ENGINE_ROWS]
    if not rows:
        return []
    lines = ["### Latency, size, build time", "", f"| {' | '.join(table.columns)} |"]
    lines.append("|" + "---|" * len(table.columns))
    lines += [f"| {' | '.join(escape(cell.text) for cell in row)} |" for row in rows]
    return [*lines, ""]

"""The drift report as Markdown, for a job summary or a pull request: the worst rows first, never over 1 MiB."""

from __future__ import annotations

from collections.abc import Sequence

from harness.history import DriftReport, RunDrift
from harness.report.drift_coverage import coverage_lines
from harness.report.drift_engines import engines_line
from harness.report.drift_run import changes_line, run_line
from harness.report.drift_tables import Cell, engines_table, structure_table
from harness.report.drift_view import explain, first_origin, is_remarkable
from harness.report.drift_words import answer, look_of, ratio_text, remarks, short, summary, title
from harness.report.markdown import code, escape, fit
from harness.report.words import made_with
from harness.text import number, shorten

MOST_EXPLAINED = 20
MOST_ROWS = 500
MOST_ENGINE_ROWS = 30
MOST_CHANGES = 30
MOST_LETTERS = 120  # of a cell


def drift_markdown(report: DriftReport, *, seconds: float | None = None) -> str:
    """The report as GitHub-flavoured Markdown."""
    ordered = report.worst_first()
    several = len(report.newer) > 1
    lines = [f"## {escape(answer(report))}", ""]
    lines += [f"- {label}: {escape(text)}" for label, text in coverage_lines(report)]
    lines += [""] if lines[-1] else []
    if engines := engines_line(report):
        lines += [escape(engines), ""]
    lines += [escape(summary(report, seconds)), ""]
    lines += [escape(run_line(report)), ""]
    if changes := changes_line(report):
        lines += [escape(changes), ""]
    lines.append(f"`{code(report.old)}` → " + ", ".join(f"`{code(name)}`" for name in report.newer))
    lines += ["", f"| verdict | case | precision |{' release |' if several else ''} error | starts at |"]
    lines.append("|---|---|---|" + ("---|" if several else "") + "---|---|")
    lines += [_row(run, several) for run in ordered[:MOST_ROWS]]
    if len(ordered) > MOST_ROWS:
        lines.append(f"\nand {len(ordered) - MOST_ROWS} runs more")
    lines.append("")
    for run in [run for run in ordered if is_remarkable(run)][:MOST_EXPLAINED]:
        lines += _explained(run)
    lines += _engines(report, ordered)
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


def _engines(report: DriftReport, runs: Sequence[RunDrift]) -> list[str]:
    """What changed in the engines beyond what rebuilding changes."""
    quantities, changes = engines_table(report), structure_table(runs, MOST_CHANGES)
    moved = [row for row in quantities.rows if row[0].tone != "quiet"][:MOST_ENGINE_ROWS]
    lines = _table("Latency, size, build time", quantities.columns, moved)
    lines += _table("Structure", changes.columns, changes.rows)
    return [*lines, f"and {changes.omitted} changes more", ""] if changes.omitted else lines


def _table(heading: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    if not rows:
        return []
    lines = [f"### {heading}", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += [f"| {' | '.join(escape(shorten(cell.text, MOST_LETTERS)) for cell in row)} |" for row in rows]
    return [*lines, ""]

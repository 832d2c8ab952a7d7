"""The drift report for GitHub: Markdown for a job summary or a pull request, and annotations of case files.

An annotation is a line on stdout that marks a line of a case file in a pull request:

    ::error file=cases/x.case.yaml,line=6,title=Drift worse at fp16::b7_sq (Pow): error 3.1e-4 → 1.2e-2 …

The escapes are those of the workflow commands of GitHub Actions. GitHub shows ten of each kind for a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.case import read_document
from harness.history import DriftReport, DriftStatus, RunDrift
from harness.report.drift.lines import changes_line, coverage_lines, engines_line, only_compiled, run_line
from harness.report.drift.tables import Cell, engines_table, structure_table
from harness.report.drift.view import explain, first_origin, is_remarkable
from harness.report.drift.words import answer, look_of, ratio_text, remarks, summary, title
from harness.report.words import code, escape, fit, made_with, markdown_table, ran_on, short
from harness.text import number, shorten

MOST_EXPLAINED = 20
MOST_ROWS = 500
MOST_ENGINE_ROWS = 30
MOST_CHANGES = 30
MOST_LETTERS = 120  # of a cell


def drift_markdown(report: DriftReport, *, seconds: float | None = None) -> str:
    """The report as GitHub-flavoured Markdown."""
    ordered = report.worst_first()
    several, measured = len(report.newer) > 1, not only_compiled(report)
    lines = [f"## {escape(answer(report))}", ""]
    lines += [f"- {label}: {escape(text)}" for label, text in coverage_lines(report)]
    lines += [""] if lines[-1] else []
    if engines := engines_line(report):
        lines += [escape(engines), ""]
    lines += [escape(summary(report, seconds)), ""]
    lines += [escape(run_line(report)), ""]
    if changes := changes_line(report):
        lines += [escape(changes), ""]
    lines += [f"`{code(report.old)}` → " + ", ".join(f"`{code(name)}`" for name in report.newer), ""]
    columns = ["verdict", "case", "precision"]
    columns += ["release"] if several else []
    columns += ["error", "starts at"] if measured else []
    cells = [_row(run, several=several, measured=measured) for run in ordered[:MOST_ROWS]]
    lines += markdown_table(columns, cells)
    if len(ordered) > MOST_ROWS:
        lines.append(f"\nand {len(ordered) - MOST_ROWS} more runs")
    lines.append("")
    for run in [run for run in ordered if is_remarkable(run)][:MOST_EXPLAINED]:
        name = ", ".join((escape(title(run)), *remarks(run)))
        lines += [f"### {look_of(run).glyph} {name}: {escape(run.reason)}", "", *explain(run).markdown()]
    lines += _engines(report, ordered)
    return fit("\n".join(lines), ran_on({"run": report.run, **made_with(report.fingerprint)}))


def _row(run: RunDrift, *, several: bool, measured: bool) -> list[str]:
    look, worst = look_of(run), run.worst
    word = " · ".join((f"{look.glyph} {look.word}", *remarks(run)))
    cells = [f"**{word}**" if look.tone == "bad" else word, escape(run.case), str(run.precision)]
    if several:
        cells.append(f"`{code(short(run.new))}`")
    if measured:
        error = "" if worst is None else f"{number(worst.old)} → {number(worst.new)}"
        cells += [", ".join(filter(None, (error, ratio_text(run)))), escape(first_origin(run))]
    return cells


def _engines(report: DriftReport, runs: Sequence[RunDrift]) -> list[str]:
    """What changed in the engines beyond what rebuilding changes."""
    quantities, changes = engines_table(report), structure_table(runs, MOST_CHANGES)
    moved = [row for row in quantities.rows if row[0].tone != "quiet"][:MOST_ENGINE_ROWS]
    lines = _table("Latency, size, build time", quantities.columns, moved)
    lines += _table("Structure", changes.columns, changes.rows)
    return [*lines, f"and {changes.omitted} more changes", ""] if changes.omitted else lines


def _table(heading: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    cells = [[escape(shorten(cell.text, MOST_LETTERS)) for cell in row] for row in rows]
    return [f"### {heading}", "", *markdown_table(columns, cells), ""] if rows else []


_LEVELS = {
    DriftStatus.FAIL: "error",
    DriftStatus.ERROR: "error",
    DriftStatus.MISTAKE: "error",
    DriftStatus.XFAIL: "warning",
}


def annotate(report: DriftReport) -> Iterator[str]:
    """One line for each run that a person must look at, the worst first; and one for what the engines moved."""
    for run in report.worst_first():
        if run.status in _LEVELS:
            yield annotation(run)
    if engines := engines_line(report):
        title = _property(f"Engines of {', '.join(report.newer)}")
        yield f"::notice title={title}::{_message(engines)}"


def annotation(run: RunDrift) -> str:
    """The annotation of one run."""
    look = look_of(run)
    properties = {"title": f"{look.word.capitalize()}: {run.case} at {run.precision} on {run.new}"}
    if run.case_path is not None:
        properties = {"file": run.case_path, "line": str(line_of(run)), **properties}
    texts = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    message = "\n".join(
        part for part in (run.reason, run.command and f"continue with: {run.command}") if part
    )
    return f"::{_LEVELS[run.status]} {texts}::{_message(message)}"


def line_of(run: RunDrift) -> int:
    """The line of the case file that asks for the run's precision; 1 if that is not known."""
    path = Path(run.case_path or "")
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return 1
    document = read_document(path)
    runs = document.data.get("runs") if isinstance(document.data, dict) else None
    for place, entry in enumerate(runs if isinstance(runs, list) else ()):
        asked = entry.get("precision") if isinstance(entry, dict) else entry
        if asked == run.precision.value:
            return document.position(("runs", place))[0]
    return 1


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")

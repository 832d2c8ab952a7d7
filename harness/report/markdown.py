"""A report as Markdown: for a job summary, a pull request or a bug report."""

from __future__ import annotations

from harness.judge import RunReport, RunResult, Verdict
from harness.report.view import attention, explain, matrix, skips, worst_error
from harness.report.words import LOOKS, answer, made_with, summary
from harness.text import number

MOST_BYTES = 1_000_000  # GitHub drops a job summary over 1 MiB whole

_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|#~"})


def run_markdown(report: RunReport, *, seconds: float | None = None) -> str:
    """The report as GitHub-flavoured Markdown, gravest rows first, never longer than a job summary may be."""
    lines = [f"## {answer(report)}", "", summary(report, seconds), ""]
    arranged = matrix(report)
    lines.append("| case | candidate |" + "".join(f" {p.value} |" for p in arranged.precisions) + " origin |")
    lines.append("|---|---|" + "---|" * len(arranged.precisions) + "---|")
    for row in sorted(arranged.rows, key=lambda row: -row.severity):
        cells = [_cell(row.runs.get(precision)) for precision in arranged.precisions]
        origin = f"`{code(row.origins[0].node)}` ({row.origins[0].op})" if row.origins else ""
        lines.append(f"| {' | '.join([escape(row.case), escape(row.candidate), *cells, origin])} |")
    lines.append("")
    if told := skips(report):
        lines += [*(f"- skipped {escape(cases)}: {escape(why)}" for why, cases in told.items()), ""]
    for result in attention(report):
        explanation = explain(result)
        lines += [f"### {LOOKS[result.verdict].glyph} {escape(explanation.headline)}", ""]
        for statement in explanation.statements:
            lines.append(f"- {statement.label + ': ' if statement.label else ''}{escape(statement.text)}")
        lines += ["", "```sh", explanation.command, "```", ""]
    facts = "".join(
        f"- {escape(key)}: {escape(value)}\n" for key, value in made_with(report.fingerprint).items()
    )
    tail = f"<details><summary>What this ran on</summary>\n\n{facts}\n</details>\n"
    return fit("\n".join(lines), tail)


def _cell(result: RunResult | None) -> str:
    if result is None:
        return ""
    look = LOOKS[result.verdict]
    worst = worst_error(result)
    text = f"{look.glyph} {look.word}"
    if worst is not None and result.verdict is not Verdict.ERROR:
        text += f" {number(worst)}"
    return f"**{text}**" if look.tone == "bad" else text


def escape(text: str) -> str:
    """Plain text in one line of Markdown."""
    return " ".join(text.translate(_SPECIAL).split())


def code(text: str) -> str:
    """Text between backticks, also in a table."""
    return text.replace("`", "'").replace("|", "\\|").replace("\n", " ")


def fit(body: str, tail: str) -> str:
    """Cut whole lines off the end of `body` until it fits."""
    note = "\n\n(cut here: a job summary may have 1 MiB; the JSON holds everything)\n\n"
    if len((body + "\n" + tail).encode()) <= MOST_BYTES:
        return body + "\n" + tail
    room = MOST_BYTES - len((note + tail).encode())
    kept = body.encode()[: max(room, 0)].decode(errors="ignore")
    return kept[: kept.rfind("\n") + 1] + note + tail[:room] if room > 0 else tail[:MOST_BYTES]

"""A diagnosis for reading: on a terminal, as Markdown for a bug report, and as one self-contained HTML page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.diagnosis import Diagnosis, DiagnosisVerdict, Recipe
from harness.report.diagnosis import words
from harness.report.figures import error_growth_svg, load_pictures
from harness.report.pages import load_template, render_page, trusted
from harness.report.words import (
    LAYER_NUMBERS,
    escape,
    is_plain,
    made_with,
    markdown_table,
    nested,
    print_statements,
    ran_on,
    say,
)
from harness.text import number, plural

if TYPE_CHECKING:
    from rich.console import Console

    from harness.judge import OutputResult, RunResult


TEMPLATE = "diagnosis.html.j2"
_ALTERNATIVES = (DiagnosisVerdict.PRECISION, DiagnosisVerdict.TF32, DiagnosisVerdict.SHAPE)
"""Verdicts of which one line of the advice is enough."""


def print_diagnosis(console: Console, diagnosis: Diagnosis, *, details: bool = False) -> None:
    """Print the answer, and with `details` all that it rests on."""
    seen = words.look(diagnosis)
    title = f"{seen.mark(plain=is_plain(console))} {words.heading(diagnosis)}"
    say(console, title, style=seen.style)
    print_statements(console, words.statements(diagnosis), indent=2)
    # One cure for each tool: whoever has trtexec needs no polygraphy.
    next_label = "or" if diagnosis.verdict in _ALTERNATIVES else ""
    for place, line in enumerate(diagnosis.advice):
        # Not in the table: a command that is wrapped cannot be pasted.
        say(console, (f"  {next_label if place else 'do':7}", "dim"), (line, "cyan"))
    if details:
        console.print()
        for evidence in diagnosis.evidence:
            say(console, f"  [{evidence.stage}] {evidence.text}")


def diagnosis_markdown(diagnosis: Diagnosis) -> str:
    """The diagnosis as GitHub-flavoured Markdown, for a bug report."""
    lines = [f"## {escape(words.heading(diagnosis))}", "", escape(diagnosis.summary), ""]
    lines += nested(words.statements(diagnosis))
    if advice := [line for line in diagnosis.advice if line not in diagnosis.recipes.values()]:
        lines += ["", "### What to do", "", *(f"- {_code(line)}" for line in advice)]
    if diagnosis.recipes:
        lines += ["", "### Recipes", ""]
        for tool, recipe in _commands(diagnosis).items():
            lines += [f"{_spoken(tool)}:", "", "```sh", str(recipe), "```", ""]
        lines += [f"- {_spoken(tool)}: {_code(recipe)}" for tool, recipe in _files(diagnosis).items()]
    lines += ["", "### Evidence", ""]
    lines += [f"- {evidence.stage}: {escape(evidence.text)}" for evidence in diagnosis.evidence]
    if diagnosis.before is not None and diagnosis.before.outputs:
        lines += ["", "### Outputs", "", *_output_table(diagnosis)]
        if diagnosis.outputs_after:
            lines += ["", f"After: {escape(diagnosis.after_on)} with {words.cure_words(diagnosis)}."]
    return "\n".join([*lines, "", ran_on(made_with(diagnosis.fingerprint))])


def _commands(diagnosis: Diagnosis) -> dict[str, str]:
    return {tool: recipe for tool, recipe in diagnosis.recipes.items() if not Recipe(tool).is_file}


def _files(diagnosis: Diagnosis) -> dict[str, str]:
    return {tool: recipe for tool, recipe in diagnosis.recipes.items() if Recipe(tool).is_file}


def _spoken(tool: str) -> str:
    """`trtexec strongly typed` for `trtexec_strongly_typed`."""
    return escape(tool.replace("_", " "))


def _code(text: str) -> str:
    """`text` as code in a line, whatever backticks are in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    inner = f" {text} " if longest else text
    return f"{fence}{inner}{fence}"


def _output_table(diagnosis: Diagnosis) -> list[str]:
    rows: list[Sequence[object]] = []
    for output, cured in _outputs(diagnosis):
        before, after = output.metrics, cured and cured.metrics
        nrmse, nonfinite = (number(after.nrmse), after.nonfinite) if after else ("–", "–")
        start = (escape(output.tensor), output.sample, number(before.nrmse))
        rows.append((*start, nrmse, before.nonfinite, nonfinite))
    columns = ("output", "sample", "nrmse before", "nrmse after", "not finite before", "after")
    return markdown_table(columns, rows)


def _outputs(diagnosis: Diagnosis) -> list[tuple[OutputResult, OutputResult | None]]:
    """Each output before, and after where it was measured."""
    after = {(output.tensor, output.sample): output for output in diagnosis.outputs_after}
    before = diagnosis.before.outputs if diagnosis.before is not None else ()
    return [(output, after.get((output.tensor, output.sample))) for output in before]


def load_diagnosis_page() -> None:
    """Load what `diagnosis_page` needs, which takes a second, before there is a diagnosis."""
    load_template(TEMPLATE)
    load_pictures()


def diagnosis_page(diagnosis: Diagnosis) -> str:
    """The diagnosis as an HTML page, with the error growth before and, where it was measured, after."""
    runs = ((f"Before: at {diagnosis.precision}", diagnosis.before, ""), _after(diagnosis))
    pictures = [
        (label, trusted(error_growth_svg(result, note=note)))
        for label, result, note in runs
        if result is not None and result.layers
    ]
    return render_page(
        TEMPLATE,
        diagnosis=diagnosis,
        words=words,
        commands=_commands(diagnosis),
        files=_files(diagnosis),
        pictures=pictures,
        legend=LAYER_NUMBERS,
        repro=None if diagnosis.repro is None else f"{diagnosis.repro.folder}/repro.py",
        outputs=_outputs(diagnosis),
        fingerprint=made_with(diagnosis.fingerprint),
    )


def _after(diagnosis: Diagnosis) -> tuple[str, RunResult | None, str]:
    """The run with the culprits in FP32, what it is (measured on the emulator, whatever was cured), and a note."""
    kept = f"{plural(sum(map(len, diagnosis.islands)), 'node')} in FP32"
    if diagnosis.fp32_sums:
        kept = words.cure_words(diagnosis)
    where = "" if diagnosis.candidate == "emulator" else ", on the emulator"
    return f"After{where}: {kept}, the others at {diagnosis.precision}", diagnosis.after, kept

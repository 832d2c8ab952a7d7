"""A diagnosis for reading: on a terminal, as Markdown for a bug report, and as one self-contained HTML page."""

from __future__ import annotations

import datetime
import re
import shlex
from functools import cache
from typing import TYPE_CHECKING, Any

from harness.diagnosis import A_FEW, FILES, NOBODY, Diagnosis, Verdict
from harness.judge import jsonable
from harness.report.page import TEMPLATES
from harness.report.view import LAYER_NUMBERS, Statement
from harness.report.words import Look
from harness.text import duration, names, number, plural

if TYPE_CHECKING:
    from jinja2 import Environment
    from rich.console import Console

    from harness.judge import RunResult

_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|#~"})
MOST_ORIGINS = 4
MOST_NODES = 8

LOOKS = {
    Verdict.NONE: Look("✓", "+", "none", "green", "good", 0),
    Verdict.UNRESOLVED: Look("●", "?", "UNRESOLVED", "bold yellow", "calm", 2),
}
_FAULT = Look("✗", "X", "FAULT", "bold red", "bad", 4)

MEANINGS = {
    Verdict.NONE: "nothing is wrong",
    Verdict.PRECISION: "the precision is too low for a few nodes",
    Verdict.TF32: "TF32 is too low a precision for products of this model",
    Verdict.CONVERSION: "the engine does not compute what the model says, in FP32 already",
    Verdict.FUSION: "layers that are right one by one are wrong when they are fused",
    Verdict.TACTIC: "right or wrong by the kernels that the builder chooses",
    Verdict.NONDETERMINISTIC: "the same network does not give the same outcome twice",
    Verdict.REFERENCE: "the FP32 reference itself is not sound",
    Verdict.UNRESOLVED: "what was shown does not say what it is",
}


def look(diagnosis: Diagnosis) -> Look:
    """How the verdict is shown."""
    return LOOKS.get(diagnosis.verdict, _FAULT)


def meaning(diagnosis: Diagnosis) -> str:
    """The verdict in words."""
    many = len(diagnosis.culprits)
    if diagnosis.verdict is Verdict.PRECISION and many > A_FEW:
        return f"the precision is too low for {many} nodes taken together"
    if diagnosis.own_types:
        return "values do not fit into the types that the file itself writes down"
    return MEANINGS[diagnosis.verdict]


def heading(diagnosis: Diagnosis) -> str:
    """`rmsnorm-overflow at fp16: precision`, with the candidate unless it is the emulator."""
    where = "" if diagnosis.candidate == "emulator" else f" on {diagnosis.candidate}"
    return f"{diagnosis.case} at {diagnosis.precision}{where}: {diagnosis.verdict}"


def statements(diagnosis: Diagnosis) -> tuple[Statement, ...]:
    """What, where, why, how it was shown, and what it cost, in the order in which a person asks."""
    found = [Statement("what", meaning(diagnosis))]
    if diagnosis.before is not None and diagnosis.verdict is not Verdict.NONE:
        found.append(Statement("", diagnosis.before.reason))
    found += [Statement("beside", sentence) for sentence in diagnosis.beside]
    found += [Statement("where" if not place else "", text) for place, text in enumerate(_places(diagnosis))]
    reasons = list(dict.fromkeys(origin.why for origin in diagnosis.origins))
    found += [
        Statement("why" if not place else "", reason) for place, reason in enumerate(reasons[:MOST_ORIGINS])
    ]
    found += [Statement("proof" if not place else "", text) for place, text in enumerate(_proof(diagnosis))]
    if diagnosis.price is not None:
        price = diagnosis.price
        text = f"{number(price.before_ms)} ms before, {number(price.after_ms)} ms after ({number(price.ratio)} times)"
        found.append(Statement("price", text))
    if diagnosis.repro is not None:
        found.append(Statement("repro", f"{plural(diagnosis.repro.nodes, 'node')}; {diagnosis.repro.note}"))
    if diagnosis.before is not None:
        found += [Statement("warning", warning) for warning in diagnosis.before.warnings]
    found.append(Statement("cost", cost(diagnosis)))
    return tuple(found)


def cost(diagnosis: Diagnosis) -> str:
    """`3 builds, 22 emulations, 31 s`."""
    spent = diagnosis.cost
    builds = [plural(spent.builds, "build")] if spent.builds or diagnosis.candidate != "emulator" else []
    return ", ".join([*builds, plural(spent.emulations, "emulation"), duration(spent.seconds)])


def _places(diagnosis: Diagnosis) -> list[str]:
    origins = names([f"{origin.node} ({origin.op})" for origin in diagnosis.origins], MOST_ORIGINS)
    verb = "gates begin to fail at" if _accumulates(diagnosis) else "it starts at"
    lines = [f"{verb} {origins}"] if origins else []
    for separation in diagnosis.separations:
        readers = ", ".join(separation.readers) or "the output"
        lines.append(f"between {separation.producer} and {readers}, at tensor {separation.tensor}")
    if diagnosis.islands:
        nodes = [node for island in diagnosis.islands for node in island]
        parts = f", in {len(diagnosis.islands)} places" if len(diagnosis.islands) > 1 else ""
        lines.append(f"back to FP32: {names(nodes, MOST_NODES)} ({plural(len(nodes), 'node')}{parts})")
    return lines


def _accumulates(diagnosis: Diagnosis) -> bool:
    return any(origin.why.startswith(NOBODY) for origin in diagnosis.origins)


def _proof(diagnosis: Diagnosis) -> list[str]:
    candidate = "the emulator" if diagnosis.candidate == "emulator" else "the unobserved engine"
    lines = []
    if diagnosis.confirmed and diagnosis.islands:
        lines.append(f"{candidate} passes with these nodes in FP32")
    elif diagnosis.confirmed and diagnosis.separations:
        lines.append("the engine passes when the layers are kept apart")
    elif diagnosis.confirmed:
        lines.append(
            f"{candidate} passes in FP32 without TF32" if diagnosis.verdict is Verdict.TF32 else "shown alone"
        )
    if diagnosis.minimal:
        lines.append("each of them was left out once, and it failed")
    elif diagnosis.minimal_on == "emulator":
        lines.append("each of them was left out once on the emulator, and it failed there")
    if diagnosis.faithful is False:
        lines.append("observing the engine changed it: what was seen inside is perturbed")
    return lines


def print_diagnosis(console: Console, diagnosis: Diagnosis, *, details: bool = False) -> None:
    """Print the answer, and with `details` all that it rests on."""
    from rich.table import Table
    from rich.text import Text

    seen = look(diagnosis)
    console.print(
        Text.assemble((f"{_glyph(console, seen)} {heading(diagnosis)}", seen.style)), soft_wrap=True
    )
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for statement in statements(diagnosis):
        grid.add_row(f"  {statement.label}", Text(statement.text))
    console.print(grid)
    # One cure for each tool: whoever has trtexec needs no polygraphy.
    next_label = "or" if diagnosis.verdict in (Verdict.PRECISION, Verdict.TF32) else ""
    for place, line in enumerate(diagnosis.advice):
        # Not in the table: a command that is wrapped cannot be pasted.
        label = f"  {next_label if place else 'do':7}"
        console.print(Text.assemble((label, "dim"), (line, "cyan")), soft_wrap=True)
    if details:
        console.print()
        for evidence in diagnosis.evidence:
            console.print(Text(f"  [{evidence.stage}] {evidence.text}"), soft_wrap=True)


def _glyph(console: Console, seen: Look) -> str:
    try:
        seen.glyph.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return seen.plain_glyph
    return seen.glyph


def diagnosis_markdown(diagnosis: Diagnosis) -> str:
    """The diagnosis as GitHub-flavoured Markdown, for a bug report."""
    lines = [f"## {_escape(heading(diagnosis))}", "", _escape(diagnosis.summary), ""]
    for statement in statements(diagnosis):
        label = (
            f"- **{statement.label}**" if statement.label else "  -"
        )  # what has none goes on with the one before
        lines.append(f"{label} {_escape(statement.text)}")
    if diagnosis.recipes:
        lines += ["", "### Recipes", ""]
        for tool, recipe in _commands(diagnosis).items():
            lines += [f"{_spoken(tool)}:", "", "```sh", str(recipe), "```", ""]
        lines += [f"- {_spoken(tool)}: {_code(recipe)}" for tool, recipe in _files(diagnosis).items()]
    lines += ["", "### Evidence", ""]
    lines += [f"- {evidence.stage}: {_escape(evidence.text)}" for evidence in diagnosis.evidence]
    if diagnosis.before is not None and diagnosis.before.outputs:
        lines += ["", "### Outputs", "", *_output_table(diagnosis)]
        if diagnosis.outputs_after:
            lines += ["", f"After: {_escape(diagnosis.after_on)} with the culprits in FP32."]
    facts = [f"- {_escape(str(key))}: {_escape(str(value))}" for key, value in diagnosis.fingerprint.items()]
    lines += ["", "<details><summary>What this ran on</summary>", "", *facts, "", "</details>"]
    return "\n".join(lines) + "\n"


def _commands(diagnosis: Diagnosis) -> dict[str, str]:
    return {tool: recipe for tool, recipe in diagnosis.recipes.items() if tool not in FILES}


def _files(diagnosis: Diagnosis) -> dict[str, str]:
    return {tool: recipe for tool, recipe in diagnosis.recipes.items() if tool in FILES}


def _spoken(tool: str) -> str:
    """`trtexec strongly typed` for `trtexec_strongly_typed`."""
    return _escape(tool.replace("_", " "))


def _code(text: str) -> str:
    """`text` as code in a line, whatever backticks are in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    inner = f" {text} " if longest else text
    return f"{fence}{inner}{fence}"


def _output_table(diagnosis: Diagnosis) -> list[str]:
    lines = [
        "| output | sample | nrmse before | nrmse after | not finite before | after |",
        "|---|---|---|---|---|---|",
    ]
    for row in output_rows(diagnosis):
        lines.append(
            f"| {_escape(row['tensor'])} | {row['sample']} | {row['nrmse']} | {row['cured']} | "
            f"{row['nonfinite']} | {row['left']} |"
        )
    return lines


def _escape(text: str) -> str:
    """`text` as Markdown shows it literally, on one line."""
    return " ".join(text.translate(_SPECIAL).split())


def output_rows(diagnosis: Diagnosis) -> list[dict[str, Any]]:
    """The outputs before and after, as text."""
    after = {(output.tensor, output.sample): output for output in diagnosis.outputs_after}
    rows = []
    for output in diagnosis.before.outputs if diagnosis.before is not None else ():
        cured = after.get((output.tensor, output.sample))
        rows.append(
            {
                "tensor": output.tensor,
                "sample": output.sample,
                "nrmse": number(output.metrics.nrmse),
                "cured": "–" if cured is None else number(cured.metrics.nrmse),
                "nonfinite": output.metrics.nonfinite,
                "left": "–" if cured is None else cured.metrics.nonfinite,
                "passed": output.passed,
                "cured_passed": cured is None or cured.passed,
            }
        )
    return rows


def diagnosis_page(diagnosis: Diagnosis, *, made: datetime.datetime | None = None) -> str:
    """The diagnosis as an HTML page, with the error growth before and, where it was measured, after.

    Args:
        diagnosis: what to show.
        made: when the page was made; now by default.
    """
    from markupsafe import Markup

    from harness.report.growth import error_growth_svg

    made = made or datetime.datetime.now(datetime.UTC)
    pictures = [
        (label, Markup(error_growth_svg(result, note=note)))  # made by matplotlib, which escapes every text
        for label, result, note in (
            (f"Before: at {diagnosis.precision}", diagnosis.before, ""),
            _after(diagnosis),
        )
        if result is not None and result.layers
    ]
    return (
        _environment()
        .get_template("diagnosis.html.j2")
        .render(
            diagnosis=diagnosis,
            heading=heading(diagnosis),
            look=look(diagnosis),
            statements=statements(diagnosis),
            accumulates=_accumulates(diagnosis),
            commands=_commands(diagnosis),
            files=_files(diagnosis),
            pictures=pictures,
            legend=LAYER_NUMBERS,
            repro=None if diagnosis.repro is None else f"{diagnosis.repro.folder}/repro.py",
            outputs=output_rows(diagnosis),
            fingerprint=jsonable(diagnosis.fingerprint),
            made=made.strftime("%Y-%m-%d %H:%M UTC"),
        )
    )


def _after(diagnosis: Diagnosis) -> tuple[str, RunResult | None, str]:
    """The run with the culprits in FP32, what it is (measured on the emulator, whatever was cured), and a note."""
    kept = f"{plural(sum(map(len, diagnosis.islands)), 'node')} in FP32"
    where = "" if diagnosis.candidate == "emulator" else ", on the emulator"
    return f"After{where}: {kept}, the others at {diagnosis.precision}", diagnosis.after, kept


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, duration=duration, quoted=shlex.quote)
    return environment

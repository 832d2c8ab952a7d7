"""Answers on a terminal: what rich prints for each of them."""

from __future__ import annotations

import math
from functools import singledispatch
from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.comparison import NONFINITE
from harness.diagnosis import LONGEST_COMMAND
from harness.errors import HarnessError
from harness.explore.answers import (
    BisectResult,
    Explanation,
    ExportedFiles,
    JournalSummary,
    KeptNodes,
    LayerTable,
    Results,
    TryResult,
    Welcome,
)
from harness.explore.commands import COMMANDS
from harness.explore.names import quoted
from harness.explore.tables import LONGEST_NAME, render_explanation, render_layers
from harness.judge import EMULATOR
from harness.report import make_grid
from harness.search import Outcome, SearchVerdict
from harness.text import duration, multiple, names, number, plural, shorten

LOOKS = {
    Outcome.PASS: ("PASS", "bold green"),
    Outcome.FAIL: ("FAIL", "bold red"),
    Outcome.UNRESOLVED: ("ERROR", "bold yellow"),
}
MOST_ORIGINS = 3
PRINTED_RECIPES = ("trtexec", "polygraphy")
"""The others are in a file."""


@singledispatch
def render(answer: object) -> RenderableType:
    """What is printed for an answer."""
    raise TypeError(f"a {type(answer).__name__} cannot be shown")


# --- one configuration ------------------------------------------------------------------------------------------------


@render.register
def _(answer: TryResult) -> RenderableType:
    evaluation = answer.evaluation
    where = "" if answer.candidate == EMULATOR else f" on {answer.candidate}"
    kept = f"with {len(answer.kept)} of {plural(answer.nodes, 'node')} in FP32"
    several = len({output.tensor for output in evaluation.outputs}) > 1
    named = f"{evaluation.worst[0].tensor}:" if several and evaluation.worst is not None else ""
    parts = [part for part in (named, measured(answer), kept) if part]
    took = "remembered" if evaluation.recalled else brief(evaluation.seconds)
    line = Text.assemble(LOOKS[evaluation.outcome], f"{where} {' '.join(parts)}", (f" · {took}", "dim"))
    return Group(line, *(Text(f"  | {text}", style="dim") for text in evaluation.evidence))


def measured(answer: TryResult) -> str:
    """`nrmse 3.1e-3 (limit 0.01)`, `12 of 64 elements not finite`, or why there is no number."""
    if answer.evaluation.worst is None:
        return answer.evaluation.note
    output, gate = answer.evaluation.worst
    metrics = output.metrics
    if metrics.incomparable:
        text = metrics.incomparable
    elif metrics.nonfinite:
        text = f"{metrics.nonfinite} of {plural(metrics.count, 'element')} not finite"
    elif gate.metric == NONFINITE.metric:
        text = "every element finite"
    else:
        text = f"{gate.subject} {number(gate.value)} (limit {number(gate.limit)})"
    return text


def brief(seconds: float) -> str:
    """`3 ms`, `0.8 s`, `2 min 5 s`."""
    return f"{max(round(seconds * 1e3), 1)} ms" if seconds < 0.5 else duration(seconds)


@render.register
def _(answer: BisectResult) -> RenderableType:
    spent = f" · {plural(answer.evaluations, 'evaluation')} · {brief(answer.seconds)}"
    beside = f", besides the {answer.fixed} that stay kept" if answer.fixed else ""
    if answer.verdict is SearchVerdict.NONE:
        text = f"None of the {answer.among} is needed{beside}: it passes with all of them lowered"
    elif answer.answered:
        needed = "is" if len(answer.found) == 1 else "are"
        proof = "without any one of them it fails" if answer.minimal else "fewer may do"
        text = (
            f"{names(answer.found)}: {len(answer.found)} of {answer.among} {needed} needed{beside}; {proof}"
        )
    else:
        text = f"{_UNANSWERED[answer.verdict]} ({plural(answer.among, 'node')}{beside})"
        return Text.assemble((text, "yellow"), (spent, "dim"))
    lines: list[RenderableType] = [Text.assemble(text, (spent, "dim"))]
    if answer.result is not None:
        lines.append(render(answer.result))
    return Group(*lines)


_UNANSWERED = {
    SearchVerdict.LOST: "It fails with all of them in FP32: the fault is not, or not only, in these nodes",
    SearchVerdict.FLAKY: "The same evaluation did not give the same outcome twice",
    SearchVerdict.BUDGET: "The budget ended the search",
    SearchVerdict.UNRESOLVED: "A configuration that the search needs could not be judged",
}


@render.register
def _(answer: KeptNodes) -> RenderableType:
    if not answer.changed:
        if not answer.kept:
            return Text(f"Nothing is kept in FP32: all {answer.nodes} nodes are lowered.")
        return Text(f"{len(answer.kept)} of {answer.nodes} nodes in FP32: {', '.join(answer.kept)}")
    parts = []
    if answer.added:
        parts.append(f"{plural(len(answer.added), 'node')} back to FP32: {names(answer.added, most=2)}")
    if answer.removed:
        parts.append(f"{plural(len(answer.removed), 'node')} lowered: {names(answer.removed, most=2)}")
    known = "" if answer.outcome is None else f": {LOOKS[answer.outcome][0]}"
    total = f" · {len(answer.kept)} of {answer.nodes} in FP32{known}"
    return Text.assemble("; ".join(parts) or "nothing changes", (total, "dim"))


render.register(LayerTable, render_layers)
render.register(Explanation, render_explanation)


# --- the session ------------------------------------------------------------------------------------------------------


@render.register
def _(answer: Welcome) -> RenderableType:
    head = Text.assemble(
        (f"{answer.case} at {answer.precision}", "bold"),
        f" · {plural(answer.start.nodes, 'node')} · {plural(answer.samples, 'sample')}",
    )
    grid = make_grid()
    grid.add_row("emulator", _standing(answer.start))
    for place, origin in enumerate(answer.origins[:MOST_ORIGINS]):
        grid.add_row("" if place else "origin", Text(f"{origin.node} ({origin.op})"))
        if not place:
            grid.add_row("why", Text(answer.reason))
    if len(answer.origins) > MOST_ORIGINS:
        grid.add_row("", Text(f"and {len(answer.origins) - MOST_ORIGINS} more"))
    if answer.diverged:
        grid.add_row(
            "behind", Text(f"{answer.diverged} of {plural(answer.layers, 'layer')} fail their gates")
        )
    if answer.environment is not None:
        grid.add_row("engine", Text(f"on {answer.environment}: `try --engine` builds it"))
    for journal in answer.earlier:
        grid.add_row("earlier", Text(_earlier(journal)))
    if answer.note:
        grid.add_row("note", Text(answer.note))
    return Group(head, Padding(grid, (0, 0, 1, 2), expand=False), _suggestions(answer))


def _standing(start: TryResult) -> Text:
    evaluation = start.evaluation
    output = "" if evaluation.worst is None else f" {shorten(evaluation.worst[0].tensor, LONGEST_NAME)}:"
    beyond = evaluation.badness
    times = f", {multiple(beyond)} the limit" if 1 < beyond < math.inf else ""
    return Text.assemble(LOOKS[evaluation.outcome], f"{output} {measured(start)}{times}")


def _suggestions(answer: Welcome) -> RenderableType:
    if answer.start.passed:
        tips = [("layers by max", "what is nearest to overflowing"), ("plot", "how the error grows")]
        if answer.environment is not None:
            tips.insert(0, ("try --engine", "does the engine pass, too?"))
    else:
        first = answer.origins[0].node if answer.origins else None
        tips = [] if first is None else [(f"why {quoted(first)}", "what happens there")]
        tips += [("layers by introduced", "which nodes err most")]
        tips += [(f"keep {quoted(answer.suggested)}", "back to FP32, then `try`")] if answer.suggested else []
        tips += [("bisect", "or let harness find the fewest nodes")]
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for place, (command, text) in enumerate(tips):
        grid.add_row("" if place else "  type", Text(command), Text(text))
    footer = Text("  help lists the commands, Tab completes, Ctrl-C cancels, Ctrl-D leaves", style="dim")
    return Group(grid, footer)


def _earlier(journal: JournalSummary) -> str:
    where = "the emulator" if journal.candidate == EMULATOR else journal.candidate
    best = "none passes" if journal.best is None else f"the fewest nodes that pass: {names(journal.best)}"
    return f"{plural(journal.evaluations, 'configuration')} tried on {where}; {best}"


@render.register
def _(answer: Results) -> RenderableType:
    if not answer.earlier and not answer.tried:
        return Text("Nothing has been tried yet.")
    grid = make_grid()
    for journal in answer.earlier:
        grid.add_row("earlier", Text(_earlier(journal)))
    for place, tried in enumerate(answer.tried, start=1):
        grid.add_row(Text(str(place), justify="right"), _tried(tried))
    return grid


def _tried(tried: TryResult | BisectResult) -> Text:
    by = "bisect: " if isinstance(tried, BisectResult) else ""
    result = tried.result if isinstance(tried, BisectResult) else tried
    if result is None:
        return Text(f"{by}no answer")
    where = "" if result.candidate == EMULATOR else f" on {result.candidate}"
    nodes = f"{len(result.kept)} in FP32: {names(result.kept, most=2)}" if result.kept else "all lowered"
    return Text.assemble(by, LOOKS[result.evaluation.outcome], f"{where} {measured(result)}, {nodes}")


@render.register
def _(answer: Path) -> RenderableType:
    return Text(str(answer))


@render.register
def _(answer: ExportedFiles) -> RenderableType:
    lines: list[RenderableType] = []
    if not answer.result.passed:
        lines.append(Text(f"This does not pass yet: {measured(answer.result)}", style="yellow"))
    lines.append(Text(f"{answer.folder}: {', '.join(answer.files)}"))
    lines += [Text(text, style="dim") for text in answer.evidence]
    lines += [
        Text(command, style="cyan", no_wrap=True, overflow="ignore")  # wrapped it could not be pasted
        for tool, command in answer.commands
        if tool in PRINTED_RECIPES and len(command) <= LONGEST_COMMAND
    ]
    return Group(*lines)


def render_help(name: str | None = None) -> RenderableType:
    """The list of commands, or the one called `name` explained."""
    if name is not None:
        spec = COMMANDS[name]
        return Group(
            Text(spec.usage, style="cyan"), Text(f"{spec.help[0].upper()}{spec.help[1:]}. {spec.details}")
        )
    grid = make_grid("cyan")
    for spec in COMMANDS.values():
        usage = spec.name if len(spec.usage) > 24 else spec.usage
        grid.add_row(Text(usage), Text(spec.help))
    return Group(grid, Text("help COMMAND says more; # starts a comment in a script", style="dim"))


def render_error(problem: HarnessError) -> RenderableType:
    """What is wrong, and how to fix it."""
    where = "" if problem.where is None else f"{problem.where}: "
    lines: list[RenderableType] = [Text(f"{where}{problem.message}", style="red")]
    if problem.hint is not None:
        lines.append(Text(f"  {problem.hint}"))
    return Group(*lines)

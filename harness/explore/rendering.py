"""Answers on a terminal: what rich prints for each of them."""

from __future__ import annotations

import math
from functools import singledispatch

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.diagnosis import LONGEST_COMMAND
from harness.errors import HarnessError
from harness.explore.answers import (
    Attempt,
    Changed,
    Earlier,
    Explanation,
    Exported,
    Kept,
    LayersShown,
    Narrowed,
    Past,
    Plotted,
    Welcome,
)
from harness.explore.commands import COMMANDS, Help
from harness.explore.names import quoted
from harness.explore.tables import LONGEST_NAME, make_grid, render_explanation, render_layers
from harness.judge import EMULATOR
from harness.report import NONFINITE
from harness.search import Outcome, Verdict
from harness.text import duration, names, number, plural, shorten

LOOKS = {
    Outcome.PASS: ("PASS", "bold green"),
    Outcome.FAIL: ("FAIL", "bold red"),
    Outcome.UNRESOLVED: ("ERROR", "bold yellow"),
}
MOST_ORIGINS = 3
SHOWN = ("trtexec", "polygraphy")
"""The recipes that are shown; all of them are in a file."""


@singledispatch
def render(answer: object) -> RenderableType:
    """What is printed for an answer."""
    raise TypeError(f"there is no way to show a {type(answer).__name__}")


# --- one configuration ------------------------------------------------------------------------------------------------


@render.register
def _(answer: Attempt) -> RenderableType:
    word, style = LOOKS[answer.outcome]
    where = "" if answer.candidate == EMULATOR else f" on {answer.candidate}"
    kept = f"with {len(answer.kept)} of {plural(answer.nodes, 'node')} in FP32"
    named = f"{answer.output.tensor}:" if answer.output is not None and answer.outputs > 1 else ""
    parts = [part for part in (named, measure(answer), kept) if part]
    took = "remembered" if answer.remembered else brief(answer.seconds)
    line = Text.assemble((word, style), f"{where} {' '.join(parts)}", (f" · {took}", "dim"))
    return Group(line, *(Text(f"  | {text}", style="dim") for text in answer.evidence))


def measure(answer: Attempt) -> str:
    """`nrmse 3.1e-3 (limit 0.01)`, `12 of 64 elements not finite`, or why there is no number."""
    if answer.output is None or answer.gate is None:
        return answer.note
    gate, metrics = answer.gate, answer.output.metrics
    if metrics.incomparable:
        text = metrics.incomparable
    elif metrics.nonfinite:
        text = f"{metrics.nonfinite} of {plural(metrics.count, 'element')} not finite"
    elif gate.metric == NONFINITE:
        text = "every element finite"
    else:
        text = f"{gate.metric} {number(gate.value)} (limit {number(gate.limit)})"
    return text


def brief(seconds: float) -> str:
    """`3 ms`, `0.8 s`, `2 min 5 s`."""
    return f"{max(round(seconds * 1e3), 1)} ms" if seconds < 0.5 else duration(seconds)


@render.register
def _(answer: Narrowed) -> RenderableType:
    spent = f" · {plural(answer.evaluations, 'evaluation')} · {brief(answer.seconds)}"
    beside = f", beside the {answer.fixed} that stay kept" if answer.fixed else ""
    if answer.verdict is Verdict.NONE:
        text = f"None of the {answer.asked} is needed{beside}: it passes with all of them lowered"
    elif answer.answered:
        needed = "is" if len(answer.found) == 1 else "are"
        proof = "each was left out once, and it failed" if answer.minimal else "fewer may do"
        text = (
            f"{names(answer.found)}: {len(answer.found)} of {answer.asked} {needed} needed{beside}; {proof}"
        )
    else:
        text = f"{_UNANSWERED[answer.verdict]} ({plural(answer.asked, 'node')}{beside})"
        return Text.assemble((text, "yellow"), (spent, "dim"))
    lines: list[RenderableType] = [Text.assemble(text, (spent, "dim"))]
    if answer.attempt is not None:
        lines.append(render(answer.attempt))
    return Group(*lines)


_UNANSWERED = {
    Verdict.LOST: "It fails with all of them in FP32: the fault is not, or not only, in these nodes",
    Verdict.FLAKY: "The same evaluation did not give the same outcome twice",
    Verdict.BUDGET: "The budget ended the search",
    Verdict.UNRESOLVED: "What had to be judged could not be judged",
}


@render.register
def _(answer: Changed) -> RenderableType:
    said = []
    if answer.added:
        said.append(f"{plural(len(answer.added), 'node')} back to FP32: {names(answer.added, most=2)}")
    if answer.removed:
        said.append(f"{plural(len(answer.removed), 'node')} lowered: {names(answer.removed, most=2)}")
    if not said:
        said.append(
            {"kept": "they are in FP32 already", "lowered": "they are lowered already"}.get(answer.verb, "")
        )
    known = "" if answer.known is None else f": {LOOKS[answer.known][0]}"
    total = f" · {len(answer.kept)} of {answer.nodes} in FP32{known}"
    return Text.assemble("; ".join(said), (total, "dim"))


@render.register
def _(answer: Kept) -> RenderableType:
    if not answer.kept:
        return Text(f"Nothing is kept in FP32: all {answer.nodes} nodes are lowered.")
    return Text(f"{len(answer.kept)} of {answer.nodes} nodes in FP32: {', '.join(answer.kept)}")


render.register(LayersShown, render_layers)
render.register(Explanation, render_explanation)


# --- the session ------------------------------------------------------------------------------------------------------


@render.register
def _(answer: Welcome) -> RenderableType:
    head = Text.assemble(
        (f"{answer.case} at {answer.precision}", "bold"),
        f" · {plural(answer.nodes, 'node')} · {plural(answer.samples, 'sample')}",
    )
    grid = make_grid()
    grid.add_row("emulator", _standing(answer.attempt))
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
    for past in answer.earlier:
        grid.add_row("earlier", Text(_earlier(past)))
    if answer.note:
        grid.add_row("note", Text(answer.note))
    return Group(head, Padding(grid, (0, 0, 1, 2), expand=False), _suggestions(answer))


def _standing(attempt: Attempt) -> Text:
    word, style = LOOKS[attempt.outcome]
    output = "" if attempt.output is None else f" {shorten(attempt.output.tensor, LONGEST_NAME)}:"
    times = ""
    if attempt.badness is not None and 1 < attempt.badness < math.inf:
        times = f", {number(attempt.badness)} times the limit"
    return Text.assemble((word, style), f"{output} {measure(attempt)}{times}")


def _suggestions(answer: Welcome) -> RenderableType:
    if answer.attempt.passed:
        tips = [("layers by headroom", "what is nearest to overflowing"), ("plot", "the growth of the error")]
        if answer.environment is not None:
            tips.insert(0, ("try --engine", "does the engine pass, too?"))
    else:
        first = answer.origins[0].node if answer.origins else None
        tips = [] if first is None else [(f"why {quoted(first)}", "what happens there")]
        tips += [("layers by introduced", "who errs most")]
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


def _earlier(past: Earlier) -> str:
    where = "the emulator" if past.candidate == EMULATOR else past.candidate
    best = "none passes" if past.best is None else f"the fewest nodes that pass: {names(past.best)}"
    return f"{plural(past.evaluations, 'configuration')} tried on {where}; {best}"


@render.register
def _(answer: Past) -> RenderableType:
    if not answer.earlier and not answer.tried:
        return Text("Nothing was tried yet.")
    grid = make_grid()
    for past in answer.earlier:
        grid.add_row("earlier", Text(_earlier(past)))
    for place, tried in enumerate(answer.tried, start=1):
        grid.add_row(Text(str(place), justify="right"), _happened(tried))
    return grid


def _happened(tried: Attempt | Narrowed) -> Text:
    by = "bisect: " if isinstance(tried, Narrowed) else ""
    attempt = tried.attempt if isinstance(tried, Narrowed) else tried
    if attempt is None:
        return Text(f"{by}no answer")
    where = "" if attempt.candidate == EMULATOR else f" on {attempt.candidate}"
    nodes = f"{len(attempt.kept)} in FP32: {names(attempt.kept, most=2)}" if attempt.kept else "all lowered"
    return Text.assemble(by, LOOKS[attempt.outcome], f"{where} {measure(attempt)}, {nodes}")


@render.register
def _(answer: Plotted) -> RenderableType:
    return Text(str(answer.path))


@render.register
def _(answer: Exported) -> RenderableType:
    lines: list[RenderableType] = []
    if not answer.attempt.passed:
        lines.append(Text(f"This does not pass yet: {measure(answer.attempt)}", style="yellow"))
    lines.append(Text(f"{answer.folder}: {', '.join(answer.files)}"))
    lines += [Text(text, style="dim") for text in answer.evidence]
    lines += [
        Text(command, style="cyan", no_wrap=True, overflow="ignore")  # wrapped it could not be pasted
        for tool, command in answer.commands
        if tool in SHOWN and len(command) <= LONGEST_COMMAND
    ]
    return Group(*lines)


@render.register
def _(answer: Help) -> RenderableType:
    if answer.topic is not None:
        spec = COMMANDS[answer.topic]
        return Group(
            Text(spec.usage, style="cyan"), Text(f"{spec.help[0].upper()}{spec.help[1:]}. {spec.details}")
        )
    grid = make_grid("cyan")
    for spec in COMMANDS.values():
        usage = spec.name if len(spec.usage) > 24 else spec.usage
        grid.add_row(Text(usage), Text(spec.help))
    return Group(grid, Text("help COMMAND says more; # begins a comment in a script", style="dim"))


def render_error(problem: HarnessError) -> RenderableType:
    """What is wrong, and what mends it."""
    where = "" if problem.where is None else f"{problem.where}: "
    lines: list[RenderableType] = [Text(f"{where}{problem.message}", style="red")]
    if problem.hint is not None:
        lines.append(Text(f"  {problem.hint}"))
    return Group(*lines)

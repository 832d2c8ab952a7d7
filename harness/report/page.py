"""A report as one self-contained HTML page: verdict in words first, no network, readable on a phone."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.judge import RunReport, RunResult, Verdict
from harness.report.growth import error_growth_svg
from harness.report.view import (
    Explanation,
    error,
    explain,
    flags,
    gates_text,
    layer_legend,
    matrix,
    worst_error,
)
from harness.report.words import LOOKS, answer, made_with, summary, title
from harness.text import duration, number

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")
MOST_DETAILED = 24  # pages of more runs show layers and pictures only of what did not plainly pass


@dataclass(frozen=True)
class _Section:
    """What the page says of one run."""

    anchor: str
    result: RunResult
    explanation: Explanation
    picture: Markup | None
    with_layers: bool


def run_page(
    report: RunReport, *, seconds: float | None = None, made: datetime.datetime | None = None
) -> str:
    """The report as an HTML page.

    Args:
        report: the runs.
        seconds: how long they took.
        made: when the page was made; now by default.
    """
    made = made or datetime.datetime.now(datetime.UTC)
    arranged = matrix(report)
    anchors = {id(result): f"run-{number}" for number, result in enumerate(report.results)}
    gravest_first = sorted(report.results, key=lambda result: -LOOKS[result.verdict].severity)
    return (
        environment()
        .get_template("run.html.j2")
        .render(
            answer=answer(report),
            summary=summary(report, seconds),
            bad=report.exit_code != 0,
            matrix=arranged,
            named=arranged.named,
            anchors=anchors,
            sections=[
                _section(anchors[id(result)], result, brief=len(report.results) > MOST_DETAILED)
                for result in gravest_first
            ],
            fingerprint=made_with(report.fingerprint),
            made=made.strftime("%Y-%m-%d %H:%M UTC"),
        )
    )


def _section(anchor: str, result: RunResult, *, brief: bool) -> _Section:
    from markupsafe import Markup

    picture = None
    detailed = bool(result.layers) and not (brief and result.verdict is Verdict.PASS)
    if detailed:
        # Made by matplotlib, which escapes every text that it writes into an SVG.
        picture = Markup(error_growth_svg(result))
    return _Section(anchor, result, explain(result), picture, detailed)


@cache
def environment() -> Environment:
    """The templates, with what they may call."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tools: dict[str, Any] = {
        "look": lambda result: LOOKS[result.verdict],
        "worst_error": worst_error,
        "Verdict": Verdict,
        "layer_legend": layer_legend(),
    }
    made.globals.update(tools)
    made.filters.update(
        number=number,
        title_of=title,
        error=error,
        gates_text=gates_text,
        flags=flags,
        duration=duration,
        id=id,
    )
    return made

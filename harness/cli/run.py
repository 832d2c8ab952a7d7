"""`harness run`: judge cases or ONNX models."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import (
    REPORTS,
    AccumulateOption,
    Data,
    HtmlFile,
    JsonFile,
    Kernels,
    MarkdownFile,
    Ops,
    OtherReference,
    Precisions,
    Samples,
    Scheduler,
    Seed,
    Shapes,
    Tags,
    Targets,
    check_environments,
    choice,
    parse_shapes,
    path_option,
    start_worker,
)
from harness.cli.outputs import Outputs
from harness.cli.progress import RunProgress, make_progress
from harness.errors import UsageError
from harness.text import plural

if TYPE_CHECKING:
    from rich.console import Console

    from harness.judge import JudgeOptions, RunEvent, RunReport
    from harness.tactics import Repeats

app = typer.Typer(add_completion=False)

_golden = partial(typer.Option, rich_help_panel="Golden references")
MOST_LAYERS = 8
"""Layers that changed between builds, shown without --details."""

Environments = Annotated[
    list[str] | None,
    typer.Option("--env", "-e", metavar="NAME", help="Judge engines of this environment. Repeatable."),
]


class Observe(StrEnum):
    """How to observe engines, as it is typed: `auto`, or an Observation."""

    AUTO = "auto"
    NONE = "none"
    TYPED = "typed"
    DEBUG = "debug"
    PREFIX = "prefix"


ObserveOption = Annotated[
    Observe,
    typer.Option(
        "--observe",
        metavar="HOW",
        help="How to read intermediate tensors of engines: debug (between kernels, which moves nothing), typed or "
        "prefix; auto is debug where the release has it, else typed; none judges the outputs alone.",
        parser=choice(Observe, "--observe"),
    ),
]
RepeatCount = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="K",
        help="Build every engine K times, tuned anew. All must pass; shows what changes between builds.",
    ),
]
Details = Annotated[bool, typer.Option("--details", "-v", help="Show the outputs and layers of every run.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show only unexpected results and the summary.")]
Plot = Annotated[
    Path | None,
    path_option(
        "--plot",
        metavar="PATH",
        help="Draw how the error grows: a .png or .svg for one run, or a folder.",
        panel=REPORTS,
    ),
]
SaveOutputs = Annotated[
    Path | None,
    path_option(
        "--save-outputs",
        help="Write what the candidates computed as polygraphy's results (.json), which harness compare reads, too.",
        panel=REPORTS,
    ),
]
GoldenUpdate = Annotated[
    bool, _golden("--golden-update", help="Rewrite golden references that are missing or fail.")
]
GoldenPrune = Annotated[bool, _golden("--golden-prune", help="Delete golden references that no case has.")]


@app.command()
def run(
    targets: Targets,
    precisions: Precisions = None,
    environments: Environments = None,
    observe: ObserveOption = Observe.AUTO,
    repeats: RepeatCount = 1,
    inputs: Shapes = None,
    data: Data = None,
    samples: Samples = None,
    seed: Seed = None,
    ops: Ops = None,
    reference: OtherReference = None,
    tags: Tags = None,
    kernels: Kernels = None,
    accumulate: AccumulateOption = None,
    details: Details = False,
    quiet: Quiet = False,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
    markdown_file: MarkdownFile = None,
    plot: Plot = None,
    save_outputs: SaveOutputs = None,
    golden_update: GoldenUpdate = False,
    golden_prune: GoldenPrune = False,
    scheduler: Scheduler = None,
) -> None:
    """Judge cases or ONNX models: a verdict for every run and every tensor.

    Without --env the candidate is the emulator, which needs no GPU.
    """
    outputs = Outputs(json_file, html_file, markdown_file, plot=plot, tensors=save_outputs)
    outputs.check()
    wanted, names = tuple(precisions or ()), tuple(environments or ())
    check_environments((*names, *(() if kernels in (None, "none") else (kernels,))), scheduler)
    if repeats > 1 and not names:
        raise UsageError("--repeats builds engines, but the emulator builds none", hint="add --env NAME")
    if scheduler is None:
        start_worker(names)
    from harness.golden import prune_goldens, refuse_in_ci
    from harness.judge import Given, RunReport, fingerprint_of, select_cases
    from harness.judge import run as judge

    if golden_update or golden_prune:
        refuse_in_ci("rewritten" if golden_update else "removed")
    given, shapes = Given(tuple(data or ()), samples, seed, reference, ops), parse_shapes(inputs)
    cases = select_cases(targets, inputs=shapes, given=given, tags=tags or (), precisions=wanted)
    outputs.check_plot(sum(len(case.select_runs(wanted)) for case in cases) * max(len(names), 1))
    for folder in prune_goldens(cases) if golden_prune else ():
        print(f"deleted {folder}", file=sys.stderr)
    options = _options(observe, repeats, golden_update, save_outputs is not None)
    start = time.perf_counter()
    progress = make_progress(RunProgress, quiet=quiet)
    show = partial(show_report, outputs.console, details=details, brief=quiet)

    def so_far() -> RunReport:
        return RunReport(fingerprint_of(progress.done), progress.done, interrupted=True)

    def follow(event: RunEvent) -> None:
        progress(event)
        if event.result is not None and progress.count < event.total:  # the report follows the last at once
            outputs.keep(lambda: so_far().to_dict())

    try:
        with progress:
            report = judge(
                cases,
                precisions=wanted,
                environments=names,
                options=replace(options, kernels=kernels, accumulate=accumulate),
                progress=follow,
                scheduler=scheduler,
            )
    except KeyboardInterrupt:
        show(so_far(), seconds=None)
        outputs.keep(lambda: so_far().to_dict(), at_once=True)
        raise
    seconds = time.perf_counter() - start
    show(report, seconds=seconds)
    write_report(outputs, report, seconds)
    raise typer.Exit(report.exit_code)


def _options(observe: Observe, repeats: int, golden_update: bool, keep_outputs: bool) -> JudgeOptions:
    from harness.backends import Observation
    from harness.judge import JudgeOptions

    return JudgeOptions(
        layers=observe is not Observe.NONE,
        observation=None if observe is Observe.AUTO else Observation(observe),
        golden_update=golden_update,
        keep_outputs=keep_outputs,
        repeats=repeats,
    )


def show_report(
    console: Console, report: RunReport, *, details: bool, brief: bool, seconds: float | None
) -> None:
    """Print the report for a person. A mistake in a case goes to stderr, once for all runs that it stops."""
    from harness.report import attention, print_report

    if report.results:
        print_repeats(console, report, details=details)
        print_report(console, report, details=details, brief=brief, seconds=seconds)
    for result in attention(report):
        if result.mistake:
            print(f"error: {result.reason}", file=sys.stderr)


def write_report(outputs: Outputs, report: RunReport, seconds: float) -> None:
    """Write the files that `outputs` names.

    Raises:
        UsageError: a file cannot be written.
    """
    from harness.report import run_markdown, run_page, save_error_growth

    def draw(plot: Path) -> None:
        for result in report.results:
            if result.layers:
                name = re.sub(r"[^\w.-]+", "-", result.id.replace("::", "."))
                save_error_growth(result, plot if outputs.one_picture else plot / f"{name}.png")

    outputs.write(
        document=report.to_dict,
        page=partial(run_page, report, seconds=seconds),
        summary=partial(run_markdown, report, seconds=seconds),
        draw=draw,
        save=report.save_outputs,
    )


def print_repeats(console: Console, report: RunReport, *, details: bool) -> None:
    """Print which layers changed tactic between builds and how far outputs moved, if anything was repeated."""
    from rich.text import Text

    from harness.report import title

    for result in report.results:
        if result.repeats is None:
            continue
        console.print(Text(f"{title(result)}: {result.repeats.summary}", style="bold"), soft_wrap=True)
        for line in repeat_lines(result.repeats, most=None if details else MOST_LAYERS):
            console.print(Text(line), soft_wrap=True)  # names are long, and people search logs for them
        console.print()


def repeat_lines(repeats: Repeats, *, most: int | None) -> Iterator[str]:
    """The layers that changed, one a line, with what they chose how often; then the outputs that moved."""
    for layer in repeats.changed[:most]:
        chosen = " | ".join(f"{each.builds}× {each.choice}" for each in layer.choices)
        absent = f" | {layer.absent}× no such layer" if layer.absent else ""
        yield f"  {layer.layer}: {chosen}{absent}"
    rest = 0 if most is None else len(repeats.changed) - most
    if rest > 0:
        yield f"  … {plural(rest, 'more layer')}: --details shows {'them' if rest > 1 else 'it'}"
    if repeats.copies:
        yield f"  {plural(repeats.copies, 'copy', 'copies')} between formats changed, too"
    others = repeats.builds - 1
    for output in repeats.outputs:
        if output.identical < others:
            yield (
                f"  {output.tensor}: {others - output.identical} of {others} later builds differ, "
                f"by up to {output.max_abs:.3g}, nrmse {output.nrmse:.3g}"
            )

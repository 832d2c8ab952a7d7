"""`harness run`: judge cases or an ONNX model."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.backends import Observation
from harness.cli.consoles import make_console, make_progress
from harness.cli.options import REPORTS, PageFile, ResultsFile, Shapes, SummaryFile
from harness.cli.outputs import Outputs
from harness.cli.repeats import print_repeats
from harness.errors import UsageError
from harness.tensors import Precision

if TYPE_CHECKING:
    from rich.console import Console

    from harness.judge import ProgressEvent, RunReport

app = typer.Typer(add_completion=False)

GOLDEN = "Golden references"


@app.command()
def run(
    targets: Annotated[
        list[Path], typer.Argument(metavar="TARGET", help="Case files, folders of them, or .onnx files.")
    ],
    precisions: Annotated[
        list[Precision] | None,
        typer.Option(
            "--precision",
            "-p",
            metavar="P",
            help="Judge only this precision: fp32, tf32, fp16, bf16, fp8, int8; may be repeated.",
        ),
    ] = None,
    environments: Annotated[
        list[str] | None,
        typer.Option(
            "--env", "-e", metavar="NAME", help="Judge engines of this environment; may be repeated."
        ),
    ] = None,
    observe: Annotated[
        Observation | None,
        typer.Option(
            metavar="HOW",
            help="How to read intermediate tensors: typed, debug or prefix; none judges the outputs alone.",
        ),
    ] = None,
    repeats: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="K",
            help="Build every engine K times, tuned anew: all must pass; tells what changes between builds.",
        ),
    ] = 1,
    inputs: Shapes = None,
    tags: Annotated[
        list[str] | None,
        typer.Option("--tag", "-t", metavar="TAG", help="Only cases with this tag; may be repeated."),
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", "-v", help="Show the outputs and layers of every run.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show only what came out unexpectedly, and the summary.")
    ] = False,
    json_file: ResultsFile = None,
    html_file: PageFile = None,
    markdown_file: SummaryFile = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Draw the error growth: a .png or .svg of one run, or a folder.",
            rich_help_panel=REPORTS,
        ),
    ] = None,
    golden_update: Annotated[
        bool,
        typer.Option("--golden-update", help="Rewrite those missing or failing.", rich_help_panel=GOLDEN),
    ] = False,
    golden_prune: Annotated[
        bool, typer.Option("--golden-prune", help="Remove those of no case.", rich_help_panel=GOLDEN)
    ] = False,
) -> None:
    """Judge cases or an ONNX model: a verdict for every run and every tensor.

    Without --env the candidate is the emulator: it needs no GPU.
    """
    from harness.golden import refuse_in_ci
    from harness.judge import JudgeOptions, RunReport, prune_goldens, select_cases
    from harness.judge import run as judge

    outputs = Outputs(json_file, html_file, markdown_file, plot)
    outputs.check()
    if golden_update or golden_prune:
        refuse_in_ci("rewritten" if golden_update else "removed")
    wanted, names = tuple(precisions or ()), tuple(environments or ())
    check_environments(names)
    if repeats > 1 and not names:
        raise UsageError("--repeats builds engines, and the emulator builds none", hint="name one with --env")
    cases = select_cases(targets, inputs=parse_shapes(inputs or ()), tags=tags or (), precisions=wanted)
    outputs.check_plot(sum(len(case.select_runs(wanted)) for case in cases) * max(len(names), 1))

    for folder in prune_goldens(cases) if golden_prune else ():
        print(f"removed {folder}", file=sys.stderr)

    console = make_console(sys.stderr if outputs.owns_stdout else sys.stdout)
    start = time.perf_counter()
    progress = make_progress(quiet=quiet)

    def follow(event: ProgressEvent) -> None:
        progress(event)
        if event.result is not None:
            outputs.keep(progress.done)

    try:
        with progress:
            report = judge(
                cases,
                precisions=wanted,
                environments=names,
                options=JudgeOptions(
                    layers=observe is not Observation.NONE,
                    observation=observe,
                    golden_update=golden_update,
                    repeats=repeats,
                ),
                progress=follow,
            )
    except KeyboardInterrupt:
        tell(console, RunReport({}, tuple(progress.done)), details=details, brief=quiet, seconds=None)
        outputs.keep(progress.done, at_once=True)
        raise
    seconds = time.perf_counter() - start
    tell(console, report, details=details, brief=quiet, seconds=seconds)
    outputs.write(report, seconds)
    raise typer.Exit(report.exit_code)


def tell(console: Console, report: RunReport, *, details: bool, brief: bool, seconds: float | None) -> None:
    """Print the report for a person. A mistake in a case goes to stderr, once for all runs that it stops."""
    from harness.report import attention, print_report

    if report.results:
        print_repeats(console, report, details=details)
        print_report(console, report, details=details, brief=brief, seconds=seconds)
    for result in attention(report):
        if result.mistake:
            print(f"error: {result.reason}", file=sys.stderr)


def check_environments(names: Sequence[str]) -> None:
    """Find a name that harness.toml does not have before anything is run.

    Raises:
        EnvironmentConfigError: no environment has this name; the message tells those that exist.
    """
    from harness.environments import RESERVED, select

    for name in names:
        if name != RESERVED:
            select(name)


def parse_shapes(texts: Sequence[str]) -> dict[str, list[int]]:
    """The shapes by input that `--input name:[1,3,224,224]` gives; the name may hold colons itself.

    Raises:
        UsageError: one is written in another way, or two are of one input.
    """
    shapes: dict[str, list[int]] = {}
    for text in texts:
        match = re.fullmatch(r"\s*(.+?)\s*:\s*\[([\s\d,]*)\]\s*", text)
        sizes = [size.strip() for size in match[2].split(",")] if match and match[2].strip() else []
        if match is None or not all(size.isdigit() for size in sizes):
            raise UsageError(
                f"--input {text!r} is not a name and a shape",
                hint="write it as name:[1,3,224,224], in quotes, with a whole number for every axis",
            )
        if match[1] in shapes:
            raise UsageError(f"--input gives {match[1]!r} two shapes")
        shapes[match[1]] = [int(size) for size in sizes]
    return shapes

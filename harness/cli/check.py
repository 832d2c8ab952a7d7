"""`harness check`: will it convert, and what becomes of each node."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import (
    HtmlFile,
    JsonFile,
    MarkdownFile,
    Scheduler,
    Shapes,
    Tags,
    Targets,
    check_environments,
    parse_shapes,
    path_option,
    precision_option,
)
from harness.cli.outputs import Outputs, check_folder
from harness.cli.progress import CheckProgress, make_progress
from harness.errors import UsageError
from harness.tensors import Precision, typed_path

app = typer.Typer(add_completion=False)

Environments = Annotated[
    list[str] | None,
    typer.Option(
        "--env", "-e", metavar="NAME", help="Ask the compiler of this environment. Repeatable, side by side."
    ),
]
OnePrecision = Annotated[
    Precision | None,
    precision_option("Ask about the typed graph at this precision. Default: the file as it is written."),
]
FixFile = Annotated[
    Path | None,
    typer.Option(
        "--fix",
        metavar="OUT.onnx",
        help="Rewrite what has a cure, and write the model if each rewrite in it is proved.",
        parser=typed_path,
    ),
]
SplitFolder = Annotated[
    Path | None,
    path_option(
        "--split",
        metavar="DIR",
        help="Write the largest parts that the compiler takes, and those that it does not, as ONNX files.",
    ),
]
Kernels = Annotated[
    bool,
    typer.Option(
        "--list-kernels",
        help="Show what became of each node: kernels and datatypes, times where there is a GPU, a picture of them "
        "on the page, and what differs between two environments or two models.",
    ),
]
Details = Annotated[
    bool, typer.Option("--details", "-v", help="Show shapes, attributes, releases and sources.")
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Show only models that do not convert, and the answer.")
]


@app.command()
def check(
    targets: Targets,
    precision: OnePrecision = None,
    environments: Environments = None,
    inputs: Shapes = None,
    tags: Tags = None,
    fix_file: FixFile = None,
    kernels: Kernels = False,
    split: SplitFolder = None,
    details: Details = False,
    quiet: Quiet = False,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
    markdown_file: MarkdownFile = None,
    scheduler: Scheduler = None,
) -> None:
    """Say whether models convert: which nodes are refused, why, on which release, and what is silently different.

    The compiler of TensorRT for RTX needs no GPU. Without --env, only the rules answer.

    Exit status: 0 nothing fails; 1 a named environment refuses, fails or silently differs (without one: a rule says
    so); 2 a mistake in the command, a case or a model (the others are checked); 3 a compiler does not start (the
    others answer). With --fix: 0 written, and built by each named environment; 1 nothing written, or not built.
    """
    from harness.conversion import check as examine
    from harness.conversion import fix_case
    from harness.report import check_errors, check_markdown, check_page, print_check

    outputs = Outputs(json_file, html_file, markdown_file, models=(fix_file,))
    outputs.check()
    names = tuple(environments or ())
    check_environments(names, scheduler)
    if scheduler is not None and fix_file is not None:
        raise UsageError("--fix proves its rewrites on this machine", hint="leave out --scheduler")
    if kernels and not names:
        raise UsageError("--list-kernels shows what a compiler made", hint="add --env NAME")
    if split is not None and not names:
        raise UsageError("--split asks a compiler which parts it takes", hint="add --env NAME")
    check_folder(split)
    with make_progress(CheckProgress, quiet=quiet) as progress:
        report = examine(
            targets,
            precision=precision,
            environments=names,
            inputs=parse_shapes(inputs),
            tags=tags or (),
            split=split,
            times=kernels,
            progress=progress,
            scheduler=scheduler,
        )
        if fix_file is not None:
            fixed = fix_case(
                targets,
                fix_file,
                precision=precision,
                environments=[each.environment for each in report.results[0].environments if each.started],
                inputs=parse_shapes(inputs),
                tags=tags or (),
                progress=progress,
            )
            report = replace(report, fix=fixed)
    print_check(outputs.console, report, details=details, brief=quiet, kernels=kernels)
    for text in check_errors(report):
        print(text, file=sys.stderr)
    outputs.write(
        document=report.to_dict,
        page=partial(check_page, report, kernels=kernels),
        summary=partial(check_markdown, report),
    )
    raise typer.Exit(report.exit_code)

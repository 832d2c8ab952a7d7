"""`harness compare`: one ONNX file judged against another, or against saved outputs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import (
    Data,
    HtmlFile,
    JsonFile,
    MarkdownFile,
    Ops,
    Samples,
    Seed,
    Shapes,
    parse_shapes,
    path_argument,
    precision_option,
)
from harness.cli.outputs import Outputs
from harness.cli.progress import RunProgress, make_progress
from harness.cli.run import Details, Plot, Quiet, show_report, write_report
from harness.tensors import Precision

app = typer.Typer(add_completion=False)

_FILES = "an .onnx file, or saved outputs (.npz, .safetensors, polygraphy's .json)"
Gates = Annotated[
    Precision | None,
    precision_option(
        "Use the gates of this precision. Default: the narrowest type in CANDIDATE; fp32 for saved outputs."
    ),
]


@app.command()
def compare(
    reference: Annotated[Path, path_argument("REFERENCE", f"What is right: {_FILES}.")],
    candidate: Annotated[Path, path_argument("CANDIDATE", f"What is judged: {_FILES}.")],
    precision: Gates = None,
    inputs: Shapes = None,
    data: Data = None,
    samples: Samples = None,
    seed: Seed = None,
    ops: Ops = None,
    details: Details = False,
    quiet: Quiet = False,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
    markdown_file: MarkdownFile = None,
    plot: Plot = None,
) -> None:
    """Judge CANDIDATE against REFERENCE: the same gates, layers and origins as `harness run`.

    A file runs on ONNX Runtime as it is written, with its own float16 tensors and Q/DQ nodes. Its layers are paired
    with those of the reference by name, and by position in the graph where tools renamed them.

    Exit status: 0 the gates hold; 1 they do not.
    """
    from harness.judge import Given, Verdict
    from harness.judge import compare as judge

    outputs = Outputs(json_file, html_file, markdown_file, plot=plot)
    outputs.check()
    start = time.perf_counter()
    with make_progress(RunProgress, quiet=quiet) as progress:
        report = judge(
            reference,
            candidate,
            precision=precision,
            inputs=parse_shapes(inputs),
            given=Given(tuple(data or ()), samples, seed, ops=ops),
            progress=progress,
        )
    seconds = time.perf_counter() - start
    for result in report.results:
        if result.compared_with is not None and result.verdict is Verdict.PASS:
            outputs.console.print(str(result.compared_with), soft_wrap=True, markup=False, highlight=False)
    show_report(outputs.console, report, details=details, brief=quiet, seconds=seconds)
    write_report(outputs, report, seconds)
    raise typer.Exit(report.exit_code)

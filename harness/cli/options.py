"""Options that several commands have, written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.tensors import Precision

REPORTS = "Reports"
"""The panel of `--help` that lists what is written."""

OneTarget = Annotated[Path, typer.Argument(metavar="TARGET", help="A case file, or an .onnx file.")]
OnePrecision = Annotated[
    Precision | None,
    typer.Option("--precision", "-p", help="By default the case's only one beside fp32, or fp16."),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="NAME:[SHAPE]",
        help="Shape of an input of an .onnx file: x:[1,3,224,224]; may be repeated.",
    ),
]
ResultsFile = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Write all results as JSON; - is stdout, with nothing else on it.",
        rich_help_panel=REPORTS,
    ),
]
PageFile = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write one self-contained page.", rich_help_panel=REPORTS),
]
SummaryFile = Annotated[
    Path | None,
    typer.Option(
        "--markdown",
        metavar="FILE",
        help="Write a summary for a CI job or a pull request.",
        rich_help_panel=REPORTS,
    ),
]

"""Options that several commands share, and how their values are read.

Every path option has `typed_path` as its parser, and every choice one of `choice`, so that `~` and misspelt names are
handled once for all commands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from harness.errors import HarnessError, UsageError
from harness.tensors import Accumulate, Precision, typed_path
from harness.text import suggestion

REPORTS = "Reports"
"""The panel of `--help` that lists the files to write."""

Choice = TypeVar("Choice", bound=StrEnum)


class UnknownChoiceError(HarnessError):
    """An option was given a value that it does not take. Not a ValueError, which typer would reword."""


def choice(kind: type[Choice], option: str) -> Callable[[str], Choice]:
    """A parser for `option` that takes the values of `kind`, and answers a misspelt one with the nearest."""

    def read(text: str) -> Choice:
        try:
            return kind(text)
        except ValueError:
            known = ", ".join(kind)
            near = suggestion(text, kind)
            hint = f"choose from {known}" if near is None else f"{near} Choose from {known}"
            raise UnknownChoiceError(f"{option} cannot be {text!r}", hint=hint) from None

    return read


def path_option(*names: str, metavar: str = "FILE", help: str, panel: str | None = None) -> Any:
    """An option that takes a path."""
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel, parser=typed_path)


def history_path(text: str | Path) -> Path:
    """A folder as typed, or a store by its URL."""
    if "://" not in str(text):
        return typed_path(text)
    from harness.history import place_of

    return place_of(str(text))


def history_option(help: str, *, panel: str | None = None) -> Any:
    """An option that takes the place of a history."""
    return typer.Option("--history", metavar="DIR", help=help, rich_help_panel=panel, parser=history_path)


def precision_option(help: str) -> Any:
    """`-p`, of one precision or several."""
    names = ("--precision", "-p")
    return typer.Option(*names, metavar="P", help=help, parser=choice(Precision, "--precision"))


def path_argument(metavar: str, help: str) -> Any:
    """An argument that is a path."""
    return typer.Argument(metavar=metavar, help=help, parser=typed_path)


Targets = Annotated[
    list[Path],
    path_argument(
        "TARGET", "Case files, folders of case files, .onnx files, or `module:function` of PyTorch."
    ),
]
OneTarget = Annotated[Path, path_argument("TARGET", "A case file or an .onnx file.")]
Precisions = Annotated[
    list[Precision] | None,
    precision_option(f"Only run at this precision: {', '.join(Precision)}. Repeatable."),
]
OnePrecision = Annotated[
    Precision | None,
    precision_option("The precision to examine. Default: the case's only one besides fp32, or else fp16."),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="NAME:SHAPE",
        help="Set the shape of an input of an .onnx file, as in 'x:[1,3,224,224]'. Repeatable.",
    ),
]
Data = Annotated[
    list[Path] | None,
    path_option(
        "--data",
        help="Feed an .onnx file these inputs, by name: a .npz, a .safetensors, or polygraphy's .json. Repeatable.",
    ),
]
Samples = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Use N sets of inputs for an .onnx file.")
]
Seed = Annotated[int | None, typer.Option(min=0, metavar="S", help="Seed of the inputs of an .onnx file.")]
Ops = Annotated[
    str | None,
    typer.Option(
        "--ops",
        metavar="MODULE:FUNCTION",
        help="Compute the operators of an .onnx file that ONNX Runtime lacks with what this function returns: "
        "classes of onnx.reference, or libraries of custom operators.",
    ),
]
OtherReference = Annotated[
    Path | None,
    path_option(
        "--reference",
        help="Compare with this instead of the model itself in FP32: an .onnx file, or saved outputs (.npz, "
        ".safetensors, polygraphy's .json).",
    ),
]
Kernels = Annotated[
    str | None,
    typer.Option(
        "--kernels",
        metavar="NAME",
        help="Let the emulator assume the kernels of this environment's compiler, or none. Default: the engine's own "
        "with --env; else what harness.toml names.",
    ),
]
AccumulateOption = Annotated[
    Accumulate | None,
    typer.Option(
        "--accumulate",
        metavar="HOW",
        help="How the emulator adds up FP16 products: in fp16, in fp32, or auto, as the product and the release do.",
        parser=choice(Accumulate, "--accumulate"),
    ),
]
Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", "-t", metavar="TAG", help="Only use cases with this tag. Repeatable."),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="ADDRESS",
        help="Run on the workers of this dask scheduler: tcp://HOST:8786, or tls://. See docs/scale.md.",
    ),
]
JsonFile = Annotated[
    Path | None,
    path_option("--json", help="Write JSON; - means stdout, which then gets nothing else.", panel=REPORTS),
]
HtmlFile = Annotated[
    Path | None, path_option("--html", help="Write a self-contained HTML page.", panel=REPORTS)
]
MarkdownFile = Annotated[
    Path | None,
    path_option("--markdown", help="Write a Markdown summary for CI or a pull request.", panel=REPORTS),
]


def check_environments(names: Iterable[str], scheduler: str | None = None) -> None:
    """Reject names that harness.toml does not have before anything runs; with a scheduler its workers' files count.

    Raises:
        EnvironmentConfigError: no environment has this name; the message lists those that exist.
    """
    from harness.environments import RESERVED, select

    for name in () if scheduler is not None else names:
        if name != RESERVED:
            select(name)


def start_worker(names: Sequence[str]) -> None:
    """Start the worker that is asked first, which takes a second, while the rest of harness is imported.

    Raises:
        EnvironmentConfigError: no environment has this name.
    """
    from harness.environments import RESERVED, select, shared_supervisor

    for name in [name for name in names if name != RESERVED][:1]:
        shared_supervisor(select(name)).start_ahead()


def parse_shapes(texts: Sequence[str] | None) -> dict[str, list[int]]:
    """The shapes by input that `--input name:[1,3,224,224]` gives; the name may contain colons itself.

    Raises:
        UsageError: one is written in another way, or two are for one input.
    """
    shapes: dict[str, list[int]] = {}
    for text in texts or ():
        match = re.fullmatch(r"\s*(.+?)\s*:\s*\[([\s\d,]*)\]\s*", text)
        sizes = [size.strip() for size in match[2].split(",")] if match and match[2].strip() else []
        if match is None or not all(size.isdigit() for size in sizes):
            raise UsageError(
                f"--input {text!r} is not a name and a shape",
                hint="write it as 'name:[1,3,224,224]', in quotes, with a whole number for every axis",
            )
        if match[1] in shapes:
            raise UsageError(f"--input gives {match[1]!r} two shapes")
        shapes[match[1]] = [int(size) for size in sizes]
    return shapes

"""`harness case`: write, check and describe case files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import path_argument, path_option
from harness.cli.outputs import Outputs
from harness.text import command, names, plural

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Write, check and describe case files.")


@app.command()
def new(
    model: Annotated[Path, path_argument("MODEL", "An .onnx file.")],
    out: Annotated[
        Path | None,
        path_option("--out", help="The file to write. Default: MODEL's name with `.case.yaml`, beside it."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing case file.")] = False,
) -> None:
    """Write a case file for MODEL, with its inputs filled in."""
    from harness.case import CASE_SUFFIX, case_name, case_template
    from harness.errors import UsageError
    from harness.model import guess_fills, load_model
    from harness.tensors import write_text

    target = out or model.with_name(model.stem + CASE_SUFFIX)
    if not target.name.endswith(CASE_SUFFIX):
        raise UsageError(f"a case file's name must end in {CASE_SUFFIX}", where=target)
    Outputs(others=(target,)).check()
    if target.exists() and not force:
        raise UsageError("this file already exists", where=target, hint="--force overwrites it")
    loaded = load_model(model)
    inputs, fills = loaded.inputs, guess_fills(loaded)
    text = case_template(
        inputs, fills=fills, model=_seen_from(target.parent, model), schema=_schema_for(target.parent)
    )
    write_text(target, text)
    typer.echo(f"{target}: case {case_name(target)!r} with {plural(len(inputs), 'input')}")
    unranked = [info.name for info in inputs if info.shape is None]
    if unranked:
        typer.echo(
            f"Set the shape of {names(unranked)} first: the model does not say how many axes there are."
        )
    elif any(not isinstance(dim, int) for info in inputs for dim in info.shape or ()):
        typer.echo("Some axes are dynamic. Their sizes in the file are guesses: check them.")
    typer.echo(f"Run it: {command('harness', 'run', target)}")


@app.command()
def check(
    targets: Annotated[list[Path], path_argument("TARGET", "Case files, or folders of case files.")],
) -> None:
    """Check case files and list every mistake, with its file, line and column."""
    from harness.case import check_cases

    cases = check_cases(targets)
    runs = sum(len(case.runs) for case in cases)
    typer.echo(f"{plural(len(cases), 'case')} with {plural(runs, 'run')}: no mistakes")


@app.command()
def schema(
    out: Annotated[Path | None, path_option("--out", help="Write to this file instead of stdout.")] = None,
) -> None:
    """Print the JSON schema of case files, for editors."""
    from harness.case import case_schema_text

    if out is None:
        typer.echo(case_schema_text(), nl=False)
        return
    from harness.tensors import write_text

    Outputs(others=(out,)).check()
    write_text(out, case_schema_text())
    typer.echo(f"{out}: the JSON schema of case files")


def _seen_from(folder: Path, path: Path) -> str:
    """`path` relative to `folder` where that is possible, with forward slashes."""
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive
        return path.resolve().as_posix()


def _schema_for(folder: Path) -> str:
    """The nearest schema file in `folder` or above it; beside the case if there is none yet."""
    from harness.case import SCHEMA_FILE

    for above in (folder.resolve(), *folder.resolve().parents):
        if (above / SCHEMA_FILE).is_file():
            return _seen_from(folder, above / SCHEMA_FILE)
    return SCHEMA_FILE

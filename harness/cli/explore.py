"""`harness explore`: bisect a failure by hand, at a prompt."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import OnePrecision, OneTarget, Shapes, parse_shapes, path_option
from harness.cli.outputs import check_folder
from harness.cli.progress import StageProgress, make_console, make_progress
from harness.tensors import Precision
from harness.text import command, target_words

app = typer.Typer(add_completion=False)


@app.command()
def explore(
    target: OneTarget,
    precision: OnePrecision = None,
    environment: Annotated[
        str | None,
        typer.Option("--env", "-e", metavar="NAME", help="Let `try --engine` build in this environment."),
    ] = None,
    inputs: Shapes = None,
    out: Annotated[
        Path | None,
        path_option("--out", metavar="DIR", help="A folder for pictures, exports and the journal."),
    ] = None,
) -> None:
    """Look for the nodes that need FP32 by hand: keep some, try, bisect, undo, export.

    The emulator answers in milliseconds and needs no GPU. Every attempt goes into a journal that
    `harness diagnose --resume` continues from. Commands from a pipe run as a script that stops at the first mistake.

    Exit status of a script: 0 the last attempt passes; 1 it fails; 2 a mistake; 3 a build or a worker failed;
    4 a search found no answer; 5 a name or a pattern matches nothing.
    """
    from harness.explore import Shell, open_session

    check_folder(out)
    at_terminal = sys.stdin.isatty()
    shapes = parse_shapes(inputs)
    console = make_console(sys.stdout)
    with ExitStack() as stack:
        with make_progress(StageProgress, quiet=False) as progress:
            session = stack.enter_context(
                open_session(
                    target,
                    precision=precision,
                    environment=environment,
                    inputs=shapes,
                    out=out,
                    progress=progress,
                )
            )
            welcome = session.welcome()
        # A script needs no lines of progress: its commands say where it is.
        shell = Shell(session, console, lambda: make_progress(StageProgress, quiet=not sys.stderr.isatty()))
        shell.show(welcome)
        if not at_terminal:
            raise typer.Exit(shell.run_script(sys.stdin))
        shell.run_prompt()
        if session.tried:
            command = resuming_command(target, session.subject.precision, environment, inputs or (), out)
            shell.say(f"continue with: {command}")


def resuming_command(
    target: Path, precision: Precision, environment: str | None, inputs: Sequence[str], out: Path | None
) -> str:
    """The command that lets a diagnosis continue from what was tried."""
    place = [] if environment is None else ["--env", environment]
    folder = [] if out is None else ["--out", out]
    words = ["--precision", precision, *place, *folder, "--resume"]
    return command("harness", "diagnose", *target_words(str(target), inputs), *words)

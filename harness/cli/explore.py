"""`harness explore`: bisect a failure by hand, at a prompt."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.consoles import make_console
from harness.cli.diagnose import make_progress
from harness.cli.options import OnePrecision, OneTarget, Shapes
from harness.cli.run import parse_shapes
from harness.tensors import Precision
from harness.text import command

app = typer.Typer(add_completion=False)


@app.command()
def explore(
    target: OneTarget,
    precision: OnePrecision = None,
    environment: Annotated[
        str | None,
        typer.Option("--env", "-e", metavar="NAME", help="Where `try --engine` builds."),
    ] = None,
    inputs: Shapes = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for pictures, exports and the journal."),
    ] = None,
) -> None:
    """Look by hand for the nodes that need FP32: keep some, try, bisect, undo, export.

    The emulator answers in milliseconds and needs no GPU. What is tried goes into a journal that
    `harness diagnose --resume` goes on with. Commands from a pipe are a script that ends at the first mistake. Its
    exit status: 0 what was tried last passes, 1 it fails, 2 a mistake, 3 a build or a worker failed, 4 a search
    without an answer, 5 a name or a pattern that matches nothing.
    """
    from harness.explore import Shell, open_session

    at_terminal = sys.stdin.isatty()
    shapes = parse_shapes(inputs or ())
    console = make_console(sys.stdout)
    with ExitStack() as stack:
        with make_progress(quiet=False) as progress:
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
        # Lines of progress are for those who wait: a script's own lines say where it is.
        shell = Shell(session, console, lambda: make_progress(quiet=not sys.stderr.isatty()))
        shell.show(welcome)
        if not at_terminal:
            raise typer.Exit(shell.run_script(sys.stdin))
        shell.run_prompt()
        if session.tried:
            rest = again(target, session.subject.precision, environment, inputs or (), out)
            shell.say(f"go on with: {rest}")


def again(
    target: Path, precision: Precision, environment: str | None, inputs: Sequence[str], out: Path | None
) -> str:
    """The command that lets a diagnosis go on with what was tried."""
    words = ["harness", "diagnose", str(target), "--precision", precision.value]
    words += [] if environment is None else ["--env", environment]
    words += [word for shape in inputs for word in ("--input", shape)]
    words += [] if out is None else ["--out", str(out)]
    return command(*words, "--resume")

"""The command line. Every command lives in a module of its own that is imported when it is called."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from traceback import print_exc
from types import FrameType
from typing import Annotated, Any, TextIO

import typer
import typer.main

from harness.cli.lazy import LazyCommand, LazyGroup
from harness.errors import CandidateError, CaseFileError, HarnessError

INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h: none of the statuses that a verdict or a mistake has
BROKEN_PIPE = 141  # what a shell reports of a program that SIGPIPE ended
INTERRUPTED = 130
TERMINATED = 143  # what a shell reports of a program that SIGTERM ended

COMMANDS = {
    "run": LazyCommand(
        "harness.cli.run", "Judge cases or an ONNX model: a verdict for every run and tensor."
    ),
    "diagnose": LazyCommand(
        "harness.cli.diagnose", "Find the culprits of a case that fails, and what cures it."
    ),
    "explore": LazyCommand("harness.cli.explore", "Bisect a failure by hand, at a prompt."),
    "drift": LazyCommand(
        "harness.cli.drift", "Hold releases against each other: did anything move, what, and where."
    ),
    "history": LazyCommand("harness.cli.history", "List, show and export the runs that drift keeps."),
    "case": LazyCommand("harness.cli.case", "Write, check and describe case files."),
    "env": LazyCommand("harness.cli.env", "Manage the TensorRT environments that engines are built in."),
    "doctor": LazyCommand("harness.cli.doctor", "Say what works on this machine, and how to mend the rest."),
}

KEEPING = ("run", "diagnose", "drift")
"""Commands that keep what they had, and say how to go on, when they are interrupted."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, as time limits send it: what is done on Ctrl-C is done, and the status tells the difference."""


class _Root(LazyGroup):
    lazy_commands = COMMANDS

    def invoke(self, ctx: Any) -> Any:
        """Run the command. What typer would end with status 1, a fault found, gets a status of its own."""
        try:
            return super().invoke(ctx)
        except Terminated:
            print("terminated", file=sys.stderr)
            raise SystemExit(TERMINATED) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        except BrokenPipeError:
            # Nobody reads any more. The interpreter must not find the pipe broken again when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(BROKEN_PIPE) from None


app = typer.Typer(
    cls=_Root,
    name="harness",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 all as expected, 1 a numerical failure, 2 a mistake in the command or a case, "
    "3 a build or a worker failed, 4 unexplained within the budget, 5 nothing selected, judged or compared, "
    "70 an internal error, which is a bug in harness, 130 interrupted, 141 the reader of a pipe went away, "
    "143 terminated.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"harness {version('harness')}")
        raise typer.Exit


def _terminate(number: int, _: FrameType | None) -> None:
    # `timeout` sends it twice; the second must not stop the first from tidying up.
    signal.signal(number, _ignore)
    raise Terminated


def _ignore(number: int, _: FrameType | None) -> None:
    """Unlike SIG_IGN, this is not inherited by processes that are started from now on."""


def _heed_sigterm(context: typer.Context) -> None:
    """Until `context` is closed; whoever calls from a thread or has ideas of their own about SIGTERM keeps them."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
        context.call_on_close(lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Until the context ends, warnings of harness itself are a line each on stderr, and each is told once."""
    show = warnings.showwarning

    def tell(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        *rest: TextIO | str | None,
    ) -> None:
        if category.__module__.partition(".")[0] == "harness":
            print(f"warning: {message}", file=sys.stderr)
        else:
            show(message, category, filename, lineno, *rest)  # type: ignore[arg-type]

    with warnings.catch_warnings():
        warnings.showwarning = tell  # type: ignore[assignment]
        yield


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the Python traceback of an error; goes anywhere.")
    ] = False,
) -> None:
    """Say whether a TensorRT engine computes what its ONNX model says, and if not, where it goes wrong."""
    context.with_resource(_plain_warnings())
    if context.invoked_subcommand in KEEPING:
        _heed_sigterm(context)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; `arguments` default to those of the process."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Whoever meets an error adds the flag at the end of the line, behind the command: typer refuses it there.
    with_traceback = "--traceback" in arguments
    arguments = [argument for argument in arguments if argument != "--traceback"]
    try:
        typer.main.get_command(app)(arguments, prog_name="harness")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except HarnessError as error:
        if with_traceback:
            print_exc()
        print_error(error)
        return error.exit_code
    except MemoryError as error:
        if with_traceback:
            print_exc()
        print(f"error: not enough memory: {error}\n  try: smaller shapes", file=sys.stderr)
        return 2
    except Exception as error:
        if with_traceback:
            print_exc()
        print(
            f"internal error: {type(error).__name__}: {error}\n"
            "This is a bug in harness. Run the command again with --traceback and report what it prints, "
            "together with the output of `harness doctor`.",
            file=sys.stderr,
        )
        return INTERNAL_ERROR
    return 0


def print_error(error: HarnessError) -> None:
    """Print what is wrong, where, and what to try, to stderr."""
    if isinstance(error, CaseFileError):
        # One mistake a line and nothing before it, so that editors and CI systems can jump to each.
        print(error.message, file=sys.stderr)
        return
    where = "" if error.where is None else f"{error.where}: "
    print(f"error: {where}{error.message}", file=sys.stderr)
    if error.hint is not None:
        print(f"  try: {error.hint}", file=sys.stderr)
    if isinstance(error, CandidateError):
        for line in error.evidence:
            print(f"  | {line}", file=sys.stderr)

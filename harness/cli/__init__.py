"""The command line. Each command is a module of its own, which is imported only when the command is called.

`harness --help` must not pay for ONNX Runtime, pandas and matplotlib. So the overview knows no more of a command than
its name and one line of help, and the real command takes its place at the moment it is resolved.
"""

from __future__ import annotations

import atexit
import gc
import inspect
import logging
import os
import signal
import sys
import sysconfig
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from traceback import print_exc
from types import FrameType
from typing import Annotated, Any, TextIO

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from harness.errors import CandidateError, CaseFileError, HarnessError, explained

HELP = ["-h", "--help"]
_HARNESS = Path(__file__).parents[1]
_LIBRARIES = frozenset({"site-packages", "dist-packages", Path(sysconfig.get_path("stdlib")).name})
"""Folders of Python packages that are not the user's."""
BROKEN_PIPE = 141  # what a shell reports of a program that SIGPIPE ended
INTERRUPTED = 130
COLLECTED_AFTER = 10_000
"""Objects: Python looks for cycles more rarely than by default, as all nodes of a model are gone through each time."""
TERMINATED = 143  # what a shell reports of a program that SIGTERM ended


@dataclass(frozen=True)
class LazyCommand:
    """A command whose module has a `typer.Typer` called `app`; `help` is its line in the overview."""

    module: str
    help: str

    def load(self, name: str) -> Any:
        """Import the module and make the command, called `name`."""
        command: Any = typer.main.get_command(import_module(self.module).app)
        command.name = name
        _plain_help(command)
        return command


def _plain_help(command: Any) -> None:
    """Let paragraphs of help texts flow, and leave out types that say nothing.

    typer keeps the line breaks of docstrings in all paragraphs but the first, shows `<bool>` beside a flag and
    `<list[Path]>` beside an argument.
    """
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for option in command.get_params(typer.Context(command, help_option_names=HELP)):
        if getattr(option, "is_flag", False):
            option.metavar = ""
        if option.param_type_name == "argument":
            option.display_type_rich = lambda ctx: None
    for inner in getattr(command, "commands", {}).values():
        _plain_help(inner)


COMMANDS = {
    "run": LazyCommand("harness.cli.run", "Judge cases or ONNX models: a verdict for every run and tensor."),
    "compare": LazyCommand(
        "harness.cli.compare", "Compare one ONNX file with another, or with saved outputs, layer by layer."
    ),
    "check": LazyCommand(
        "harness.cli.check", "Say whether models convert, which nodes do not, and what is silently different."
    ),
    "diagnose": LazyCommand(
        "harness.cli.diagnose", "Find the culprits of a failing case, and what cures it."
    ),
    "quantize": LazyCommand(
        "harness.cli.quantize", "Calibrate a model, place its Q/DQ nodes, and keep what hurts in float."
    ),
    "explore": LazyCommand("harness.cli.explore", "Bisect a failure by hand, at a prompt."),
    "drift": LazyCommand(
        "harness.cli.drift", "Compare releases: what changed, where it starts, and whether it is noise."
    ),
    "history": LazyCommand("harness.cli.history", "List, show and export past runs of `harness drift`."),
    "case": LazyCommand("harness.cli.case", "Write, check and describe case files."),
    "env": LazyCommand("harness.cli.env", "Manage the TensorRT environments that engines are built in."),
    "doctor": LazyCommand("harness.cli.doctor", "Check what works on this machine, and how to fix the rest."),
}

WITH_WORKER = ("run", "diagnose")
"""Commands that ask the worker of the environment that they name, always and at once."""

STARTS_NONE = frozenset({*HELP, "--scheduler"})

RESUMABLE = ("run", "diagnose", "drift")
"""Commands that save their results when they are interrupted, and say how to continue."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, as time limits send it: handled like Ctrl-C, but for the exit status."""


class _Root(TyperGroup):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, lazy in COMMANDS.items():
            self.add_command(TyperCommand(name, help=lazy.help), name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that `args` names and import it; its place in the overview stays a stub."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, COMMANDS[name].load(name) if name in COMMANDS else command, rest

    def get_params(self, ctx: Any) -> Any:
        """The options, without a type beside a flag."""
        params = super().get_params(ctx)
        for option in params:
            option.metavar = ""
        return params

    def invoke(self, ctx: Any) -> Any:
        """Run the command. What typer would end with status 1, which means a fault was found, gets its own status."""
        try:
            return super().invoke(ctx)
        except Terminated:
            print("terminated", file=sys.stderr)
            raise SystemExit(TERMINATED) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader is gone. The interpreter must not find the pipe broken again when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(BROKEN_PIPE) from None


app = typer.Typer(
    cls=_Root,
    name="harness",
    no_args_is_help=True,
    context_settings={"help_option_names": HELP},
    epilog="Exit status: 0 all as expected; 1 a numerical failure; 2 a mistake in the command or a case; "
    "3 a build or a worker failed; 4 unexplained within the limits; 5 nothing was selected, judged or compared; "
    "70 an internal error, which is a bug in harness; 130 interrupted; 141 the reader of a pipe went away; "
    "143 terminated.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"harness {version('harness')}")
        raise typer.Exit


def _terminate(number: int, _: FrameType | None) -> None:
    # `timeout` sends it twice; the second must not stop the cleaning up after the first.
    signal.signal(number, _ignore)
    raise Terminated


def _end_at_once(number: int, _: FrameType | None) -> None:
    """SIGTERM while the line is read: end the worker that was started for it, and then as if nobody cared."""
    _end_untaken()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _end_untaken() -> None:
    if started := sys.modules.get("harness.environments.started"):
        started.end_untaken()


def _ignore(number: int, _: FrameType | None) -> None:
    """Unlike SIG_IGN, this is not inherited by processes that are started from now on."""


def _handle_sigterm(context: typer.Context) -> None:
    """Until `context` is closed; not in a thread, and not where the caller handles SIGTERM already."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, _end_at_once):
        signal.signal(signal.SIGTERM, _terminate)
        context.call_on_close(lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _limit_memory() -> None:
    """Let what needs more memory than there is fail in this process, before the system kills it or another one."""
    from harness.tensors import memory_limit

    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_limit(), hard))


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Until the context ends, each warning of harness or of the user's own code is one line on stderr, printed once.

    What libraries warn and log of how they are used is no word to a user; `python -W` still shows warnings.
    """
    show = warnings.showwarning

    def print_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        *rest: TextIO | str | None,
    ) -> None:
        if category.__module__.partition(".")[0] == "harness":
            print(f"warning: {message}", file=sys.stderr)
        elif sys.warnoptions:
            show(message, category, filename, lineno, *rest)  # type: ignore[arg-type]
        elif not Path(filename).is_relative_to(_HARNESS) and _LIBRARIES.isdisjoint(Path(filename).parts):
            print(f"warning: {filename}:{lineno}: {message}", file=sys.stderr)

    last = logging.lastResort
    logging.lastResort = logging.NullHandler()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = print_warning  # type: ignore[assignment]
            yield
    finally:
        logging.lastResort = last


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    traceback: Annotated[
        bool,
        typer.Option(
            "--traceback", help="Show the Python traceback of an error. Works anywhere on the line."
        ),
    ] = False,
) -> None:
    """Check whether a TensorRT engine computes what its ONNX model says, and find where it goes wrong."""
    context.with_resource(_plain_warnings())
    _limit_memory()
    gc.set_threshold(COLLECTED_AFTER)
    atexit.register(gc.freeze)  # else all objects are gone through once more at exit: half a second
    if context.invoked_subcommand in RESUMABLE:
        _handle_sigterm(context)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; `arguments` default to those of the process."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed, as by `>&-`: no other file may take its number
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # After an error, people add the flag at the end of the line, behind the command, where typer refuses it.
    with_traceback = "--traceback" in arguments
    arguments = [argument for argument in arguments if argument != "--traceback"]
    try:
        _start_worker(arguments)
        typer.main.get_command(app)(arguments, prog_name="harness")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:  # before a command began
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if with_traceback:
            print_exc()
        known = explained(error)
        with suppress(OSError):  # stderr may be on the same full disk
            print_error(known)
        return known.exit_code
    finally:
        _end_untaken()
        if signal.getsignal(signal.SIGTERM) is _end_at_once:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return 0


def _start_worker(arguments: Sequence[str]) -> None:
    """Start the worker that a command will ask first, before anything is imported to read the line with."""
    named = [value for option, value in pairwise(arguments) if option in ("--env", "-e")]
    if named and arguments[0] in WITH_WORKER and STARTS_NONE.isdisjoint(arguments):
        from harness.environments import start_ahead

        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _end_at_once)
        start_ahead(named[0])


def print_error(error: HarnessError) -> None:
    """Print what is wrong, where, and what to try, to stderr."""
    if isinstance(error, CaseFileError):
        # One mistake a line and nothing before it, so that editors and CI systems can jump to each.
        print(error.message, file=sys.stderr)
        return
    where = "" if error.where is None else f"{error.where}: "
    print(f"error: {where}{error.message}", file=sys.stderr)
    if error.hint is not None:
        print(f"  hint: {error.hint}", file=sys.stderr)
    if isinstance(error, CandidateError):
        for line in error.lines:
            print(f"  | {line}", file=sys.stderr)

"""`harness env`: manage the TensorRT environments that engines are built in."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import JsonFile
from harness.cli.outputs import STDOUT, Outputs, write_json
from harness.errors import UsageError
from harness.text import command as shell_command

if TYPE_CHECKING:
    from harness.environments import EnvironmentCheck

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Manage the TensorRT environments that engines are built in.",
)

ENVIRONMENTS_SCHEMA = "harness.environments/1"


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it, such as trt-8.6.")],
    python: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="The Python that has TensorRT; with --install, the one to make the venv with.",
            parser=os.path.expanduser,  # no Path: `./python` must keep its dot, a bare name is looked up in PATH
        ),
    ] = None,
    install: Annotated[
        str | None,
        typer.Option(
            metavar="tensorrt==X", help="Make a venv and install this in it: tensorrt or tensorrt-rtx."
        ),
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="The quoted command that starts its Python in a container. {gpu} is replaced by the GPU's number, "
            "{scratch} and {worker} by folders to mount under the same paths.",
        ),
    ] = None,
    gpu: Annotated[
        int, typer.Option(metavar="N", min=0, help="The GPU to use, counted in your CUDA_VISIBLE_DEVICES.")
    ] = 0,
    variables: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="VAR=VALUE", help="Set an environment variable. Repeatable."),
    ] = None,
    tactic_sources: Annotated[
        list[str] | None,
        typer.Option(
            "--tactic-source", metavar="SOURCE", help="Only use tactics of this source. Repeatable."
        ),
    ] = None,
    emulated: Annotated[
        bool,
        typer.Option("--emulated", help="Let the emulator assume the kernels of this TensorRT for RTX."),
    ] = False,
) -> None:
    """Add an environment to harness.toml: a Python that has TensorRT, or a release to install."""
    from harness.environments import add_environment, check_name, load
    from harness.environments import install as install_release

    given = [
        option for option in (python if install is None else None, install, command) if option is not None
    ]
    if len(given) != 1:
        raise UsageError(
            "an environment needs exactly one of --python, --install and --command",
            hint=shell_command("harness", "env", "add", name, "--python", "/path/to/python"),
        )
    check_name(name)
    settings: dict[str, Any] = {"gpu": gpu, "variables": dict(map(_pair, variables or ()))}
    if tactic_sources:
        settings["build"] = {"tactic_sources": list(tactic_sources)}
    if install is not None and name not in load():
        report = partial(print, file=sys.stderr)
        python = str(install_release(name, install, python=python, tell=report))
    environment = add_environment(
        name,
        python=python,
        command=None if command is None else shlex.split(command),
        emulated=emulated,
        **settings,
    )
    typer.echo(f"{environment.source}: added {name!r}")
    typer.echo(f"Check it: {shell_command('harness', 'env', 'check', name)}")
    if emulated:
        typer.echo("From now on the emulator assumes its kernels; --kernels none turns that off.")


@app.command("list")
def list_(json_file: JsonFile = None) -> None:
    """List the environments of harness.toml."""
    from harness.case import find_config
    from harness.environments import load

    Outputs(json_file).check()
    environments = load()
    if json_file is not None:
        rows = [
            {
                "name": item.name,
                "command": list(item.command),
                "gpu_index": item.gpu,
                "variables": dict(item.variables),
                "build": item.build.model_dump(mode="json", exclude_defaults=True),
            }
            for item in environments.values()
        ]
        _write_environments(json_file, rows)
        return
    if not environments:
        typer.echo(f"{find_config() or 'no harness.toml here or above'}: no environments")
        typer.echo("Add one: harness env add NAME --python PATH")
        return
    _print_table(
        ("name", "gpu", "command"),
        [(item.name, str(item.gpu), shell_command(*item.command)) for item in environments.values()],
    )


@app.command()
def check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="The environments to check. Default: all.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Start a worker in each environment and show what it has.

    Exit status: 3 if an environment cannot build engines.
    """
    from harness.environments import check_all, load, select
    from harness.errors import NothingSelectedError

    Outputs(json_file).check()
    known = load()
    selected = [select(name, known) for name in names] if names else list(known.values())
    if not selected:
        raise NothingSelectedError("there are no environments", hint="harness env add NAME --python PATH")
    checks = list(check_all(selected))
    if json_file is not None:
        _write_environments(json_file, [item.to_dict() for item in checks])
    if json_file != STDOUT:
        _print_checks(checks)
    raise typer.Exit(0 if all(item.passed for item in checks) else 3)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The environment to remove.")],
) -> None:
    """Remove an environment from harness.toml, and delete its venv if `env add --install` made it."""
    from harness.environments import remove_environment, uninstall

    environment = remove_environment(name)
    typer.echo(f"{environment.source}: removed {name!r}")
    folder = uninstall(environment.command)
    if folder is not None:
        typer.echo(f"{folder}: deleted")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--set {text!r} is not a variable and a value", hint="write it as NAME=VALUE")
    return name, value


def _print_checks(checks: Sequence[EnvironmentCheck]) -> None:
    columns = ("name", "release", "CUDA", "driver", "GPU", "capability", "free memory", "can do")
    rows = []
    for item in checks:
        probe, facts = item.probe, ["–"] * 6
        if probe is not None:
            free = "–" if probe.free_bytes is None else f"{probe.free_bytes / 2**30:.1f} GiB"
            known = (probe.cuda, probe.driver, probe.gpu, probe.compute_capability)
            facts = [f"{probe.product} {probe.tensorrt}", *(fact or "–" for fact in known), free]
        rows.append((item.environment.name, *facts, item.ability))
    _print_table(columns, rows)
    for item in checks:
        lines = [f"{item.environment.name}: {problem}" for problem in item.problems]
        lines += [] if item.hint is None else [f"  hint: {item.hint}"]
        for line in (*lines, *map("  | {}".format, item.evidence)):
            print(line, file=sys.stderr)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from harness.cli.progress import make_console
    from harness.report import make_table

    table = make_table(*columns, framed=False, gap=2)
    for row in rows:
        table.add_row(*row)
    make_console(sys.stdout).print(table)


def _write_environments(path: Path, environments: Sequence[dict[str, Any]]) -> None:
    write_json(path, {"schema": ENVIRONMENTS_SCHEMA, "environments": environments})

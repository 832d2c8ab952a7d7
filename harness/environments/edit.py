"""Change harness.toml as its author would: comments, order and spacing stay as they are."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.case import CONFIG_NAME, find_config
from harness.environments.config import Environment, check_name, parse, unknown_environment
from harness.errors import EnvironmentConfigError
from harness.tensors import write_text


def add_environment(
    name: str,
    *,
    python: str | None = None,
    command: Sequence[str] | None = None,
    gpu: int = 0,
    variables: Mapping[str, str] | None = None,
    build: Mapping[str, Any] | None = None,
    emulated: bool = False,
    path: Path | None = None,
) -> Environment:
    """Add a table to the file in force, or to a new harness.toml in the working folder.

    Args:
        name: letters, digits, `.`, `_` and `-`.
        python: the interpreter; exactly one of this and `command`.
        command: what starts Python in a container.
        gpu: see Environment.
        variables: see Environment.
        build: build options, as in a case file.
        emulated: let the emulator assume its kernels.
        path: the file to change instead.

    Raises:
        EnvironmentConfigError: the name is taken or no name, there is no such program, or the file holds mistakes
            or cannot be written.
    """
    import tomlkit

    check_name(name)
    path = path or find_config() or Path.cwd() / CONFIG_NAME
    with _changing(path) as text:
        python = None if python is None else _absolute(python)
        command = None if command is None else [_absolute(command[0]), *command[1:]]
        if name in parse(text, path):
            raise EnvironmentConfigError(
                f"an environment is called {name!r} already",
                where=path,
                hint=f"choose another name, or `harness env remove {name}` first",
            )
        document = tomlkit.parse(text)
        table = _table(
            {"python": python, "command": command, "gpu": gpu or None}, variables=variables, build=build
        )
        if "environments" not in document:
            document["environments"] = tomlkit.table(is_super_table=True)
        document["environments"][name] = table
        if emulated:
            document.setdefault("emulator", tomlkit.table())["kernels"] = name
        changed = tomlkit.dumps(document)
        _check_program(parse(changed, path)[name])
        return _write(path, changed)[name]


def remove_environment(name: str, *, path: Path | None = None) -> Environment:
    """Take a table out of the file in force and return what it said.

    Raises:
        EnvironmentConfigError: there is no such environment, or the file cannot be written.
    """
    import tomlkit

    path = path or find_config()
    if path is None:
        raise EnvironmentConfigError(
            f"no environment is called {name!r}",
            hint=f"there is no {CONFIG_NAME} in this folder or above it, so there is nothing to remove",
        )
    with _changing(path) as text:
        known = parse(text, path)
        if not known:
            raise EnvironmentConfigError(
                f"no environment is called {name!r}",
                where=path,
                hint="it has no environments, so there is nothing to remove",
            )
        if name not in known:
            raise unknown_environment(name, known)
        document = tomlkit.parse(text)
        del document["environments"][name]
        if document.get("emulator", {}).get("kernels") == name:
            del document["emulator"]
        _write(path, tomlkit.dumps(document))
        return known[name]


def _check_program(environment: Environment) -> None:
    """Refuse what cannot be started: it would be found out at the first build."""
    program = environment.command[0]
    if shutil.which(program) is None:
        raise EnvironmentConfigError(
            f"{program}: there is no such program",
            where=environment.source,
            hint="name a Python that has TensorRT",
        )


def _absolute(program: str) -> str:
    """A path that was given from the working folder; the file, which may be elsewhere, has paths from its own."""
    return os.path.abspath(os.path.expanduser(program)) if os.sep in program else program


def _table(values: Mapping[str, Any], **tables: Mapping[str, Any] | None) -> Any:
    """The table of an environment: values that are given, and inline tables that hold something."""
    import tomlkit

    table = tomlkit.table()
    for key, value in values.items():
        if value is not None:
            table[key] = value
    for key, content in tables.items():
        if content:
            table[key] = tomlkit.inline_table()
            table[key].update(content)
    return table


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[str]:
    """The text of the file, empty if there is none; nobody else changes it meanwhile."""
    try:
        folder = os.open(path.parent, os.O_RDONLY)  # locked in place of a lock file, which would stay
    except OSError as error:
        raise EnvironmentConfigError(f"cannot be written: {error.strerror}", where=path) from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield path.read_text() if path.exists() else ""
    finally:
        os.close(folder)


def _write(path: Path, text: str) -> Mapping[str, Environment]:
    """Write `text` if it is a file without mistakes."""
    environments = parse(text, path)
    try:
        write_text(path, text)
    except OSError as error:
        raise EnvironmentConfigError(f"cannot be written: {error.strerror}", where=path) from error
    return environments

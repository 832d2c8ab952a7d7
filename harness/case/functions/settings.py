"""harness.toml: where it is, who may write it, and what it says of the functions that cases name.

[functions]
packages = ["our_models"]      # installed packages whose functions may be called, beside those next to a case
seconds = 600                  # how long one call may take
"""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from harness.errors import EnvironmentConfigError

CONFIG_NAME = "harness.toml"
CONFIG_VARIABLE = "HARNESS_CONFIG"


class FunctionSettings(BaseModel):
    """The table `[functions]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    packages: tuple[Annotated[str, StringConstraints(min_length=1, strict=True)], ...] = ()
    """Installed packages whose functions a case may name."""
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 600.0
    """How long one call of a user's function may take."""


def find_config(start: Path | None = None) -> Path | None:
    """The file in force: `$HARNESS_CONFIG`, or the first harness.toml from `start` upwards.

    Raises:
        EnvironmentConfigError: `$HARNESS_CONFIG` names no file.
    """
    given = os.environ.get(CONFIG_VARIABLE)
    if given:
        path = Path(given).expanduser().absolute()
        if not path.is_file():
            raise EnvironmentConfigError(
                "no such file", where=path, hint=f"correct or unset {CONFIG_VARIABLE}"
            )
        return path
    folder = (Path.cwd() if start is None else start).absolute()
    candidates = (parent / CONFIG_NAME for parent in (folder, *folder.parents))
    return next((path for path in candidates if path.is_file()), None)


def read_config(path: Path) -> str:
    """The text of the file.

    Raises:
        EnvironmentConfigError: it cannot be read, or another user can write it.
    """
    if not os.environ.get(CONFIG_VARIABLE):
        _check_owner(path)
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentConfigError(f"cannot be read: {error}", where=path) from error


def function_settings() -> FunctionSettings:
    """What the file in force says of users' functions.

    Raises:
        EnvironmentConfigError: the file cannot be read, or its table holds mistakes.
    """
    path = find_config()
    if path is None:
        return FunctionSettings()
    try:
        return FunctionSettings.model_validate(tomllib.loads(read_config(path)).get("functions", {}))
    except tomllib.TOMLDecodeError as error:
        raise EnvironmentConfigError(f"not TOML: {error}", where=path) from error
    except ValidationError as error:
        first = error.errors()[0]
        keys = ".".join(["functions", *map(str, first["loc"])])
        raise EnvironmentConfigError(f"{keys}: {first['msg']}", where=path) from None


def _check_owner(path: Path) -> None:
    """Refuse a file that another user can write: the commands in it run as the user who starts harness."""
    found = path.stat()
    user = os.geteuid()
    group_of_one = found.st_gid == os.getegid() == user  # a private group, as most systems make one a user
    foreign = found.st_uid not in (user, 0)
    writable = found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not group_of_one)
    if foreign or writable:
        why = "belongs to another user" if foreign else "can be written by other users"
        raise EnvironmentConfigError(
            f"{why}, and the commands in it would run as you",
            where=path,
            hint=f"check what is in it, then {'chown' if foreign else 'chmod go-w'} it, "
            f"or set {CONFIG_VARIABLE} to its path",
        )

"""harness.toml: where it is, and who may write it. Nothing of pydantic is imported here."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from harness.errors import EnvironmentConfigError

CONFIG_NAME = "harness.toml"
CONFIG_VARIABLE = "HARNESS_CONFIG"


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

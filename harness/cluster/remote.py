"""What runs on a dask worker: it says what it has, and carries out one unit at a time."""

from __future__ import annotations

import hashlib
import os
import platform
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from harness.case import CONFIG_VARIABLE, find_config
from harness.cluster.units import Desk, Unit
from harness.environments import abort_shared, load
from harness.errors import HarnessError, InternalError
from harness.tensors import host_fingerprint

R = TypeVar("R")
PACKAGE = Path(__file__).parents[1]


@cache
def version() -> str:
    """What two processes must have in common to send each other units: harness, to its last line, and Python.

    A checkout changes without a new number, so the number alone would let two versions answer in one report.
    """
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    python = ".".join(platform.python_version_tuple()[:2])
    return f"harness {host_fingerprint().harness} ({digest.hexdigest()[:8]}) on Python {python}"


@dataclass(frozen=True)
class About:
    """What a worker has.

    Args:
        version: see `version`.
        environments: the names in its harness.toml; none where there is no file.
        lacks: which of the files that were asked for it does not see.
        folder: its working folder, from which harness.toml is searched for.
    """

    version: str
    environments: tuple[str, ...]
    lacks: tuple[str, ...]
    folder: str


@cache
def _own_folder() -> str:
    """The folder that this worker was started in, whose harness.toml, if there is one, holds from now on.

    Raises:
        EnvironmentConfigError: it is wrong, or another user can write it.
    """
    if CONFIG_VARIABLE not in os.environ and (config := find_config()) is not None:
        load()  # what the variable names is not asked whether another user can write it
        os.environ[CONFIG_VARIABLE] = str(config)
    return str(Path.cwd())


def describe(folder: str, files: Sequence[str]) -> About:
    """What this worker has, which from now on works in the folder that it is asked from: paths mean the same there.

    Its harness.toml stays that of the folder it was started in, if there is one: environments differ by machine.

    Args:
        folder: the working folder of whoever asks.
        files: which files it needs.

    Raises:
        EnvironmentConfigError: its harness.toml is wrong.
    """
    started_in = _own_folder()
    lacks: tuple[str, ...] = (folder,)
    if Path(folder).is_dir():
        os.chdir(folder)
        lacks = tuple(path for path in files if not Path(path).exists())
    return About(version(), tuple(load()), lacks, started_in)


@dataclass
class _Desks:
    """The desk of this process: one, or what is open would add up."""

    key: object = None
    desk: Desk | None = None
    guard: threading.Lock = field(default_factory=threading.Lock)
    """Held by whoever works: the workers of environments belong to the process, not to a unit."""

    def close(self) -> None:
        desk, self.key, self.desk = self.desk, None, None
        if desk is not None:
            desk.close()


_DESKS = _Desks()


def carry_out(session: str, unit: Unit[Any, R], given: Any = None) -> R:
    """The result of `unit`, which is given the result of another one; its desk is kept for the next of this session.

    Raises:
        HarnessError: as the unit; InternalError for what nobody expected.
    """
    if given is not None:
        unit = unit.given(given)
    with _DESKS.guard:
        key = (session, type(unit), unit.desk)
        try:
            if key != _DESKS.key:
                _DESKS.close()
                _DESKS.desk, _DESKS.key = unit.open(), key
            return unit.carry_out(_DESKS.desk, lambda stage: None)
        except HarnessError:
            raise
        except Exception as error:
            raise InternalError.of(error) from None


def leave(session: str, *, at_once: bool = False) -> None:
    """Free what this session has open here; `at_once` ends what it is doing, where a worker of an environment does it.

    Something else that is under way is waited for by whoever comes next, not here.
    """
    if at_once:
        with suppress(HarnessError):
            abort_shared()
    if _DESKS.guard.acquire(timeout=0 if at_once else 5):
        try:
            if isinstance(_DESKS.key, tuple) and _DESKS.key[0] == session:
                _DESKS.close()
        finally:
            _DESKS.guard.release()

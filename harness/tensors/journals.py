"""Journals: files of JSON documents, one a line, that survive a crash at any moment.

The first line says whose journal it is. A line is written in one piece and synced; of a last line, what a crash left
is dropped on the next opening.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from harness.errors import HarnessError, JournalError, Place

T = TypeVar("T")


def take_lock(path: Path, busy: HarnessError) -> FileLock:
    """The lock at `path`, which dies with its process; its folder is made. Raises `busy` where another holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise busy from None
    return lock


def append_line(descriptor: int, document: str, *, sync: bool = True) -> None:
    """Write one more line; without `sync` it survives the process, not the machine."""
    os.write(descriptor, document.encode() + b"\n")
    if sync:
        os.fsync(descriptor)


def read_journal(
    path: Path, check: Callable[[bytes], None], decode: Callable[[bytes], T], hint: str
) -> list[T] | None:
    """What `decode` makes of each line after the first; None where not even that is whole.

    Args:
        path: the file. A torn last line is cut off.
        check: gets the first line, and raises where the journal is another's.
        decode: makes something of another line; raises ValueError, LookupError or TypeError where it makes no sense.
        hint: what to try where a line is damaged.

    Raises:
        JournalError: a line is damaged; and what `check` raises.
    """
    data = path.read_bytes()
    lines = data.split(b"\n")[:-1]  # what follows the last line feed is nothing, or was torn
    if not lines:
        return None
    check(lines[0])
    found: list[T] = []
    whole = len(lines[0]) + 1
    for number, line in enumerate(lines[1:], start=2):
        try:
            found.append(decode(line))
        except (ValueError, LookupError, TypeError) as error:
            if number == len(lines) and isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
                break  # zeros, as a power cut leaves them
            message = f"this line of the journal is damaged: {error}"
            raise JournalError(message, where=Place(path, number), hint=hint) from error
        whole += len(line) + 1
    if whole < len(data):
        with path.open("rb+") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
    return found

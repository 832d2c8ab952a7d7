"""Calls that may crash or hang their process, made in processes that are replaced when they do."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

CHUNK = 400
"""Calls that one process makes before it is replaced."""


def outcomes(
    call: Callable[[Sequence[str]], Iterator[tuple[str, Any]]], names: Sequence[str], *, seconds: float = 60.0
) -> dict[str, Any]:
    """What `call` yields for each of `names`: plain data, or `crash` or `hang` where its process ended so.

    Args:
        call: a function of a module; it yields `(name, None)` before and `(name, outcome)` after each of its names.
        names: what to call it for.
        seconds: that one name may take.
    """
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal"
        while left := [name for name in names if name not in found]:
            journal.write_text("")
            process = multiprocessing.get_context("spawn").Process(
                target=_journaled, args=(call, left[:CHUNK], journal), daemon=True
            )
            process.start()
            end = _watched(process, journal, seconds)
            lines = [json.loads(line) for line in journal.read_text().splitlines()]
            found |= {name: outcome for name, outcome in lines if outcome is not None}
            if lines and lines[-1][1] is None:
                found[lines[-1][0]] = end
            elif end != "done" and not lines:
                raise RuntimeError(f"the process ended before its first call: {end}")
    return found


def _journaled(
    call: Callable[[Sequence[str]], Iterator[tuple[str, Any]]], names: Sequence[str], journal: Path
) -> None:
    with journal.open("a") as lines:
        for pair in call(names):
            lines.write(json.dumps(pair) + "\n")
            lines.flush()


def _watched(process: multiprocessing.process.BaseProcess, journal: Path, seconds: float) -> str:
    size, since = -1, time.monotonic()
    while process.is_alive():
        process.join(0.2)
        now = journal.stat().st_size
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > seconds + 600 * (size == 0):  # imports come first
            with contextlib.suppress(OSError):
                process.kill()
            process.join()
            return "hang"
    return "done" if process.exitcode == 0 else "crash"

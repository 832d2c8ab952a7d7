"""Calls that may crash or hang their process, made in processes that are replaced when they do."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import spread

SPREAD = 50
"""Calls of a unit for a worker of a scheduler."""
CHUNK = 400
"""Calls that one process makes before it is replaced."""


def outcomes(
    call: Callable[[Sequence[str]], Iterator[tuple[str, Any]]],
    names: Sequence[str],
    *,
    seconds: float = 60.0,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """What `call` yields for each of `names`: plain data, or `crash` or `hang` where its process ended so.

    Args:
        call: a function of a module; it yields `(name, None)` before and `(name, outcome)` after each of its names.
        names: what to call it for.
        seconds: that one name may take.
        scheduler: the address of a dask scheduler whose workers start the processes, each for some of the names.
    """
    call = spread.importable(call)
    found: dict[str, Any] = {}
    if scheduler is not None:
        chunks = [names[start : start + SPREAD] for start in range(0, len(names), SPREAD)]
        for _, part in spread.each_answer(partial(outcomes, call, seconds=seconds), chunks, scheduler):
            found |= part
        return {name: found[name] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal"
        while left := [name for name in names if name not in found]:
            journal.write_text("")
            given = json.dumps([call.__module__, call.__qualname__, left[:CHUNK], str(journal)])
            # Not of multiprocessing, which lets the workers of dask have no children.
            process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                text=True,
            )
            try:
                assert process.stdin is not None
                process.stdin.write(given)
                process.stdin.close()
                end = _watched(process, journal, seconds)
            finally:
                process.kill()
            lines = [json.loads(line) for line in journal.read_text().splitlines()]
            found |= {name: outcome for name, outcome in lines if outcome is not None}
            if lines and lines[-1][1] is None:
                found[lines[-1][0]] = end
            elif end != "done" and not lines:
                raise RuntimeError(f"the process ended before its first call: {end}")
    return found


def _journaled() -> None:
    module, function, names, journal = json.loads(sys.stdin.read())
    call = getattr(importlib.import_module(module), function)
    with open(journal, "a") as lines:
        for pair in call(names):
            lines.write(json.dumps(pair) + "\n")
            lines.flush()


def _watched(process: subprocess.Popen[str], journal: Path, seconds: float) -> str:
    size, since = -1, time.monotonic()
    while process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
        now = journal.stat().st_size
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > seconds + 600 * (size == 0):  # imports come first
            process.kill()
            process.wait()
            return "hang"
    return "done" if process.returncode == 0 else "crash"


if __name__ == "__main__":
    _journaled()

"""The journal of a search: one evaluation a line, on disk before its outcome is used.

The first line is a header that names the problem by its hash; each further line is one evaluation:

    {"schema": "harness.search-journal/1", "problem": "3f…", "units": 500}
    {"treated": "0-249,301", "outcome": "fail", "badness": 3.5, "margin": -3.49, "seconds": 5.1, "note": ""}

`treated` lists positions in the problem's units. Numbers that are not finite are written as strings. A lock file
beside the journal keeps a second writer out, and dies with its process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from harness.errors import JournalError
from harness.search.problem import Problem
from harness.search.types import Outcome, Trial
from harness.tensors import append_line, from_json, read_journal, take_lock, to_json, write_text

if TYPE_CHECKING:
    from filelock import FileLock

SCHEMA = "harness.search-journal/1"
AGAIN = "delete that line or the journal: its evaluations are then done again"


@dataclass(frozen=True)
class _Header:
    schema: str
    problem: str
    units: int


@dataclass(frozen=True)
class _Line:
    treated: str
    outcome: Outcome
    badness: float | None
    margin: float | None
    seconds: float | None
    note: str


@dataclass(frozen=True)
class Record:
    """One line of a journal: a configuration and what one evaluation of it said."""

    treated: frozenset[str]
    evaluation: Trial


class Journal:
    """An append-only file of evaluations of one problem. Make one with `create` or `resume`, and close it.

    Args:
        path: the file.
        problem: whose evaluations these are.
        records: those that were read from the file.
        lock: held until `close`.
    """

    def __init__(self, path: Path, problem: Problem, records: tuple[Record, ...], lock: FileLock) -> None:
        self.path = path
        self.records = records
        self._problem = problem
        self._lock = lock
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_APPEND)

    @classmethod
    def create(cls, path: Path, problem: Problem) -> Journal:
        """Start a new journal; one that is already there is replaced.

        Raises:
            JournalError: another process is writing to it.
        """
        lock = _locked(path)
        try:
            _start(path, problem)
            return cls(path, problem, (), lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def resume(cls, path: Path, problem: Problem) -> Journal:
        """Go on with a journal, or start one where there is none.

        Raises:
            JournalError: it belongs to another problem, is damaged, or another process is writing to it.
        """
        lock = _locked(path)
        try:
            records = None
            if path.exists():
                check, decode = partial(_check_header, path, problem), partial(_decode, problem)
                records = read_journal(path, check, decode, AGAIN)
            if records is None:
                _start(path, problem)
            return cls(path, problem, tuple(records or ()), lock)
        except BaseException:
            lock.release()
            raise

    def append(self, treated: frozenset[str], evaluation: Trial) -> None:
        """Write one evaluation; it is on the disk when this returns."""
        if self._descriptor is None:
            raise JournalError("the journal is closed", where=self.path, hint="open it with Journal.resume")
        append_line(self._descriptor, _encode(self._problem, treated, evaluation))

    def close(self) -> None:
        """Close the file and let others write. Calling it twice is allowed."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _locked(path: Path) -> FileLock:
    hint = "wait for the other search to end, or give this one a journal of its own"
    busy = JournalError("another process is writing to this journal", where=path, hint=hint)
    return take_lock(path.with_name(path.name + ".lock"), busy)


def _start(path: Path, problem: Problem) -> None:
    header = _Header(SCHEMA, problem.digest, len(problem.units))
    write_text(path, json.dumps(to_json(header)) + "\n")


def _check_header(path: Path, problem: Problem, line: bytes) -> None:
    try:
        header = from_json(_Header, json.loads(line))
    except ValueError as error:
        hint = "give the path of a journal that a search has written"
        raise JournalError("this is not the journal of a search", where=path, hint=hint) from error
    if header.schema != SCHEMA:
        hint = f"this release of harness reads {SCHEMA}; start the search again"
        raise JournalError(f"the journal has the unknown schema {header.schema!r}", where=path, hint=hint)
    if header.problem != problem.digest:
        message = (
            f"the journal belongs to another problem: it has {header.units} units and the hash "
            f"{header.problem[:12]}, "
            f"this one has {len(problem.units)} and {problem.digest[:12]}"
        )
        hint = "the model, the inputs, the precision or the environment changed: start the search again"
        raise JournalError(message, where=path, hint=hint)


def _encode(problem: Problem, treated: frozenset[str], found: Trial) -> str:
    positions = _spell_ranges(sorted(problem.positions[unit] for unit in treated))
    line = _Line(positions, found.outcome, found.badness, found.margin, found.seconds, found.note)
    return json.dumps(to_json(line), allow_nan=False)


def _decode(problem: Problem, line: bytes) -> Record:
    told = from_json(_Line, json.loads(line))
    treated = frozenset(problem.units[position] for position in _read_ranges(told.treated))
    return Record(treated, Trial(told.outcome, told.badness, told.margin, told.seconds, told.note))


def _spell_ranges(positions: list[int]) -> str:
    ranges: list[list[int]] = []
    for position in positions:
        if ranges and position == ranges[-1][1] + 1:
            ranges[-1][1] = position
        else:
            ranges.append([position, position])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def _read_ranges(text: str) -> Iterable[int]:
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)

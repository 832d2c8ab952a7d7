"""What a diagnosis keeps on disk, so that a stopped one resumes where it was.

A folder holds one journal for each search (see `harness.search.Journal`) and `diagnosis.jsonl`, one entry a line:

    {"schema": "harness.diagnosis-journal/1", "subject": "3f…"}
    {"spent": {"phase": "gates", "builds": 1}}
    {"key": "baseline", "value": {…}}

`spent` is written when an engine was built, before its outcome is used; `key` when a step outside of a search is
done.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from harness.diagnosis.context.subject import Subject
from harness.errors import JournalError
from harness.search import Journal, Problem
from harness.tensors import (
    UNLESS_DEFAULT,
    append_line,
    from_json,
    load_tensors,
    read_journal,
    save_tensors,
    take_lock,
    to_json,
    write_text,
)

SCHEMA = "harness.diagnosis-journal/1"
FILE = "diagnosis.jsonl"
LONGEST_NAME = 80
"""Characters of a key that its file is named after; file systems take 255 bytes, `.tmp` and all."""
DEFAULT_ROOT = Path(".harness") / "diagnose"
JOURNAL = "journal"
"""The folder of the journals inside a folder that the user named."""
START_AGAIN = "leave out --resume to start again"

T = TypeVar("T")


@dataclass(frozen=True)
class _Header:
    schema: str
    subject: str


@dataclass(frozen=True)
class _Spent:
    phase: str
    builds: int


@dataclass(frozen=True)
class _Entry:
    """Builds that were spent, or a value under a key."""

    spent: _Spent | None = field(default=None, metadata=UNLESS_DEFAULT)
    key: str | None = field(default=None, metadata=UNLESS_DEFAULT)
    value: Any = field(default=None, metadata=UNLESS_DEFAULT)


def journal_folder(subject: Subject, root: Path = DEFAULT_ROOT) -> Path:
    """Where the journals of a subject are kept: in `root`, one folder for each case, precision and candidate."""
    label = f"{subject.bench.case.name}-{subject.precision}-{subject.candidate.name}"
    return root / re.sub(r"[^\w.-]+", "_", label)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other diagnoses out of `folder`; the lock dies with its process.

    Raises:
        JournalError: another diagnosis is writing there, or nothing can be.
    """
    _make(folder)
    hint = "wait for it to end, or write elsewhere with --out"
    busy = JournalError("another diagnosis is writing to this folder", where=folder, hint=hint)
    lock = take_lock(folder / f"{FILE}.lock", busy)
    try:
        yield
    finally:
        lock.release()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "name a folder with --out"
        raise JournalError(f"cannot be made: {error.strerror}", where=folder, hint=hint) from error


class DiagnosisJournal:
    """The journals and records of one diagnosis.

    Args:
        folder: where they are; made if it is missing. None keeps nothing.
        subject: whose they are.
        resume: go on with what is there; otherwise it is replaced.

    Raises:
        JournalError: the folder cannot be made, or with `resume` belongs to another model, input, precision or
            candidate.
    """

    def __init__(
        self, folder: Path | None = None, subject: Subject | None = None, *, resume: bool = False
    ) -> None:
        self.folder = folder
        self.spent: dict[str, int] = defaultdict(int)
        self._resume = resume
        self._values: dict[str, object] = {}
        if folder is None or subject is None:
            self.folder = None
            return
        self._path = folder / FILE
        _make(folder)
        if resume and self._path.exists():
            self._read(subject.identity)
        else:
            # When resuming without this file, the journals of a search by hand may be there.
            for old in () if resume else folder.glob("*.journal"):
                old.unlink(missing_ok=True)
            write_text(self._path, json.dumps(to_json(_Header(SCHEMA, subject.identity))) + "\n")

    def of_search(self, name: str, problem: Problem) -> AbstractContextManager[Journal | None]:
        """The journal of one search, to be entered and left; None where nothing is kept.

        Raises:
            JournalError: it belongs to another problem, or another process is writing to it.
        """
        if self.folder is None:
            return nullcontext()
        path = self.folder / f"{name}.journal"
        return Journal.resume(path, problem) if self._resume else Journal.create(path, problem)

    def charge(self, phase: str, builds: int) -> None:
        """Write down what was spent."""
        self._append(_Entry(spent=_Spent(phase, builds)))

    def holds(self, key: str) -> bool:
        """Whether something was kept under `key`."""
        return key in self._values

    def recall(self, key: str, kind: type[T]) -> T | None:
        """The `kind` that was kept under `key`; None if nothing was.

        Raises:
            JournalError: the entry is damaged.
        """
        if key not in self._values:
            return None
        try:
            return from_json(kind, self._values[key])
        except ValueError as error:
            raise JournalError(
                f"the entry {key!r} is damaged: {error}", where=self._path, hint=START_AGAIN
            ) from error

    def keep(self, key: str, value: T, *, sync: bool = True) -> None:
        """Keep a dataclass or a plain value under `key`; without `sync` it survives the process, not the machine."""
        if self.folder is not None:
            self._values[key] = to_json(value)
            self._append(_Entry(key=key, value=self._values[key]), sync=sync)

    def recall_tensors(self, key: str) -> list[dict[str, np.ndarray]] | None:
        """What `keep_tensors` kept, or None."""
        count = self.recall(f"{key}:samples", int)
        if count is None:
            return None
        return [dict(load_tensors(self._tensor_file(key, sample))) for sample in range(count)]

    def keep_tensors(self, key: str, samples: list[dict[str, np.ndarray]]) -> None:
        """Keep named tensors, sample by sample."""
        if self.folder is None:
            return
        for sample, tensors in enumerate(samples):
            save_tensors(self._tensor_file(key, sample), tensors)
        self.keep(f"{key}:samples", len(samples))

    def _tensor_file(self, key: str, sample: int) -> Path:
        assert self.folder is not None
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", key)
        if len(name) > LONGEST_NAME:  # an island may have hundreds of nodes
            name = f"{name[:LONGEST_NAME]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        return self.folder / f"{name}.{sample}.safetensors"

    def _append(self, entry: _Entry, *, sync: bool = True) -> None:
        if self.folder is None:
            return
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            append_line(descriptor, json.dumps(to_json(entry), allow_nan=False), sync=sync)
        finally:
            os.close(descriptor)

    def _read(self, identity: str) -> None:
        if read_journal(self._path, partial(self._check, identity), self._take, START_AGAIN) is None:
            self._check(identity, b"")

    def _check(self, identity: str, line: bytes) -> None:
        try:
            header = from_json(_Header, json.loads(line))
        except ValueError:
            header = None
        if header is None or header.schema != SCHEMA:
            raise JournalError("this is not the journal of a diagnosis", where=self._path, hint=START_AGAIN)
        if header.subject != identity:
            raise JournalError(
                "this journal belongs to another diagnosis: the model, the inputs, the tolerances, the precision or "
                "the candidate have changed since",
                where=self._path,
                hint=START_AGAIN,
            )

    def _take(self, line: bytes) -> None:
        entry = from_json(_Entry, json.loads(line))
        if entry.spent is not None:
            self.spent[entry.spent.phase] += entry.spent.builds
        elif entry.key is not None:
            self._values[entry.key] = entry.value
        else:
            raise ValueError("neither builds nor a value")

"""What a diagnosis keeps on disk, so that a stopped one goes on where it was.

A folder holds one journal for each search (see `harness.search.Journal`) and `notebook.jsonl`, one line an entry:

    {"schema": "harness.notebook/1", "subject": "3f…"}
    {"spent": {"phase": "gates", "builds": 1}}
    {"key": "baseline", "value": {…}}

`spent` is written when an engine was built, before its outcome is used; `key` when a step outside of a search is
done. Lines are synced to disk. A torn last line is dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from harness.diagnosis.context.subject import Subject
from harness.errors import JournalError
from harness.search import Journal, Problem
from harness.tensors import load_tensors, save_tensors, write_text

SCHEMA = "harness.notebook/1"
FILE = "notebook.jsonl"
LONGEST_NAME = 80
"""Characters of a key that its file is named after; file systems take 255 bytes, `.tmp` and all."""
DEFAULT_ROOT = Path(".harness") / "diagnose"


JOURNAL = "journal"
"""The folder of the journals in one that a person named."""


def journal_folder(subject: Subject, root: Path | None = None) -> Path:
    """Where the journals of a subject are kept: one folder for a case, precision and candidate.

    Args:
        subject: what is diagnosed.
        root: the folder around it; by default `.harness/diagnosis` in the working folder.
    """
    label = f"{subject.bench.case.name}-{subject.precision}-{subject.candidate.name}"
    return (root or DEFAULT_ROOT) / re.sub(r"[^\w.-]+", "_", label)


class Notebook:
    """The journals and records of one diagnosis.

    Args:
        folder: where they are; made if it is missing.
        subject: whose they are.
        resume: go on with what is there; otherwise it is replaced.

    Raises:
        JournalError: with `resume`, the folder belongs to another model, input, precision or candidate.
    """

    def __init__(self, folder: Path, subject: Subject, *, resume: bool) -> None:
        self.folder = folder
        self.resumed = False
        self.spent: dict[str, int] = defaultdict(int)
        self._resume = resume
        self._values: dict[str, Any] = {}
        self._path = folder / FILE
        folder.mkdir(parents=True, exist_ok=True)
        if resume and self._path.exists():
            self._read(subject.identity)
        else:
            # Resumed without a notebook, there may be the journal of somebody who searched by hand.
            for old in () if resume else folder.glob("*.journal"):
                old.unlink(missing_ok=True)
            write_text(self._path, json.dumps({"schema": SCHEMA, "subject": subject.identity}) + "\n")

    def journal(self, name: str, problem: Problem) -> Journal:
        """The journal of one search. Close it.

        Raises:
            JournalError: it belongs to another problem, or another process is writing to it.
        """
        path = self.folder / f"{name}.journal"
        return Journal.resume(path, problem) if self._resume else Journal.create(path, problem)

    def charge(self, phase: str, builds: int) -> None:
        """Write down what was spent."""
        self._append({"spent": {"phase": phase, "builds": builds}})

    def recall(self, key: str) -> Any | None:
        """What was kept under `key`; None if nothing was."""
        return self._values.get(key)

    def keep(self, key: str, value: Any, *, sync: bool = True) -> None:
        """Keep plain JSON data under `key`; without `sync` it survives the process, but not the machine."""
        self._values[key] = value
        self._append({"key": key, "value": value}, sync=sync)

    def recall_tensors(self, key: str) -> list[dict[str, np.ndarray]] | None:
        """What `keep_tensors` kept, or None."""
        count = self.recall(f"{key}:samples")
        if count is None:
            return None
        return [dict(load_tensors(self._tensor_file(key, sample))) for sample in range(count)]

    def keep_tensors(self, key: str, samples: list[dict[str, np.ndarray]]) -> None:
        """Keep named tensors, sample by sample."""
        for sample, tensors in enumerate(samples):
            save_tensors(self._tensor_file(key, sample), tensors)
        self.keep(f"{key}:samples", len(samples))

    def _tensor_file(self, key: str, sample: int) -> Path:
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", key)
        if len(name) > LONGEST_NAME:  # an island may have hundreds of nodes
            name = f"{name[:LONGEST_NAME]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        return self.folder / f"{name}.{sample}.safetensors"

    def _append(self, line: dict[str, Any], *, sync: bool = True) -> None:
        data = json.dumps(line, allow_nan=False).encode() + b"\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, data)
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _read(self, identity: str) -> None:
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.splitlines()
        try:
            entries = [json.loads(line) for line in lines]
        except ValueError as error:
            raise JournalError(
                f"this is not the notebook of a diagnosis: {error}",
                where=self._path,
                hint="leave out --resume to start again",
            ) from error
        if not entries or entries[0].get("schema") != SCHEMA:
            raise JournalError(
                "this is not the notebook of a diagnosis",
                where=self._path,
                hint="leave out --resume to start again",
            )
        if entries[0].get("subject") != identity:
            raise JournalError(
                "this journal belongs to another diagnosis: the model, the inputs, the tolerances, the precision or "
                "the candidate changed since",
                where=self._path,
                hint="leave out --resume to start again",
            )
        for entry in entries[1:]:
            if "spent" in entry:
                self.spent[entry["spent"]["phase"]] += entry["spent"]["builds"]
            else:
                self._values[entry["key"]] = entry["value"]
        if len(whole) < len(data):
            with self._path.open("rb+") as file:
                file.truncate(len(whole))
                os.fsync(file.fileno())
        self.resumed = True

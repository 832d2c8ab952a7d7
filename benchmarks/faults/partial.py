"""What a run has come to so far, on disk: a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from benchmarks.faults.families import Family
from benchmarks.faults.kinds import Kind
from benchmarks.faults.score import Score
from harness.tensors import host_fingerprint, to_json

ROOT = Path(__file__).parents[2]
SOURCES = ("harness", "cases", "benchmarks/faults")


class OtherRunError(Exception):
    """The file belongs to a run of other sources or on another machine."""


def state() -> str:
    """SHA-256 over what decides a score: the sources, the machine and the versions of what computes."""
    digest = hashlib.sha256(json.dumps(to_json(host_fingerprint()), sort_keys=True).encode())
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


class Partial:
    """The scores of a run beside its result, one line of JSON each, in the order in which they were reached.

    Args:
        result: where the result will be; the scores so far are beside it until then.

    Raises:
        OtherRunError: what is there was made by other sources, or on another machine.
    """

    def __init__(self, result: Path) -> None:
        self.path = result.with_name(f"{result.name}.partial")
        self.scores: dict[str, Score] = {}
        self.seconds = 0.0
        """How long the earlier runs took, up to the last score."""
        lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
        whole = [json.loads(line) for line in lines[:-1]]  # the last one is empty, or was cut off
        now = state()
        if whole and whole[0]["state"] != now:
            raise OtherRunError(
                f"{self.path}: its scores were made by other sources or on another machine; delete it to start again"
            )
        for line in whole[1:]:
            score = _score(line["score"])
            self.scores[score.name] = score
            self.seconds = line["seconds"]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = self.path.open("a", encoding="utf-8")
        self._file.truncate(sum(len(line) + 1 for line in lines[:-1]))
        if not whole:
            self._write({"state": now})

    def keep(self, score: Score, seconds: float) -> None:
        """Add a score, `seconds` after the start of the first run."""
        self._write({"score": asdict(score), "seconds": round(seconds, 1)})

    def remove(self) -> None:
        """Delete it: the result is written."""
        self._file.close()
        self.path.unlink()

    def _write(self, line: Mapping[str, object]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _score(record: Mapping[str, object]) -> Score:
    values = {**record, "family": Family(record["family"]), "kind": Kind(record["kind"])}
    return Score(**values)  # type: ignore[arg-type]  # what asdict wrote

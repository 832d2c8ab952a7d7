"""Reports of compilers on disk: one file for each model, precision, release, target and options.

A report says what one release makes of one model, which does not change; so it is asked for once on a machine. What a
machine did to a build (a crash, a time limit, too little memory) is not kept.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path

from harness.environments import cache_folder
from harness.tensors import write_text
from harness.worker.protocol import CompileReport, from_plain

_SHARED = 32  # letters of a model's hash in the names of its reports
_OF_THE_MACHINE = ("crashed", "timed_out", "out_of_memory", "no_gpu")


def report_key(sha256: str, digest: str) -> str:
    """The key of a report: which model, and what was asked of it."""
    return f"{sha256[:_SHARED]}-{digest[:_SHARED]}"


class ReportCache:
    """The reports kept in a folder. Reading and writing it never fails: a cache is only a saving.

    Args:
        folder: by default `compiled` in harness's cache folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = cache_folder() / "compiled" if folder is None else folder

    def get(self, key: str) -> CompileReport | None:
        """The report that is kept under `key`; None if there is none that can be read."""
        try:
            return from_plain(CompileReport, json.loads(self._path(key).read_text()))
        except (OSError, ValueError):
            return None

    def reports_of(self, sha256: str) -> tuple[CompileReport, ...]:
        """All that is kept of the model with this hash, the oldest first."""
        found = []
        with contextlib.suppress(OSError):
            paths = self._path(sha256).parent.glob(f"{sha256[:_SHARED]}-*.json")
            found = [path.stem for path in sorted(paths, key=lambda path: path.stat().st_mtime)]
        return tuple(report for report in map(self.get, found) if report is not None)

    def put(self, key: str, report: CompileReport) -> None:
        """Keep a report, unless it says something of the machine alone."""
        if report.failure is not None and report.failure.kind in _OF_THE_MACHINE:
            return
        with contextlib.suppress(OSError):
            write_text(self._path(key), json.dumps(asdict(report)))

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

"""GitHub's annotations: a line on stdout that marks a line of a case file in a pull request.

    ::error file=cases/x.case.yaml,line=6,title=Drift worse at fp16::b7_sq (Pow): error 3.1e-4 → 1.2e-2 …

The escapes are those of the workflow commands of GitHub Actions. GitHub shows ten of each kind for a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.case import read_document
from harness.history import DriftReport, RunDrift, Status
from harness.report.drift_engines import engines_line
from harness.report.drift_words import look_of

_LEVELS = {
    Status.FAIL: "error",
    Status.ERROR: "error",
    Status.MISTAKE: "error",
    Status.XFAIL: "warning",
}


def annotate(report: DriftReport) -> Iterator[str]:
    """One line for each run that a person must look at, the gravest first; and one for what the engines moved."""
    for run in report.worst_first():
        if run.status in _LEVELS:
            yield annotation(run)
    if engines := engines_line(report):
        title = _property(f"Engines of {', '.join(report.newer)}")
        yield f"::notice title={title}::{_message(engines)}"


def annotation(run: RunDrift) -> str:
    """The annotation of one run."""
    look = look_of(run)
    properties = {"title": f"{look.word.capitalize()}: {run.case} at {run.precision} on {run.new}"}
    if run.case_path is not None:
        properties = {"file": run.case_path, "line": str(line_of(run)), **properties}
    told = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    message = "\n".join(part for part in (run.reason, run.command and f"go on with: {run.command}") if part)
    return f"::{_LEVELS[run.status]} {told}::{_message(message)}"


def line_of(run: RunDrift) -> int:
    """The line of the case file that asks for the run's precision; 1 if that cannot be told."""
    path = Path(run.case_path or "")
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return 1
    document = read_document(path)
    runs = document.data.get("runs") if isinstance(document.data, dict) else None
    for place, entry in enumerate(runs if isinstance(runs, list) else ()):
        asked = entry.get("precision") if isinstance(entry, dict) else entry
        if asked == run.precision.value:
            return document.position(("runs", place))[0]
    return 1


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")

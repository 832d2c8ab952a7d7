"""All runs of one invocation: JSON, exit status, frame and outputs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from harness.case import quiet_polygraphy
from harness.comparison import Metrics
from harness.errors import InternalError, NothingSelectedError
from harness.judge.results.provenance import MadeWith
from harness.judge.results.runs import RunResult
from harness.judge.results.verdicts import Cause, Verdict
from harness.tensors import UNLESS_DEFAULT, atomic_path, to_json
from harness.text import html_table, number, plural

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

RUN_SCHEMA = "harness.run/1"
MOST_ROWS = 100
"""Runs that a notebook shows of a report."""


@dataclass(frozen=True, repr=False)
class RunReport:
    """All runs of one invocation, with the fingerprint of what they ran on; `interrupted` if some are missing."""

    fingerprint: MadeWith
    results: tuple[RunResult, ...]
    interrupted: bool = field(default=False, metadata=UNLESS_DEFAULT)

    def __repr__(self) -> str:
        """`RunReport(12 runs: 10 pass, 2 fail)`."""
        found = Counter(result.verdict for result in self.results)
        counts = ", ".join(f"{found[verdict]} {verdict}" for verdict in Verdict if verdict in found)
        return f"RunReport({plural(len(self.results), 'run')}{': ' if counts else ''}{counts})"

    def _repr_html_(self) -> str:
        """A table of the runs, for notebooks."""
        rows = [
            (result.id, result.candidate, result.verdict, _worst_error(result), result.reason)
            for result in self.results[:MOST_ROWS]
        ]
        columns = ("run", "candidate", "verdict", "nrmse", "reason")
        return html_table(repr(self), columns, rows, len(self.results) - len(rows))

    @property
    def exit_code(self) -> int:
        """Exit status: 0 as expected, 1 a failure or an unexpected pass, 2 a mistake in a case, 3 a failed build.

        5 if every run was skipped: nothing was judged, which is no success. 70 for a fault of harness itself.
        """
        if any(result.cause is Cause.INTERNAL for result in self.results):
            return InternalError.exit_code
        if any(result.mistake for result in self.results):
            return 2
        verdicts = {result.verdict for result in self.results}
        if Verdict.ERROR in verdicts:
            return 3
        if verdicts == {Verdict.SKIP}:
            return NothingSelectedError.exit_code
        return int(bool(verdicts & {Verdict.FAIL, Verdict.XPASS}))

    def to_dict(self) -> dict[str, Any]:
        """The document of schema `harness.run/1`."""
        results = [result.to_dict() for result in self.results]
        return {"schema": RUN_SCHEMA, **to_json(replace(self, results=())), "results": results}

    def save_outputs(self, path: Path) -> None:
        """Write the candidates' outputs as results of polygraphy: a runner each, named after the run.

        Raises:
            NothingSelectedError: no run has outputs that were kept.
        """
        from polygraphy.comparator import RunResults

        results = RunResults()
        for result in self.results:
            if result.values:
                results.add([dict(sample) for sample in result.values], runner_name=result.id)
        if not list(results.keys()):
            raise NothingSelectedError("no run has outputs to save")
        with atomic_path(path) as temporary, quiet_polygraphy():
            results.save(str(temporary))

    def to_frame(self) -> pd.DataFrame:
        """One row a run and output: case, precision, candidate, verdict, reason, tensor, sample, and all Metrics.

        A run without outputs has a row of its own, in which tensor, sample and metrics are missing.
        """
        import pandas as pd

        columns = ["case", "precision", "candidate", "verdict", "reason", "tensor", "sample"]
        columns += [metric.name for metric in fields(Metrics)]
        rows = []
        for result in self.results:
            run = {
                "case": result.case,
                "precision": result.precision.value,
                "candidate": result.candidate,
                "verdict": result.verdict.value,
                "reason": result.reason,
            }
            for output in result.outputs:
                rows.append({**run, "tensor": output.tensor, "sample": output.sample, **vars(output.metrics)})
            if not result.outputs:
                rows.append(run)
        return pd.DataFrame(rows, columns=columns)


def _worst_error(result: RunResult) -> str:
    return number(None if result.worst is None else result.worst.metrics.nrmse)

"""The drift between releases, as objects: what reports, the JSON, the exit status and notebooks are made from."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.case import Waived
from harness.errors import NothingSelectedError
from harness.history.judgement.builds import Builds
from harness.history.judgement.outcome import (
    BaselineNote,
    BaselineState,
    BaselineUpdate,
    FactChange,
    FewerBuilds,
    Incomparable,
    UnjudgedBuild,
    failed_releases,
)
from harness.history.judgement.steps import Series
from harness.history.judgement.structure import StructureChange
from harness.history.judgement.tensors import JudgedTensor
from harness.history.judgement.wording import (
    baseline_text,
    comparison_text,
    compiled_text,
    error_text,
    fewer_text,
    incomparable_text,
    series_text,
)
from harness.history.types import (
    REGRESSIONS,
    SEVERITY,
    UNMOVED,
    BuildCount,
    CaseRun,
    DriftStatus,
    DriftVerdict,
    FailsOn,
    Floors,
    RowKind,
)
from harness.judge import MadeWith
from harness.tensors import Precision, to_json
from harness.text import html_table, plural, shorten

if TYPE_CHECKING:
    import pandas as pd

DRIFT_SCHEMA = "harness.drift/2"
MOST_SHOWN = 20
"""Runs that a notebook shows of a report."""


@dataclass(frozen=True, repr=False)
class RunDrift:
    """One case at one precision, between the older release and a newer one.

    Args:
        case: name of the case.
        case_path: the case file; None for a bare model.
        precision: the precision under test.
        old: the older release.
        new: the newer release.
        status: what it means for the exit status.
        verdict: the worst verdict of the outputs, or of the layers where no output moved; None if nothing could
            be compared.
        counts: how many outputs and layers have each verdict, by kind.
        worst: of the outputs with the verdict the one with the largest error, sample by sample; or else the layer
            that moved furthest in its direction.
        origins: where a regression starts: the layers that regressed while nothing that they were computed from
            did; in topological order.
        faithful: whether observing left the engines alone: of the older and of the newer release.
        waived: the waiver that speaks of it.
        structure: what changed in the engine.
        structured: whether the layers of any engine are known, of the older and of the newer side.
        compiled: whether nothing was run: the verdict is of what the compilers made of the model.
        command: the command that continues from here; empty if there is none.
        errors: why builds could not be judged.
        builds: what came of each build that could be judged.
        fewer: engines that were built less often than requested.
        unjudged_before: how many builds of earlier nights could not be judged; None of anything else.
        incomparable: why it is compared with nothing; None if it is, or if there are errors.
        baseline: what is known of its baseline; None if it has no place for one, or is compared with something else.
        series: its outputs whose level rose in an earlier night and has not fallen since, or creeps.
    """

    case: str
    case_path: str | None
    precision: Precision
    old: str
    new: str
    status: DriftStatus
    verdict: DriftVerdict | None
    counts: Mapping[RowKind, Mapping[DriftVerdict, int]] = field(default_factory=dict)
    worst: JudgedTensor | None = None
    origins: tuple[JudgedTensor, ...] = ()
    faithful: tuple[bool | None, bool | None] = (None, None)
    waived: Waived | None = None
    structure: tuple[StructureChange, ...] = ()
    structured: tuple[bool, bool] = (False, False)
    compiled: bool = False
    command: str = ""
    errors: tuple[UnjudgedBuild, ...] = ()
    builds: Builds = field(default_factory=Builds)
    fewer: tuple[FewerBuilds, ...] = ()
    unjudged_before: BuildCount | None = None
    incomparable: Incomparable | None = None
    baseline: BaselineNote | None = None
    series: tuple[Series, ...] = ()

    def __repr__(self) -> str:
        """`RunDrift(mlp::fp16::new: regressed, y: error 1e-3 → 3e-3)`."""
        return f"RunDrift({self.id}: {self.outcome}, {shorten(self.reason, 120)})"

    @property
    def reason(self) -> str:
        """One line for a person: why."""
        note, parts = self.baseline, list(self._compared())
        if note is not None and (
            note.state.stale or (note.state is BaselineState.MISSING and not self.errors)
        ):
            written = note.update is BaselineUpdate.REQUESTED
            parts = [
                baseline_text(note.state),
                "it is written now" if written else "--baseline-update writes one",
            ]
        if note is not None and note.update is BaselineUpdate.REFUSED:
            parts.append("no baseline is written, as builds failed")
        return "; ".join([*parts, *map(series_text, self.series)])

    def _compared(self) -> Iterator[str]:
        """What the comparison found, or why there is none."""
        if self.compiled:
            yield compiled_text(self.verdict, self.new, self.structure)
        if self.errors:
            yield error_text(self.errors[-1], everywhere=self.fails_everywhere)
        if self.verdict is not None and not self.compiled:
            yield comparison_text(self.verdict, self.worst, self.counts)
        elif self.incomparable is not None:
            yield incomparable_text(self.incomparable)
        if self.waived is not None and (self.errors or self.verdict in REGRESSIONS):
            yield str(self.waived)
        yield from map(fewer_text, self.fewer)
        if self.unjudged_before is not None:
            missing, total = self.unjudged_before.count, self.unjudged_before.total
            yield f"without {missing} of {plural(total, 'earlier build')}, which could not be judged"

    @property
    def fails_everywhere(self) -> bool:
        """Whether neither release could be judged: then it is not the upgrade that broke it."""
        return {self.old, self.new} <= failed_releases(self.errors)

    @property
    def fails_unexpectedly(self) -> bool:
        """Whether a build of the newer release fails, and neither the case nor a waiver expects that."""
        return self.builds.fails_on in (FailsOn.NEWER, FailsOn.BOTH) and not self.builds.expected

    @property
    def outcome(self) -> str:
        """The verdict; the status where there is none, or where it is not a pass or a failure."""
        judged = self.verdict is not None and self.status in (DriftStatus.PASS, DriftStatus.FAIL)
        return str(self.verdict if judged else self.status)

    @property
    def id(self) -> str:
        """`case::precision::release`."""
        return f"{self.case}::{self.precision}::{self.new}"

    @property
    def severity(self) -> tuple[int, bool, int, float]:
        """What reports are sorted by: the larger, the worse.

        What failed before, too, comes below what regressed and above what passes; what was skipped comes last.
        """
        statuses = [DriftStatus.SKIP, *(status for status in DriftStatus if status is not DriftStatus.SKIP)]
        rank = statuses.index(self.status)
        if self.fails_everywhere:
            rank = min(rank, statuses.index(DriftStatus.XFAIL))
        verdict = -1 if self.verdict is None else SEVERITY[self.verdict]
        standing = self.status is DriftStatus.PASS and self.fails_unexpectedly
        return rank, standing, verdict, 0.0 if self.worst is None else self.worst.size


@dataclass(frozen=True, repr=False)
class DriftReport:
    """Everything that is known of the drift between releases.

    Args:
        run: id of the run in the history; its file holds what every number here is made from.
        old: the older release, or what stands for it.
        releases: all releases, the older one first.
        runs: by case, precision and newer release, what came of it.
        tensors: one row an output and layer: see `harness.history.judgement.tensors.JUDGED`, and `release`.
        engines: one row a quantity of an engine: see `harness.history.judgement.engines.ENGINE_COLUMNS`, and `release`.
        records: the rows of the history behind it, with `side`: which of `releases` a row counts to.
        fingerprint: what it ran on.
        floors: what counts as a difference.
        repeats: builds of each engine.
        time: when the run began, UTC.
        files: the files of the history that it was made from.
        series: the errors of the outputs night by night, where nights are compared.
        written: the baselines that were rewritten.
        changed: what the night ran on and the night before did not, where nights are compared.
        missing: case and precision of runs that the older side had and the newest run has not, not even as skipped.
        first_night: whether the history holds no earlier run to compare this one with.
    """

    run: str
    old: str
    releases: tuple[str, ...]
    runs: tuple[RunDrift, ...]
    tensors: pd.DataFrame
    engines: pd.DataFrame
    records: pd.DataFrame
    fingerprint: MadeWith = field(default_factory=MadeWith)
    floors: Floors = field(default_factory=Floors)
    repeats: int = 1
    time: datetime.datetime | None = None
    files: tuple[str, ...] = ()
    series: tuple[Series, ...] = ()
    written: tuple[str, ...] = ()
    changed: tuple[FactChange, ...] = ()
    missing: tuple[CaseRun, ...] = ()
    first_night: bool = False

    @property
    def exit_code(self) -> int:
        """0 nothing regressed, 1 a regression, 2 a mistake in a case, 3 a build or a worker failed.

        5 if no run could be compared, which is neither a regression nor a success. The first night of a history
        and the first baselines have nothing to be compared with, and are 0.
        """
        statuses = {run.status for run in self.runs}
        if DriftStatus.MISTAKE in statuses:
            return 2
        if DriftStatus.ERROR in statuses:
            return 3
        if DriftStatus.FAIL in statuses:
            return 1
        compared = DriftStatus.XFAIL in statuses or any(run.verdict is not None for run in self.runs)
        first = self.first_night and DriftStatus.PASS in statuses
        return 0 if compared or first or self.written else NothingSelectedError.exit_code

    @property
    def rises(self) -> int:
        """In how many series of nights the level rose and has not fallen since; without those that creep."""
        return sum(one.rise is not None for one in self.series)

    @property
    def creeping(self) -> int:
        """How many series of nights creep, up or down."""
        return sum(one.creep is not None for one in self.series)

    @property
    def newer(self) -> tuple[str, ...]:
        """The releases that are compared with the older one."""
        return self.releases[1:]

    def worst_first(self) -> tuple[RunDrift, ...]:
        """The runs, the worst first."""
        return tuple(sorted(self.runs, key=lambda run: run.severity, reverse=True))

    def count(self, verdict: DriftVerdict) -> int:
        """How many runs have this verdict."""
        return sum(run.verdict is verdict for run in self.runs)

    def to_frame(self) -> pd.DataFrame:
        """One row an output and layer: `release` and the columns of `harness.history.judgement.tensors.JUDGED`."""
        return self.tensors.copy()

    def __repr__(self) -> str:
        """`DriftReport(old → new, 12 runs: 1 regressed, 11 same)`."""
        outcomes = Counter(run.outcome for run in self.worst_first())
        counts = ", ".join(f"{amount} {outcome}" for outcome, amount in outcomes.items())
        runs = f"{plural(len(self.runs), 'run')}{': ' if counts else ''}{counts}"
        return f"DriftReport({' → '.join(self.releases)}, {runs})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the summary, and the worst runs."""
        columns = ("case", "precision", "release", "outcome", "reason")
        rows = [
            (run.case, run.precision.value, run.new, run.outcome, run.reason)
            for run in self.worst_first()[:MOST_SHOWN]
        ]
        return html_table(repr(self), columns, rows, len(self.runs) - len(rows))

    def to_dict(self) -> dict[str, Any]:
        """The document of schema `harness.drift/2`: plain types, numbers that are not finite as strings."""
        moved = self.tensors[~self.tensors["verdict"].isin(UNMOVED)]
        document = {
            "schema": DRIFT_SCHEMA,
            "run": self.run,
            "time": self.time,
            "old": self.old,
            "releases": self.releases,
            "repeats": self.repeats,
            "fingerprint": self.fingerprint,
            "files": self.files,
            "floors": self.floors,
            "exit_code": self.exit_code,
            "runs": [_run(run) for run in self.runs],
            "missing": [{"case": case, "precision": precision} for case, precision in self.missing],
            "engines": self.engines.to_dict("records"),
            "moved": moved.to_dict("records"),
            "changed": self.changed,
            "steps": [
                {**_key(one), "run": one.night(step), **to_json(step)}
                for one in self.series
                for step in one.steps or ()
            ],
            "creeping": [{**_key(one), **to_json(one.creep)} for one in self.series if one.creep is not None],
        }
        plain: dict[str, Any] = to_json(document)
        return plain


_OF_RUN = (
    *("case", "case_path", "precision", "old", "new", "status", "verdict", "reason", "counts"),
    *("faithful", "waived", "structured", "compiled", "command"),
)


def _run(run: RunDrift) -> dict[str, Any]:
    return {name: getattr(run, name) for name in _OF_RUN} | {
        "worst": _tensor(run.worst),
        "origins": [_tensor(origin) for origin in run.origins],
        "structure": [
            to_json(change) | {"old_builds": str(change.old_builds), "new_builds": str(change.new_builds)}
            for change in run.structure
        ],
        "errors": run.errors,
        "fails_on": run.builds.fails_on,
        "expected": run.builds.expected,
        "builds": {"old": run.builds.old, "new": run.builds.new, "differ": run.builds.differ},
    }


def _key(series: Series) -> dict[str, Any]:
    return {key: getattr(series, key) for key in ("case", "precision", "release", "tensor", "sample")}


_OF_TENSOR = (
    *("tensor", "node", "op", "sample", "verdict", "old", "new", "noise", "floor"),
    *("gate", "limit", "error_limit", "zero_reference", "ratio"),
)


def _tensor(tensor: JudgedTensor | None) -> dict[str, Any] | None:
    if tensor is None:
        return None
    return {name: getattr(tensor, name) for name in _OF_TENSOR} | {
        "old_passed": str(BuildCount(tensor.old_passed, tensor.old_builds)),
        "new_passed": str(BuildCount(tensor.new_passed, tensor.new_builds)),
    }


def statuses(runs: Iterable[RunDrift]) -> dict[DriftStatus, int]:
    """How many runs have each status."""
    found = Counter(run.status for run in runs)
    return {status: found[status] for status in DriftStatus}

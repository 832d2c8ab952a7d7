"""The drift between releases, as an object: what reports, the JSON, the exit status and notebooks are made from."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from harness.errors import NothingSelectedError
from harness.history.judgement.noise import Floors
from harness.history.judgement.outcome import RunDrift, Status, TensorDrift
from harness.history.judgement.tensors import DriftVerdict
from harness.history.nightly import FactChange
from harness.judge import jsonable

if TYPE_CHECKING:
    import pandas as pd

    from harness.history.nightly import Series

DRIFT_SCHEMA = "harness.drift/1"
#: What stands for the older release in the first night of a history.
NO_RUN_BEFORE = "no run before"


@dataclass(frozen=True)
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
    """

    run: str
    old: str
    releases: tuple[str, ...]
    runs: tuple[RunDrift, ...]
    tensors: pd.DataFrame
    engines: pd.DataFrame
    records: pd.DataFrame
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    floors: Floors = field(default_factory=Floors)
    repeats: int = 1
    time: datetime.datetime | None = None
    files: tuple[str, ...] = ()
    series: tuple[Series, ...] = ()
    written: tuple[str, ...] = ()
    changed: tuple[FactChange, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()

    @property
    def exit_code(self) -> int:
        """0 nothing moved to the worse, 1 a drift, 2 a mistake in a case, 3 a build or a worker failed.

        5 if not one run could be compared: that is no news of a drift, and no success either. The first night of a
        history and the first baselines have nothing to be held against, and are 0.
        """
        statuses = {run.status for run in self.runs}
        if Status.MISTAKE in statuses:
            return 2
        if Status.ERROR in statuses:
            return 3
        if Status.FAIL in statuses:
            return 1
        compared = Status.XFAIL in statuses or any(run.verdict is not None for run in self.runs)
        first = self.first_night and Status.PASS in statuses
        return 0 if compared or first or self.written else NothingSelectedError.exit_code

    @property
    def first_night(self) -> bool:
        """Whether the history holds no earlier run to hold this one against."""
        return self.old == NO_RUN_BEFORE

    @property
    def rises(self) -> int:
        """In how many series of nights a step to the worse still holds; those that creep are not among them."""
        return sum(one.rise is not None for one in self.series)

    @property
    def creeping(self) -> int:
        """How many series of nights creep, to the worse or to the better."""
        return sum(one.creep is not None for one in self.series)

    @property
    def newer(self) -> tuple[str, ...]:
        """The releases that are compared with the older one."""
        return self.releases[1:]

    def worst_first(self) -> tuple[RunDrift, ...]:
        """The runs, the gravest first."""
        return tuple(sorted(self.runs, key=lambda run: run.severity, reverse=True))

    def count(self, verdict: DriftVerdict) -> int:
        """How many runs have this verdict."""
        return sum(run.verdict is verdict for run in self.runs)

    def to_frame(self) -> pd.DataFrame:
        """One row an output and layer: `release` and the columns of `harness.history.judgement.tensors.JUDGED`."""
        return self.tensors.copy()

    def to_dict(self) -> dict[str, Any]:
        """The document of schema `harness.drift/1`: plain types, numbers that are not finite as strings."""
        moved = self.tensors[~self.tensors["verdict"].isin([DriftVerdict.SAME, DriftVerdict.WITHIN_NOISE])]
        document = {
            "schema": DRIFT_SCHEMA,
            "run": self.run,
            "time": None if self.time is None else self.time.isoformat(),
            "old": self.old,
            "releases": list(self.releases),
            "repeats": self.repeats,
            "fingerprint": self.fingerprint,
            "files": list(self.files),
            "floors": {
                **asdict(self.floors),
                "absolute": {str(k): v for k, v in self.floors.absolute.items()},
            },
            "exit_code": self.exit_code,
            "runs": [_run(run) for run in self.runs],
            "missing": [{"case": case, "precision": precision} for case, precision in self.missing],
            "engines": self.engines.to_dict("records"),
            "moved": moved.to_dict("records"),
            "changed": [asdict(change) for change in self.changed],
            "steps": [step for series in self.series for step in _steps(series)],
            "creeping": [{**_key(one), **asdict(one.creep)} for one in self.series if one.creep is not None],
        }
        plain: dict[str, Any] = jsonable(document)
        return plain


def _run(run: RunDrift) -> dict[str, Any]:
    return {
        "case": run.case,
        "case_path": run.case_path,
        "precision": run.precision.value,
        "old": run.old,
        "new": run.new,
        "status": run.status.value,
        "verdict": None if run.verdict is None else run.verdict.value,
        "reason": run.reason,
        "counts": {
            kind: {verdict.value: n for verdict, n in found.items()} for kind, found in run.counts.items()
        },
        "worst": _tensor(run.worst),
        "origins": [_tensor(origin) for origin in run.origins],
        "faithful": list(run.faithful),
        "waived": None
        if run.waived is None
        else {**asdict(run.waived), "expires": run.waived.expires.isoformat()},
        "structure": [{**asdict(change), "change": change.change.value} for change in run.structure],
        "structured": list(run.structured),
        "command": run.command,
        "errors": list(run.errors),
        "fails_on": run.builds.fails_on.value,
        "expected": run.builds.expected,
        "builds": {
            **{side: [asdict(build) for build in getattr(run.builds, side)] for side in ("old", "new")},
            "differ": run.builds.differ,
        },
    }


def _steps(series: Series) -> list[dict[str, Any]]:
    return [{**_key(series), "run": series.night(step), **asdict(step)} for step in series.steps or ()]


def _key(series: Series) -> dict[str, Any]:
    return {key: getattr(series, key) for key in ("case", "precision", "release", "tensor", "sample")}


def _tensor(tensor: TensorDrift | None) -> dict[str, Any] | None:
    return None if tensor is None else {**asdict(tensor), "ratio": tensor.ratio}


def statuses(runs: Iterable[RunDrift]) -> dict[Status, int]:
    """How many runs have each status."""
    found = dict.fromkeys(Status, 0)
    for run in runs:
        found[run.status] += 1
    return found

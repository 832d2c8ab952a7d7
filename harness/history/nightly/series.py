"""Nightly series: the newest run against those before it, and the steps in the error of every output."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import HistoryError
from harness.history.judgement import (
    MIN_NIGHTS,
    DriftReport,
    FactChange,
    Pair,
    RunDrift,
    Series,
    Waivers,
    compare_pairs,
    find_steps,
    mean_of_builds,
    row_codes,
    waivers_of,
)
from harness.history.nightly.last_night import find_missing, with_last_structures
from harness.history.nightly.machines import machine_of
from harness.history.store import NEEDED, RunInfo, check_readable, list_newest, read_runs
from harness.history.types import Floors, RowKind
from harness.tensors import Precision

#: Thousands of tensors are judged every night, against thirty nights that say much of the noise: 99 % would be an
#: alarm a night. The band is 4.6 standard deviations wide at this confidence, 2.8 at 99 %.
NIGHTLY_CONFIDENCE = 0.9999
NO_RUN_BEFORE = "no run before"
"""What stands for the older release in the first night of a history."""
_ENGINE = (
    *("latency_ms", "engine_bytes", "build_seconds"),
    *("verdict", "why", "evidence", "tensorrt", "case_path", "inputs"),
)
_QUESTION = ("case", "case_sha256", "model_sha256")
_NEWEST_ONLY = ("reads", "structure", "faithful", "gate", "limit", "reference_rms")


def nightly_report(
    folder: Path,
    *,
    newest: RunInfo | None = None,
    release: str | None = None,
    last: int = 30,
    floors: Floors | None = None,
    waivers: Waivers | None = None,
    today: datetime.date | None = None,
) -> DriftReport:
    """One night of a release, the newest or a given one, against those before it.

    The files of earlier runs are read for the columns that the judgement needs, and the newest as a whole.

    Args:
        folder: the history.
        newest: the run that is judged; by default the newest of the release. Others may write runs into the folder
            meanwhile, so a caller who has just written one names it.
        release: the environment; by default the last one of the run.
        last: how many runs before it; of those that share a case with it and ran on a GPU of the same kind.
        floors: what counts as a difference; by default with NIGHTLY_CONFIDENCE.
        waivers: by case; by default those in the case files, where they still are.
        today: the day that decides whether a waiver has expired.

    Raises:
        HistoryError: there is no run of the release.
    """
    floors = floors or Floors(confidence=NIGHTLY_CONFIDENCE)
    if newest is None:
        newest = _newest_run(folder, release)
    release = release or newest.releases[-1]
    before, changed = _nights_before(folder, newest, release, last)
    old = (
        f"the {len(before)} runs before" if len(before) > 1 else "the run before" if before else NO_RUN_BEFORE
    )
    records = read_nights(before, newest, release, old)
    side = (records["side"] == old).to_numpy()
    if waivers is None:
        waivers = waivers_of(records[~side])
    pair = Pair(old, release, side, ~side, distances=False, nights=True)
    comparison = compare_pairs(records, [pair], floors=floors, waivers=waivers, today=today)
    missing, runs = find_missing(comparison.runs, records, before, release)
    series = tuple(series_of(records[(records["kind"] == RowKind.OUTPUT).to_numpy()], floors))
    return replace(
        comparison.report(newest, (old, release), records, floors),
        runs=with_series(runs, series),
        missing=missing,
        first_night=not before,
        series=series,
        changed=changed,
    )


def with_series(runs: Sequence[RunDrift], series: Sequence[Series]) -> tuple[RunDrift, ...]:
    """The runs, with those of their outputs whose level rose in an earlier night and has not fallen since, or creeps.

    A step is news for a few nights, and then what a night is like; what is said here stays as long as it is seen.
    """
    found: dict[tuple[str, Precision], list[Series]] = {}
    for one in series:
        if one.rise is not None or one.creep is not None:
            found.setdefault((one.case, one.precision), []).append(one)
    return tuple(replace(run, series=tuple(found.get((run.case, run.precision), ()))) for run in runs)


def _newest_run(folder: Path, release: str | None) -> RunInfo:
    check_readable(folder)
    found = list_newest(folder, 1, release=release)
    if not found:
        which = "" if release is None else f" of {release!r}"
        raise HistoryError(f"holds no finished run{which}", where=folder, hint="harness history list")
    return found[0]


def _nights_before(
    folder: Path, newest: RunInfo, release: str, last: int
) -> tuple[list[RunInfo], tuple[FactChange, ...]]:
    """The runs that `newest` is compared with, and what changed since the last of them.

    The first night on another GPU has none; then what changed is that since the last night on any.
    """
    machine = machine_of(newest, release)
    before = list_newest(
        folder,
        last,
        release=release,
        before=newest,
        accept=lambda info: machine_of(info, release).may_have_gpu_of(machine),
    )
    nearest = before[-1:] or list_newest(folder, 1, release=release, before=newest)
    return before, tuple(machine_of(nearest[0], release).changes_to(machine)) if nearest else ()


def read_nights(before: Sequence[RunInfo], newest: RunInfo, release: str, old: str) -> pd.DataFrame:
    """The rows of `release`: of earlier runs what the judgement needs, of the newest also what origins need."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = tuple(dict.fromkeys((*NEEDED, *_ENGINE, *_QUESTION)))
    tables = [read_runs(before, columns, skip_damaged=True), read_runs([newest], (*columns, *_NEWEST_ONLY))]
    if any(info.releases != (release,) for info in (*before, newest)):
        tables = [table.filter(pc.equal(table["release"], release)) for table in tables]
    sizes = [len(table) for table in tables]
    table = pa.concat_tables(tables, promote_options="default").unify_dictionaries()
    frame = table.to_pandas()
    sides: Any = np.repeat([0, 1], sizes)
    frame["side"] = pd.Categorical.from_codes(sides, dtype=pd.CategoricalDtype([old, release]))
    frame = frame[_same_question(frame, sizes[1])].reset_index(drop=True)
    return with_last_structures(frame, before, old)


def _same_question(frame: pd.DataFrame, newest: int) -> np.ndarray:
    """Which rows are of a case and model that the last `newest` rows have too: another case is another question."""
    question = row_codes(frame, _QUESTION)
    return np.isin(question, np.unique(question[len(frame) - newest :]))


def series_of(records: pd.DataFrame, floors: Floors) -> Iterator[Series]:
    """The series in `records`, rows of outputs or layers: one for each tensor of each release."""
    if records.empty:
        return
    keys = ["case", "precision", "release", "tensor", "sample"]
    codes = row_codes(records, (*keys, "run"))
    _, first, group = np.unique(codes, return_index=True, return_inverse=True)
    errors, _ = mean_of_builds(
        group, records["error"].to_numpy(dtype=np.float64, na_value=np.nan), len(first)
    )
    nights = records.iloc[first][[*keys, "run"]].astype({"run": str})
    nights = nights.assign(error=errors).sort_values("run", kind="stable")
    for key, part in nights.groupby([nights[name].astype(str) for name in keys], sort=False):
        case, precision, release, tensor, sample = map(str, key)
        values = part["error"].to_numpy()
        wanted = Precision(precision)
        steps = None
        if len(values) >= MIN_NIGHTS:
            steps = find_steps(values, relative=floors.relative, absolute=floors.absolute[wanted])
        yield Series(
            case, wanted, release, tensor, int(sample), tuple(part["run"]), tuple(values.tolist()), steps
        )

"""The engines and the list of cases of the last night before: what the newest night is compared with besides errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import pyarrow as pa

from harness.history.judgement import Incomparable, RunDrift
from harness.history.store import UNJUDGED, RunInfo, read_runs
from harness.history.types import CaseRun, RowKind
from harness.judge import Verdict

_BUILD = ("run", "case", "precision", "release", "build")


@dataclass(frozen=True)
class _Question:
    """What a run asks: the hashes of its model and of its case, which is made of that of its model, too."""

    model: str
    case: str


def with_last_structures(frame: pd.DataFrame, before: Sequence[RunInfo], old: str) -> pd.DataFrame:
    """`frame` with the `structure` of each run's engines of the last night before in which it was judged.

    The other nights are not read for it: layers are compared as they were last, and hold most of what a file holds.

    Args:
        frame: rows of one release with `side`; of the nights before without their `structure`.
        before: the nights before.
        old: the `side` of their rows.
    """
    if not frame["structure"].notna().any():
        return frame
    engine = (
        (frame["kind"] == RowKind.ENGINE) & (frame["side"] == old) & ~frame["verdict"].isin(list(UNJUDGED))
    )
    engines = frame.loc[engine, list(_BUILD)].astype(
        {"run": str, "case": str, "precision": str, "release": str}
    )
    last = engines.groupby(["case", "precision"])["run"].transform("max")
    engines = engines[engines["run"] == last]
    nights = set(engines["run"])
    rows = read_runs(
        [info for info in before if info.run in nights], (*_BUILD, "kind", "structure"), skip_damaged=True
    )
    stored = rows.filter(_known(rows)).select([*_BUILD, "structure"]).to_pandas().astype(object)
    found = engines.astype(object).merge(stored, how="left", on=list(_BUILD))["structure"]
    column = frame["structure"].astype(object)
    column.loc[engines.index] = found.to_numpy()
    return frame.assign(structure=column.astype("category"))


def _known(rows: pa.Table) -> pa.ChunkedArray:
    """Which rows are those of engines whose layers are known."""
    import pyarrow.compute as pc

    return pc.and_(pc.equal(rows["kind"], RowKind.ENGINE.value), pc.is_valid(rows["structure"]))


def find_missing(
    runs: Sequence[RunDrift], frame: pd.DataFrame, before: Sequence[RunInfo], release: str
) -> tuple[tuple[CaseRun, ...], tuple[RunDrift, ...]]:
    """Compare the list of runs of the newest night with that of the last night before.

    Args:
        runs: what came of the newest night.
        frame: rows with `side`, which is `release` for the newest night.
        before: the nights before.
        release: the release of both.

    Returns:
        The runs of the last night that the newest one has not, not even as skipped; and `runs`, of which those that
        are compared with nothing say what sets them apart from the last night.
    """
    columns = ("case", "precision", "release", "kind", "verdict", "model_sha256", "case_sha256")
    rows = read_runs(before[-1:], columns, skip_damaged=True).to_pandas()
    then = _questions(rows[(rows["release"] == release) & (rows["verdict"] != Verdict.SKIP.value)])
    now = _questions(frame[frame["side"] == release])
    if not then:
        return (), tuple(runs)
    return tuple(run for run in then if run not in now), tuple(_compared(run, then, now) for run in runs)


def _questions(rows: pd.DataFrame) -> dict[CaseRun, _Question]:
    engines = rows[rows["kind"] == RowKind.ENGINE]
    columns = (engines[name].astype(str) for name in ("case", "precision", "model_sha256", "case_sha256"))
    return {
        (case, precision): _Question(model, sha256)
        for case, precision, model, sha256 in zip(*columns, strict=True)
    }


def _compared(run: RunDrift, then: Mapping[CaseRun, _Question], now: Mapping[CaseRun, _Question]) -> RunDrift:
    """A run; one that is compared with nothing, with why."""
    key = (run.case, run.precision.value)
    if run.incomparable is None or key not in now:
        return run
    before, tonight = then.get(key), now[key]
    if before is None:
        why = Incomparable.NOT_IN_RUN_BEFORE
    elif before.model != tonight.model:
        why = Incomparable.MODEL_CHANGED
    else:
        why = run.incomparable if before == tonight else Incomparable.CASE_CHANGED
    return replace(run, incomparable=why)

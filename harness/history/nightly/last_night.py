"""What the newest night is held against besides errors: the engines and the list of cases of the last night before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from harness.history.judgement import RunDrift
from harness.history.store import ENGINE, MISTAKE, RunInfo, read_runs
from harness.judge import Verdict

_UNJUDGED = (Verdict.ERROR.value, Verdict.SKIP.value, MISTAKE)
_ASKED = ("model_sha256", "case_sha256")
Key = tuple[str, str]
_KEY = ("run", "case", "precision", "release", "build")


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
    engine = (frame["kind"] == ENGINE) & (frame["side"] == old) & ~frame["verdict"].isin(_UNJUDGED)
    engines = frame.loc[engine, list(_KEY)].astype(
        {"run": str, "case": str, "precision": str, "release": str}
    )
    last = engines.groupby(["case", "precision"])["run"].transform("max")
    engines = engines[engines["run"] == last]
    nights = set(engines["run"])
    rows = read_runs(
        [info for info in before if info.run in nights], (*_KEY, "kind", "structure"), skip_damaged=True
    )
    stored = rows.filter(_known(rows)).to_pylist()
    known = {tuple(row[name] for name in _KEY): row["structure"] for row in stored}
    found = [known.get(key) for key in engines.itertuples(index=False, name=None)]
    column: Any = frame["structure"].cat.add_categories(
        list(dict.fromkeys(text for text in found if text and text not in frame["structure"].cat.categories))
    )
    column.loc[engines.index] = found
    return frame.assign(structure=column)


def _known(rows):  # pyarrow comes without types
    import pyarrow.compute as pc

    return pc.and_(pc.equal(rows["kind"], ENGINE), pc.is_valid(rows["structure"]))


@dataclass(frozen=True)
class Lost:
    """What the newest night does not compare although the last one before had it.

    Args:
        missing: cases and precisions that it has not, not even as skipped.
        runs: the runs; those that are held against nothing say why.
    """

    missing: tuple[Key, ...]
    runs: tuple[RunDrift, ...]


def find_lost(runs: Sequence[RunDrift], frame: pd.DataFrame, before: Sequence[RunInfo], release: str) -> Lost:
    """Hold the runs of the newest night against the list of those of the last night before.

    Args:
        runs: what came of the newest night.
        frame: rows with `side`, which is `release` for the newest night.
        before: the nights before.
        release: the release of both.
    """
    columns = ("case", "precision", "release", "kind", "verdict", *_ASKED)
    rows = read_runs(before[-1:], columns, skip_damaged=True).to_pandas()
    then = _asked(rows[(rows["release"] == release) & (rows["verdict"] != Verdict.SKIP.value)])
    now = _asked(frame[frame["side"] == release])
    if not then:
        return Lost((), tuple(runs))
    return Lost(
        tuple(key for key in then if key not in now),
        tuple(replace(run, reason=_why(run, then, now)) for run in runs),
    )


def _asked(rows: pd.DataFrame) -> dict[Key, tuple[str, ...]]:
    """By case and precision, the hashes of what was asked."""
    engines = rows[rows["kind"] == ENGINE]
    keys = zip(*(engines[name].astype(str) for name in ("case", "precision")), strict=True)
    hashes = zip(*(engines[name].astype(str) for name in _ASKED), strict=True)
    return dict(zip(keys, hashes, strict=True))


def _why(run: RunDrift, then: Mapping[Key, tuple[str, ...]], now: Mapping[Key, tuple[str, ...]]) -> str:
    """The reason of a run; of one that was held against nothing, what sets it apart from the last night."""
    key = (run.case, run.precision.value)
    if run.verdict is not None or run.errors or key not in now:
        return run.reason
    if key not in then:
        return "it was not in the run before"
    # the hash of a case is made of that of its model, too
    for what, old, new in zip(("model", "case"), then[key], now[key], strict=True):
        if old != new:
            return f"the {what} is another one than in the run before"
    return run.reason

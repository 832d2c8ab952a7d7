"""What the newest night is held against besides errors: the engines of the last night before it that has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from harness.history.schema import ENGINE, MISTAKE
from harness.history.store import RunInfo, read_runs
from harness.judge.results import Verdict

_UNJUDGED = (Verdict.ERROR.value, Verdict.SKIP.value, MISTAKE)
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
    rows = read_runs([info for info in before if info.run in nights], (*_KEY, "kind", "structure"))
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

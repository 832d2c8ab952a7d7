"""The waivers of the cases that kept runs are of: reports that are made later heed them, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.case import load_case
from harness.errors import HarnessError
from harness.history.judgement.runs import Waivers

if TYPE_CHECKING:
    import pandas as pd


def waivers_of(records: pd.DataFrame) -> Waivers:
    """The waivers in the case files that `records` name, as far as those can still be read.

    Args:
        records: rows of one run, with the columns `case` and `case_path`.
    """
    found = {}
    for case, path in records[["case", "case_path"]].drop_duplicates().itertuples(index=False):
        if isinstance(path, str) and path.endswith((".yaml", ".yml")):
            try:
                found[str(case)] = load_case(path).waivers
            except HarnessError:
                continue
    return found

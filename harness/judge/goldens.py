"""The golden references of cases: where they lie, and what a run makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from harness.case import CASE_SUFFIX, Case
from harness.golden import GoldenStatus, GoldenStore, Provenance

Samples = Sequence[Mapping[str, np.ndarray]]
CASES_FOLDER = "cases"


def golden_root(case: Case) -> Path | None:
    """Where the golden references of a case lie: `golden/` beside its folder if that is `cases/`, else inside it.

    None for a case made in memory.
    """
    if case.path is None:
        return None
    folder = case.path.resolve().parent
    return (folder.parent if folder.name == CASES_FOLDER else folder) / "golden"


def store_of(case: Case, *, update: bool) -> GoldenStore | None:
    """Where the golden reference of `case` is held against; None if it is made in memory, or nobody keeps goldens.

    Args:
        case: the case.
        update: whether one is to be written, and so a folder may be made.
    """
    root = golden_root(case)
    return GoldenStore(root) if root is not None and (update or root.is_dir()) else None


def check_golden(
    store: GoldenStore, case: Case, model_sha256: str, feeds: Samples, expected: Samples, *, update: bool
) -> GoldenStatus:
    """Hold the fresh reference against the golden one; with `update`, rewrite it where it is missing or differs.

    Args:
        store: see `store_of`.
        case: the case.
        model_sha256: of its model.
        feeds: its inputs, sample by sample.
        expected: the reference's outputs, sample by sample.
        update: whether to rewrite.

    Returns:
        What was found before any rewriting.

    Raises:
        GoldenError: the golden reference is damaged, or an update was asked for while CI is set.
    """
    act = store.update if update else store.check
    return act(case.name, Provenance.here(model_sha256, feeds), expected)


def prune_goldens(cases: Iterable[Case]) -> list[Path]:
    """Remove the golden references that no case file of the folders of `cases` has, and return their folders.

    Raises:
        GoldenError: CI is set.
    """
    known: dict[Path, set[str]] = {}
    for case in cases:
        root = golden_root(case)
        if root is not None and case.path is not None and root.is_dir():
            files = case.path.parent.glob(f"**/*{CASE_SUFFIX}")
            known.setdefault(root, set()).update(file.name.removesuffix(CASE_SUFFIX) for file in files)
    return [root / name for root, names in sorted(known.items()) for name in GoldenStore(root).prune(names)]

"""The golden references of cases: where they lie, and what a run makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.case import CASE_SUFFIX, Case
from harness.golden import GoldenStatus, GoldenStore, Provenance

if TYPE_CHECKING:
    from harness.judge.workbench import Workbench

CASES_FOLDER = "cases"


def golden_root(case: Case) -> Path | None:
    """Where the golden references of a case lie: `golden/` beside its folder if that is `cases/`, else inside it.

    None for a case made in memory.
    """
    if case.path is None:
        return None
    folder = case.path.resolve().parent
    return (folder.parent if folder.name == CASES_FOLDER else folder) / "golden"


def check_golden(bench: Workbench, *, update: bool) -> GoldenStatus | None:
    """Hold the fresh reference against the golden one; with `update`, rewrite it where it is missing or differs.

    Returns:
        What was found before any rewriting; None for a case made in memory, or where nobody keeps goldens.

    Raises:
        GoldenError: the golden reference is damaged, or an update was asked for while CI is set.
    """
    root = golden_root(bench.case)
    if root is None or not (update or root.is_dir()):
        return None
    store = GoldenStore(root)
    act = store.update if update else store.check
    return act(bench.case.name, Provenance.here(bench.model.sha256, bench.feeds), bench.expected)


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

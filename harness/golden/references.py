"""The golden reference of a case: where it lies, what it says of a fresh one, and which ones no case has any more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from harness.case import CASE_SUFFIX, Case
from harness.golden.outputs import GoldenStatus
from harness.golden.store import GoldenStore, Provenance

CASES_FOLDER = "cases"
Tensors = Mapping[str, np.ndarray]


def check_golden(
    case: Case, model_sha256: str, feeds: Sequence[Tensors], outputs: Sequence[Tensors], *, update: bool
) -> GoldenStatus | None:
    """What the golden reference says of this one before any rewriting; None where no golden references are kept.

    Args:
        case: the case.
        model_sha256: hash of its model.
        feeds: its inputs, sample by sample.
        outputs: the reference's outputs, sample by sample.
        update: rewrite it where it is missing or differs.

    Raises:
        GoldenError: the golden reference is damaged, or update is given while CI is set.
    """
    root = golden_root(case)
    if root is None or not (update or root.is_dir()):
        return None
    store = GoldenStore(root)
    look = store.update if update else store.check
    return look(case.name, Provenance.here(model_sha256, feeds), outputs)


def golden_root(case: Case) -> Path | None:
    """Where the golden references of a case lie: `golden/` beside its folder if that is `cases/`, else inside it.

    None for a case made in memory.
    """
    if case.path is None:
        return None
    folder = case.path.resolve().parent
    return (folder.parent if folder.name == CASES_FOLDER else folder) / "golden"


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

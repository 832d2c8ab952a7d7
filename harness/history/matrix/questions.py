"""What a case asks beyond its own file: the files of its model and inputs may be edited before a run is resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.errors import HarnessError, HistoryError
from harness.judge import Workbench
from harness.tensors import hash_feeds

Asked = Mapping[str, str | None]
"""SHA-256 by `model` and `inputs`; None for what could not be had."""


def asked_of(bench: Workbench) -> Asked:
    """The hashes of the model and of the inputs of a case; both are loaded."""
    asked: dict[str, str | None] = {"model": None, "inputs": None}
    try:
        asked["model"] = bench.model.sha256
        samples = "".join(map(hash_feeds, bench.feeds))
        asked["inputs"] = hashlib.sha256(samples.encode()).hexdigest()
    except HarnessError:  # which the result of the run says
        pass
    return asked


def check_unchanged(benches: Iterable[tuple[Workbench, Asked]], where: Path) -> None:
    """See that cases ask what they asked when their parts of an interrupted run were made.

    Args:
        benches: the cases, and what was asked then; they are loaded one after the other.
        where: the folder of the run.

    Raises:
        HistoryError: a model or inputs changed; all of them are named.
    """
    changed: dict[str, None] = {}
    for bench, before in benches:
        now = asked_of(bench)
        for what, digest in now.items():
            if digest is not None and before.get(what) not in (None, digest):
                changed[f"the {what} of {bench.case.name}"] = None
    if changed:
        raise HistoryError(
            f"{', '.join(changed)} changed since the run was interrupted: its parts would be of different ones",
            where=where,
            hint="put back what changed, or leave out --resume to begin anew",
        )

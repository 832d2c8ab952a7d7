"""What a diagnosis tells while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.diagnosis.results import Stage


@dataclass(frozen=True)
class ProgressEvent:
    """What a progress display needs to know.

    Args:
        stage: the stage that is under way.
        text: what it does right now.
        emulations: evaluations of the emulator so far.
        builds: engines so far, those of a resumed diagnosis included.
        suspects: how many nodes are suspected; None where nobody can tell yet.
        suspected: names of some of them, the most suspected first.
        remaining: an estimate of the evaluations still to come in this stage; None where nobody can tell.
    """

    stage: Stage
    text: str
    emulations: int = 0
    builds: int = 0
    suspects: int | None = None
    suspected: tuple[str, ...] = ()
    remaining: int | None = None


Progress = Callable[[ProgressEvent], None]

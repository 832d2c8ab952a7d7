"""Which waiver of a case speaks of a run, and whether it still holds."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass

from harness.case.schema import Waiver
from harness.tensors import Precision


@dataclass(frozen=True)
class Waived:
    """A waiver of the case that speaks of this run: it holds, or it has expired."""

    reason: str
    expires: datetime.date
    expired: bool

    def __str__(self) -> str:
        state = "the waiver expired on" if self.expired else "waived until"
        return f"{state} {self.expires}: {self.reason}"


def find_waiver(
    waivers: Iterable[Waiver],
    *,
    precision: Precision,
    tensorrt: str | None,
    release: str,
    today: datetime.date | None = None,
) -> Waived | None:
    """The waiver that covers a run; else the one that did until it expired.

    Args:
        waivers: those of the case.
        precision: the precision under test.
        tensorrt: the TensorRT release; None for the emulator, which no waiver with a range of releases covers.
        release: the environment, or the emulator.
        today: the day that decides; by default today.
    """
    today = today or datetime.date.today()
    expired: Waived | None = None
    for waiver in waivers:

        def covers(day: datetime.date, waiver: Waiver = waiver) -> bool:
            return waiver.covers(precision, tensorrt=tensorrt, environment=release, today=day)

        if covers(today):
            return Waived(waiver.reason, waiver.expires, expired=False)
        if covers(waiver.expires):
            expired = Waived(waiver.reason, waiver.expires, expired=True)
    return expired

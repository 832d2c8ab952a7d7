"""Waivers: known drifts and failures that are accepted until a day, and the one that covers a run."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated

from harness.case.scalars import Frozen, Text, VersionRange, examples, one_or_list, version_in_range
from harness.tensors import Precision


class Waiver(Frozen):
    """A known drift or failure that is accepted until a day."""

    model_config = examples(
        {"reason": "fixed in the next release", "expires": "2026-12-31", "tensorrt": "==10.13.*"}
    )

    reason: Text
    """Why it is accepted."""
    expires: datetime.date
    """The last day on which it holds, such as 2026-12-31."""
    precision: Annotated[tuple[Precision, ...], one_or_list(Precision)] = ()
    """The precisions that it covers; by default all."""
    tensorrt: VersionRange | None = None
    """The TensorRT releases that it covers; by default all."""
    environment: Text | None = None
    """A glob over the names of environments that it covers; by default all."""

    def covers(
        self, precision: Precision, *, tensorrt: str | None, environment: str, today: datetime.date
    ) -> bool:
        """Whether the waiver holds for a run in `environment` with the TensorRT release `tensorrt` today."""
        if self.tensorrt is not None and (tensorrt is None or not version_in_range(tensorrt, self.tensorrt)):
            return False
        return (
            today <= self.expires
            and (not self.precision or precision in self.precision)
            and (self.environment is None or fnmatchcase(environment, self.environment))
        )


@dataclass(frozen=True)
class Waived:
    """A waiver of the case that covers this run: it holds, or it has expired."""

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
    day = today or datetime.date.today()
    covering = [
        waiver
        for waiver in waivers
        if waiver.covers(precision, tensorrt=tensorrt, environment=release, today=waiver.expires)
    ]
    holding = [waiver for waiver in covering if day <= waiver.expires]
    chosen = [*holding[:1], *covering[-1:]]
    return Waived(chosen[0].reason, chosen[0].expires, expired=not holding) if chosen else None

"""Builds that were judged, and the series of builds in which good and bad ones are looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.backends import Plan
from harness.search import Outcome
from harness.tactics.record import TacticRecord
from harness.tactics.variations import Axis, Variation, forced, noise, sources
from harness.worker.protocol import ProbeReply

NOISY_BUILDS = 4
FORCED_BUILDS = 4


@dataclass(frozen=True)
class Sample:
    """One build that was judged.

    Args:
        name: of the variation.
        axis: what was varied.
        outcome: pass or fail; unresolved if there was no engine to judge.
        record: what it chose; None if there was no engine, or nothing was recorded.
        badness: how far the worst gate is beyond its limit, as a multiple of the limit.
        seconds: wall time of the build and its inferences.
        note: why it is unresolved.
    """

    name: str
    axis: Axis
    outcome: Outcome
    record: TacticRecord | None = None
    badness: float | None = None
    seconds: float | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON data, with the record."""
        return {
            "name": self.name,
            "axis": self.axis.value,
            "outcome": self.outcome.value,
            "record": None if self.record is None else self.record.to_dict(),
            "badness": None if self.badness is None else str(self.badness),
            "seconds": self.seconds,
            "note": self.note,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Sample:
        """The sample that `to_dict` wrote."""
        record, badness = document["record"], document["badness"]
        return cls(
            name=document["name"],
            axis=Axis(document["axis"]),
            outcome=Outcome(document["outcome"]),
            record=None if record is None else TacticRecord.from_dict(record),
            badness=None if badness is None else float(badness),
            seconds=document["seconds"],
            note=document["note"],
        )


Build = Callable[[Variation], Sample]
"""Builds a network as a variation says, and judges it. What it expects to go wrong is an unresolved sample."""


def collect(
    build: Build, series: Callable[[Sequence[Sample]], Iterable[Variation]], known: Sequence[Sample] = ()
) -> tuple[Sample, ...]:
    """Build one variation after the other until there is a build that passes and one that fails, both recorded.

    Args:
        build: makes a sample.
        series: yields what to build; it sees the samples so far, in a list that grows.
        known: builds that were judged before.
    """
    samples = list(known)
    for variation in series(samples):
        if has_both(samples):
            break
        samples.append(build(variation))
    return tuple(samples)


def has_both(samples: Iterable[Sample]) -> bool:
    """Whether a recorded build passed and another one failed."""
    outcomes = {sample.outcome for sample in samples if sample.record is not None}
    return outcomes >= {Outcome.PASS, Outcome.FAIL}


def usual_series(
    probe: ProbeReply, plan: Plan, *, noisy: int = NOISY_BUILDS, enabled: Sequence[str] | None = None
) -> Callable[[Sequence[Sample]], Iterator[Variation]]:
    """Timing noise first, then each tactic source switched off, then alternatives forced.

    Args:
        probe: of the environment.
        plan: what is built without variation.
        noisy: builds that differ in timing noise alone.
        enabled: the tactic sources of the plan; None are those of `plan`, or TensorRT's own.
    """
    chosen = plan.build.tactic_sources if enabled is None else enabled

    def series(samples: Sequence[Sample]) -> Iterator[Variation]:
        yield from noise(noisy)
        if (chosen is None and len(probe.tactic_sources) > 1) or (chosen is not None and len(chosen) > 1):
            yield from sources(probe, chosen)
        recorded = next((sample.record for sample in samples if sample.record is not None), None)
        if recorded is not None:
            yield from forced(recorded, FORCED_BUILDS)

    return series

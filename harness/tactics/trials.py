"""The builds of a hunt: what is forced, whether it was honoured, and what an outcome may be taken for.

A trial says nothing of the configuration that was asked for if TensorRT built another one: it is unresolved, and
what was built is remembered as a trial of what it is. Layers that do not obey are left to chance. A build that fails
while one of them happens to hold a suspected choice is repeated, and then unresolved; one that passes acquits them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.search import Outcome, Trial
from harness.tactics.record import TacticRecord
from harness.tactics.samples import Build, Sample
from harness.tactics.units import Side, Unit, orders_for
from harness.tactics.variations import Axis, Variation
from harness.worker.choices import Choice, TacticOrders

RETRIES = 4
"""Builds that are repeated, each, where a layer that does not obey may be what failed."""


class Trials:
    """Builds configurations of units and judges them.

    Args:
        build: makes a sample.
        base: the bad build: what is forced where no unit is.
        limit: the most builds.
        built: how many were made before.
        units: what may be given the good choice or the bad one.
    """

    def __init__(
        self, build: Build, base: TacticRecord, limit: int, built: int, units: tuple[Unit, ...]
    ) -> None:
        self.units = units
        self.builds = built
        self.seen: dict[frozenset[str], Sample] = {}
        """The build of each configuration that was honoured."""
        self.free: dict[str, Unit] = {}
        """Layers that did not obey, and were not acquitted."""
        self.disobeyed: dict[str, None] = {}
        self.trail: list[str] = []
        self._build, self._base, self._limit = build, base, limit
        self._by_chance: dict[frozenset[str], Sample] = {}

    @property
    def everything(self) -> frozenset[str]:
        """The names of all units."""
        return frozenset(unit.name for unit in self.units)

    def _attempt(self, treated: frozenset[str], words: str) -> Sample:
        """One build with the good choice at `treated`, and the bad build's choice everywhere else."""
        self.builds += 1
        orders = TacticOrders(force=self.forced(treated), number=self.builds)
        sample = self._build(Variation(f"search {self.builds}", Axis.FORCED, orders=orders))
        self.trail.append(
            f"{self.builds}: {words}: {sample.outcome}{' ' + sample.note if sample.note else ''}"
        )
        return sample

    def forced(self, treated: frozenset[str]) -> tuple[Choice, ...]:
        """What is forced in a build with the good choice at `treated`."""
        return orders_for(self._base, self.units, treated, free=self.free.values())

    def everything_good(self) -> Sample | None:
        """The build that must pass; layers that did not obey are taken out of the units.

        None: it could not be judged, for a layer that does not obey may be what failed.
        """
        for _ in range(RETRIES + 1):
            sample = self._attempt(self.everything, "good choices at every suspected layer")
            if sample.record is None:
                return sample
            stray = {unit.name: unit for unit in self.units if not unit.obeys(Side.GOOD, sample.record)}
            self._set_free(stray)
            if self._decides(sample):
                return sample
        return None

    def _set_free(self, units: dict[str, Unit]) -> None:
        self.free.update(units)
        self.disobeyed.update(dict.fromkeys(units))
        self.units = tuple(unit for unit in self.units if unit.name not in self.free)

    def _decides(self, sample: Sample) -> bool:
        """Whether the outcome belongs to what was forced; a build that passes acquits what it holds by chance."""
        assert sample.record is not None
        suspicious = [name for name, unit in self.free.items() if unit.taken(sample.record) is Side.BAD]
        if sample.outcome is Outcome.PASS:
            for name in suspicious:
                del self.free[name]
            return True
        return not suspicious

    def oracle(self, treated: frozenset[str]) -> Trial:
        """What a build with the good choice at `treated` comes to."""
        if treated in self._by_chance:
            return self._trial(treated, self._by_chance.pop(treated))
        words = what(treated, self.units)
        for _ in range(RETRIES + 1):
            if self.builds >= self._limit:
                return Trial(Outcome.UNRESOLVED, note=f"the {self._limit} builds that are allowed are spent")
            sample = self._attempt(treated, words)
            if sample.record is None:
                return Trial(Outcome.UNRESOLVED, seconds=sample.seconds, note=sample.note)
            wanted = {unit: Side.GOOD if unit.name in treated else Side.BAD for unit in self.units}
            stray = [unit.name for unit, side in wanted.items() if not unit.obeys(side, sample.record)]
            decides = self._decides(sample)
            if stray:
                self._note_chance(sample, decides)
                self.disobeyed.update(dict.fromkeys(stray))
                return Trial(
                    Outcome.UNRESOLVED, seconds=sample.seconds, note=f"not honoured: {listed(stray)}"
                )
            if decides:
                return self._trial(treated, sample)
        return Trial(Outcome.UNRESOLVED, note=f"left to chance: {listed(self.free)}")

    def _note_chance(self, sample: Sample, decides: bool) -> None:
        """Remember what was built in place of what was asked for, if it is a configuration of the search."""
        assert sample.record is not None
        sides = {unit.name: unit.taken(sample.record) for unit in self.units}
        realised = frozenset(name for name, side in sides.items() if side is Side.GOOD)
        if decides and set(sides.values()) <= {Side.GOOD, Side.BAD} and realised not in self.seen:
            self._by_chance[realised] = sample

    def _trial(self, treated: frozenset[str], sample: Sample) -> Trial:
        self.seen[treated] = sample
        margin = None if sample.badness is None else 1.0 - sample.badness
        return Trial(sample.outcome, sample.badness, margin, sample.seconds, sample.note)


def what(treated: frozenset[str], units: Sequence[Unit]) -> str:
    """A configuration in words."""
    if len(treated) <= len(units) // 2:
        return f"the bad build with good choices at {listed(sorted(treated))}"
    return f"good choices but at {listed(unit.name for unit in units if unit.name not in treated)}"


def listed(names: Iterable[str], most: int = 4) -> str:
    """Names for a person: the first few, and how many more."""
    every = list(names)
    shown = ", ".join(every[:most])
    return (shown or "no layer") if len(every) <= most else f"{shown} and {len(every) - most} more"

"""The builds of a search: what is forced, whether TensorRT took it, and what an outcome shows.

A build says nothing of the configuration that was forced if TensorRT built another one: it is unresolved, and what was
built is remembered as what it is. A layer that does not take what is forced from the start is left free.

Every choice of a build that passes is known to be good. A build that fails counts only if every choice in it that was
not forced is known to be good: else it is repeated, and at last unresolved. Copies between formats come and go with
what is tried; of them only the bad build's own choices are suspected.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.search import Outcome, Trial
from harness.tactics.record import TacticRecord
from harness.tactics.samples import Build, Sample
from harness.tactics.units import DifferingLayer, Side, orders_for
from harness.tactics.variations import Axis, Variation
from harness.text import names
from harness.worker.protocol import Choice, TacticOrders, reformatted_layer

RETRIES = 4
"""Builds that are repeated, each, where a layer that did not take what was forced may be what failed."""


class Configurations:
    """Builds configurations of units and judges them.

    Args:
        build: makes a sample.
        base: the bad build: what is forced where no unit is.
        limit: the most builds; may be raised later.
        built: how many were made before.
        units: what may be given the good choice or the bad one.
        good: builds that passed.
    """

    def __init__(
        self,
        build: Build,
        base: TacticRecord,
        limit: int,
        built: int,
        units: tuple[DifferingLayer, ...],
        good: Sequence[TacticRecord],
    ) -> None:
        self.units = units
        self.builds = built
        self.seen: dict[frozenset[str], Sample] = {}
        """The build of each configuration that TensorRT took."""
        self.free: dict[str, DifferingLayer] = {}
        """Layers that did not take what was forced from the start."""
        self.not_taken: dict[str, None] = {}
        self.trail: list[str] = []
        self.limit = limit
        self._build, self._base = build, base
        self._by_chance: dict[frozenset[str], Sample] = {}
        self._known_good = {_named(choice) for record in good for choice in record.choices}
        self._of_base = {_named(choice) for choice in base.choices}

    @property
    def everything(self) -> frozenset[str]:
        """The names of all units."""
        return frozenset(unit.layer for unit in self.units)

    def _attempt(self, treated: frozenset[str], words: str) -> Sample:
        """One build with the good choice at `treated`, and the bad build's choice everywhere else."""
        self.builds += 1
        orders = TacticOrders(self.forced(treated), self._forbidden(treated), number=self.builds)
        sample = self._build(Variation(f"search {self.builds}", Axis.SEARCH, orders=orders))
        self.trail.append(
            f"{self.builds}: {words}: {sample.outcome}{' ' + sample.note if sample.note else ''}"
        )
        return sample

    def forced(self, treated: frozenset[str]) -> tuple[Choice, ...]:
        """What is forced in a build with the good choice at `treated`."""
        return orders_for(self._base, self.units, treated, free=self.free.values())

    def _forbidden(self, treated: frozenset[str]) -> tuple[Choice, ...]:
        """The bad build's copies at treated units, where the good build has none that could be forced."""
        found: list[Choice] = []
        for unit in self.units:
            if unit.layer in treated:
                places = {choice.place for choice in unit.good}
                found += [choice for choice in unit.bad if choice.place not in places]
        return tuple(found)

    def everything_good(self) -> Sample | None:
        """The build that must pass; layers that did not take what was forced leave the units.

        None: it could not be judged, for a layer that did not take what was forced may be what failed.
        """
        for _ in range(RETRIES + 1):
            sample = self._attempt(self.everything, "good choices at every suspected layer")
            if sample.record is None:
                return sample
            refused = {unit.layer: unit for unit in self.units if not unit.took(Side.GOOD, sample.record)}
            self._set_free(refused)
            if self._decides(sample, self.everything):
                return sample
        return None

    def _set_free(self, units: dict[str, DifferingLayer]) -> None:
        self.free.update(units)
        self.not_taken.update(dict.fromkeys(units))
        self.units = tuple(unit for unit in self.units if unit.layer not in self.free)

    def _suspects(self, sample: Sample, treated: frozenset[str]) -> list[str]:
        """Layers whose choice was not forced and is not known to be good."""
        assert sample.record is not None
        ordered = {_named(choice) for choice in self.forced(treated)}
        found = []
        for choice in sample.record.choices:
            name = _named(choice)
            is_copy = reformatted_layer(choice.layer) is not None
            if (
                name not in self._known_good
                and name not in ordered
                and (not is_copy or name in self._of_base)
            ):
                found.append(choice.layer)
        return found

    def _decides(self, sample: Sample, treated: frozenset[str]) -> bool:
        """Whether the outcome belongs to what was forced."""
        assert sample.record is not None
        if sample.outcome is Outcome.PASS:
            self._known_good.update(_named(choice) for choice in sample.record.choices)
            return True
        suspects = self._suspects(sample, treated)
        self.not_taken.update(dict.fromkeys(suspects))
        return not suspects

    def oracle(self, treated: frozenset[str]) -> Trial:
        """What a build with the good choice at `treated` comes to."""
        if treated in self._by_chance:
            return self._evaluation(treated, self._by_chance.pop(treated))
        words = what(treated, self.units)
        for _ in range(RETRIES + 1):
            if self.builds >= self.limit:
                return Trial(Outcome.UNRESOLVED, note=f"the {self.limit} builds that are allowed are used up")
            sample = self._attempt(treated, words)
            if sample.record is None:
                return Trial(Outcome.UNRESOLVED, seconds=sample.seconds, note=sample.note)
            wanted = {unit: Side.GOOD if unit.layer in treated else Side.BAD for unit in self.units}
            refused = [unit.layer for unit, side in wanted.items() if not unit.took(side, sample.record)]
            if refused:
                self._note_chance(sample)
                self.not_taken.update(dict.fromkeys(refused))
                return Trial(
                    Outcome.UNRESOLVED,
                    seconds=sample.seconds,
                    note=f"TensorRT did not take what was forced at {listed(refused)}",
                )
            if self._decides(sample, treated):
                return self._evaluation(treated, sample)
        return Trial(Outcome.UNRESOLVED, note=f"not forced: {listed(self.not_taken)}")

    def _note_chance(self, sample: Sample) -> None:
        """Remember what was built in place of what was forced, if it is a configuration of the search."""
        assert sample.record is not None
        sides = {unit.layer: unit.taken(sample.record) for unit in self.units}
        realised = frozenset(name for name, side in sides.items() if side is Side.GOOD)
        known = set(sides.values()) <= {Side.GOOD, Side.BAD} and realised not in self.seen
        if self._decides(sample, realised) and known:
            self._by_chance[realised] = sample

    def _evaluation(self, treated: frozenset[str], sample: Sample) -> Trial:
        self.seen[treated] = sample
        return sample.evaluation


def _named(choice: Choice) -> tuple[object, object]:
    return choice.place, choice.variant


def what(treated: frozenset[str], units: Sequence[DifferingLayer]) -> str:
    """A configuration in words."""
    if len(treated) <= len(units) // 2:
        return f"the bad build with good choices at {listed(sorted(treated))}"
    return f"good choices but at {listed(unit.layer for unit in units if unit.layer not in treated)}"


def listed(found: Iterable[str]) -> str:
    """Names for a person: the first few, and how many more."""
    return names(found, most=4) or "no layer"

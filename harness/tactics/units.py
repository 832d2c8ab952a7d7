"""From two builds to the units of a search: layers that chose differently, each with its two choices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from harness.tactics.record import Difference, TacticRecord, differences, variants
from harness.worker.protocol import Choice, reformatted_layer


class Side(StrEnum):
    """What a build took at a unit: the choice of the good build, of the bad one, another one, or no such layer."""

    GOOD = "good"
    BAD = "bad"
    OTHER = "other"
    ABSENT = "absent"


@dataclass(frozen=True)
class DifferingLayer:
    """A layer at which a good and a bad build chose differently.

    A layer that changes its format brings copies with it that reformat its tensors; what they chose belongs to it.

    Args:
        layer: its name, made unique among the units of a search.
        good: what the good build chose, the layer itself first; empty if it has no such layer.
        bad: what the bad build chose.
    """

    layer: str
    good: tuple[Choice, ...]
    bad: tuple[Choice, ...]

    ALSO_IN_JSON: ClassVar = ("onnx_nodes",)

    @property
    def structural(self) -> bool:
        """Whether one of the builds has no such layer, so that no order can make it."""
        return not (self.good and self.bad)

    @property
    def is_copy(self) -> bool:
        """Whether it is nothing but a copy that reformats a tensor: it comes and goes with the formats around it."""
        return all(reformatted_layer(choice.layer) is not None for choice in (*self.good, *self.bad))

    def took(self, wanted: Side, record: TacticRecord) -> bool:
        """Whether a build took the `wanted` side; a copy that the formats made needless counts as that."""
        return self.taken(record) in ((wanted, Side.ABSENT) if self.is_copy else (wanted,))

    @property
    def onnx_nodes(self) -> tuple[str, ...]:
        """The ONNX nodes that the layer computes."""
        return tuple(dict.fromkeys(node for choice in (*self.bad, *self.good) for node in choice.onnx_nodes))

    def taken(self, record: TacticRecord) -> Side:
        """What a build took here, by the layer itself and not by the copies around it."""
        places = dict.fromkeys(choice.place for choice in _main((*self.good, *self.bad)))
        here = [choice for place in places for choice in record.by_place.get(place, ())]
        if not here:
            return Side.ABSENT
        for side, choices in ((Side.GOOD, self.good), (Side.BAD, self.bad)):
            if variants(here) == variants(_main(choices)):
                return side
        return Side.OTHER


def units_of(good: TacticRecord, bad: TacticRecord) -> tuple[DifferingLayer, ...]:
    """Where a good and a bad build chose differently, in the order of the good build."""
    found = differences(good, bad)
    layers = {difference.layer for difference in found if reformatted_layer(difference.layer) is None}
    main: dict[str, Difference] = {}
    copies: dict[str, list[Difference]] = {}
    for difference in found:
        owner = reformatted_layer(difference.layer)
        if owner in layers and owner is not None:
            copies.setdefault(owner, []).append(difference)
        else:
            main[_unique(difference.layer, main)] = difference
    units = []
    for name, difference in main.items():
        own = [difference, *copies.pop(difference.layer, [])]
        units.append(
            DifferingLayer(
                name,
                tuple(choice for each in own for choice in each.first),
                tuple(choice for each in own for choice in each.second),
            )
        )
    return tuple(units)


def orders_for(
    base: TacticRecord,
    units: Sequence[DifferingLayer],
    treated: frozenset[str],
    *,
    free: Iterable[DifferingLayer] = (),
) -> tuple[Choice, ...]:
    """What to force: at `units` the good choice if they are `treated` and the bad one if not, elsewhere the base's.

    Nothing is forced at units that are `free`.
    """
    decided = {choice.place for unit in (*units, *free) for choice in (*unit.good, *unit.bad)}
    forced = [choice for choice in base.choices if choice.place not in decided]
    for unit in units:
        forced += unit.good if unit.layer in treated else unit.bad
    return tuple(forced)


def is_suspect(unit: DifferingLayer, good: Iterable[TacticRecord]) -> bool:
    """Whether the bad build's choice is in no good build."""
    places = {choice.place for choice in unit.bad}
    bad = variants(unit.bad)
    for record in good:
        here = [choice for place in places for choice in record.by_place.get(place, ())]
        if variants(here) == bad:
            return False
    return True


def _main(choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """The layer itself, without the copies that reformat its tensors; the copy where it is alone."""
    own = tuple(choice for choice in choices if reformatted_layer(choice.layer) is None)
    return own or tuple(choices)


def _unique(name: str, taken: dict[str, Difference]) -> str:
    label, number = name, 1
    while label in taken:
        number += 1
        label = f"{name} #{number}"
    return label

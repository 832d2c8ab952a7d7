"""Ways to build the same network otherwise: timing noise, tactic sources, other axes of the builder, forced choices."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from harness.backends import Plan
from harness.case import BuildOptions
from harness.tactics.record import TacticRecord
from harness.worker.protocol import Choice, ProbeReply, TacticOrders


class Axis(StrEnum):
    """Which property of a build is varied."""

    NOISE = "timing noise"
    SOURCE = "tactic source"
    LEVEL = "optimization level"
    TF32 = "tf32"
    SPARSITY = "sparsity"
    PREVIEW = "preview feature"
    ROUTE = "build route"
    FORCED = "forced choices"
    SEARCH = "search"
    """A build of the search for bad tactics, in which choices are forced."""


@dataclass(frozen=True)
class Variation:
    """One way to build.

    Args:
        name: for people, and unique in a series.
        axis: what is varied.
        build: the build options to change: those that are set.
        orders: what to force and to forbid.
    """

    name: str
    axis: Axis
    build: BuildOptions = field(default_factory=BuildOptions)
    orders: TacticOrders = field(default_factory=TacticOrders)

    def of(self, plan: Plan, *, alternatives: int = 0) -> Plan:
        """The plan of a build that is varied so, and that records its tactics, with so many alternatives a layer."""
        # What is to be chosen anew must not be answered from the timings of another build; nor is what is to be
        # forced, or it would not be on offer.
        own, changes = (each.model_dump(exclude_unset=True) for each in (plan.build, self.build))
        options = BuildOptions.model_validate({**own, "timing_cache": False, **changes})
        orders = replace(self.orders, alternatives=max(alternatives, self.orders.alternatives))
        return replace(plan, build=options, tactics=orders)


def noise(count: int, *, start: int = 1) -> tuple[Variation, ...]:
    """Builds that differ in nothing but the timing noise: each tunes anew."""
    return tuple(
        Variation(f"build {number}", Axis.NOISE, orders=TacticOrders(number=number))
        for number in range(start, start + count)
    )


def sources(probe: ProbeReply, enabled: Sequence[str] | None = None) -> tuple[Variation, ...]:
    """Builds that each do without one tactic source of those `enabled` in the build that is varied; None are TensorRT's
    own."""
    names = [str(name).lower() for name in (probe.tactic_sources if enabled is None else enabled)]
    return tuple(
        Variation(
            f"without {name}",
            Axis.SOURCE,
            BuildOptions(tactic_sources=tuple(other for other in names if other != name)),
        )
        for name in names
    )


def axes(probe: ProbeReply, plan: Plan) -> tuple[Variation, ...]:
    """Builds that each change one other property, of those that the release has.

    Preview features are switched on and off, knobs of the builder set to each value that they allow. Values that the
    plan sets already are left out.
    """
    build = plan.build
    found = []
    if "optimization_level" in probe.capabilities:
        found += [
            Variation(f"optimization level {level}", Axis.LEVEL, BuildOptions(optimization_level=level))
            for level in range(6)
            if level != build.optimization_level
        ]
    for axis in (Axis.TF32, Axis.SPARSITY):
        for value in (True, False):
            if getattr(build, axis) is not value:
                options = BuildOptions.model_validate({axis.value: value})
                found.append(Variation(f"{'with' if value else 'without'} {axis}", axis, options))
    for feature in sorted(probe.preview_features):
        switches = (f"{sign}{feature.lower()}" for sign in "+-")
        found += [
            Variation(switch, Axis.PREVIEW, BuildOptions(preview_features=(switch,))) for switch in switches
        ]
    for knob, values in probe.build_routes.items():
        found += [
            Variation(f"{knob}={value}", Axis.ROUTE, BuildOptions(build_route=f"{knob}={value}"))
            for value in values
        ]
    return tuple(found)


def forced(record: TacticRecord, count: int, *, seed: int = 0) -> tuple[Variation, ...]:
    """Builds in which layers take alternatives that were offered and not taken.

    In the first every layer that has an alternative takes one; in the later ones each does by even chance.
    Alternatives of the same formats are preferred: another format changes the layers around it, too.
    """
    made = []
    for number in range(count):
        chance = random.Random(f"{seed} {number}")
        orders = [
            _other(choice, record.alternatives, chance) if number == 0 or chance.random() < 0.5 else choice
            for choice in record.choices
        ]
        name = "alternatives everywhere" if number == 0 else f"alternatives by chance, {number}"
        made.append(Variation(name, Axis.FORCED, orders=TacticOrders(force=tuple(orders), number=number)))
    return tuple(made)


def _other(choice: Choice, alternatives: Sequence[Choice], chance: random.Random) -> Choice:
    here = [other for other in alternatives if other.place == choice.place]
    alike = [other for other in here if (other.inputs, other.outputs) == (choice.inputs, choice.outputs)]
    return chance.choice(alike or here) if here else choice

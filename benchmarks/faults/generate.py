"""Which cases there are, and the making of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from benchmarks.faults.families import Family
from benchmarks.faults.kinds import Kind
from benchmarks.faults.planted import PlantedCase, Spec, build, count_blocks
from benchmarks.faults.truth import calibrate

SIZES = (50, 100, 200, 500, 1000, 2000)
FAULTS = (1, 2, 5, 20)
MIN_ACCUMULATED = 8  # with fewer places one of them would be to blame


def generate(spec: Spec) -> PlantedCase:
    """The planted case of a specification; the same bytes every time.

    An accumulated error is made just large enough that the model fails, which takes a few evaluations on the
    emulator.

    Raises:
        ValueError: the model has fewer blocks than faults are asked for.
    """
    if spec.kind is Kind.ACCUMULATED and spec.faults:
        return calibrate(spec)
    return build(spec)


def grid(sizes: Sequence[int] = SIZES, seeds: Sequence[int] = (0,)) -> Iterator[Spec]:
    """Every specification that fits, and for each family, kind and size its clean twin."""
    for seed, nodes, family, kind in product(seeds, sizes, Family, Kind):
        blocks = count_blocks(Spec(family, kind, 0, nodes))
        counts = (1,) if kind is Kind.ACCUMULATED else FAULTS
        for faults in (0, *counts):
            spec = Spec(family, kind, faults, nodes, seed)
            needed = MIN_ACCUMULATED if kind is Kind.ACCUMULATED else faults
            if needed <= blocks:
                yield spec


def sample(count: int, *, seed: int = 0) -> list[Spec]:
    """`count` specifications of up to 200 nodes, with each family, kind and number of faults among them."""
    specs = list(grid(sizes=SIZES[:3]))
    rng = np.random.default_rng(seed)
    order = [specs[index] for index in rng.permutation(len(specs))]
    taken: list[Spec] = []
    seen: dict[object, int] = {}
    while order and len(taken) < count:
        # The next one whose family, kind and number of faults have been taken least often so far.
        best = min(order, key=lambda s: sum(seen.get(key, 0) for key in (s.family, s.kind, s.faults)))
        order.remove(best)
        taken.append(best)
        for key in (best.family, best.kind, best.faults):
            seen[key] = seen.get(key, 0) + 1
    return taken

"""The ground truth compared with the emulator: does what was planted fail, and does only that cure it?"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from benchmarks.faults.planted import PlantedCase, Spec, build, count_blocks
from harness.backends import Assumed, Emulator, Reference
from harness.comparison import DEFAULT_GATES
from harness.diagnosis import Subject
from harness.diagnosis.context import make_bench
from harness.model import load_model
from harness.tensors import Precision

LIMIT = DEFAULT_GATES[Precision.FP16].bound
TOTAL = 1.6  # an accumulated error, in limits
SPREAD = 4.0  # of the places of an accumulated error, so that a ranking means something
ROUNDS = 30
STRONGEST = 14.0


class Emulation:
    """Evaluates islands of one planted case on the emulator."""

    def __init__(self, case: PlantedCase, assumed: Assumed = Assumed()) -> None:
        self.case = case
        self.model = load_model(case.model, name=case.spec.name)
        self._emulator = Emulator(self.model, assumed=assumed)
        self._known: dict[frozenset[str], float] = {}

    @cached_property
    def units(self) -> frozenset[str]:
        """The nodes that are lowered when nothing is kept in FP32."""
        return frozenset(self._emulator.units(self.case.precision))

    @cached_property
    def reference(self) -> np.ndarray:
        """The output in FP32."""
        return Reference(self.model).run(self.case.feeds)["head"].astype(np.float64)

    def error(self, island: Iterable[str]) -> float:
        """Root mean square error over the reference's, with `island` in FP32; infinite if not finite."""
        key = frozenset(island)
        if key not in self._known:
            lowered = self.units - key
            value = self._emulator.run(self.case.feeds, self.case.precision, lowered=lowered)["head"]
            with np.errstate(invalid="ignore", over="ignore"):
                error = np.sqrt(np.mean((value - self.reference) ** 2) / np.mean(self.reference**2))
            self._known[key] = float(error) if np.isfinite(error) else float("inf")
        return self._known[key]

    @cached_property
    def _subject(self) -> Subject:
        bench = make_bench(self.model, [self.case.feeds])
        bench.assumed = self._emulator.assumed
        return Subject(bench, self.case.precision, bench.emulator)

    def holds(self, island: Iterable[str]) -> bool:
        """Whether all gates of harness hold with `island` in FP32, those on slices of the output, too."""
        plan = self._subject.plan(frozenset(island))
        found = self._subject.candidate.evaluate(plan, self.case.feeds)
        judged = self._subject.judge(found, 0, plan)
        return all(output.passed for output in judged)

    def passes(self, island: Iterable[str]) -> bool:
        """Whether the output passes with `island` in FP32."""
        return self.error(island) <= LIMIT


def verify(case: PlantedCase, *, brute_force: bool = False) -> list[str]:
    """What is wrong with the ground truth of a case; nothing, if it is true.

    A clean case passes. A faulty one fails, passes with one alternative of each clause in FP32, and fails again
    as soon as one node of them is lowered. With `brute_force`, every node that is part of no fault is lowered
    alone, and passes.
    """
    emulation = Emulation(case)
    problems = []
    if not np.isfinite(emulation.reference).all():
        problems.append("the reference is not finite")
    if emulation.passes(()) != case.clean:
        problems.append(f"everything lowered has an error of {emulation.error(()):.2g}")
    problems += _verify_accumulated(emulation) if case.places else _verify_clauses(emulation)
    if brute_force:
        blamed = frozenset().union(*(nodes for clause in case.clauses for nodes in clause), *case.places)
        for node in sorted(emulation.units - blamed):
            if not emulation.passes(emulation.units - {node}):
                problems.append(f"{node} is part of no fault, and fails alone")
    return problems


def _verify_clauses(emulation: Emulation) -> list[str]:
    truth = emulation.case.truth or frozenset()
    problems = []
    if not emulation.passes(truth):
        problems.append(f"the planted nodes in FP32 leave an error of {emulation.error(truth):.2g}")
    for clause in emulation.case.clauses:
        for nodes in clause[1:]:
            if not emulation.passes((truth - clause[0]) | nodes):
                problems.append(f"{sorted(nodes)} are no alternative to {sorted(clause[0])}")
        for node in sorted(clause[0]):
            if emulation.passes(truth - {node}):
                problems.append(f"{node} need not go back to FP32")
            if len(clause) == 1 and emulation.passes(emulation.units - {node}):
                problems.append(f"{node} lowered alone passes")
            if len(clause) > 1 and not emulation.passes(emulation.units - clause[0]):
                problems.append(f"{sorted(clause[0])} fail without their partners")
    return problems


def _verify_accumulated(emulation: Emulation) -> list[str]:
    places = emulation.case.places
    problems = [
        f"{sorted(place)} fail alone" for place in places if not emulation.passes(emulation.units - place)
    ]
    if not emulation.passes(frozenset().union(*places)):
        problems.append("all places in FP32 do not pass")
    if any(emulation.passes(place) for place in places):
        problems.append("one place in FP32 is enough")
    return problems


def optimum(case: PlantedCase, assumed: Assumed = Assumed()) -> int:
    """The size of the smallest island of an accumulated error, as far as it is known.

    The errors of the places are independent, so the places with the largest errors of their own are the fewest
    that cure; what turns out to be needless is left out again. Rounding being chaotic, the true optimum may still
    be smaller by a place.
    """
    emulation = Emulation(case, assumed)
    ranked = sorted(case.places, key=lambda place: emulation.error(emulation.units - place), reverse=True)
    island: frozenset[str] = frozenset()
    for place in ranked:
        if emulation.holds(island):
            break
        island |= place
    for place in reversed(ranked):
        if emulation.holds(island - place):
            island -= place
    return len(island)


def calibrate(spec: Spec) -> PlantedCase:
    """The case of an accumulated error whose places fail together and not alone.

    The effect of each place on the output is measured, and its strength set so that all together are
    `TOTAL` times the limit, the largest of them `SPREAD` times the smallest.
    """
    blocks = count_blocks(spec)
    shares = np.geomspace(1.0, 1.0 / SPREAD, blocks)[spec.rng.permutation(blocks)]
    targets = shares * (TOTAL * LIMIT / np.linalg.norm(shares))
    strengths = 5.0 + np.log2(shares)
    for _ in range(ROUNDS):
        emulation = Emulation(build(spec, strengths.tolist()))
        if not emulation.passes(()) and not _verify_accumulated(emulation):
            return emulation.case
        effects = np.array([emulation.error(emulation.units - place) for place in emulation.case.places])
        # Rounding is chaotic: a step is never right at once, and a large one is mostly wrong.
        strengths = np.minimum(strengths + np.clip(np.log2(targets / effects), -2, 2), STRONGEST)
    raise ValueError(f"{spec.name}: in {ROUNDS} rounds the error could not be spread over its places")

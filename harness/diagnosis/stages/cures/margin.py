"""Stage 4 on an engine, where an error accumulates: the island that leaves the emulator some margin.

An engine's rounding is not the emulator's, but the shares of the nodes are much the same. What is just enough there
is just too little here in half of all cases, and a search on the engine would spend a build on each step of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from harness.diagnosis.context import Effects, Evaluator, Prediction, inherited
from harness.diagnosis.stages.search import CURE_PHASE, island_problem
from harness.search import Outcome, SearchOptions, Trial, search

MOST_TRIES = 3
"""How many islands are built, each with more margin than the one before."""

RESERVED = 1 / 1.15
"""What the first island leaves of the limit where errors add up: 95 % of engines err no more than 1.15 times as much as
the emulator that is told their kernels and sums (benchmarks/results/emulation_score.json)."""

FARTHEST = 4.0
"""What misses its limit by a larger factor does so for another reason than roundings that add up."""

RESERVE = 0.9
"""The margin to add to what the last engine missed by: no two builds round alike."""


def accumulates(island: tuple[str, ...], effects: Effects) -> bool:
    """Whether no node of `island` fails by much when it is lowered alone, on the emulator."""
    return len(island) > 1 and all(effects.of([node]) <= FARTHEST for node in island)


def left_on(emulator: Evaluator, island: Iterable[str]) -> float:
    """The share of its limit that the emulator has with `island` in FP32."""
    return emulator.evaluate(emulator.subject.plan(island), phase=CURE_PHASE).badness


def next_share(share: float, trial: Trial) -> float | None:
    """What the emulator may have left of its limit next; None if a margin is no remedy.

    Args:
        share: what it had with the island that was built.
        trial: the engine with that island.
    """
    if trial.outcome is not Outcome.FAIL or trial.badness is None or not 1.0 < trial.badness <= FARTHEST:
        return None
    return RESERVE * share / trial.badness


def island_with_margin(
    emulator: Evaluator, prediction: Prediction, effects: Effects, share: float
) -> tuple[tuple[str, ...], float] | None:
    """The island with which the emulator has at most `share` of its limit left, and what it has; None if none."""
    subject = emulator.subject
    left: dict[frozenset[str], float] = {}

    def oracle(treated: frozenset[str]) -> Trial:
        left[treated] = left_on(emulator, treated)
        outcome = Outcome.PASS if left[treated] <= share else Outcome.FAIL
        return Trial(outcome, left[treated], share - left[treated])

    suspicion = inherited(subject.model, prediction.introduced, subject.units)
    problem = island_problem(subject, scores=effects.scores(subject.units, suspicion))
    found = search(problem, oracle, options=SearchOptions(prove=False))
    island = found.culprits if found.answered else ()
    return (island, left[frozenset(island)]) if island and frozenset(island) in left else None

"""Decide on a noisy configuration by votes: Wald's sequential probability ratio test.

A. Wald, "Sequential tests of statistical hypotheses", Annals of Mathematical Statistics 16(2), 1945. Each trial
adds the logarithm of how much likelier its outcome is under "it fails" than under "it passes"; the test ends when
the sum leaves the interval that the wanted error allows. No test with that error needs fewer trials on average
(A. Wald and J. Wolfowitz, 1948).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from harness.search.types import Outcome, Trial, Votes

UNRESOLVED_IN_A_ROW = 3
"""After so many unresolved trials, and none that was resolved, a configuration is unresolved."""


@dataclass(frozen=True)
class Decision:
    """What the votes say.

    Args:
        outcome: unresolved where `most` trials did not decide.
        error: the chance that the outcome is wrong, before any trial pass and fail being equally likely.
        passes: trials that passed.
        fails: trials that failed.
        unresolved: trials that could not be judged; they do not vote.
    """

    outcome: Outcome
    error: float
    passes: int
    fails: int
    unresolved: int

    @property
    def undecided(self) -> bool:
        """Whether trials were judged, but contradict each other too much."""
        return self.outcome is Outcome.UNRESOLVED and self.passes + self.fails > 0


def error_of_one(votes: Votes, units: int) -> float:
    """The error that one decision may have so that all those of a usual search have `votes.confidence`.

    A search with several culprits takes about four bisections (Bonferroni's inequality over its decisions).
    """
    return (1 - votes.confidence) / (8 + 4 * math.ceil(math.log2(units + 1)))


def decide(votes: Votes, error: float, draw: Callable[[int], Trial]) -> Decision:
    """Draw trials until the test is decided at `error` for both kinds of mistake, or `votes.most` are spent."""
    bound = math.log((1 - error) / error)
    for_fail = math.log(votes.high / votes.low)
    for_pass = math.log((1 - votes.high) / (1 - votes.low))
    counts = dict.fromkeys(Outcome, 0)
    ratio = 0.0
    for number in range(votes.most):
        outcome = draw(number).outcome
        counts[outcome] += 1
        ratio = counts[Outcome.FAIL] * for_fail + counts[Outcome.PASS] * for_pass
        if abs(ratio) >= bound or counts[Outcome.UNRESOLVED] == number + 1 == UNRESOLVED_IN_A_ROW:
            break
    decided = abs(ratio) >= bound
    outcome = (Outcome.FAIL if ratio > 0 else Outcome.PASS) if decided else Outcome.UNRESOLVED
    chance = 1 / (1 + math.exp(abs(ratio))) if decided else 0.0
    return Decision(outcome, chance, counts[Outcome.PASS], counts[Outcome.FAIL], counts[Outcome.UNRESOLVED])


class Dissent:
    """Counts the votes against the decisions they led to: more of them than allowed, and the model is wrong.

    Deciding early keeps the share of dissent low, never high, so an excess is real.
    """

    DEVIATIONS = 4.0
    FEWEST = 30

    def __init__(self) -> None:
        self._votes = 0
        self._against = 0
        self._allowed = 0.0
        self._variance = 0.0

    def add(self, votes: Votes, decision: Decision) -> None:
        """Take in the votes of one decision; without one, the smaller part of them dissents."""
        cast = decision.passes + decision.fails
        fails_dissent = decision.outcome is Outcome.PASS or (
            decision.undecided and decision.fails < decision.passes
        )
        chance = votes.low if fails_dissent else 1 - votes.high
        self._votes += cast
        self._against += decision.fails if fails_dissent else decision.passes
        self._allowed += cast * chance
        self._variance += cast * chance * (1 - chance)

    @property
    def share(self) -> float:
        """The part of all votes that dissents."""
        return self._against / max(self._votes, 1)

    @property
    def excessive(self) -> bool:
        """Whether there is more of it than four standard deviations above what is allowed."""
        excess = self._against - self._allowed
        return self._votes >= self.FEWEST and excess > self.DEVIATIONS * math.sqrt(self._variance)

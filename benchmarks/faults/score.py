"""How well a diagnosis of a planted case did, and how well many did together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, median

from benchmarks.faults.families import Family
from benchmarks.faults.kinds import Clause, Kind
from benchmarks.faults.planted import PlantedCase

FAULTY, CLEAN = "precision", "none"


@dataclass(frozen=True)
class Answer:
    """What a diagnosis said.

    Args:
        verdict: `precision`, `none`, …
        culprits: names of the nodes that must go back to FP32.
        evaluations: evaluations of the emulator, all in all.
        search_evaluations: those of the search for the island, after the ranking; None if there was no search.
        seconds: from start to finish.
        fp32_sums: products that are added up in FP32 in place of an island.
    """

    verdict: str
    culprits: frozenset[str]
    evaluations: int
    search_evaluations: int | None
    seconds: float
    fp32_sums: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Score:
    """One answer compared with the truth.

    Args:
        name: of the specification.
        family: what the model is made of.
        kind: what went wrong.
        faults: at how many places; 0 is a clean twin.
        nodes: how many nodes the model has.
        verdict: what the diagnosis said.
        verdict_right: whether that is so.
        precision: share of the reported culprits that are some; 1 if none was reported. None if accumulated.
        recall: share of the true culprits that were reported; 1 if there are none. None if accumulated.
        island: how many nodes were reported.
        optimum: how many are enough.
        evaluations: see Answer.
        search_evaluations: see Answer.
        seconds: see Answer.
        error: what the diagnosis raised, if it did.
    """

    name: str
    family: Family
    kind: Kind
    faults: int
    nodes: int
    verdict: str
    verdict_right: bool
    precision: float | None
    recall: float | None
    island: int
    optimum: int
    evaluations: int
    search_evaluations: int | None
    seconds: float
    error: str = ""

    @property
    def ratio(self) -> float:
        """Island over optimum; 1 if nothing was to be found and nothing was."""
        return self.island / self.optimum if self.optimum else (1.0 if not self.island else math.inf)


def nearest_truth(clauses: Iterable[Clause], found: frozenset[str]) -> frozenset[str]:
    """The true culprits; of alternatives, those of which most were found."""
    return frozenset().union(*(max(clause, key=lambda nodes: len(nodes & found)) for clause in clauses))


def score(
    case: PlantedCase,
    answer: Answer,
    *,
    optimum: int | None = None,
    error: str = "",
    fails: bool | None = None,
) -> Score:
    """Hold `answer` against the truth of `case`.

    Args:
        case: the case.
        answer: what the diagnosis said.
        optimum: that of an accumulated error.
        error: what the diagnosis raised.
        fails: whether the emulator fails with what it assumes; None: as it was planted. Fused attention, say, holds
            logits that were planted to overflow, and then there is nothing to find.
    """
    fails = not case.clean if fails is None else fails
    truth = nearest_truth(case.clauses, answer.culprits) if fails else frozenset()
    right = len(truth & answer.culprits)
    is_set = not case.places
    return Score(
        name=case.spec.name,
        family=case.spec.family,
        kind=case.spec.kind,
        faults=case.spec.faults,
        nodes=len(case.model.graph.node),
        verdict=answer.verdict,
        verdict_right=answer.verdict == (FAULTY if fails else CLEAN),
        precision=(right / len(answer.culprits) if answer.culprits else 1.0) if is_set else None,
        recall=(right / len(truth) if truth else 1.0) if is_set else None,
        island=len(answer.culprits),
        optimum=len(truth) if optimum is None else optimum,
        evaluations=answer.evaluations,
        search_evaluations=answer.search_evaluations,
        seconds=answer.seconds,
        error=error,
    )


@dataclass(frozen=True)
class Goal:
    """One number to reach."""

    text: str
    value: float
    limit: float
    at_least: bool

    @property
    def reached(self) -> bool:
        """Whether it is; a number that is not there is not reached."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def goals(scores: Sequence[Score]) -> list[Goal]:
    """The numbers to reach, as far as these scores say anything of them."""
    clean = [score for score in scores if not score.faults]
    separated = [s for s in scores if s.faults and s.kind not in (Kind.ACCUMULATED, Kind.PAIR, Kind.BEHIND)]
    accumulated = [s for s in scores if s.faults and s.kind is Kind.ACCUMULATED]
    single = [s for s in separated if s.faults == 1 and 400 <= s.nodes <= 600]
    found = [
        _goal("verdict right", scores, lambda s: float(s.verdict_right), mean, 0.99, True),
        _goal("culprit recall, separated faults", separated, lambda s: s.recall or 0.0, mean, 1.0, True),
        _goal(
            "culprit precision, separated faults", separated, lambda s: s.precision or 0.0, mean, 0.99, True
        ),
        _goal("culprits on clean twins", clean, lambda s: float(s.island), sum, 0.0, False),
        _goal("island over optimum, accumulated, mean", accumulated, lambda s: s.ratio, mean, 1.3, False),
        _goal(
            "evaluations after ranking, one fault in 500 nodes, median",
            [s for s in single if s.search_evaluations is not None],
            lambda s: float(s.search_evaluations or 0),
            median,
            12.0,
            False,
        ),
    ]
    return [goal for goal in found if goal is not None]


def _goal(
    text: str,
    scores: Sequence[Score],
    value: Callable[[Score], float],
    together: Callable[[list[float]], float],
    limit: float,
    at_least: bool,
) -> Goal | None:
    return Goal(text, together([value(s) for s in scores]), limit, at_least) if scores else None

"""What goes into a search besides its problem, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from harness.errors import UsageError


class Outcome(StrEnum):
    """What one evaluation says. `unresolved` (it could not be built, it crashed) is never taken for a fail."""

    PASS = "pass"
    FAIL = "fail"
    UNRESOLVED = "unresolved"

    @property
    def flipped(self) -> Outcome:
        """Pass for fail and fail for pass; unresolved stays unresolved."""
        return {Outcome.PASS: Outcome.FAIL, Outcome.FAIL: Outcome.PASS}.get(self, self)


@dataclass(frozen=True)
class Trial:
    """The outcome and the score of one configuration.

    Args:
        outcome: pass, fail or unresolved.
        badness: how bad it is, larger is worse; infinite is allowed. None: no number is known.
        margin: limit minus badness, so that a pass has a margin ≥ 0. None: no number is known.
        seconds: what it cost. None: the search measures it.
        note: evidence for people, such as the last line of a failed build's log.
    """

    outcome: Outcome
    badness: float | None = None
    margin: float | None = None
    seconds: float | None = None
    note: str = ""


Oracle = Callable[[frozenset[str]], Trial]
"""Evaluates the configuration in which exactly these units are treated (for example kept in FP32).

It turns what it expects to go wrong, such as a failed build, into an unresolved evaluation. What it raises ends the
search and leaves a valid journal; `BudgetExhaustedError` ends it with the verdict `budget`.
"""


class Direction(StrEnum):
    """Which set is searched for.

    `cure`: a minimal set whose treatment alone passes. `cause`: a minimal set that fails when all but it is
    treated. `both`: a minimal set that is a cure and a cause at once, as the proof against a tactic needs
    (forbidding it makes the bad build good, forcing it makes the good build bad).
    """

    CURE = "cure"
    CAUSE = "cause"
    BOTH = "both"


class Strategy(StrEnum):
    """How a search narrows its suspects; `auto` until it has chosen."""

    AUTO = "auto"
    SINGLE = "single"
    INDEPENDENT = "independent"
    RANKED = "ranked"
    HIERARCHICAL = "hierarchical"
    DDMIN = "ddmin"


class SearchVerdict(StrEnum):
    """How a search ended.

    `found`: a set was found and verified. `none`: nothing is wrong to begin with. `lost`: treating everything does
    not help. `flaky`: the oracle does not repeat itself. `budget`: evaluations or seconds ran out first.
    `unresolved`: an evaluation that the search cannot do without could not be judged.
    """

    FOUND = "found"
    NONE = "none"
    LOST = "lost"
    FLAKY = "flaky"
    BUDGET = "budget"
    UNRESOLVED = "unresolved"


@dataclass(frozen=True)
class Budget:
    """What a search may spend. None: no limit.

    Args:
        evaluations: calls of the oracle, those that a resumed journal answers included.
        seconds: the sum over the evaluations that are made anew; those that a journal answers take none.
        unresolved: the share of evaluations, of a dozen or more, that may be unresolved; with more the search is given
            up, for it learns nothing.
    """

    evaluations: int | None = None
    seconds: float | None = None
    unresolved: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("evaluations", self.evaluations), ("seconds", self.seconds)):
            if value is not None and not value >= 0:
                raise UsageError(f"a budget of {value} {name} makes no sense", hint="give 0 or more, or None")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What is searched for, and how surely.

    Args:
        direction: cure, cause, or both.
        prove: spend up to one evaluation a culprit on the proof that none of them can be left out. Without it
            an answer is still verified to pass, but may hold more than is needed.
        repeats: evaluations of each configuration that the answer rests on, to find an oracle that does not
            repeat itself; 1 asks for no repetition.
    """

    direction: Direction = Direction.CURE
    prove: bool = True
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UsageError(f"each configuration is evaluated at least once, not {self.repeats} times")


@dataclass(frozen=True)
class SearchProgress:
    """What a progress callback receives after each evaluation.

    Args:
        strategy: what is being done.
        evaluations: calls of the oracle so far, replayed ones included.
        suspects: units that may still be in the answer.
        remaining: an estimate of the evaluations still to come; None where there is none.
        treated: the configuration that was just evaluated.
        evaluation: what it said.
        replayed: the evaluation came from the journal and cost nothing.
    """

    strategy: Strategy
    evaluations: int
    suspects: int
    remaining: int | None
    treated: frozenset[str]
    evaluation: Trial
    replayed: bool


@dataclass(frozen=True)
class Assumption:
    """Something that an answer depends on. `held` is None while it is unchecked."""

    name: str
    detail: str
    held: bool | None = None


@dataclass(frozen=True)
class Step:
    """One line of the log: what was evaluated or concluded.

    Args:
        strategy: what was being done.
        evaluation: the number of the evaluation it is about, or of the last one before it.
        text: for people.
        outcome: what the evaluation said; None for a conclusion.
    """

    strategy: Strategy
    evaluation: int
    text: str
    outcome: Outcome | None = None

    def __str__(self) -> str:
        outcome = "" if self.outcome is None else f": {self.outcome}"
        return f"{self.evaluation:4d}  {self.strategy:<12}  {self.text}{outcome}"


@dataclass(frozen=True)
class Tally:
    """How often one configuration passed, failed and stayed unresolved."""

    treated: tuple[str, ...]
    passes: int
    fails: int
    unresolved: int

    @property
    def evaluations(self) -> int:
        """All of them."""
        return self.passes + self.fails + self.unresolved


@dataclass(frozen=True)
class Result:
    """The answer of a search.

    Args:
        verdict: see `SearchVerdict`.
        culprits: the set that was searched for, in the problem's order; empty unless the verdict is `found`.
        best: the smallest set that was seen to have the wanted property, whatever the verdict; None if no set
            was. After a `budget` verdict it is the state of knowledge.
        minimal: every culprit was left out once, alone, and each time the property was lost.
        untested: culprits that were kept because leaving them out could not be judged.
        evaluations: calls of the oracle, replayed ones included.
        seconds: the sum over the evaluations.
        strategies: those that were used, in their order.
        assumptions: what the answer depends on, whether it was checked, whether it held.
        log: each evaluation and each conclusion.
        tally: the counts of the configuration that did not repeat itself, for the verdict `flaky`.
        replayed: how many evaluations came from the journal.
        given_up: too many evaluations were unresolved for the search to go on.
        unresolved: how many evaluations were.
        last_note: what the last of them said.
    """

    verdict: SearchVerdict
    culprits: tuple[str, ...] = ()
    best: tuple[str, ...] | None = None
    minimal: bool = False
    untested: tuple[str, ...] = ()
    evaluations: int = 0
    seconds: float = 0.0
    strategies: tuple[Strategy, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    log: tuple[Step, ...] = ()
    tally: Tally | None = None
    replayed: int = field(default=0, compare=False)
    given_up: bool = False
    unresolved: int = 0
    last_note: str = ""

    @property
    def answered(self) -> bool:
        """Whether `culprits` is a verified answer."""
        return self.verdict is SearchVerdict.FOUND

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
    """One evaluation of the oracle.

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

It turns what it expects to go wrong, such as a failed build, into an unresolved trial. What it raises ends the
search and leaves a valid journal; `BudgetExhaustedError` ends it with the verdict `budget`.
"""


class Direction(StrEnum):
    """Which set is asked for.

    `cure`: a minimal set whose treatment alone passes. `cause`: a minimal set that fails when all but it is
    treated. `both`: a minimal set that is a cure and a cause at once, as the proof against a tactic needs
    (forbidding it makes the bad build good, forcing it makes the good build bad).
    """

    CURE = "cure"
    CAUSE = "cause"
    BOTH = "both"


class Strategy(StrEnum):
    """How a search narrows its suspects. `auto` chooses by what it finds."""

    AUTO = "auto"
    SINGLE = "single"
    INDEPENDENT = "independent"
    RANKED = "ranked"
    HIERARCHICAL = "hierarchical"
    DDMIN = "ddmin"
    RDDMIN = "rddmin"


class Verdict(StrEnum):
    """How a search ended.

    `found`: a set was found and verified. `interaction`: likewise, but its members do not act one by one.
    `none`: nothing is wrong to begin with. `lost`: treating everything does not help. `flaky`: the oracle does
    not repeat itself. `budget`: evaluations or seconds ran out first. `unresolved`: an evaluation that the
    search cannot do without could not be judged.
    """

    FOUND = "found"
    INTERACTION = "interaction"
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
        seconds: the sum over the seconds of the trials that are made anew; those that a journal answers take none.
    """

    evaluations: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("evaluations", "seconds"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UsageError(f"a budget of {value} {name} makes no sense", hint="give 0 or more, or None")


@dataclass(frozen=True, kw_only=True)
class Votes:
    """Judge a noisy oracle by repeated trials and Wald's sequential probability ratio test.

    Args:
        confidence: that all decisions of the search are right, together.
        low: the chance of a fail up to which a configuration counts as passing.
        high: the chance of a fail from which it counts as failing.
        most: trials of one configuration after which it is undecided.
    """

    confidence: float = 0.99
    low: float = 0.1
    high: float = 0.9
    most: int = 60

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise UsageError(
                f"a confidence of {self.confidence} makes no sense", hint="give one between 0 and 1"
            )
        if not 0 < self.low < self.high < 1:
            raise UsageError(f"votes need 0 < low < high < 1, not low={self.low} and high={self.high}")
        if self.most < 1:
            raise UsageError(f"votes need at least one trial, not {self.most}")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is asked of a search.

    Args:
        direction: cure, cause, or both.
        strategy: `auto`, or the one strategy to use.
        prove: spend up to one evaluation a culprit on the proof that none of them can be left out. Without it
            an answer is still verified to pass, but may hold more than is needed.
        independence: spend one evaluation a culprit on whether each of them fails alone; the verdict is
            `interaction` where one does not.
        repeats: evaluations of each configuration that the answer rests on, to find an oracle that does not
            repeat itself; 1 asks for no repetition. With votes there is no need for it.
        votes: judge every configuration by votes. None: one trial is believed.
    """

    direction: Direction = Direction.CURE
    strategy: Strategy = Strategy.AUTO
    prove: bool = True
    independence: bool = False
    repeats: int = 1
    votes: Votes | None = None

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UsageError(f"each configuration is evaluated at least once, not {self.repeats} times")


@dataclass(frozen=True)
class Progress:
    """What a progress callback is told after each evaluation.

    Args:
        strategy: what is being done, in the words of the trail.
        evaluations: calls of the oracle so far, replayed ones included.
        suspects: units that may still be in the answer.
        remaining: an estimate of the evaluations still to come; None where nobody can tell.
        treated: the configuration that was just evaluated.
        trial: what it said.
        replayed: the trial came from the journal and cost nothing.
    """

    strategy: Strategy
    evaluations: int
    suspects: int
    remaining: int | None
    treated: frozenset[str]
    trial: Trial
    replayed: bool


@dataclass(frozen=True)
class Assumption:
    """Something that an answer leans on. `held` is None while it is unchecked."""

    name: str
    detail: str
    held: bool | None = None

    @property
    def checked(self) -> bool:
        """Whether evaluations were spent on it."""
        return self.held is not None


@dataclass(frozen=True)
class Step:
    """One line of the trail: what was tried or concluded.

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
    def trials(self) -> int:
        """All of them."""
        return self.passes + self.fails + self.unresolved


@dataclass(frozen=True)
class Result:
    """The answer of a search.

    Args:
        verdict: see `Verdict`.
        culprits: the set that was asked for, in the problem's order; empty unless the verdict is `found` or
            `interaction`.
        best: the smallest set that was seen to have the wanted property, whatever the verdict; None if no set
            was. After a `budget` verdict it is the state of knowledge.
        minimal: every culprit was left out once, alone, and each time the property was lost.
        untested: culprits that were kept because leaving them out could not be judged.
        causes: minimal sets that fail when only they are untreated, where they were searched for.
        evaluations: calls of the oracle, replayed ones included.
        seconds: the sum over the trials.
        strategies: those that were used, in their order.
        assumptions: what the answer leans on, whether it was checked, whether it held.
        trail: each evaluation and each conclusion.
        confidence: with votes, that all decisions are right together; None without.
        tally: the counts of the configuration that did not repeat itself, for the verdict `flaky`.
        replayed: how many evaluations came from the journal.
    """

    verdict: Verdict
    culprits: tuple[str, ...] = ()
    best: tuple[str, ...] | None = None
    minimal: bool = False
    untested: tuple[str, ...] = ()
    causes: tuple[tuple[str, ...], ...] = ()
    evaluations: int = 0
    seconds: float = 0.0
    strategies: tuple[Strategy, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    trail: tuple[Step, ...] = ()
    confidence: float | None = None
    tally: Tally | None = None
    replayed: int = field(default=0, compare=False)

    @property
    def answered(self) -> bool:
        """Whether `culprits` is a verified answer."""
        return self.verdict in (Verdict.FOUND, Verdict.INTERACTION)

    def assumption(self, name: str) -> Assumption | None:
        """The assumption of that name, or None if the answer does not lean on it."""
        return next((each for each in self.assumptions if each.name == name), None)

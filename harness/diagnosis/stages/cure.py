"""Stage 4, cure: the few nodes that must go back to FP32.

Requires: a candidate that fails unobserved, and a prognosis.
Ensures: an island that is handed on was seen to pass on what it is said to be confirmed on; it is called minimal
only where leaving out each of its nodes, alone, was seen to fail.
Evidence: the trail of the search, and what its answer leans on.

On the emulator an evaluation costs milliseconds. If the nodes that introduce far more error than the others cure
together, what is left is pruning; else those are tried that fail when they are lowered alone near where the error
starts; else every node is lowered alone, and the ranking is searched. On an engine the emulator's island comes
first, and mostly last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from harness.diagnosis.context import (
    Effects,
    Examination,
    Examiner,
    Notebook,
    Subject,
    find_groups,
    inherited,
    less_than_asked,
    nearby,
    outliers,
)
from harness.diagnosis.results import Evidence, Stage
from harness.diagnosis.stages.patience import GivenUp, Patience
from harness.diagnosis.stages.prediction import Prognosis
from harness.errors import UsageError
from harness.search import Budget, Options, Outcome, Problem, Progress, Result, Trial, Verdict, search
from harness.text import names, plural

CURE_PHASE = "search"
MOST_SUSPECTS = 64
EMULATOR, CANDIDATE = "emulator", "candidate"
Known = Mapping[frozenset[str], Trial]


@dataclass(frozen=True)
class Cure:
    """What a search for an island came to.

    Args:
        island: the nodes, in topological order; empty if none was found.
        confirmed_on: what was seen to pass with them: `emulator`, `candidate`, or None.
        minimal_on: on what each of them was seen to be needed; None if that was not shown.
        best: the smallest set that was seen to cure, whether or not the search ended.
        verdict: how the search ended; None if there was no need for one.
        evidence: what was shown.
        stuck: why the search was given up; empty if it was not.
        relaxed: what was given up so that the engine which passes could be built, in words.
    """

    island: tuple[str, ...] = ()
    confirmed_on: str | None = None
    minimal_on: str | None = None
    best: tuple[str, ...] | None = None
    verdict: Verdict | None = None
    evidence: tuple[Evidence, ...] = ()
    stuck: str = ""
    relaxed: str = ""
    result: Result | None = field(default=None, compare=False, repr=False)

    @property
    def found(self) -> bool:
        """Whether there is an island."""
        return self.confirmed_on is not None


@dataclass(frozen=True)
class Searching:
    """What a search runs with.

    Args:
        notebook: keeps the journal; None keeps nothing.
        journal: name of the journal.
        on_progress: told after each evaluation.
    """

    notebook: Notebook | None = None
    journal: str = "islands"
    on_progress: Callable[[Progress], None] | None = None


def island_problem(
    subject: Subject,
    *,
    scores: Mapping[str, float] | None = None,
    hints: Sequence[frozenset[str]] = (),
) -> Problem:
    """The question which nodes must go back to FP32: the same for every search, by hand or not, on one subject."""
    return Problem(
        units=subject.units,
        identity=subject.identity,
        groups=find_groups(subject.model, subject.units),
        scores=scores,
        hints=tuple(hints),
    )


def search_islands(
    examiner: Examiner,
    problem: Problem,
    options: Options,
    known: Known,
    searching: Searching,
    *,
    phase: str = CURE_PHASE,
    most: int | None = None,
    at_hand: Known | None = None,
    patience: Patience | None = None,
) -> Result:
    """Search `problem` on the candidate of `examiner`, within its limits. They end a search; they raise nothing.

    Seconds have one clock, the examiner's: what the journal answers takes none, and who asks later why the search
    ended finds the limit reached.
    A configuration that is asked again is built again, with its tactics timed anew. `at_hand` are trials that were
    made just before: unlike those in `known`, they are part of the search and of its journal. `patience` gives a
    search up that cannot judge most of what it asks for; then the verdict is `unresolved`.
    """
    subject = examiner.subject
    asked = set(known)
    left = dict(at_hand or {})

    def oracle(treated: frozenset[str]) -> Trial:
        if treated in left:
            return left.pop(treated)
        if treated in asked and not subject.emulated:
            return examiner.rebuild(subject.plan(treated), phase=phase).trial
        asked.add(treated)
        return examiner.examine(subject.plan(treated), phase=phase).trial

    spending = examiner.spending
    limits = [most] if subject.emulated else [most, spending.left(phase)]
    builds = min((limit for limit in limits if limit is not None), default=None)
    budget = Budget(evaluations=builds)
    notebook, watch = searching.notebook, searching.on_progress
    if patience is not None:
        watch = patience.watching(problem, watch)
    with nullcontext() if notebook is None else notebook.journal(searching.journal, problem) as journal:
        try:
            return search(
                problem,
                oracle,
                options=options,
                budget=budget,
                journal=journal,
                known=known,
                on_progress=watch,
            )
        except GivenUp:
            assert patience is not None
            return patience.result(problem)


def cure_on_emulator(
    examiner: Examiner, prognosis: Prognosis, effects: Effects, searching: Searching
) -> Cure:
    """The minimal island on the emulator.

    Args:
        examiner: of a subject whose candidate is the emulator.
        prognosis: that of a failing emulator.
        effects: measures and remembers the effect of each node alone.
        searching: what to run with.
    """
    subject = examiner.subject
    if not subject.emulated or not prognosis.fails:
        raise UsageError("cure_on_emulator requires the emulator, and that it fails")
    examiner.failing_sample = prognosis.failing_sample
    known: dict[frozenset[str], Trial] = {frozenset(): prognosis.trial}
    suspicion = inherited(subject.model, prognosis.introduced, subject.units)
    # Whom outliers read from is mostly innocent, and then each search starts with that many nodes less.
    own, theirs = frozenset(outliers(prognosis.introduced)), frozenset(outliers(suspicion))
    hint = _passing(examiner, known, [own & frozenset(subject.units), theirs])
    if hint is None:
        alone = effects.each(_suspects(subject, prognosis, suspicion))
        hint = _passing(examiner, known, _hints(suspicion, alone))
    if hint is not None:
        # Where nothing overflows, what a node introduces says little of how much it matters to the outputs.
        finite = all(math.isfinite(suspicion[node]) for node in hint) and len(hint) <= MOST_SUSPECTS
        scores = effects.each(sorted(hint)) if finite else {node: suspicion[node] for node in hint}
        problem = island_problem(subject, scores=scores, hints=[hint])
    else:
        problem = island_problem(subject, scores=effects.scores(subject.units, suspicion))
    at_hand = {} if hint is None else {hint: known.pop(hint)}
    result = search_islands(examiner, problem, Options(), known, searching, at_hand=at_hand)
    return _cure_of(result, EMULATOR)


def _passing(
    examiner: Examiner, known: dict[frozenset[str], Trial], hints: Sequence[frozenset[str]]
) -> frozenset[str] | None:
    """The first of `hints` that cures; what they came to is added to `known`."""
    for hint in hints:
        if not hint or hint in known:
            continue
        known[hint] = examiner.examine(examiner.subject.plan(hint), phase=CURE_PHASE).trial
        if known[hint].outcome is Outcome.PASS:
            return hint
    return None


def confirm(examiner: Examiner, island: Sequence[str]) -> Examination:
    """Evaluate the unobserved candidate once with `island` in FP32, on all samples.

    Raises:
        BudgetExhaustedError: the limits are reached.
    """
    plan = examiner.subject.plan(frozenset(island))
    return examiner.examine(plan, phase="confirm", key=island_key(island), thorough=True)


def island_key(island: Sequence[str]) -> str:
    """The key under which `confirm` keeps its examination."""
    return f"island {' '.join(sorted(island))}"


def cure_on_engine(
    examiner: Examiner,
    scores: Mapping[str, float],
    hints: Sequence[frozenset[str]],
    known: Known,
    searching: Searching,
    *,
    prove: bool,
    repeats: int = 1,
    phase: str = CURE_PHASE,
    most: int | None = None,
) -> Cure:
    """The island on an engine that does not do as the emulator does.

    Args:
        examiner: of a subject whose candidate is an engine.
        scores: by node, how much it is suspected.
        hints: islands to try first.
        known: what was evaluated already.
        searching: what to run with.
        prove: spend a build a culprit on the proof that it is needed.
        repeats: builds of each configuration that the answer rests on.
        phase: to whom the engines are charged.
        most: how many evaluations to spend at most, besides the limits.
    """
    if examiner.subject.emulated:
        raise UsageError("cure_on_engine requires an engine, the candidate is the emulator")
    problem = island_problem(examiner.subject, scores=scores, hints=hints)
    patience = Patience()
    result = search_islands(
        examiner,
        problem,
        Options(prove=prove, repeats=repeats),
        known,
        searching,
        phase=phase,
        most=most,
        patience=patience,
    )
    cure = _cure_of(result, CANDIDATE)
    (said,) = cure.evidence
    relaxed = patience.relaxed.get(frozenset(cure.island), "")
    text = said.text + less_than_asked(relaxed)
    if patience.given_up:
        text = f"the search on the engine was given up: {patience.reason}"
    return replace(cure, stuck=patience.reason, relaxed=relaxed, evidence=(replace(said, text=text),))


def _suspects(subject: Subject, prognosis: Prognosis, suspicion: Mapping[str, float]) -> tuple[str, ...]:
    """Nodes that are worth lowering alone: the most outlying ones, and those just before the error's start."""
    outlying = sorted(outliers(dict(suspicion)), key=lambda node: -suspicion[node])[:MOST_SUSPECTS]
    near = nearby(subject.model, [layer.node for layer in prognosis.origins], subject.units)
    positions = {unit: place for place, unit in enumerate(subject.units)}
    return tuple(sorted(dict.fromkeys([*outlying, *near]), key=positions.__getitem__))


def _hints(suspicion: Mapping[str, float], alone: Mapping[str, float]) -> list[frozenset[str]]:
    """Sets that may cure, the smallest first: what fails alone, what stands out, both."""
    failing = frozenset(node for node, effect in alone.items() if effect > 1.0)
    outlying = frozenset(outliers(dict(suspicion)))
    return list(dict.fromkeys(hint for hint in (failing, outlying, failing | outlying) if hint))


def _cure_of(result: Result, where: str) -> Cure:
    island = result.culprits if result.answered else ()
    facts: dict[str, Any] = {
        "verdict": result.verdict.value,
        "evaluations": result.evaluations,
        "strategies": [strategy.value for strategy in result.strategies],
        "assumptions": {each.name: each.held for each in result.assumptions},
        "trail": [str(step) for step in result.trail],
    }
    count = plural(result.evaluations, "evaluation")
    if result.answered:
        proof = (
            "each of them was left out once, and it failed" if result.minimal else "not shown to be minimal"
        )
        text = f"with {names(island)} in FP32 the {where} passes ({proof}; {count})"
    elif result.tally is not None:
        again = result.tally
        facts |= {"passes": again.passes, "fails": again.fails}
        text = (
            f"the same configuration passed {again.passes} and failed {again.fails} of {again.trials} times"
        )
    else:
        reason = result.trail[-1].text if result.verdict is Verdict.BUDGET else result.verdict
        text = f"the search on the {where} ended without an answer: {reason}"
    return Cure(
        island=island,
        confirmed_on=where if result.answered else None,
        minimal_on=where if result.minimal else None,
        best=result.best,
        verdict=result.verdict,
        evidence=(Evidence(Stage.CURE, text, facts),),
        result=result,
    )

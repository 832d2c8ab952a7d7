"""The search for bad tactics: from builds that pass and builds that fail to the smallest set of choices that decides.

Requires: builds that record what they chose.
Ensures: `found` only if a good build with nothing but these choices made bad fails, and a bad build with nothing but
these choices made good passes, both with every other choice forced and taken. One bad choice among n layers that
differ takes at most ⌈log2 n⌉ + 3 builds after the samples.

1. The bad and the good build that differ least are compared; a layer is a unit where they chose differently, and
   suspected if no good build chose as the bad one.
2. One build forces the good choice at every suspected layer, and the bad build's choice everywhere else. It must pass,
   and it shows which layers take what is forced.
3. `harness.search` looks for the smallest set that is a cure and a cause at once. Each build forces every choice.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from harness.search import (
    Budget,
    Direction,
    Journal,
    Outcome,
    Problem,
    Result,
    SearchOptions,
    SearchProgress,
    Trial,
    search,
)
from harness.tactics.configurations import Configurations, listed, what
from harness.tactics.record import TacticRecord
from harness.tactics.result import Proof, TacticSearchResult, TacticVerdict
from harness.tactics.samples import Build, Sample
from harness.tactics.units import DifferingLayer, is_suspect, units_of

RESERVE = 1
"""Builds that a search leaves for forcing the bad build's own choices."""

JournalOf = Callable[[Problem], AbstractContextManager[Journal | None]]


@dataclass(frozen=True, kw_only=True)
class TacticSearchOptions:
    """How to search for bad tactics.

    Args:
        builds: the most builds after the samples; None allows three times what one bad choice can take.
        confirm: how often each of the two builds of the proof is repeated, beyond what `builds_for` leaves. An outcome
            that is chance passes one repetition of both in one of four cases.
        journal: keeps the search of a problem, so that it can be resumed; None keeps nothing.
        on_progress: called after each build of the search.
        identity: what besides the choices decides an outcome: model, inputs, environment.
    """

    builds: int | None = None
    confirm: int = 0
    journal: JournalOf | None = None
    on_progress: Callable[[SearchProgress], None] | None = None
    identity: str = ""


def find_bad_tactics(
    build: Build, samples: Sequence[Sample], options: TacticSearchOptions | None = None
) -> TacticSearchResult:
    """Find the choices that make builds fail, by building more.

    Args:
        build: builds the network with what a variation forces, and judges it.
        samples: builds of the same network that were judged, see `collect`.
        options: how to search.
    """
    options = options or TacticSearchOptions()
    good = [each for each in samples if each.outcome is Outcome.PASS and each.record is not None]
    bad = [each for each in samples if each.outcome is Outcome.FAIL and each.record is not None]
    answer = TacticSearchResult(TacticVerdict.ONE_OUTCOME, samples=tuple(samples))
    if not good or not bad:
        return replace(answer, missing=_one_sided(samples, len(good), len(bad)))
    pair = _nearest(good, bad)
    if not pair.units:
        text = "a build that passes and one that fails made the same choices at every layer that was recorded"
        return replace(answer, verdict=TacticVerdict.ALIKE, missing=text)
    records = [each.record for each in good if each.record is not None]
    able = tuple(unit for unit in pair.units if not unit.structural)
    suspects = tuple(unit for unit in able if not unit.is_copy and is_suspect(unit, records))
    answer = replace(answer, differing=len(pair.units), suspected=len(suspects))
    under_way = _Search(build, pair, records, options)
    # Choices that good builds made too, and copies between formats, stay the bad build's. They come in only where the
    # others do not explain the fault.
    found = replace(answer, verdict=TacticVerdict.UNRESOLVED)
    for number, units in enumerate(dict.fromkeys(units for units in (suspects, able) if units)):
        latest = under_way.run(units, answer)
        # What the first round could not bring about, the second explains, or nothing does.
        if number == 0 or latest.verdict is TacticVerdict.FOUND:
            found = latest
        else:  # at the cost of both rounds
            found = replace(found, builds=latest.builds, trail=latest.trail, not_taken=latest.not_taken)
        if found.verdict is not TacticVerdict.NOT_REPRODUCIBLE:
            break
    return _with_structure(found, pair)


def _with_structure(found: TacticSearchResult, pair: _Pair) -> TacticSearchResult:
    """An answer that was not found, with the layers that only one of the two builds has."""
    names = [unit.layer for unit in pair.units if unit.structural and not unit.is_copy]
    if found.verdict is TacticVerdict.FOUND or not names:
        return found
    text = f"only one of the two builds has these layers, and no order can make them: {listed(names)}"
    return replace(found, missing=f"{found.missing}; {text}" if found.missing else text)


def builds_for(differing: int) -> int:
    """The most builds that one bad choice among so many layers can take after the samples."""
    return math.ceil(math.log2(max(differing, 1))) + 3


@dataclass(frozen=True)
class _Pair:
    good: Sample
    bad: Sample
    units: tuple[DifferingLayer, ...]

    @property
    def base(self) -> TacticRecord:
        assert self.bad.record is not None
        return self.bad.record


def _nearest(good: Sequence[Sample], bad: Sequence[Sample]) -> _Pair:
    """The two builds with the fewest layers that only one of them has, then the fewest that chose differently."""
    pairs = []
    for first in good:
        for second in bad:
            assert first.record is not None
            assert second.record is not None
            pairs.append(_Pair(first, second, units_of(first.record, second.record)))
    return min(pairs, key=lambda pair: (sum(unit.structural for unit in pair.units), len(pair.units)))


def _one_sided(samples: Sequence[Sample], good: int, bad: int) -> str:
    unrecorded = sum(each.record is None for each in samples)
    said = f"of {len(samples)} builds {good} passed and {bad} failed"
    return f"{said}; {unrecorded} recorded no choices" if unrecorded else said


class _Search:
    """A search under way: one round of builds after the other."""

    def __init__(
        self, build: Build, pair: _Pair, good: Sequence[TacticRecord], options: TacticSearchOptions
    ) -> None:
        self.pair, self.good, self.options = pair, good, options
        usual = 3 * builds_for(len(pair.units)) + 2 * options.confirm
        self.limit = usual if options.builds is None else options.builds
        self._build, self._earlier = build, list[str]()
        self.configurations = self._round(())

    def _round(self, units: tuple[DifferingLayer, ...], built: int = 0) -> Configurations:
        return Configurations(self._build, self.pair.base, self.limit - RESERVE, built, units, self.good)

    def run(self, units: tuple[DifferingLayer, ...], answer: TacticSearchResult) -> TacticSearchResult:
        """Search among `units`."""
        self._earlier += self.configurations.trail
        not_taken = self.configurations.not_taken
        self.configurations = self._round(units, self.configurations.builds)
        self.configurations.not_taken.update(not_taken)
        cured = self.configurations.everything_good()
        answer = self._with_cost(answer)
        if cured is None or cured.outcome is not Outcome.PASS:
            return self._not_cured(answer, cured)
        if not self.configurations.units:
            return self._not_reproducible(answer, "none of the layers that differ takes what is forced")
        return self._conclude(answer, self._search(cured))

    def _search(self, cured: Sample) -> Result:
        tried = self.configurations
        problem = Problem(units=tuple(unit.layer for unit in tried.units), identity=self._identity())
        tried.seen[problem.everything] = cured
        known = {frozenset[str](): self.pair.bad.evaluation, problem.everything: cured.evaluation}
        with nullcontext() if self.options.journal is None else self.options.journal(problem) as journal:
            return search(
                problem,
                tried.oracle,
                options=SearchOptions(direction=Direction.BOTH),
                budget=Budget(evaluations=max(tried.limit - tried.builds, 0)),
                journal=journal,
                known=known,
                on_progress=self.options.on_progress,
            )

    def _identity(self) -> str:
        """Hash over what decides an outcome: what is forced where nothing is searched, and both sides of each unit."""
        good = (choice for unit in self.configurations.units for choice in unit.good)
        choices = [*self.configurations.forced(frozenset()), *good]
        parts = [self.options.identity, [[repr(choice.place), repr(choice.variant)] for choice in choices]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _conclude(self, answer: TacticSearchResult, result: Result) -> TacticSearchResult:
        tried = self.configurations
        tried.limit = self.limit
        tried.trail += [f"   {step.text}" for step in result.log if step.outcome is None]
        everything = tried.everything
        kept = frozenset(result.culprits)
        if not result.answered or kept == everything:
            # The bad end rests on a build that nobody forced: force it, before anything is said about it.
            replayed = tried.oracle(frozenset())
            answer = self._with_cost(answer)
            if replayed.outcome is Outcome.PASS:
                text = "the bad build's choices, forced, pass: it failed for another reason, or by chance"
                return self._not_reproducible(answer, text)
            if not result.answered or replayed.outcome is Outcome.UNRESOLVED:
                return self._unanswered(answer, result, replayed)
        cure, cause = tried.seen.get(kept), tried.seen.get(everything - kept)
        confirmations, refuted = self._confirm(kept, everything - kept)
        answer = replace(self._with_cost(answer), confirmations=confirmations)
        if refuted is not None:
            text = f"the outcome does not repeat itself: {refuted}"
            return replace(answer, verdict=TacticVerdict.NOT_REPRODUCIBLE, missing=text)
        culprits = tuple(unit for unit in tried.units if unit.layer in kept)
        if confirmations < self.options.confirm:
            text = f"{listed(unit.layer for unit in culprits)} decide, but this could not be confirmed"
            if tried.not_taken:
                return self._not_reproducible(answer, text)
            return replace(answer, verdict=TacticVerdict.UNRESOLVED, missing=text)
        return replace(
            answer,
            verdict=TacticVerdict.FOUND,
            culprits=culprits,
            minimal=result.minimal or len(kept) == 1,
            proof=(
                _proof("the good choices everywhere but at the culprits", cause, Outcome.FAIL),
                _proof("the bad build's choices everywhere but at the culprits", cure, Outcome.PASS),
            ),
            cured=None if cure is None else cure.record,
        )

    def _confirm(self, cure: frozenset[str], cause: frozenset[str]) -> tuple[int, str | None]:
        """Build both builds of the proof again, with what is left: how often they agreed, and what did not."""
        spare = max(builds_for(len(self.pair.units)) - self.configurations.builds, 0) // 2
        for done in range(spare + self.options.confirm):
            for treated, expected in ((cause, Outcome.FAIL), (cure, Outcome.PASS)):
                outcome = self.configurations.oracle(treated).outcome
                if outcome is Outcome.UNRESOLVED:
                    return done, None
                if outcome is not expected:
                    return done, f"{what(treated, self.configurations.units)}: {expected}, then {outcome}"
        return spare + self.options.confirm, None

    def _unanswered(self, answer: TacticSearchResult, result: Result, replayed: Trial) -> TacticSearchResult:
        reason = replayed.note if result.answered else _reason(result, replayed)
        if self.configurations.not_taken:
            return self._not_reproducible(answer, reason)
        return replace(answer, verdict=TacticVerdict.UNRESOLVED, missing=reason)

    def _not_reproducible(self, answer: TacticSearchResult, text: str) -> TacticSearchResult:
        refused = self.configurations.not_taken
        if refused:
            text = f"{text}; TensorRT did not take what was forced at {listed(refused)}"
        return replace(answer, verdict=TacticVerdict.NOT_REPRODUCIBLE, missing=text)

    def _not_cured(self, answer: TacticSearchResult, cured: Sample | None) -> TacticSearchResult:
        if cured is None:
            return self._not_reproducible(answer, "the fault may lie where nothing can be forced")
        if cured.outcome is Outcome.UNRESOLVED:
            text = f"with the good choices forced the network cannot be built: {cured.note}"
            return replace(answer, verdict=TacticVerdict.UNRESOLVED, missing=text)
        text = "the good choices, forced, fail: the outcome does not follow the recorded choices"
        return self._not_reproducible(answer, text)

    def _with_cost(self, answer: TacticSearchResult) -> TacticSearchResult:
        tried = self.configurations
        return replace(
            answer,
            builds=tried.builds,
            not_taken=tuple(tried.not_taken),
            trail=(*self._earlier, *tried.trail),
        )


def _proof(forced: str, sample: Sample | None, expected: Outcome) -> Proof:
    # A resumed search has its evaluations from the journal, and no samples of them.
    return Proof(forced, expected) if sample is None else Proof(forced, sample.outcome, sample.badness)


def _reason(result: Result, replayed: Trial) -> str:
    last = next((step.text for step in reversed(result.log)), "")
    said = f"the search ended with {result.verdict!s}: {last}"
    return f"{said}; {replayed.note}" if replayed.note else said

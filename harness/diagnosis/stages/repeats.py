"""Whether the engine repeats itself: the same engine run again, and engines built again without a timing cache.

A timing cache holds the choice of tactics; without it the builder times them anew, and chooses anew. So builds
that differ in their outcome follow their tactics, or nothing that can be seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from harness.diagnosis.context import BASELINE, Context, JudgedEvaluation, Seen
from harness.diagnosis.results import DiagnosisVerdict, Evidence, EvidenceKind
from harness.errors import BudgetExhaustedError
from harness.search import Outcome

PHASE = "repeat"
FIRST = 1
"""Builds that are spent on finding a difference."""

MORE = 3
"""Builds that are spent on counting, once there is one."""


def repeat_engine(seen: Seen, context: Context) -> Seen:
    """Run the unobserved engine, which fails, again, then build it again.

    Raises:
        BudgetExhaustedError: the budget does not allow even one build.
    """
    evaluator, plan = context.evaluator, context.subject.plan()
    evaluations = [seen.baseline]
    if BASELINE in evaluator.at_hand:
        again = evaluator.evaluate(plan, phase=PHASE)
        if again.passed and not again.builds:
            text = "the same engine, run twice, failed first and passed then"
            shown = Evidence.of(EvidenceKind.REPETITION, text, passes=1, fails=1)
            return replace(seen, unstable=DiagnosisVerdict.NONDETERMINISTIC, rebuilt=False).adding(shown)
        if again.builds:
            evaluations.append(again)
    for number in range(FIRST + MORE):
        if number >= FIRST and len({each.outcome for each in evaluations}) == 1:
            break
        try:
            evaluations.append(evaluator.rebuild(plan, phase=PHASE, key=f"rebuild {number}"))
        except BudgetExhaustedError:
            if number == 0:
                raise
            break
    verdict, shown = judge_builds([each for each in evaluations if each.outcome is not Outcome.UNRESOLVED])
    return replace(seen, unstable=verdict, rebuilt=True).adding(shown)


def judge_builds(builds: Sequence[JudgedEvaluation]) -> tuple[DiagnosisVerdict | None, Evidence]:
    """What builds of one network show together: `tactic`, `nondeterministic`, or None if all of them fail."""
    outcomes = [each.outcome for each in builds]
    passes, fails = outcomes.count(Outcome.PASS), outcomes.count(Outcome.FAIL)
    counts = {"passes": passes, "fails": fails}
    if not passes:
        text = f"built {len(outcomes)} times, it fails {fails} times"
        return None, Evidence.of(EvidenceKind.REPETITION, text, **counts)
    by_tactics: dict[tuple[tuple[str, str], ...], set[Outcome]] = defaultdict(set)
    for each in builds:
        by_tactics[each.tactics].add(each.outcome)
    known = all(each.tactics for each in builds)
    if known and len(by_tactics) > 1 and all(len(found) == 1 for found in by_tactics.values()):
        text = (
            f"{passes} of {len(outcomes)} builds pass, and the outcome follows the tactics that were chosen"
        )
        shown = Evidence.of(EvidenceKind.REPETITION, text, **counts, differing=_differing(builds))
        return DiagnosisVerdict.TACTIC, shown
    reason = "with the same tactics" if known else "their tactics are not known"
    text = f"{passes} of {len(outcomes)} builds of the same network pass, {reason}"
    return DiagnosisVerdict.NONDETERMINISTIC, Evidence.of(EvidenceKind.REPETITION, text, **counts)


def _differing(builds: Sequence[JudgedEvaluation]) -> dict[str, list[str]]:
    """The layers whose tactic is one in all passing builds and another in all failing ones."""
    passing = [dict(each.tactics) for each in builds if each.passed]
    failing = [dict(each.tactics) for each in builds if not each.passed]
    found = {}
    for layer in sorted(set().union(*passing, *failing)):
        good = {tactics.get(layer, "absent") for tactics in passing}
        bad = {tactics.get(layer, "absent") for tactics in failing}
        if not good & bad:
            found[layer] = [f"passes with {', '.join(sorted(good))}", f"fails with {', '.join(sorted(bad))}"]
    return found

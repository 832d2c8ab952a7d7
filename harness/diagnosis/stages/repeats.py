"""Whether the engine repeats itself: the same engine run again, and engines built again without a timing cache.

A timing cache holds the choice of tactics; without it the builder times them anew, and chooses anew. So builds
that differ in their outcome follow their tactics, or nothing that can be seen.
"""

from __future__ import annotations

from collections import defaultdict

from harness.diagnosis.context import BASELINE, Evaluator, JudgedEvaluation, Repetition
from harness.diagnosis.results import DiagnosisVerdict, Evidence, EvidenceKind, Fact, Stage
from harness.errors import BudgetExhaustedError
from harness.search import Outcome

PHASE = "repeat"
FIRST = 1
"""Builds that are spent on finding a difference."""

MORE = 3
"""Builds that are spent on counting, once there is one."""


def repeat(evaluator: Evaluator, baseline: JudgedEvaluation) -> Repetition:
    """Run the unobserved engine again, then build it again.

    Args:
        evaluator: of a subject whose candidate is an engine.
        baseline: what it came to first: a failure.

    Raises:
        BudgetExhaustedError: the budget does not allow even one build.
    """
    evaluations = [baseline]
    if BASELINE in evaluator.at_hand:
        again = evaluator.evaluate(evaluator.subject.plan(), phase=PHASE)
        if again.outcome is Outcome.PASS and not again.builds:
            text = "the same engine, run twice, failed first and passed then"
            evidence = Evidence(Stage.ATTRIBUTE, EvidenceKind.REPETITION, text, {"passes": 1, "fails": 1})
            return Repetition(DiagnosisVerdict.NONDETERMINISTIC, 1, 1, (evidence,), rebuilt=False)
        if again.builds:
            evaluations.append(again)
    for number in range(FIRST + MORE):
        if number >= FIRST and len({each.outcome for each in evaluations}) == 1:
            break
        try:
            evaluations.append(
                evaluator.rebuild(evaluator.subject.plan(), phase=PHASE, key=f"rebuild {number}")
            )
        except BudgetExhaustedError:
            if number == 0:
                raise
            break
    return _judge([each for each in evaluations if each.outcome is not Outcome.UNRESOLVED])


def _judge(evaluations: list[JudgedEvaluation]) -> Repetition:
    outcomes = [each.outcome for each in evaluations]
    passes, fails = outcomes.count(Outcome.PASS), outcomes.count(Outcome.FAIL)
    facts: dict[str, Fact] = {"passes": passes, "fails": fails}
    if not passes:
        text = f"built {len(outcomes)} times, it fails {fails} times"
        return Repetition(
            None, passes, fails, (Evidence(Stage.ATTRIBUTE, EvidenceKind.REPETITION, text, facts),)
        )
    by_tactics: dict[tuple[tuple[str, str], ...], set[Outcome]] = defaultdict(set)
    for each in evaluations:
        by_tactics[each.tactics].add(each.outcome)
    known = all(each.tactics for each in evaluations)
    follows = known and len(by_tactics) > 1 and all(len(found) == 1 for found in by_tactics.values())
    if follows:
        text = (
            f"{passes} of {len(outcomes)} builds pass, and the outcome follows the tactics that were chosen"
        )
        facts |= {"differing": _differing(evaluations)}
        verdict = DiagnosisVerdict.TACTIC
    else:
        reason = "with the same tactics" if known else "their tactics are not known"
        text = f"{passes} of {len(outcomes)} builds of the same network pass, {reason}"
        verdict = DiagnosisVerdict.NONDETERMINISTIC
    return Repetition(
        verdict, passes, fails, (Evidence(Stage.ATTRIBUTE, EvidenceKind.REPETITION, text, facts),)
    )


def _differing(evaluations: list[JudgedEvaluation]) -> dict[str, list[str]]:
    """The layers whose tactic is one in all passing builds and another in all failing ones."""
    passing = [dict(each.tactics) for each in evaluations if each.passed]
    failing = [dict(each.tactics) for each in evaluations if not each.passed]
    found = {}
    for layer in sorted(set().union(*passing, *failing)):
        good = {tactics.get(layer, "absent") for tactics in passing}
        bad = {tactics.get(layer, "absent") for tactics in failing}
        if not good & bad:
            found[layer] = [f"passes with {', '.join(sorted(good))}", f"fails with {', '.join(sorted(bad))}"]
    return found

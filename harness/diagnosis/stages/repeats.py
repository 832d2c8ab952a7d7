"""Whether the engine repeats itself: the same engine run again, and engines built again without a timing cache.

A timing cache holds the choice of tactics; without it the builder times them anew, and chooses anew. So builds
that differ in their outcome follow their tactics, or nothing that can be seen.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from harness.diagnosis.context import Examination, Examiner
from harness.diagnosis.results import Evidence, Stage, Verdict
from harness.diagnosis.stages.gates import BASELINE
from harness.errors import BudgetExhaustedError
from harness.search import Outcome

PHASE = "repeat"
FIRST = 1
"""Builds that are spent on finding a difference."""

MORE = 3
"""Builds that are spent on counting, once there is one."""


@dataclass(frozen=True)
class Repeats:
    """What came of repeating the unobserved engine.

    Args:
        verdict: `nondeterministic` or `tactic`; None if every repetition failed like the first.
        passes: how many builds passed.
        fails: how many builds failed.
        evidence: what was shown.
        rebuilt: whether engines were built again; False where one engine differs from run to run.
    """

    verdict: Verdict | None
    passes: int
    fails: int
    evidence: tuple[Evidence, ...]
    rebuilt: bool = True


def repeat(examiner: Examiner, baseline: Examination) -> Repeats:
    """Run the unobserved engine again, then build it again.

    Args:
        examiner: of a subject whose candidate is an engine.
        baseline: what it came to first: a failure.

    Raises:
        BudgetExhaustedError: the limits do not allow even one build.
    """
    examinations = [baseline]
    if BASELINE in examiner.at_hand:
        again = examiner.examine(examiner.subject.plan(), phase=PHASE)
        if again.outcome is Outcome.PASS and not again.builds:
            text = "the same engine, run twice, failed first and passed then"
            evidence = Evidence(Stage.ATTRIBUTE, text, {"passes": 1, "fails": 1})
            return Repeats(Verdict.NONDETERMINISTIC, 1, 1, (evidence,), rebuilt=False)
        if again.builds:
            examinations.append(again)
    for number in range(FIRST + MORE):
        if number >= FIRST and len({each.outcome for each in examinations}) == 1:
            break
        try:
            examinations.append(
                examiner.rebuild(examiner.subject.plan(), phase=PHASE, key=f"rebuild {number}")
            )
        except BudgetExhaustedError:
            if number == 0:
                raise
            break
    return _judge([each for each in examinations if each.outcome is not Outcome.UNRESOLVED])


def _judge(examinations: list[Examination]) -> Repeats:
    outcomes = [each.outcome for each in examinations]
    passes, fails = outcomes.count(Outcome.PASS), outcomes.count(Outcome.FAIL)
    facts: dict[str, Any] = {"passes": passes, "fails": fails}
    if not passes:
        text = f"built {len(outcomes)} times, it fails {fails} times"
        return Repeats(None, passes, fails, (Evidence(Stage.ATTRIBUTE, text, facts),))
    by_tactics: dict[tuple[tuple[str, str], ...], set[Outcome]] = defaultdict(set)
    for each in examinations:
        by_tactics[each.tactics].add(each.outcome)
    told = all(each.tactics for each in examinations)
    follows = told and len(by_tactics) > 1 and all(len(found) == 1 for found in by_tactics.values())
    if follows:
        text = (
            f"{passes} of {len(outcomes)} builds pass, and the outcome follows the tactics that were chosen"
        )
        facts |= {"differing": _differing(examinations)}
        verdict = Verdict.TACTIC
    else:
        reason = "with the same tactics" if told else "their tactics are not known"
        text = f"{passes} of {len(outcomes)} builds of the same network pass, {reason}"
        verdict = Verdict.NONDETERMINISTIC
    return Repeats(verdict, passes, fails, (Evidence(Stage.ATTRIBUTE, text, facts),))


def _differing(examinations: list[Examination]) -> dict[str, list[str]]:
    """The layers whose tactic is one in all passing builds and another in all failing ones."""
    passing = [dict(each.tactics) for each in examinations if each.passed]
    failing = [dict(each.tactics) for each in examinations if not each.passed]
    found = {}
    for layer in sorted(set().union(*passing, *failing)):
        good = {tactics.get(layer, "absent") for tactics in passing}
        bad = {tactics.get(layer, "absent") for tactics in failing}
        if not good & bad:
            found[layer] = [f"passes with {', '.join(sorted(good))}", f"fails with {', '.join(sorted(bad))}"]
    return found

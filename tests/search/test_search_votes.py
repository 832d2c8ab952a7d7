"""Oracles that do not repeat themselves: votes, their confidence, and the verdict `flaky` with its counts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from search_oracles import Units, conjunction, names

from harness.search import (
    Budget,
    Direction,
    Options,
    Outcome,
    Problem,
    Result,
    Trial,
    Verdict,
    Votes,
    search,
)
from harness.search.inquiry import Inquiry
from harness.search.oracle import Session
from harness.search.trail import Trail
from harness.search.votes import Decision, Dissent, decide, error_of_one

P, F, U = Outcome.PASS, Outcome.FAIL, Outcome.UNRESOLVED
VOTES = Votes(confidence=0.99, low=0.1, high=0.9)


def flipping(truth: Callable[[Units], Trial], flips: float, seed: int) -> Callable[[Units], Trial]:
    chance = random.Random(seed)

    def oracle(treated: Units) -> Trial:
        outcome = truth(treated).outcome
        return Trial(outcome.flipped if chance.random() < flips else outcome)

    return oracle


def decided(votes: Votes, error: float, outcomes: list[Outcome]) -> Decision:
    return decide(votes, error, lambda number: Trial(outcomes[number]))


def test_the_test_stops_at_the_trial_that_walds_bounds_name():
    # each fail multiplies the odds by 0.9 / 0.1 = 9; an error of 1/1000 needs odds of 999, so four of them
    decision = decided(VOTES, 1e-3, [F] * 9)
    assert (decision.outcome, decision.fails) == (F, 4)
    assert decision.error == pytest.approx(1 / (1 + 9**4))
    # a pass in between takes one fail back
    assert decided(VOTES, 1e-3, [F, P, F, F, F, F, P]).fails == 5
    assert decided(VOTES, 1e-3, [P] * 9).outcome is P


def test_an_intermittent_fault_is_told_from_a_rare_one_by_unequal_rates():
    votes = Votes(low=0.02, high=0.4, most=200)
    assert decided(votes, 1e-3, [P, P, F, P, F, F, P] * 30).outcome is F
    assert decided(votes, 1e-3, [P] * 200).outcome is P


def test_votes_that_contradict_each_other_decide_nothing():
    decision = decided(VOTES, 1e-3, [P, F] * 30)
    assert (decision.outcome, decision.passes, decision.fails) == (U, 30, 30)
    assert decision.undecided


def test_unresolved_trials_do_not_vote_and_three_of_them_end_it():
    assert decided(VOTES, 1e-3, [U, F, U, F, F, U, F]).outcome is F
    decision = decided(VOTES, 1e-3, [U, U, U, F, F, F, F])
    assert (decision.outcome, decision.unresolved, decision.undecided) == (U, 3, False)


def test_the_error_of_a_decision_is_what_was_asked_for():
    chance = random.Random(1)
    error = 0.02
    wrong = sum(
        decide(VOTES, error, lambda _: Trial(F if chance.random() < 0.1 else P)).outcome is not P
        for _ in range(3000)
    )
    assert wrong / 3000 <= error


def test_errors_of_single_decisions_add_up_to_the_wanted_confidence():
    assert error_of_one(VOTES, 500) * 44 == pytest.approx(0.01)


def test_with_ten_percent_flips_votes_answer_right_where_a_plain_bisection_does_not():
    units = names(500)
    right = plain = 0
    confidences = []
    for seed in range(40):
        culprit = units[random.Random(seed).randrange(500)]
        oracle = flipping(conjunction([culprit]), 0.1, seed)
        result = search(Problem(units), oracle, options=Options(votes=VOTES))
        right += result.culprits == (culprit,)
        confidences.append(result.confidence)
        oracle = flipping(conjunction([culprit]), 0.1, seed)
        plain += search(Problem(units), oracle).culprits == (culprit,)
    assert right == 40
    assert all(confidence is not None and confidence >= 0.99 for confidence in confidences)
    assert plain <= 20


def flaky(result: Result, treated: tuple[str, ...]) -> tuple[int, int]:
    assert result.verdict is Verdict.FLAKY
    assert result.culprits == ()
    assert result.tally is not None
    assert result.tally.treated == treated
    assert result.tally.trials == result.tally.passes + result.tally.fails
    return result.tally.passes, result.tally.fails


@pytest.mark.parametrize(("outcomes", "counts"), [([F, P, F], (1, 2)), ([P, P, F], (2, 1))])
def test_a_baseline_that_does_not_repeat_is_flaky_with_its_counts(outcomes, counts):
    left = iter(outcomes)
    result = search(Problem(names(4)), lambda treated: Trial(next(left)), options=Options(repeats=3))
    assert flaky(result, ()) == counts
    assumption = result.assumption("repeatable")
    assert assumption is not None
    assert assumption.held is False


def test_an_answer_that_does_not_repeat_is_flaky_and_names_no_culprit():
    asked: list[Units] = []

    def oracle(treated: Units) -> Trial:
        asked.append(treated)
        if "n2" not in treated:
            return Trial(F)
        return Trial(F if asked.count(treated) > 1 and len(treated) == 1 else P)

    result = search(Problem(names(4)), oracle, options=Options(repeats=2))
    assert flaky(result, ("n2",)) == (1, 1)


def test_a_whole_that_fails_once_is_flaky_not_lost():
    outcomes = iter([F, F, F, F, P, P])
    result = search(Problem(names(2)), lambda treated: Trial(next(outcomes)), options=Options(repeats=2))
    assert flaky(result, ("n0", "n1")) == (1, 1)


def test_a_contradiction_is_evaluated_again_before_anything_is_built_on_it():
    """The prefix of two failed once and passes from then on; nobody asked for repetitions."""
    asked: list[Units] = []

    def oracle(treated: Units) -> Trial:
        asked.append(treated)
        first_time = asked.count(treated) == 1
        return Trial(P if "n1" in treated and not (treated == {"n0", "n1"} and first_time) else F)

    result = search(Problem(names(4)), oracle)
    assert flaky(result, ("n0", "n1")) == (1, 1)


def test_a_contradiction_that_repeats_itself_is_reported_and_not_called_flaky():
    truth = {frozenset({"n1"}): P, frozenset({"n0", "n1"}): F}
    result = search(Problem(names(4)), lambda treated: Trial(truth.get(treated, P if "n1" in treated else F)))
    assert result.verdict is Verdict.FOUND
    monotone = result.assumption("monotone")
    assert monotone is not None
    assert monotone.held is False


def test_more_noise_than_the_votes_allow_is_flaky_instead_of_a_made_up_culprit():
    verdicts = []
    for seed in range(20):
        oracle = flipping(conjunction(["n7"]), 0.35, seed)
        result = search(Problem(names(100)), oracle, options=Options(votes=VOTES))
        verdicts.append(result.verdict)
        assert result.evaluations < 500
    assert verdicts.count(Verdict.FLAKY) >= 18


def test_a_coin_is_flaky_by_votes():
    chance = random.Random(3)
    options = Options(votes=Votes(confidence=0.999999, most=20))
    result = search(Problem(names(4)), lambda treated: Trial(chance.choice([P, F])), options=options)
    passes, fails = flaky(result, ())
    assert passes + fails <= 30


def test_dissent_within_what_is_allowed_is_no_alarm():
    dissent = Dissent()
    for _ in range(100):
        dissent.add(VOTES, Decision(F, 1e-3, passes=1, fails=9, unresolved=0))
    assert not dissent.excessive
    assert dissent.share == pytest.approx(0.1)
    for _ in range(20):
        dissent.add(VOTES, Decision(U, 0.0, passes=5, fails=5, unresolved=0))
    assert dissent.excessive


def test_passes_of_what_fails_now_and_then_are_no_dissent():
    rare = Votes(low=0.01, high=0.6)
    dissent = Dissent()
    for _ in range(10):
        dissent.add(rare, Decision(F, 1e-3, passes=4, fails=6, unresolved=0))
    assert not dissent.excessive
    for _ in range(10):
        dissent.add(rare, Decision(P, 1e-3, passes=6, fails=4, unresolved=0))
    assert dissent.excessive


def test_the_badness_of_one_trial_says_nothing_where_votes_decide():
    for votes, badness in ((None, 7.0), (VOTES, None)):
        problem = Problem(names(2))
        session = Session(problem, lambda treated: Trial(F, badness=7.0), budget=Budget(), votes=votes)
        inquiry = Inquiry(session, Trail(None), Direction.CURE)
        session.judge(frozenset())
        assert inquiry.badness([]) == badness


def test_a_stated_confidence_below_the_wanted_one_is_reported_as_it_is():
    units = names(200)
    votes = Votes(confidence=0.9)
    oracle = flipping(conjunction(units[::10]), 0.02, 5)
    result = search(Problem(units), oracle, options=Options(votes=votes))
    assert set(result.culprits) == set(units[::10])
    assert result.confidence is not None
    assert 0 < result.confidence < 1
    assert math.isfinite(result.confidence)

"""Oracles that do not repeat themselves, or are not monotone: what is evaluated again, and the verdict `flaky`."""

from __future__ import annotations

import pytest
from search_oracles import Units, held, names

from harness.search import Evaluation, Options, Outcome, Problem, Result, SearchVerdict, search

P, F = Outcome.PASS, Outcome.FAIL


def flaky(result: Result, treated: tuple[str, ...]) -> tuple[int, int]:
    assert result.verdict is SearchVerdict.FLAKY
    assert result.culprits == ()
    assert result.tally is not None
    assert result.tally.treated == treated
    assert result.tally.evaluations == result.tally.passes + result.tally.fails
    return result.tally.passes, result.tally.fails


@pytest.mark.parametrize(("outcomes", "counts"), [([F, P, F], (1, 2)), ([P, P, F], (2, 1))])
def test_a_baseline_that_does_not_repeat_is_flaky_with_its_counts(outcomes, counts):
    left = iter(outcomes)
    result = search(Problem(names(4)), lambda treated: Evaluation(next(left)), options=Options(repeats=3))
    assert flaky(result, ()) == counts
    assert held(result)["repeatable"] is False


def test_an_answer_that_does_not_repeat_is_flaky_and_names_no_culprit():
    asked: list[Units] = []

    def oracle(treated: Units) -> Evaluation:
        asked.append(treated)
        if "n2" not in treated:
            return Evaluation(F)
        return Evaluation(F if asked.count(treated) > 1 and len(treated) == 1 else P)

    result = search(Problem(names(4)), oracle, options=Options(repeats=2))
    assert flaky(result, ("n2",)) == (1, 1)


def test_a_whole_that_fails_once_is_flaky_not_lost():
    outcomes = iter([F, F, F, F, P, P])
    result = search(Problem(names(2)), lambda treated: Evaluation(next(outcomes)), options=Options(repeats=2))
    assert flaky(result, ("n0", "n1")) == (1, 1)


def test_a_contradiction_is_evaluated_again_before_anything_is_built_on_it():
    """The prefix of two failed once and passes from then on; no repetitions are configured."""
    asked: list[Units] = []

    def oracle(treated: Units) -> Evaluation:
        asked.append(treated)
        first_time = asked.count(treated) == 1
        return Evaluation(P if "n1" in treated and not (treated == {"n0", "n1"} and first_time) else F)

    result = search(Problem(names(4)), oracle)
    assert flaky(result, ("n0", "n1")) == (1, 1)


def test_a_contradiction_that_repeats_itself_is_reported_and_not_called_flaky():
    truth = {frozenset({"n1"}): P, frozenset({"n0", "n1"}): F}
    result = search(
        Problem(names(4)), lambda treated: Evaluation(truth.get(treated, P if "n1" in treated else F))
    )
    assert result.verdict is SearchVerdict.FOUND
    assert held(result)["monotone"] is False

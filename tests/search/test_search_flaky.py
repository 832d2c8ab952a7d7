"""Oracles that do not repeat themselves, are not monotone, or can judge too little: what becomes of their searches."""

from __future__ import annotations

import pytest
from search_oracles import Units, held, names

from harness.search import Budget, Outcome, Problem, Result, SearchOptions, SearchVerdict, Trial, search
from harness.search.session import FEWEST, GivenUp, Session

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
    result = search(Problem(names(4)), lambda treated: Trial(next(left)), options=SearchOptions(repeats=3))
    assert flaky(result, ()) == counts
    assert held(result)["repeatable"] is False


def test_an_answer_that_does_not_repeat_is_flaky_and_names_no_culprit():
    asked: list[Units] = []

    def oracle(treated: Units) -> Trial:
        asked.append(treated)
        if "n2" not in treated:
            return Trial(F)
        return Trial(F if asked.count(treated) > 1 and len(treated) == 1 else P)

    result = search(Problem(names(4)), oracle, options=SearchOptions(repeats=2))
    assert flaky(result, ("n2",)) == (1, 1)


def test_a_whole_that_fails_once_is_flaky_not_lost():
    outcomes = iter([F, F, F, F, P, P])
    result = search(
        Problem(names(2)), lambda treated: Trial(next(outcomes)), options=SearchOptions(repeats=2)
    )
    assert flaky(result, ("n0", "n1")) == (1, 1)


def test_a_contradiction_is_evaluated_again_before_anything_is_built_on_it():
    """The prefix of two failed once and passes from then on; no repetitions are configured."""
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
    assert result.verdict is SearchVerdict.FOUND
    assert held(result)["monotone"] is False


def ask(outcomes: str) -> Session:
    """A session that allows half of its evaluations to be unresolved, after these and one more."""
    words = {"p": P, "f": F, "u": Outcome.UNRESOLVED}
    left = iter([*outcomes, "f"])
    problem, budget = Problem(names(20)), Budget(unresolved=0.5)
    session = Session(problem, lambda treated: Trial(words[next(left)], note="no engine"), budget=budget)
    for unit in problem.units[: len(outcomes) + 1]:
        session.evaluation(frozenset([unit]))
    return session


def test_a_search_goes_on_while_half_of_it_can_be_judged():
    assert ask("uuuuuuffffff").unresolved == 6
    assert ask("u" * (FEWEST - 1)).last_note == "no engine"
    for outcomes in ("uuuuuuufffff", "uuuuuuffffffu"):
        with pytest.raises(GivenUp, match=r"7 of 1[23] evaluations could not be judged"):
            ask(outcomes)


def test_a_search_that_is_given_up_says_how_little_it_could_judge_and_the_best_it_has_seen():
    units = names(40)

    def oracle(treated: Units) -> Trial:
        if not treated or treated == frozenset(units):
            return Trial(P if treated else F)
        return Trial(Outcome.UNRESOLVED, note=f"{len(treated)} units: no engine")

    result = search(Problem(units), oracle, budget=Budget(unresolved=0.5))
    assert (result.verdict, result.given_up, result.evaluations) == (SearchVerdict.UNRESOLVED, True, FEWEST)
    assert (result.unresolved, result.best) == (FEWEST - 2, units)
    assert result.last_note.endswith("no engine")
    assert not search(Problem(units), oracle, budget=Budget(evaluations=30)).given_up

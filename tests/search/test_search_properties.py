"""The search against brute force, on every kind of oracle over few units."""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import event, given, settings
from hypothesis import strategies as st
from search_oracles import Counting, Units, conjunction, held, names, subsets, table

from harness.search import (
    Budget,
    Direction,
    Group,
    Journal,
    Outcome,
    Problem,
    Result,
    SearchOptions,
    SearchVerdict,
    search,
)
from harness.search.hierarchy import reduce_by_structure
from harness.search.predicate import Log, Predicate
from harness.search.session import Session
from harness.search.splitting import ddmin

P, F, U = Outcome.PASS, Outcome.FAIL, Outcome.UNRESOLVED
quick = settings(max_examples=150)


@st.composite
def problems(draw: st.DrawFn, most: int = 6) -> Problem:
    units = names(draw(st.integers(1, most)))
    scores = draw(
        st.none() | st.dictionaries(st.sampled_from(units), st.sampled_from([0.0, 1.0, 2.0, 100.0]))
    )
    groups: tuple[Group, ...] = ()
    if draw(st.booleans()):
        size = draw(st.integers(1, 2))
        cut = [units[start : start + size] for start in range(0, len(units), size)]
        groups = tuple(Group(f"g{n}", members, kind="block") for n, members in enumerate(cut))
        if draw(st.booleans()):
            groups = (Group("all", units[: size * len(groups)], groups),)
    hints = tuple(draw(st.lists(st.frozensets(st.sampled_from(units), min_size=1), max_size=2)))
    return Problem(units, groups=groups, scores=scores, hints=hints)


@st.composite
def options(draw: st.DrawFn, directions: st.SearchStrategy[Direction]) -> SearchOptions:
    return SearchOptions(direction=draw(directions), prove=draw(st.booleans()))


@st.composite
def arbitrary(draw: st.DrawFn) -> tuple[Problem, SearchOptions, dict[Units, Outcome]]:
    """Any oracle at all: a monotone one of which a part is replaced by other outcomes, up to nothing but noise."""
    problem = draw(problems(most=5))
    chance = random.Random(draw(st.integers(0, 2**32)))
    replaced = draw(st.sampled_from([0.0, 0.2, 0.5, 1.0]))
    others = draw(st.sampled_from([[P, F], [U], [P, F, U], [F, F, P, U]]))
    truth = draw(monotone_truth(problem))
    for units in truth:
        if chance.random() < replaced:
            truth[units] = chance.choice(others)
    truth[frozenset()] = draw(st.sampled_from([F, F, F, F, F, F, P, U]))
    truth[problem.everything] = draw(st.sampled_from([P, P, P, P, P, P, F, U]))
    return problem, draw(options(st.sampled_from(Direction))), truth


@st.composite
def monotone_truth(draw: st.DrawFn, problem: Problem) -> dict[Units, Outcome]:
    cures = draw(st.lists(st.frozensets(st.sampled_from(problem.units), min_size=1), min_size=1, max_size=3))
    return {each: P if any(cure <= each for cure in cures) else F for each in subsets(problem.units)}


def is_monotone(truth: dict[Units, Outcome]) -> bool:
    passing, failing = ([each for each in truth if truth[each] is outcome] for outcome in (P, F))
    return not any(passed < failed for passed in passing for failed in failing)


def property_of(truth: dict[Units, Outcome], problem: Problem, direction: Direction, units: Units) -> Outcome:
    cure, cause = truth[units], truth[problem.everything - units].flipped
    if direction is Direction.CURE:
        return cure
    if direction is Direction.CAUSE:
        return cause
    if F in (cure, cause):
        return F
    return U if U in (cure, cause) else P


@quick
@given(arbitrary())
def test_never_says_anything_untrue_whatever_the_oracle(
    drawn: tuple[Problem, SearchOptions, dict[Units, Outcome]],
):
    problem, asked, truth = drawn
    oracle = Counting(table(truth))
    result = search(problem, oracle, options=asked)
    event(result.verdict)

    assert len(oracle.asked) == result.evaluations
    repeated = len(oracle.asked) - len(set(oracle.asked))
    assert repeated <= 2 * 3  # what contradicts each other is evaluated twice, three times at most
    assert held(result).get("monotone") is not False or not is_monotone(truth)
    assert not repeated or not is_monotone(truth)
    nothing, everything = truth[frozenset()], truth[problem.everything]
    assert (result.verdict is SearchVerdict.NONE) == (nothing is P)
    if result.verdict is SearchVerdict.LOST:
        assert everything is F
    if result.verdict is SearchVerdict.UNRESOLVED:
        assert U in (nothing, everything)
    assert result.verdict not in (SearchVerdict.FLAKY, SearchVerdict.BUDGET)
    check_answer(problem, asked, truth, result)


def check_answer(problem: Problem, asked: SearchOptions, truth: dict[Units, Outcome], result: Result) -> None:
    def has(units: Units) -> Outcome:
        return property_of(truth, problem, asked.direction, units)

    culprits = frozenset(result.culprits)
    if result.best is not None:
        assert has(frozenset(result.best)) is P
    if not result.answered:
        assert not culprits
        assert not result.minimal
        return
    assert has(culprits) is P
    without = {unit: has(culprits - {unit}) for unit in culprits}
    if result.minimal:
        assert set(without.values()) == {F}
    if asked.prove:
        assert {unit for unit, outcome in without.items() if outcome is U} == set(result.untested)
        assert P not in without.values()
        assert result.minimal == (not result.untested)


@st.composite
def monotone(draw: st.DrawFn) -> tuple[Problem, SearchOptions, dict[Units, Outcome]]:
    problem = draw(problems())
    truth = draw(monotone_truth(problem))
    asked = draw(options(st.sampled_from(Direction)))
    return problem, asked, truth


@quick
@given(monotone())
def test_monotone_oracles_are_always_answered_and_assumed_right(
    drawn: tuple[Problem, SearchOptions, dict[Units, Outcome]],
):
    problem, asked, truth = drawn
    result = search(problem, table(truth), options=asked)
    assert result.answered
    check_answer(problem, asked, truth, result)
    if asked.prove:
        assert result.minimal
        assert held(result)["monotone"] is True


@quick
@given(arbitrary())
def test_a_search_is_deterministic(drawn: tuple[Problem, SearchOptions, dict[Units, Outcome]]):
    problem, asked, truth = drawn
    first, second = (Counting(table(truth)) for _ in range(2))
    results = [search(problem, oracle, options=asked) for oracle in (first, second)]
    assert first.asked == second.asked
    assert without_time(results[0]) == without_time(results[1])


@settings(quick, max_examples=60)
@given(arbitrary(), st.data())
def test_a_resumed_search_is_the_same_search(
    drawn: tuple[Problem, SearchOptions, dict[Units, Outcome]], data: st.DataObject
):
    problem, asked, truth = drawn
    whole = search(problem, table(truth), options=asked)
    done = data.draw(st.integers(0, whole.evaluations))
    with TemporaryDirectory() as folder:
        path = Path(folder, "journal.jsonl")
        with Journal.create(path, problem) as journal:
            part = search(
                problem, table(truth), options=asked, journal=journal, budget=Budget(evaluations=done)
            )
        assert part.evaluations == done
        rest = Counting(table(truth))
        with Journal.resume(path, problem) as journal:
            resumed = search(problem, rest, options=asked, journal=journal)
        assert len(rest.asked) == whole.evaluations - done
        assert resumed.replayed == done
        assert without_time(resumed) == without_time(whole)


def without_time(result: Result) -> Result:
    return dataclasses.replace(result, seconds=0.0)


@quick
@given(arbitrary(), st.integers(0, 12))
def test_a_budget_is_kept_and_what_is_known_is_reported(
    drawn: tuple[Problem, SearchOptions, dict[Units, Outcome]], limit: int
):
    problem, asked, truth = drawn
    oracle = Counting(table(truth))
    result = search(problem, oracle, options=asked, budget=Budget(evaluations=limit))
    assert len(oracle.asked) <= limit
    if result.verdict is SearchVerdict.BUDGET:
        assert not result.culprits
        assert result.evaluations == limit
    if result.best is not None:
        assert property_of(truth, problem, asked.direction, frozenset(result.best)) is P
    if result.answered and result.minimal:
        check_answer(problem, SearchOptions(direction=asked.direction, prove=True), truth, result)


@quick
@given(monotone(), st.booleans())
def test_delta_debugging_and_structure_alone_leave_a_set_without_a_superfluous_unit(
    drawn: tuple[Problem, SearchOptions, dict[Units, Outcome]], by_structure: bool
):
    problem, asked, truth = drawn
    predicate = Predicate(Session(problem, table(truth), budget=Budget()), Log(), asked.direction)
    if by_structure:
        kept = reduce_by_structure(predicate, problem.everything).kept
    else:
        kept = frozenset(ddmin(predicate, problem.units))
    without = [property_of(truth, problem, asked.direction, kept - {unit}) for unit in kept]
    assert property_of(truth, problem, asked.direction, kept) is P
    assert set(without) == {F}


@quick
@given(st.integers(1, 600), st.data())
def test_one_culprit_takes_no_more_than_the_bound(count: int, data: st.DataObject):
    units = names(count)
    culprit = data.draw(st.sampled_from(units))
    result = search(Problem(units), conjunction([culprit]))
    assert result.culprits == (culprit,)
    assert result.minimal
    assert result.evaluations <= 3 + math.ceil(math.log2(count))


@quick
@given(st.integers(2, 300), st.data())
def test_several_culprits_are_found_exactly_within_the_bound(count: int, data: st.DataObject):
    units = names(count)
    culprits = data.draw(st.sets(st.sampled_from(units), min_size=2, max_size=8))
    result = search(Problem(units), conjunction(culprits))
    assert set(result.culprits) == culprits
    assert result.minimal
    # galloping past a distance and splitting the last group: at most twice its logarithm, one for the proof
    assert result.evaluations <= 4 + len(culprits) * (2 * math.ceil(math.log2(count)) + 2)

"""What each strategy asks, in which order, and what it answers."""

from __future__ import annotations

import math
import random

import pytest
from search_oracles import Counting, Units, conjunction, names

from harness.errors import UsageError
from harness.search import (
    Budget,
    Direction,
    Group,
    Outcome,
    Problem,
    SearchOptions,
    SearchProgress,
    SearchVerdict,
    Strategy,
    Trial,
    search,
)
from harness.search.bisect import Cut
from harness.search.ranked import guess, ranking

P, F, U = Outcome.PASS, Outcome.FAIL, Outcome.UNRESOLVED
QUICK = SearchOptions(prove=False)


def scored(count: int, top: dict[str, float], rest: float = 1.0) -> dict[str, float]:
    return {**{unit: rest / (1 + place / 100) for place, unit in enumerate(names(count))}, **top}


class TestEnds:
    def test_nothing_wrong_takes_one_evaluation(self):
        oracle = Counting(lambda treated: Trial(P))
        result = search(Problem(names(100)), oracle)
        assert (result.verdict, result.evaluations, oracle.asked) == (SearchVerdict.NONE, 1, [frozenset()])

    def test_a_fault_outside_the_units_is_lost_after_three(self):
        result = search(Problem(names(100)), lambda treated: Trial(F))
        assert (result.verdict, result.evaluations, result.culprits) == (SearchVerdict.LOST, 3, ())
        assert "not in the units" in result.log[-1].text

    def test_a_problem_without_units_is_lost(self):
        assert search(Problem(()), lambda treated: Trial(F)).verdict is SearchVerdict.LOST

    def test_a_baseline_that_cannot_be_judged_is_unresolved(self):
        result = search(Problem(names(3)), lambda treated: Trial(P if treated else U))
        assert (result.verdict, result.evaluations) == (SearchVerdict.UNRESOLVED, 1)

    def test_one_unit_is_only_blamed_when_treating_it_passes(self):
        problem = Problem(names(1))
        assert search(problem, conjunction(["n0"])).culprits == ("n0",)
        assert search(problem, lambda treated: Trial(F)).verdict is SearchVerdict.LOST
        assert search(problem, lambda treated: Trial(U if treated else F)).verdict is SearchVerdict.UNRESOLVED

    def test_what_is_known_beforehand_costs_nothing(self):
        problem = Problem(names(64))
        known = {frozenset[str](): Trial(F), problem.everything: Trial(P)}
        oracle = Counting(conjunction(["n40"]))
        result = search(problem, oracle, known=known)
        assert result.culprits == ("n40",)
        assert len(oracle.asked) == result.evaluations <= 7
        assert not set(known) & set(oracle.asked)

    def test_a_known_trial_of_another_problem_is_refused(self):
        with pytest.raises(UsageError, match="'x', which is not a unit"):
            search(Problem(names(2)), conjunction(["n0"]), known={frozenset("x"): Trial(F)})

    def test_an_oracle_that_returns_something_else_is_refused(self):
        with pytest.raises(UsageError, match="returned a bool"):
            search(Problem(names(2)), lambda treated: True)  # type: ignore[arg-type,return-value]


class TestPrior:
    def test_a_clear_first_takes_two_evaluations(self):
        oracle = Counting(conjunction(["n77"]))
        result = search(Problem(names(500), scores=scored(500, {"n77": 1000.0})), oracle)
        assert (result.culprits, result.minimal, result.evaluations) == (("n77",), True, 2)

    def test_a_clear_top_of_four_takes_four_evaluations_unproved(self):
        culprits = ("n10", "n11", "n12", "n13")
        problem = Problem(names(132), scores=scored(132, dict.fromkeys(culprits, math.inf)))
        result = search(problem, conjunction(culprits), options=QUICK)
        assert (result.culprits, result.evaluations) == (culprits, 4)

    def test_a_right_hint_takes_two_evaluations_unproved(self):
        hint = frozenset({"n3", "n50"})
        result = search(Problem(names(100), hints=(hint,)), conjunction(hint), options=QUICK)
        assert (frozenset(result.culprits), result.evaluations, result.minimal) == (hint, 2, False)
        result = search(Problem(names(100), hints=(hint,)), conjunction(hint))
        assert (frozenset(result.culprits), result.evaluations, result.minimal) == (hint, 4, True)

    def test_a_hint_with_a_unit_too_many_is_pruned(self):
        hint = frozenset({"n3", "n50", "n51"})
        result = search(Problem(names(100), hints=(hint,)), conjunction(["n3", "n50"]))
        assert result.culprits == ("n3", "n50")

    def test_wrong_hints_cost_one_evaluation_each(self):
        hints = (frozenset({"n1"}), frozenset({"n2", "n3"}))
        problem = Problem(names(100))
        plain = search(problem, conjunction(["n60"])).evaluations
        result = search(Problem(problem.units, hints=hints), conjunction(["n60"]))
        assert result.culprits == ("n60",)
        assert result.evaluations <= plain + 3

    @pytest.mark.parametrize("prove", [True, False])
    def test_a_misleading_ranking_still_finds_the_culprit(self, prove: bool):
        problem = Problem(names(500), scores=scored(500, {"n1": 1000.0, "n2": 900.0}))
        for culprit in ("n5", "n123", "n499"):
            result = search(problem, conjunction([culprit]), options=SearchOptions(prove=prove))
            assert result.culprits == (culprit,)
            assert result.evaluations <= 35

    def test_a_ranking_without_a_gap_is_cut_off_by_orders_of_magnitude(self):
        scores = {unit: 1 / (1 + place / 100) for place, unit in enumerate(names(1000))}
        result = search(Problem(names(1000), scores=scores), conjunction(["n3", "n1"]), options=QUICK)
        assert result.culprits == ("n1", "n3")
        cut = [step for step in result.log if step.text.startswith("the first") and step.outcome is not None]
        assert len(cut) <= 6  # halving a thousand takes ten

    def test_the_top_is_guessed_from_what_is_known(self):
        problem = Problem(names(6), scores=dict(zip(names(6), [8.0, 6.0, 5.0, 4.0, 3.0, 1.0], strict=True)))
        # 8² + 6² + 5² + 4² + 3² + 1 = 151 scales to 10²; a limit of 5 leaves a quarter of it: 26 of 51, 26, 10
        assert guess(problem, Trial(F, badness=10.0, margin=-5.0)) == 3
        assert guess(problem, Trial(F, badness=math.inf, margin=-math.inf)) is None
        assert guess(problem, Trial(F)) is None
        gap = Problem(names(6), scores={"n0": 90.0, "n1": 80.0, "n2": 1.0, "n3": 0.9})
        assert guess(gap, Trial(F)) == 2
        just = Problem(names(4), scores=dict(zip(names(4), [80.0, 10.0, 9.0, 8.0], strict=True)))
        assert guess(just, Trial(F)) == 1
        infinite = Problem(names(6), scores={"n0": math.inf, "n1": math.inf, "n2": math.inf, "n3": 0.9})
        assert guess(infinite, Trial(F, badness=10.0, margin=-5.0)) == 3
        assert guess(Problem(names(6), scores={}), Trial(F, badness=10.0, margin=-5.0)) is None

    def test_a_unit_without_a_score_is_suspected_less_than_one_of_none(self):
        assert ranking(Problem(names(4), scores={"n1": 0.0, "n3": 2.0})) == ("n3", "n1", "n0", "n2")

    def test_an_error_of_many_is_cut_off_where_the_numbers_say(self):
        units = names(300)
        errors = {unit: 1 / (1 + place) for place, unit in enumerate(units)}
        limit = math.sqrt(sum(error**2 for error in list(errors.values())[18:]))

        def oracle(treated: Units) -> Trial:
            badness = math.sqrt(math.fsum(error**2 for unit, error in errors.items() if unit not in treated))
            return Trial(P if badness <= limit * (1 + 1e-9) else F, badness, limit * (1 + 1e-9) - badness)

        result = search(Problem(units, scores=errors), oracle, options=QUICK)
        assert result.culprits == units[:18]
        assert result.evaluations <= 5
        proved = search(Problem(units, scores=errors), oracle)
        assert (proved.culprits, proved.minimal) == (units[:18], True)
        assert proved.evaluations <= 5 + 18

    def test_an_island_from_a_noisy_ranking_is_exchanged_for_a_smaller_one(self):
        chance = random.Random(4)
        units = names(300)
        errors = {unit: math.exp(chance.gauss(0, 1)) for unit in units}
        scores = {unit: error * math.exp(chance.gauss(0, 0.6)) for unit, error in errors.items()}
        best = sorted(units, key=lambda unit: -errors[unit])[:20]
        limit = math.sqrt(sum(error**2 for unit, error in errors.items() if unit not in best))

        def oracle(numbers: bool, treated: Units) -> Trial:
            badness = math.sqrt(sum(error**2 for unit, error in errors.items() if unit not in treated))
            outcome = P if badness <= limit * (1 + 1e-9) else F
            return Trial(outcome, badness, limit * (1 + 1e-9) - badness) if numbers else Trial(outcome)

        problem = Problem(units, scores=scores)
        blind = search(problem, lambda treated: oracle(False, treated))
        seeing = search(problem, lambda treated: oracle(True, treated))
        assert blind.minimal
        assert seeing.minimal
        assert len(blind.culprits) > 26
        assert len(seeing.culprits) <= 26


class TestStructure:
    BLOCKS = tuple(
        Group(
            f"block {n}",
            names(480)[40 * n : 40 * n + 40],
            (Group(f"mlp {n}", names(480)[40 * n : 40 * n + 9]),),
            "b",
        )
        for n in range(12)
    )

    def test_culprits_in_one_block_are_found_through_the_block(self):
        problem = Problem(names(480), groups=self.BLOCKS)
        culprits = ("n201", "n204", "n230", "n239")
        result = search(problem, conjunction(culprits))
        assert result.culprits == culprits
        assert any("group block 5" in step.text for step in result.log)
        assert result.evaluations < search(Problem(names(480)), conjunction(culprits)).evaluations

    def test_the_same_part_of_each_block_is_found_through_its_counterparts(self):
        problem = Problem(names(480), groups=self.BLOCKS)
        culprits = tuple(group.units[17] for group in self.BLOCKS)
        result = search(problem, conjunction(culprits))
        assert (result.culprits, result.minimal) == (culprits, True)
        assert result.evaluations <= 36
        assert search(Problem(names(480)), conjunction(culprits)).evaluations > 90

    def test_two_parts_of_each_block_are_found_part_by_part(self):
        problem = Problem(names(480), groups=self.BLOCKS)
        culprits = {unit for group in self.BLOCKS for unit in (group.units[3], group.units[30])}
        result = search(problem, conjunction(culprits))
        assert set(result.culprits) == culprits
        assert Strategy.HIERARCHICAL in result.strategies
        assert result.evaluations < search(Problem(names(480)), conjunction(culprits)).evaluations / 2

    def test_culprits_anywhere_are_found_with_groups_that_do_not_help(self):
        units = names(100)
        groups = (Group("left", units[:30], (Group("inner", units[:10]),)), Group("right", units[60:90]))
        culprits = ("n4", "n25", "n45", "n80", "n95")
        result = search(Problem(units, groups=groups), conjunction(culprits))
        assert (result.culprits, result.minimal) == (culprits, True)


class TestUnresolved:
    def test_a_cut_is_exact_where_nothing_between_its_ends_is_open(self):
        assert Cut(3, 4).exact
        assert not Cut(3, 5).exact

    def test_a_single_unit_that_cannot_be_judged_is_listed_and_not_searched_for(self):
        def oracle(treated: Units) -> Trial:
            cured = conjunction(["n2", "n6"])(treated)
            return Trial(U) if "n4" not in treated and cured.outcome is P else cured

        result = search(Problem(names(8)), oracle)
        assert (result.culprits, result.untested) == (("n2", "n4", "n6"), ("n4",))
        assert Strategy.DDMIN not in result.strategies

    def test_a_bisection_walks_around_what_cannot_be_judged(self):
        unresolved = {frozenset(names(50)), frozenset(names(51)), frozenset(names(49))}

        def oracle(treated: Units) -> Trial:
            return Trial(U) if treated in unresolved else conjunction(["n70"])(treated)

        result = search(Problem(names(100)), oracle)
        assert (result.culprits, result.minimal, result.untested) == (("n70",), True, ())

    def test_units_that_only_build_together_stay_together_and_are_listed(self):
        """Treating a part of a fused block cannot be built."""
        block = frozenset(names(40)[10:14])

        def oracle(treated: Units) -> Trial:
            return (
                Trial(U) if treated & block and not block <= treated else conjunction(["n12", "n30"])(treated)
            )

        for options in (SearchOptions(), QUICK):
            result = search(Problem(names(40)), oracle, options=options)
            assert set(result.culprits) == {*block, "n30"}
            assert not result.minimal
            assert set(result.untested) == block
        assert search(Problem(names(40)), oracle).verdict is SearchVerdict.FOUND

    def test_when_everything_cannot_be_built_a_large_part_will_do(self):
        def oracle(treated: Units) -> Trial:
            return Trial(U) if "n9" in treated else conjunction(["n2", "n30"])(treated)

        result = search(Problem(names(40)), oracle)
        assert (result.culprits, result.minimal) == (("n2", "n30"), True)

    def test_when_no_large_part_can_be_built_nobody_is_blamed(self):
        result = search(Problem(names(40)), lambda treated: Trial(U if treated else F))
        assert (result.verdict, result.culprits, result.best) == (SearchVerdict.UNRESOLVED, (), None)
        assert result.evaluations <= 20

    def test_where_splitting_is_stuck_delta_debugging_goes_on(self):
        """Only small islands can be built: nothing can be left out of the whole, but parts of it can be tried."""

        def oracle(treated: Units) -> Trial:
            return Trial(U) if 4 < len(treated) < 16 else conjunction(["n5"])(treated)

        result = search(Problem(names(16)), oracle)
        assert (result.culprits, result.minimal) == (("n5",), True)
        assert Strategy.DDMIN in result.strategies

    def test_a_wrong_group_size_is_not_a_culprit(self):
        """Every configuration with exactly half of the units crashes."""

        def oracle(treated: Units) -> Trial:
            return Trial(U) if len(treated) == 32 else conjunction(["n5", "n6", "n60"])(treated)

        assert search(Problem(names(64)), oracle).culprits == ("n5", "n6", "n60")


def together(*groups: set[str]):
    """Fails while all units of one of the groups are untreated."""
    return lambda treated: Trial(F if any(not group & treated for group in groups) else P)


class TestDirection:
    def test_what_the_proof_leaves_of_an_answer_is_evaluated_as_often_as_configured(self):
        oracle = Counting(conjunction(["n2", "n5"]))
        problem = Problem(names(8), hints=(frozenset({"n2", "n4", "n5"}),))
        result = search(problem, oracle, options=SearchOptions(direction=Direction.BOTH, repeats=2))
        assert result.culprits == ("n2", "n5"), "of the hint, which is a cure and a cause, two are enough"
        assert oracle.asked.count(frozenset(result.culprits)) == 2

    def test_one_culprit_is_minimal_without_a_further_proof(self):
        result = search(Problem(names(10)), conjunction(["n5"]), options=QUICK)
        assert (result.culprits, result.minimal) == (("n5",), True)

    def test_a_cause_is_the_set_that_fails_alone(self):
        result = search(
            Problem(names(50)), together({"n7", "n41"}), options=SearchOptions(direction=Direction.CAUSE)
        )
        assert (result.culprits, result.minimal) == (("n7", "n41"), True)

    def test_both_directions_want_one_set_that_cures_and_causes(self):
        both = SearchOptions(direction=Direction.BOTH)
        assert search(Problem(names(50)), together({"n7", "n41"}), options=both).culprits == ("n7", "n41")
        assert search(Problem(names(50)), conjunction(["n7", "n41"]), options=both).culprits == ("n7", "n41")
        assert search(Problem(names(50)), conjunction(["n7"]), options=both).culprits == ("n7",)

    @pytest.mark.parametrize("count", [2, 3, 8, 64, 100])
    def test_one_bad_choice_is_proved_both_ways_within_three_of_the_logarithm(self, count: int):
        problem = Problem(names(count))
        known = {frozenset[str](): Trial(F), problem.everything: Trial(P)}
        for culprit in problem.units:
            result = search(
                problem, conjunction([culprit]), options=SearchOptions(direction=Direction.BOTH), known=known
            )
            assert (result.culprits, result.minimal) == ((culprit,), True)
            assert result.evaluations <= math.ceil(math.log2(count)) + 3

    def test_a_cause_needs_something_that_passes_when_everything_is_treated(self):
        for direction in (Direction.CAUSE, Direction.BOTH):
            result = search(
                Problem(names(5)), lambda treated: Trial(F), options=SearchOptions(direction=direction)
            )
            assert (result.verdict, result.evaluations) == (SearchVerdict.LOST, 2)


class TestReport:
    def test_a_spent_budget_reports_the_smallest_set_that_passed(self):
        result = search(Problem(names(500)), conjunction(["n100"]), budget=Budget(evaluations=6))
        assert (result.verdict, result.culprits, result.evaluations) == (SearchVerdict.BUDGET, (), 6)
        assert result.best is not None
        assert "n100" in result.best
        assert len(result.best) <= 125
        assert result.log[-1].text == "the budget is spent"

    def test_a_budget_that_ends_in_the_proof_keeps_the_answer(self):
        culprits = ("n100", "n200", "n300")
        needed = search(Problem(names(500)), conjunction(culprits), options=QUICK).evaluations
        result = search(Problem(names(500)), conjunction(culprits), budget=Budget(evaluations=needed))
        assert (result.verdict, result.culprits, result.minimal) == (SearchVerdict.FOUND, culprits, False)
        assert "before the proof" in result.log[-1].text

    def test_seconds_are_those_of_the_trials(self):
        def oracle(treated: Units) -> Trial:
            return Trial(conjunction(["n100"])(treated).outcome, seconds=10.0)

        result = search(Problem(names(500)), oracle, budget=Budget(seconds=45))
        assert (result.verdict, result.seconds, result.evaluations) == (SearchVerdict.BUDGET, 50.0, 5)

    def test_progress_is_reported_after_each_evaluation(self):
        seen: list[SearchProgress] = []
        result = search(Problem(names(500)), conjunction(["n100", "n400"]), on_progress=seen.append)
        assert [each.evaluations for each in seen] == list(range(1, result.evaluations + 1))
        assert seen[0].suspects == 500
        assert {each.strategy for each in seen} >= {Strategy.SINGLE, Strategy.INDEPENDENT}
        bisecting = [each.remaining for each in seen if each.strategy is Strategy.SINGLE]
        assert None not in bisecting[1:9]
        assert not any(each.replayed for each in seen)

    def test_the_trail_reads_as_an_account(self):
        result = search(Problem(names(10)), conjunction(["n7"]))
        text = "\n".join(map(str, result.log))
        assert text.splitlines()[0].split() == ["1", "auto", "treat", "nothing:", "fail"]
        assert "the first 5 of 10: treat 5 units (n0 … n4): fail" in text
        assert "check that treating everything helps: treat all 10 units: pass" in text
        assert result.strategies == (Strategy.SINGLE,)

    def test_each_strategy_finds_the_same(self):
        culprits = ("n3", "n4", "n41")
        units = names(60)
        groups = tuple(Group(f"g{n}", units[n : n + 6]) for n in range(0, 60, 6))
        scores = scored(60, {"n3": 5.0, "n41": 4.0, "n17": 4.0, "n4": 2.0})
        for strategy, problem in {
            Strategy.INDEPENDENT: Problem(units),
            Strategy.HIERARCHICAL: Problem(units, groups=groups),
            Strategy.RANKED: Problem(units, scores=scores),
        }.items():
            result = search(problem, conjunction(culprits))
            assert (result.culprits, result.minimal) == (culprits, True), strategy
            assert strategy in result.strategies


def test_what_is_left_out_one_by_one_is_told_before_it_is_asked_for():
    needed = frozenset(names(9)[2:8:2])
    told: list[tuple[int, list[frozenset[str]]]] = []
    oracle = Counting(conjunction(needed))
    problem = Problem(names(9), hints=(needed,))
    result = search(problem, oracle, ahead=lambda sets: told.append((len(oracle.asked), list(sets))))
    assert frozenset(result.culprits) == needed
    (before, sets), *later = told
    assert sorted(sets, key=sorted) == sorted((needed - {unit} for unit in needed), key=sorted)
    assert oracle.asked[before:] == sets, "all of them, in their order"
    assert all(not sets for _, sets in later), "what was evaluated is not told again"


def test_what_is_left_is_told_again_once_something_of_it_is_not_needed():
    needed = frozenset(names(9)[2:8:2])
    told: list[list[frozenset[str]]] = []
    scores = dict.fromkeys(names(9), 1.0) | dict.fromkeys(needed, 2.0)
    oracle = Counting(conjunction(needed))
    hint = needed | {names(9)[0]}
    problem = Problem(names(9), scores=scores, hints=(hint,))
    result = search(problem, oracle, ahead=lambda sets: told.append(list(sets)))
    assert frozenset(result.culprits) == needed
    assert told[0][0] == needed
    without_one = [needed - {unit} for unit in needed]
    assert [len(sets) for sets in told[1:] if sets and all(each in without_one for each in sets)] == [2], (
        "those of which it was not seen yet"
    )

"""The hunt against a builder in memory: it names what was planted, within its builds, or says that it cannot."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from simulated import SimulatedBuilder, choice

from harness.search import Outcome
from harness.tactics import (
    DifferingLayer,
    Sample,
    TacticSearchOptions,
    TacticSearchResult,
    TacticVerdict,
    builds_for,
    collect,
    find_bad_tactics,
    noise,
)
from harness.tactics.units import units_of
from harness.tensors import to_json

SIZES = (1, 2, 3, 4, 5, 8, 11, 16, 20, 32, 64)


def hunt(
    builder: SimulatedBuilder, most: int = 40, **hunting: Any
) -> tuple[TacticSearchResult, tuple[Sample, ...]]:
    samples = collect(builder, lambda _: noise(most))
    return find_bad_tactics(builder, samples, TacticSearchOptions(**hunting)), samples


def named(found: TacticSearchResult) -> set[str]:
    return {unit.layer for unit in found.culprits}


def planted(count: int, layers: int, chance: random.Random) -> dict[int, int]:
    return {layer: chance.randrange(3) for layer in chance.sample(range(layers), count)}


@pytest.mark.parametrize("block", range(4))
def test_one_bad_choice_is_named_within_the_promised_builds(block: int) -> None:
    """2,000 networks: all are answered, all answers are right."""
    for seed in range(block * 500, block * 500 + 500):
        chance = random.Random(seed)
        layers = chance.choice(SIZES)
        bad = planted(1, layers, chance)
        builder = SimulatedBuilder(
            layers, seed=seed, fails=partial(holds, bad=bad, how=any), copies=chance.random() < 0.3
        )
        found, _ = hunt(builder)
        assert found.verdict is TacticVerdict.FOUND, (seed, found.summary)
        assert named(found) == {f"conv{layer}" for layer in bad}, seed
        assert found.minimal
        ((layer, number),) = bad.items()
        assert found.culprits[0].bad[0].variant == choice(layer, number).variant
        assert found.culprits[0].good[0].variant != choice(layer, number).variant
        assert found.onnx_nodes == (f"node{layer}",)
        assert found.builds <= builds_for(found.differing), (seed, found.builds, found.differing)
        assert [proof.outcome for proof in found.proof] == [Outcome.FAIL, Outcome.PASS]


def holds(chosen: dict[int, int], bad: dict[int, int], how: Any) -> bool:
    return bool(how([chosen[layer] == number for layer, number in bad.items()]))


@pytest.mark.parametrize("how", [any, all])
def test_several_bad_choices_are_named_as_the_smallest_set_that_decides(how: Any) -> None:
    """600 networks with two or three: what is named was checked against every subset of what differs."""
    for seed in range(300):
        chance = random.Random(seed)
        layers = chance.choice([3, 4, 8, 16])
        bad = planted(chance.choice([2, 3]) if layers > 3 else 2, layers, chance)
        builder = SimulatedBuilder(layers, seed=seed, fails=partial(holds, bad=bad, how=how))
        found, samples = hunt(builder, most=300)
        assert found.verdict is TacticVerdict.FOUND, (seed, found.summary)
        assert named(found) in right_answers(samples, bad, how), seed


def right_answers(samples: tuple[Sample, ...], bad: dict[int, int], how: Any) -> list[set[str]]:
    """The minimal sets that decide between a failing and a passing sample, among what was planted.

    Beside them stand the bad build's choices, or those of them that no good build has.
    """
    good = [chosen_by(sample) for sample in samples if sample.outcome is Outcome.PASS]
    sick = [chosen_by(sample) for sample in samples if sample.outcome is Outcome.FAIL]
    answers: list[set[str]] = []
    for ours, theirs in itertools.product(good, sick):
        differing = [layer for layer in bad if ours[layer] != theirs[layer]]
        suspects = [layer for layer in differing if theirs[layer] not in [other[layer] for other in good]]
        for units in (suspects, differing):
            minimal: list[set[int]] = []
            for size in range(1, len(units) + 1):
                for some in map(set, itertools.combinations(units, size)):
                    cured = {**theirs, **{layer: ours[layer] for layer in some}}
                    spoilt = {**theirs, **{layer: ours[layer] for layer in units if layer not in some}}
                    decides = holds(spoilt, bad, how) and not holds(cured, bad, how)
                    if decides and not any(other < some for other in minimal):
                        minimal.append(some)
            answers += [{f"conv{layer}" for layer in some} for some in minimal]
    return answers


def chosen_by(sample: Sample) -> dict[int, int]:
    assert sample.record is not None
    numbers = {}
    for each in sample.record.choices:
        if each.layer.startswith("conv"):
            layer = int(each.layer[4:])
            numbers[layer] = int(each.tactic, 16) - 1000 * layer
    return numbers


@pytest.mark.parametrize("guilty", [True, False])
def test_layers_that_take_no_orders_never_lead_to_a_wrong_name(guilty: bool) -> None:
    """600 networks: a culprit that obeys is named, alone or with what nothing distinguishes from it, or nothing is."""
    outcomes: Counter[TacticVerdict] = Counter()
    for seed in range(300):
        chance = random.Random(seed)
        layers = chance.choice([3, 4, 8, 16, 33])
        bad = planted(1, layers, chance)
        (culprit,) = bad
        others = [layer for layer in range(layers) if layer != culprit]
        deaf = frozenset([culprit] if guilty else chance.sample(others, min(len(others), 2)))
        builder = SimulatedBuilder(layers, seed=seed, fails=partial(holds, bad=bad, how=any), deaf=deaf)
        found, _ = hunt(builder)
        outcomes[found.verdict] += 1
        if found.verdict is TacticVerdict.FOUND:
            assert f"conv{culprit}" in named(found), seed
            assert not found.minimal or named(found) == {f"conv{culprit}"}, seed
        else:
            assert found.verdict is TacticVerdict.NOT_REPRODUCIBLE, (seed, found.summary)
            assert any(f"conv{layer}" in found.missing for layer in deaf), found.missing
            assert not found.culprits
    assert outcomes[TacticVerdict.NOT_REPRODUCIBLE] > (200 if guilty else 20)
    assert outcomes[TacticVerdict.FOUND] > (20 if guilty else 200)


def test_layers_that_are_one_group_are_named_together() -> None:
    for seed in range(200):
        chance = random.Random(seed)
        layers = chance.choice([3, 4, 8, 16])
        bad = {chance.randrange(layers - 1): chance.randrange(3)}
        (culprit,) = bad
        tied = ((culprit, culprit + 1),)
        builder = SimulatedBuilder(layers, seed=seed, fails=partial(holds, bad=bad, how=any), tied=tied)
        found, _ = hunt(builder)
        assert found.verdict in (TacticVerdict.FOUND, TacticVerdict.NOT_REPRODUCIBLE)
        if found.verdict is TacticVerdict.FOUND:
            assert f"conv{culprit}" in named(found)
            assert not found.minimal or named(found) == {f"conv{culprit}"}


def test_an_outcome_that_is_chance_is_caught_by_confirming() -> None:
    """One confirmation of both proofs lets chance through in a quarter of the cases, four in one of 256."""
    wrong: Counter[int] = Counter()
    for seed, confirm in itertools.product(range(150), (0, 1, 4)):
        builder = SimulatedBuilder(random.Random(seed).choice([4, 8, 16, 33]), seed=seed, flips=0.5)
        found, _ = hunt(builder, confirm=confirm)
        wrong[confirm] += found.verdict is TacticVerdict.FOUND
        assert found.confirmations >= confirm or found.verdict is not TacticVerdict.FOUND
    assert wrong[0] > 20, "without confirmations chance is taken for a tactic"
    assert wrong[1] <= wrong[0] / 2
    assert wrong[4] <= 2


def test_a_bad_copy_between_formats_is_found_with_the_layer_that_needs_it_or_by_itself() -> None:
    found_copy = 0
    for seed in range(60):
        builder = SimulatedBuilder(6, seed=seed, copies=True)
        builder_fails_for_copy(builder)
        samples = collect(builder, lambda _: noise(60))
        found = find_bad_tactics(builder, samples)
        assert found.verdict in (
            TacticVerdict.FOUND,
            TacticVerdict.NOT_REPRODUCIBLE,
            TacticVerdict.UNRESOLVED,
        )
        if found.verdict is TacticVerdict.FOUND:
            names = [each.layer for unit in found.culprits for each in unit.bad]
            found_copy += any(name.startswith("Reformatting") for name in names)
    assert found_copy > 10


def builder_fails_for_copy(builder: SimulatedBuilder) -> None:
    """Every engine fails that has a copy for conv3 of the tactic 1."""
    judge = builder.__class__.__call__

    def build(variation: Any) -> Sample:
        sample = judge(builder, variation)
        assert sample.record is not None
        wrong = any(
            each.layer == "Reformatting CopyNode for Input Tensor 0 to conv3" and int(each.tactic, 16) == 1
            for each in sample.record.choices
        )
        return replace(sample, outcome=Outcome.FAIL if wrong else Outcome.PASS)

    builder.__class__ = type(
        "Copying", (SimulatedBuilder,), {"__call__": lambda self, variation: build(variation)}
    )


class TestWhatKeepsItFromAnAnswer:
    def test_builds_that_all_pass(self) -> None:
        found, samples = hunt(SimulatedBuilder(4), most=5)
        assert found.verdict is TacticVerdict.ONE_OUTCOME
        assert found.missing == "of 5 builds 5 passed and 0 failed"
        assert (found.builds, len(samples)) == (0, 5)

    def test_builds_without_recorded_choices(self) -> None:
        samples = [replace(sample, record=None) for sample in hunt(SimulatedBuilder(4), most=2)[1]]
        found = find_bad_tactics(SimulatedBuilder(4), samples)
        assert found.missing.endswith("2 recorded no choices")

    def test_builds_that_chose_alike(self) -> None:
        samples = hunt(SimulatedBuilder(4), most=1)[1]
        twin = replace(samples[0], outcome=Outcome.FAIL)
        found = find_bad_tactics(SimulatedBuilder(4), [*samples, twin])
        assert found.verdict is TacticVerdict.ALIKE
        assert found.builds == 0

    def test_a_fault_that_is_not_in_the_choices(self) -> None:
        """The first build failed by chance, all others pass."""
        builder = SimulatedBuilder(16)
        first, second = (builder(variation) for variation in noise(2))
        found = find_bad_tactics(builder, [replace(first, outcome=Outcome.FAIL), second])
        assert found.verdict is TacticVerdict.NOT_REPRODUCIBLE
        assert "forced, pass" in found.missing

    def test_a_cure_that_is_not_in_the_choices(self) -> None:
        builder = SimulatedBuilder(16, fails=lambda chosen: True)
        first, second = (builder(variation) for variation in noise(2))
        found = find_bad_tactics(builder, [first, replace(second, outcome=Outcome.PASS)])
        assert found.verdict is TacticVerdict.NOT_REPRODUCIBLE
        assert found.missing.startswith("the good choices, forced, fail")

    def test_forced_choices_that_cannot_be_built(self) -> None:
        builder = SimulatedBuilder(4)
        first, second = (builder(variation) for variation in noise(2))

        def broken(variation: Any) -> Sample:
            return Sample(variation.name, variation.axis, Outcome.UNRESOLVED, note="no implementation")

        found = find_bad_tactics(broken, [replace(first, outcome=Outcome.FAIL), second])
        assert found.verdict is TacticVerdict.UNRESOLVED
        assert "no implementation" in found.missing

    def test_a_budget_that_is_too_small(self) -> None:
        builder = SimulatedBuilder(64, seed=1, fails=lambda chosen: chosen[40] == 1)
        found, _ = hunt(builder, builds=3)
        assert found.verdict is TacticVerdict.UNRESOLVED
        assert found.builds <= 3
        assert "budget" in found.missing

    def test_builds_with_other_layers(self) -> None:
        builder = SimulatedBuilder(2)
        first, second = (builder(variation) for variation in noise(2))
        assert second.record is not None
        fused = tuple(replace(each, layer=f"{each.layer} + relu") for each in second.record.choices)
        report = replace(second.record.report, choices=fused)
        other = replace(second, record=replace(second.record, report=report), outcome=Outcome.FAIL)
        found = find_bad_tactics(builder, [first, other])
        assert found.verdict is TacticVerdict.UNRESOLVED
        assert "only one of the two builds has these layers" in found.missing


def test_the_pair_that_differs_least_is_compared() -> None:
    builder = SimulatedBuilder(32, fails=lambda chosen: chosen[3] == 0)
    samples = tuple(builder(variation) for variation in noise(6))
    found = find_bad_tactics(builder, samples)
    pairs = [
        len(units_of(good.record, bad.record))
        for good in samples
        for bad in samples
        if good.outcome is Outcome.PASS and bad.outcome is Outcome.FAIL and good.record and bad.record
    ]
    assert found.differing == min(pairs)
    assert found.suspected < found.differing, "choices of good builds are not suspected"


def test_what_was_done_can_be_read() -> None:
    builder = SimulatedBuilder(8, seed=3, fails=lambda chosen: chosen[5] == 2)
    found, _ = hunt(builder)
    assert found.summary.startswith("at fault is tactic 0x138a of implementation 0x7 at conv5: forced, it")
    document = to_json(found)
    assert document["culprits"][0]["layer"] == "conv5"
    assert document["culprits"][0]["onnx_nodes"] == ["node5"]
    assert [proof["outcome"] for proof in document["proof"]] == ["fail", "pass"]
    assert len([line for line in found.trail if line[0].isdigit()]) == found.builds
    assert found.cured is not None
    assert found.cured.by_place[choice(5, 0).place][0].variant != choice(5, 2).variant


def test_a_unit_is_hashable_and_knows_its_sides() -> None:
    unit = DifferingLayer("conv1", (choice(1, 0),), (choice(1, 1),))
    assert {unit: 1}[unit] == 1
    assert not unit.structural
    assert DifferingLayer("conv1", (), (choice(1, 1),)).structural

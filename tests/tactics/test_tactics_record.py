"""Records and what is made of them: JSON, differences, units, orders, variations."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import choice, copy

from harness.backends import Plan
from harness.case import BuildOptions
from harness.errors import UsageError
from harness.tactics import (
    DifferingLayer,
    Sample,
    TacticRecord,
    brief,
    compare_builds,
    differences,
    forced,
    has_both,
    noise,
    usual_series,
)
from harness.tactics.repeats import RepeatedBuild
from harness.tactics.units import Side, is_suspect, orders_for, reformatted_layer, units_of
from harness.tensors import Precision
from harness.worker.protocol import (
    Choice,
    Fingerprint,
    Miss,
    ProbeReply,
    TacticOrders,
    TacticReport,
    TensorForm,
    hexadecimal,
)

TEXT = st.text(max_size=6)
SIZES = st.lists(st.integers(0, 9), max_size=3).map(tuple)
FORMS = st.builds(
    TensorForm, TEXT, SIZES, st.none() | st.integers(-1, 3), st.none() | st.integers(1, 32), st.none() | TEXT
)
IDS = st.integers(-(2**63), 2**64 - 1).map(hexadecimal)
CHOICES = st.builds(
    Choice,
    layer=TEXT,
    tactic=IDS,
    implementation=st.none() | IDS,
    key=st.none() | TEXT,
    shapes=st.lists(SIZES, max_size=2).map(tuple),
    inputs=st.lists(FORMS, max_size=2).map(tuple),
    outputs=st.lists(FORMS, max_size=2).map(tuple),
    kernel=st.none() | TEXT,
    milliseconds=st.none() | st.floats(0, 10),
    members=st.lists(TEXT, max_size=2).map(tuple),
    onnx_nodes=st.lists(TEXT, max_size=2).map(tuple),
)
LISTS = st.lists(CHOICES, max_size=4).map(tuple)
REPORTS = st.builds(
    TacticReport,
    mechanism=st.sampled_from(["selector", "cache"]),
    choices=LISTS,
    alternatives=LISTS,
    misses=st.lists(st.builds(Miss, TEXT, CHOICES, TEXT, st.none() | CHOICES), max_size=2).map(tuple),
    problems=st.lists(TEXT, max_size=2).map(tuple),
)


def record(*choices: Choice, **fields: Any) -> TacticRecord:
    return TacticRecord(TacticReport("selector", choices, **fields), Precision.FP16)


@given(REPORTS, st.sampled_from(Precision), st.dictionaries(TEXT, st.integers() | TEXT, max_size=2))
def test_a_record_survives_json(report: TacticReport, precision: Precision, build: dict[str, Any]) -> None:
    made = TacticRecord(
        report, precision, "abc", "strong", build, Fingerprint("e", "8.6.0"), {"x": ((1,), (2,), (3,))}
    )
    assert TacticRecord.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@pytest.mark.parametrize(
    "broken",
    [
        {"precision": "fp17"},
        {"choices": [{"layer": 3}]},
        {"choices": [{"layer": "a"}]},
        {"nonsense": 1},
        {"schema": "harness.run/1"},
        {"mechanism": None},
    ],
)
def test_a_file_that_is_not_a_record_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="is not a record of tactics"):
        TacticRecord.from_dict({**record().to_dict(), **broken}, where="pins.json")


@given(LISTS, LISTS)
def test_differences_are_where_the_choices_of_a_place_differ(first: Any, second: Any) -> None:
    one, two = record(*first), record(*second)
    found = differences(one, two)
    assert not differences(one, one)
    assert len(found) == len(differences(two, one))
    for each in found:
        assert each.first or each.second
        assert each.structural == (not each.first or not each.second)


def test_layers_that_repeat_are_compared_as_a_whole() -> None:
    a, b = choice(1, 0), choice(1, 1)
    assert not differences(record(a, b), record(b, a))
    (one,) = differences(record(a, a), record(a, b))
    assert len(one.first) == len(one.second) == 2
    other_shape = replace(b, shapes=((2, 64), (2, 64)))
    assert [each.structural for each in differences(record(a), record(a, other_shape))] == [True]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("Reformatting CopyNode for Input Tensor 0 to conv1 + relu1", "conv1 + relu1"),
        ("Reformatting CopyNode for Output Tensor 12 to {ForeignNode[a...b]}", "{ForeignNode[a...b]}"),
        ("conv1", None),
        ("Reformatting CopyNode for Network Input x", "x"),
    ],
)
def test_copies_know_their_layer(name: str, layer: str | None) -> None:
    assert reformatted_layer(name) == layer


class TestUnits:
    def test_a_copy_belongs_to_the_layer_that_needs_it(self) -> None:
        good = record(choice(1, 0), choice(2, 0))
        bad = record(choice(1, 0), copy(2, 1), choice(2, 2))
        (unit,) = units_of(good, bad)
        assert unit.layer == "conv2"
        assert [each.layer[:5] for each in unit.bad] == ["conv2", "Refor"]
        assert unit.good == (choice(2, 0),)
        assert unit.taken(bad) is Side.BAD
        assert unit.taken(good) is Side.GOOD
        assert unit.taken(record(choice(2, 1))) is Side.OTHER
        assert unit.taken(record(choice(1, 0))) is Side.ABSENT
        assert not unit.is_copy

    def test_a_copy_of_a_layer_that_chose_alike_is_by_itself(self) -> None:
        good, bad = record(copy(2, 0), choice(2, 0)), record(copy(2, 1), choice(2, 0))
        (unit,) = units_of(good, bad)
        assert unit.is_copy
        assert unit.took(Side.GOOD, record(choice(2, 0))), "a copy that is not needed is not missed"
        assert not unit.took(Side.GOOD, bad)

    def test_layers_that_repeat_have_names_of_their_own(self) -> None:
        twin = replace(choice(1, 0), shapes=((9,),))
        names = [unit.layer for unit in units_of(record(choice(1, 0), twin), record(choice(1, 1)))]
        assert names == ["conv1", "conv1 #2"]

    def test_orders_force_every_choice(self) -> None:
        good = record(*(choice(layer, 0) for layer in range(4)))
        bad = record(*(choice(layer, layer % 2) for layer in range(4)))
        units = units_of(good, bad)
        assert [unit.layer for unit in units] == ["conv1", "conv3"]
        forced_now = orders_for(bad, units, frozenset({"conv1"}))
        assert set(forced_now) == {choice(0, 0), choice(1, 0), choice(2, 0), choice(3, 1)}
        free = orders_for(bad, units[:1], frozenset(), free=units[1:])
        assert set(free) == {choice(0, 0), choice(1, 1), choice(2, 0)}

    def test_what_a_good_build_chose_is_not_suspected(self) -> None:
        unit = DifferingLayer("conv1", (choice(1, 0),), (choice(1, 1),))
        assert is_suspect(unit, [record(choice(1, 0))])
        assert not is_suspect(unit, [record(choice(1, 0)), record(choice(1, 1))])


class TestVariations:
    def test_noise_is_tuned_again_each_time(self) -> None:
        plans = [variation.of(Plan(Precision.FP16), alternatives=4) for variation in noise(3)]
        assert len(set(plans)) == 3
        assert all(plan.build.timing_cache is False for plan in plans)
        assert all(plan.tactics is not None and plan.tactics.alternatives == 4 for plan in plans)

    def test_alternatives_are_forced_of_the_same_formats_first(self) -> None:
        base = record(
            *(choice(layer, 0) for layer in range(6)),
            alternatives=tuple(choice(layer, number) for layer in range(5) for number in (1, 2)),
        )
        first, *later = forced(base, 4, seed=1)
        assert set(first.orders.force) == {*(choice(layer, 1) for layer in range(5)), choice(5, 0)}
        assert len({variation.orders.force for variation in later}) == 3
        assert forced(base, 4, seed=1) == (first, *later)

    def test_the_series_goes_from_noise_to_sources_to_alternatives(self) -> None:
        probe = ProbeReply("8.6.0", tactic_sources=("CUBLAS", "JIT_CONVOLUTIONS"))
        samples: list[Sample] = []
        names = []
        for variation in usual_series(probe, Plan(Precision.FP16), noisy=2)(samples):
            names.append(variation.name)
            samples.append(Sample(variation.name, variation.axis, "pass", record(choice(0, 0))))  # type: ignore[arg-type]
        assert names[:4] == ["build 1", "build 2", "without cublas", "without jit_convolutions"]
        assert names[4] == "alternatives everywhere"
        assert not has_both(samples)
        one = Plan(Precision.FP16, build=BuildOptions(tactic_sources=("cublas",)))
        assert [v.name for v in usual_series(probe, one, noisy=1)([])] == ["build 1"]


class TestRepeats:
    @staticmethod
    def build(value: Any, *choices: Choice) -> RepeatedBuild:
        return RepeatedBuild(({"y": np.asarray(value, np.float32)},), record(*choices), {})

    def test_nan_in_the_same_place_is_no_difference_and_elsewhere_it_is_infinite(self) -> None:
        same = compare_builds([self.build([np.nan, 1]), self.build([np.nan, 1])])
        assert same.same_outputs
        (spread,) = compare_builds([self.build([1, 1]), self.build([np.nan, 1])]).outputs
        assert spread.max_abs == np.inf
        assert spread.identical == 0

    def test_builds_that_are_infinite_alike_are_apart_by_their_finite_elements(self) -> None:
        (spread,) = compare_builds([self.build([-np.inf, 1]), self.build([-np.inf, 2])]).outputs
        assert (spread.max_abs, spread.nrmse) == (1.0, pytest.approx(0.5**0.5))

    def test_a_negative_zero_is_another_bit_and_no_distance(self) -> None:
        (spread,) = compare_builds([self.build([0.0, 1]), self.build([-0.0, 1])]).outputs
        assert (spread.identical, spread.max_abs, spread.nrmse) == (0, 0.0, 0.0)

    def test_distances_are_the_largest_over_builds(self) -> None:
        builds = [self.build([3.0, 4.0]), self.build([3.0, 4.5]), self.build([3.0, 4.0])]
        repeats = compare_builds(builds)
        (spread,) = repeats.outputs
        assert (spread.identical, spread.max_abs) == (1, 0.5)
        assert spread.nrmse == pytest.approx(0.5 / 5)
        assert repeats.summary == "3 builds: no layer changed tactic, y moved by up to 0.5 (nrmse 0.1)"

    def test_layers_and_copies_are_counted_apart(self) -> None:
        repeats = compare_builds(
            [
                self.build([1.0], choice(1, 0), copy(1, 0)),
                self.build([1.0], choice(1, 1), copy(1, 1)),
                self.build([1.0]),
            ]
        )
        (layer,) = repeats.changed
        assert (layer.layer, layer.absent, repeats.copies, repeats.layers) == ("conv1", 1, 1, 1)
        assert [each.builds for each in layer.choices] == [1, 1]

    def test_choices_that_differ_in_format_alone_are_distinguished(self) -> None:
        other = replace(choice(1, 0), inputs=(TensorForm("float32", (1,)),))
        (layer,) = compare_builds([self.build([1.0], choice(1, 0)), self.build([1.0], other)]).changed
        assert len({each.choice for each in layer.choices}) == 2


def test_a_choice_is_called_by_its_kernel_if_it_has_one() -> None:
    assert brief([Choice("conv", "0x1", kernel="sm80_xmma")]) == "sm80_xmma (0x1)"
    assert brief([Choice("conv", "0x1", "0x2")]) == "tactic 0x1 of implementation 0x2"
    assert brief([Choice("conv", "0x1", key="0x3")]) == "tactic 0x1"


@given(st.integers(-(2**63), 2**64 - 1))
def test_identifiers_keep_their_64_bits(value: int) -> None:
    assert int(hexadecimal(value), 16) == value % 2**64
    assert len(hexadecimal(value)) == 18


def test_orders_are_hashable_and_equal_by_value() -> None:
    assert {TacticOrders(force=(choice(1, 0),)): 1}[TacticOrders(force=(choice(1, 0),))] == 1

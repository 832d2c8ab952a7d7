"""What an algorithm selector answers, remembers and reports, without TensorRT."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from simulated import LINEAR, VECTORS, choice

from harness.worker.adapter.tactics.selector import Selection, make_selector
from harness.worker.protocol import TacticOrders

ALIKE = [replace(choice(0, 0), tactic=f"0x{number:016x}") for number in range(20)]
VECTORISED = [
    replace(each, inputs=(VECTORS,), outputs=(VECTORS,), tactic=f"0x{100 + number:016x}")
    for number, each in enumerate(ALIKE)
]


def test_half_of_the_alternatives_keep_the_formats() -> None:
    selection = Selection(TacticOrders(alternatives=8))
    selection.allow([*VECTORISED, *ALIKE])
    selection.report([ALIKE[3]])
    reported = selection.alternatives()
    assert len(reported) == 8
    assert [each.inputs for each in reported] == [(LINEAR,)] * 4 + [(VECTORS,)] * 4
    assert ALIKE[3] not in reported


def test_alternatives_are_made_up_from_what_there_is() -> None:
    for offered, alike in (([*ALIKE[:2], *VECTORISED], 1), ([*ALIKE, VECTORISED[0]], 7)):
        selection = Selection(TacticOrders(alternatives=8))
        selection.allow(offered)
        selection.report([ALIKE[0]])
        reported = selection.alternatives()
        assert len(reported) == len(set(reported)) == 8
        assert sum(each.inputs == (LINEAR,) for each in reported) == alike


def test_a_layer_that_comes_up_again_is_offered_once() -> None:
    selection = Selection(TacticOrders())
    selection.allow(ALIKE)
    selection.allow(ALIKE)
    assert selection.count == len(ALIKE)


def test_a_later_report_has_the_last_word_on_its_layers_alone() -> None:
    other = choice(1, 0)
    selection = Selection(TacticOrders(force=(ALIKE[1], other)))
    selection.allow(ALIKE)
    selection.allow([other])
    selection.report([ALIKE[0], other])
    selection.report([ALIKE[1]])
    assert selection.taken == (ALIKE[1], other)
    assert selection.misses() == ()


class Unreadable:
    num_inputs = num_outputs = 1

    @property
    def name(self) -> str:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


def test_nothing_that_goes_wrong_in_a_callback_gets_out_of_it() -> None:
    trt = SimpleNamespace(IAlgorithmSelector=type("IAlgorithmSelector", (), {}))
    release: Any = SimpleNamespace(offers=lambda feature: True)
    selector = make_selector(trt, release, Selection(TacticOrders()))
    for _ in range(50):
        assert selector.select_algorithms(Unreadable(), [object(), object()]) == [0, 1]
    selector.report_algorithms([Unreadable()], [object()])
    assert len(selector.problems) == 20
    assert selector.problems[0].startswith("choosing for a layer without a readable name: ")

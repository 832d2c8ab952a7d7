"""What is timed on a GPU has it alone; all else goes side by side."""

from __future__ import annotations

import threading

from harness.environments.turns import Turns, turns_of

SECONDS = 10.0


def test_builds_go_beside_each_other() -> None:
    turns, met = Turns(), threading.Barrier(2)

    def build() -> None:
        with turns.taken(alone=False):
            met.wait(SECONDS)  # for the other one, which has its turn too

    other = threading.Thread(target=build)
    other.start()
    build()
    other.join(SECONDS)
    assert not met.broken


def test_a_turn_alone_comes_before_those_asked_for_later() -> None:
    turns, order = Turns(), []
    building, waiting = threading.Event(), threading.Event()
    go_on = threading.Event()

    def build() -> None:
        with turns.taken(alone=False):
            building.set()
            go_on.wait(SECONDS)
            order.append("build")

    def measure() -> None:
        waiting.set()
        with turns.taken(alone=True):
            order.append("timed")

    def come_later() -> None:
        with turns.taken(alone=False):
            order.append("later")

    first, timed = threading.Thread(target=build), threading.Thread(target=measure)
    first.start()
    assert building.wait(SECONDS)
    timed.start()
    assert waiting.wait(SECONDS)
    while not turns._waiting:
        pass
    later = threading.Thread(target=come_later)
    later.start()
    assert order == []
    go_on.set()
    for thread in (first, timed, later):
        thread.join(SECONDS)
    assert order == ["build", "timed", "later"]


def test_an_error_ends_a_turn() -> None:
    turns = Turns()
    for alone in (True, False, True):
        try:
            with turns.taken(alone=alone):
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            continue
    with turns.taken(alone=True):
        assert turns._alone


def test_each_gpu_has_its_own_turns() -> None:
    assert turns_of(0) is turns_of(0)
    with turns_of(0).taken(alone=True), turns_of(1).taken(alone=True):
        assert turns_of(1) is not turns_of(0)

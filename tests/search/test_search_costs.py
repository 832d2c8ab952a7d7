"""What searches cost against the bounds, and the benchmark that measures it."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from benchmarks.search_costs import Kind, Row, kinds, main, measure, write

KINDS = {kind.name: kind for kind in kinds()}


def cost(name: str, repetitions: int = 20) -> Row:
    return measure(KINDS[name], repetitions)


def test_one_culprit_in_500_costs_11_evaluations_and_never_more_than_12():
    row = cost("one culprit, n=500")
    assert row.repetitions == 500
    assert row.proved <= 11
    assert row.proved_most <= 12
    assert row.right == 1


@pytest.mark.parametrize(
    ("name", "search", "proved"),
    [
        ("five random, n=500", 49, 54),
        ("twenty adjacent, n=500", 45, 46),
        ("one part of 12 blocks, groups known", 36, 36),
        ("one culprit, ranked first", 2, 2),
        ("four culprits, ranked first", 4, 6),
        ("one bad tactic of 64, both ends known", 9, 9),
    ],
)
def test_costs_stay_within_their_bounds(name: str, search: float, proved: float):
    row = cost(name)
    assert row.search is not None
    assert row.search <= search
    assert row.proved <= proved
    assert row.right == 1


def test_an_accumulated_error_is_cut_off_in_eight_evaluations_beside_the_two_ends():
    for name in ("accumulated, ranking noise 0.3", "accumulated, noise 0.3, no numbers"):
        row = cost(name)
        assert row.search is not None
        assert row.search <= 8 + 2 + 1
    row = cost("accumulated, ranking noise 0.3")
    assert row.size_over_best <= 1.1
    assert row.size_over_best_most <= 1.3


def test_delta_debugging_costs_a_multiple():
    row = cost("five random, n=500", 5)
    assert row.ddmin is not None
    assert row.search is not None
    assert row.ddmin > 3 * row.search


def test_the_kept_result_is_the_one_that_the_program_measures(tmp_path: Path):
    kept = json.loads((Path(main.__code__.co_filename).parent / "results" / "search_costs.json").read_text())
    assert [row["name"] for row in kept["rows"]] == list(KINDS)
    for row in kept["rows"]:
        if row["name"] == "one culprit, ranked first":
            again = measure(KINDS[row["name"]], row["repetitions"])
            write([again], tmp_path / "rows.json")
            assert json.loads((tmp_path / "rows.json").read_text())["rows"] == [row]


def test_a_wrong_answer_shows_in_the_row():
    kind = KINDS["one culprit, n=500"]
    wrong = Kind("wrong", lambda chance, number: misplanted(kind, chance, number), with_ddmin=False)
    assert measure(wrong, 4).right == 0


def misplanted(kind, chance, number):
    import dataclasses

    return dataclasses.replace(kind.make(chance, number), culprits=frozenset({"n499"}))


def test_means_are_over_all_repetitions():
    row = cost("two random, n=500", 6)
    assert row.repetitions == 6
    assert row.search_most is not None
    assert statistics.fmean([row.search or 0]) <= row.search_most

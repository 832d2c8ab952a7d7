"""The benchmark of the search for bad tactics, on a few networks, and what is kept of it."""

from __future__ import annotations

import json

from benchmarks import tactics_search
from benchmarks.record import RESULTS


def test_every_answer_is_right_and_within_the_promised_builds() -> None:
    row = tactics_search.measure("one bad choice", 200)
    assert (row["named"], row["right"], row["wrong"]) == (200, 200, 0)
    assert row["precision"] == row["recall"] == row["within_promise"] == 1.0
    assert all(int(beyond) <= 0 for beyond in row["builds_beyond_promise"])


def test_layers_that_take_no_orders_are_never_named_wrongly() -> None:
    for kind in ("the culprit does not obey", "bystanders do not obey", "one group", "two or three"):
        row = tactics_search.measure(kind, 40, confirm=1)
        assert row["wrong"] == 0, row
        # Where only three choices together are wrong, all builds may happen to pass.
        assert set(row["findings"]) <= {"found", "not reproducible", "one outcome"}, row


def test_chance_is_counted_as_wrong() -> None:
    row = tactics_search.measure("chance", 60)
    assert row["wrong"] == row["named"] > 0


def test_what_is_kept_is_of_thousands_of_networks_and_flawless() -> None:
    kept = json.loads((RESULTS / "tactics_search.json").read_text())["kinds"]
    one = kept["one bad choice"]
    assert one["networks"] >= 2000
    assert one["precision"] == one["recall"] == one["within_promise"] == 1.0
    assert all(row["wrong"] == 0 for kind, row in kept.items() if "chance" not in kind)

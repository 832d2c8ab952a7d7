"""The judgement of tensors: each verdict, its numbers, and what it does not depend on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from history_rows import frame, tensor_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.history import DriftVerdict, Floors
from harness.history.judgement.tensors import JUDGED, judge_tensors

YES, NO = [True] * 3, [False] * 3
NOISY = [1.00e-3, 1.01e-3, 0.99e-3]


def judge(table: pd.DataFrame, floors: Floors | None = None, **options: Any) -> pd.DataFrame:
    release = table["release"].to_numpy()
    return judge_tensors(table, release == "old", release == "new", floors or Floors(), **options)


def verdict(old: dict[str, Any], new: dict[str, Any], floors: Floors | None = None) -> str:
    (row,) = judge(frame(tensor_rows("old", **old), tensor_rows("new", **new)), floors).to_dict("records")
    return str(row["verdict"])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"errors": [1e-3] * 3, "hashes": "aaa"}, {"errors": [1e-3] * 3, "hashes": "aaa"}, "same"),
        ({"errors": NOISY, "hashes": "abc"}, {"errors": [0.99e-3, 1e-3], "hashes": "ca"}, "same"),
        ({"errors": NOISY, "hashes": "abc"}, {"errors": [0.99e-3, 1e-3], "hashes": "cx"}, "within noise"),
        # the bits of one bad build of three, in all builds: another level, whatever the band says
        ({"errors": [1e-3, 1e-3, 9e-3], "hashes": "aab"}, {"errors": [9e-3] * 3, "hashes": "bbb"}, "within noise"),
        ({"errors": [1e-3, 1e-3, 9e-3], "hashes": "aab"}, {"errors": [1e-3] * 3, "hashes": "aaa"}, "same"),
        ({"errors": [1e-3] * 20 + [9e-3], "hashes": "a" * 20 + "b"}, {"errors": [9e-3] * 3, "hashes": "bbb"},
         "regressed"),
        ({"errors": NOISY}, {"errors": [1.02e-3, 0.98e-3, 1e-3]}, "within noise"),
        ({"errors": NOISY}, {"errors": [2e-3, 2e-3, 2e-3]}, "regressed"),
        ({"errors": NOISY}, {"errors": [0.5e-3] * 3}, "improved"),
        ({"errors": NOISY}, {"errors": [2e-2] * 3, "passed": NO}, "new failure"),
        ({"errors": NOISY, "passed": [True, False, True]}, {"errors": [2e-2] * 3, "passed": NO}, "regressed"),
        ({"errors": [2e-2, 2.1e-2, 2.05e-2], "passed": NO}, {"errors": NOISY, "passed": YES}, "fixed"),
        ({"errors": [2e-2, 2.1e-2, 2.05e-2], "passed": NO}, {"errors": NOISY, "passed": NO}, "improved"),
        # the same gates, missed by a hair: no drift, although a gate fails
        ({"errors": NOISY}, {"errors": [1.02e-3] * 3, "passed": NO}, "within noise"),
        # beyond the floor, but the older release is as noisy
        ({"errors": [1e-3, 2e-3, 3e-3]}, {"errors": [4e-3, 3e-3, 3e-3]}, "within noise"),
        # exactly constant on both sides and one ULP apart: certain, and nothing
        ({"errors": [1e-3] * 3}, {"errors": [1.0001e-3] * 3}, "within noise"),
        # below the floor of the precision, whatever the ratio
        ({"errors": [1e-6] * 3}, {"errors": [1e-5] * 3}, "within noise"),
        ({"errors": [0.0] * 3}, {"errors": [1e-3] * 3}, "regressed"),
        # overflow: in most builds or in few, where no older build does
        ({"errors": NOISY}, {"errors": [math.inf] * 3, "passed": NO}, "new failure"),
        ({"errors": NOISY}, {"errors": [math.inf, math.nan, 1e-3], "passed": [False, False, True]}, "new failure"),
        ({"errors": NOISY}, {"errors": [math.inf, 1e-3, 1e-3], "passed": [False, True, True]}, "new failure"),
        ({"errors": [math.inf] * 3, "passed": NO}, {"errors": [math.inf] * 3, "passed": NO}, "within noise"),
        ({"errors": [math.inf] * 3, "passed": NO}, {"errors": NOISY}, "fixed"),
        # one of two is not most, but none before
        ({"errors": NOISY}, {"errors": [math.inf, 1e-3], "passed": [False, True]}, "new failure"),
        # which build overflows is noise where one did before
        ({"errors": [math.inf, 1e-3, 1e-3], "passed": [False, True, True]},
         {"errors": [1e-3, math.inf, 1.01e-3], "passed": [True, False, True]}, "within noise"),
        # less error: a gate that goes by it cannot have broken
        ({"errors": NOISY}, {"errors": [0.5e-3] * 3, "passed": NO}, "improved"),
        # without their hashes nobody knows whether the bits are the same
        ({"errors": NOISY, "hashes": [None] * 3}, {"errors": NOISY, "hashes": [None] * 3}, "within noise"),
        # one build shows nothing of the noise: the floor decides alone
        ({"errors": [1e-3]}, {"errors": [1.2e-3]}, "within noise"),
        ({"errors": [1e-3]}, {"errors": [1.3e-3]}, "regressed"),
        # two builds say next to nothing
        ({"errors": [1e-3, 1.1e-3]}, {"errors": [4e-3, 4e-3]}, "within noise"),
    ],
)  # fmt: skip
def test_verdicts(old: dict[str, Any], new: dict[str, Any], expected: str) -> None:
    assert verdict(old, new) == expected


@pytest.mark.parametrize(
    ("gate", "old", "new", "expected"),
    [
        # of a cosine or of the rank of the logits the error says nothing
        ("cosine", {"errors": NOISY}, {"errors": NOISY, "passed": NO}, "new failure"),
        ("cosine", {"errors": NOISY}, {"errors": [0.5e-3] * 3, "passed": NO}, "new failure"),
        ("cosine", {"errors": NOISY}, {"errors": NOISY, "passed": [False, True, False]}, "within noise"),
        ("cosine", {"errors": NOISY, "passed": [True, True, False]}, {"errors": NOISY, "passed": NO}, "within noise"),
        ("cosine", {"errors": NOISY, "hashes": "abc"}, {"errors": NOISY, "hashes": "abc", "passed": NO}, "same"),
        ("nrmse", {"errors": NOISY}, {"errors": NOISY, "passed": NO}, "within noise"),
    ],
)  # fmt: skip
def test_a_gate_on_something_else_breaks_where_all_builds_held_it_and_none_does(
    gate: str, old: dict[str, Any], new: dict[str, Any], expected: str
) -> None:
    asked = {"gate": gate, "limit": 0.9, "reference_rms": 1.0}
    assert verdict(old | asked, new | asked) == expected


def test_the_numbers_behind_a_verdict_stand_beside_it() -> None:
    table = frame(
        tensor_rows("old", [1e-3, 1.2e-3, 0.8e-3], passed=[True, True, False]),
        tensor_rows("new", [2e-3, 3e-3]),
    )
    judged = judge(table)
    assert list(judged.columns) == list(JUDGED)
    row = judged.iloc[0]
    assert row["old"] == pytest.approx(1e-3)
    assert row["new"] == pytest.approx(2.5e-3)
    assert row["change"] == pytest.approx(1.5e-3)
    pooled = math.sqrt((2 * 0.2e-3**2 + 0.5e-3**2 * 2) / 3)
    settled = 9.925 * 0.2e-3 * math.sqrt(1 / 3 + 1 / 2)
    assert row["noise"] == pytest.approx(max(settled, 5.841 * pooled * math.sqrt(1 / 3 + 1 / 2)), rel=1e-3)
    assert row["floor"] == pytest.approx(0.25e-3)
    assert (row["old_builds"], row["new_builds"], row["old_passed"], row["new_passed"]) == (3, 2, 2, 2)
    assert row["equal_builds"] == 0
    assert row["distance"] == pytest.approx(1e-4)
    assert row["rebuild_distance"] == pytest.approx(1e-4)


def test_a_release_whose_builds_differ_is_not_worse_for_one_of_them() -> None:
    # Seen on an H200: three builds of one release that chose other tactics once.
    same, once = {"errors": [4.236e-4] * 3}, {"errors": [4.237e-4, 9.106e-4, 4.237e-4]}
    assert verdict(same, once) == "within noise"
    assert verdict(once, same) == "within noise"
    assert verdict(same, {"errors": [9.1e-4, 9.2e-4, 9.0e-4]}) == "regressed"


def test_a_gate_that_breaks_now_and_then_does_not_hide_behind_the_scatter() -> None:
    old = {"errors": [1e-3, 1.01e-3, 0.99e-3]}
    flaky = {"errors": [1e-3, 9e-3, 1.01e-3], "passed": [True, False, True]}
    assert verdict(old, flaky) == "new failure"
    assert verdict(old, {**flaky, "passed": [True, True, True]}) == "within noise"


def test_builds_of_the_newer_release_alone_show_some_of_the_noise() -> None:
    old, new = {"errors": [1e-3]}, {"errors": [1.1e-3, 1.6e-3, 2.4e-3]}
    assert verdict(old, new) == "within noise"
    assert verdict(old, {"errors": [1.7e-3, 1.7e-3, 1.71e-3]}) == "regressed"


def test_a_larger_floor_lets_more_pass() -> None:
    old, new = {"errors": NOISY}, {"errors": [1.5e-3] * 3}
    assert verdict(old, new) == "regressed"
    assert verdict(old, new, Floors(relative=0.6)) == "within noise"


def test_the_gate_is_one_that_fails_and_that_of_the_newer_release() -> None:
    def gated(release: str, gate: str | None, limit: float | None, passed: bool) -> list[dict[str, Any]]:
        columns = {"gate": gate, "limit": limit, "reference_rms": 4.0}
        return tensor_rows(release, [1e-3], passed=[passed], **columns)

    def gate_of(*rows: list[dict[str, Any]]) -> list[Any]:
        row = judge(frame(*rows)).iloc[0]
        return [row["gate"], row["limit"], row["error_limit"]]

    old, failing = gated("old", "nrmse", 0.02, True), gated("new", "max_abs", 0.5, False)
    assert gate_of(old, gated("new", None, None, True)) == ["nrmse", 0.02, 0.02]
    assert gate_of(old, gated("new", "rmse", 0.1, True)) == ["rmse", 0.1, 0.1 / 4]
    for builds in ([gated("new", "rmse", 0.1, True), failing], [failing, gated("new", "rmse", 0.1, True)]):
        assert gate_of(old, *builds) == ["max_abs", 0.5, pytest.approx(math.nan, nan_ok=True)]
        assert gate_of(*builds, gated("old", "nrmse", 0.02, False))[0] == "max_abs"


def test_distances_of_two_runs_are_not_compared() -> None:
    table = frame(tensor_rows("old", NOISY), tensor_rows("new", NOISY))
    assert judge(table, distances=False)["distance"].isna().all()


def test_a_tensor_that_only_one_side_has_is_not_judged() -> None:
    table = frame(tensor_rows("old", NOISY), tensor_rows("new", NOISY), tensor_rows("new", NOISY, tensor="z"))
    assert list(judge(table)["tensor"]) == ["y"]


def test_tensors_of_one_name_are_distinguished_by_kind_sample_precision_and_case() -> None:
    kinds = [{}, {"kind": "layer"}, {"sample": 1}, {"precision": "bf16"}, {"case": "other"}]
    rows = [
        tensor_rows(release, [error * (place + 1)] * 3, **changes)
        for place, changes in enumerate(kinds)
        for release, error in (("old", 1e-3), ("new", 2e-3))
    ]
    judged = judge(frame(*rows))
    assert len(judged) == 5
    assert sorted(judged["old"]) == pytest.approx([1e-3, 2e-3, 3e-3, 4e-3, 5e-3])


errors = st.one_of(st.floats(1e-7, 1.0), st.just(math.inf), st.just(0.0))


@settings(max_examples=60)
@given(
    old=st.lists(errors, min_size=1, max_size=5),
    new=st.lists(errors, min_size=1, max_size=5),
    order=st.randoms(use_true_random=False),
    categorical=st.booleans(),
)
def test_neither_the_order_of_rows_nor_the_kind_of_columns_matters(old, new, order, categorical) -> None:
    table = frame(
        tensor_rows("old", old), tensor_rows("new", new), tensor_rows("old", new, tensor="z"),
        tensor_rows("new", old, tensor="z"),
    )  # fmt: skip
    plain = judge(table).set_index("tensor").sort_index()
    places = list(range(len(table)))
    order.shuffle(places)
    shuffled = table.iloc[places].reset_index(drop=True)
    if categorical:
        names = ["case", "precision", "release", "kind", "tensor", "hash", "node", "op"]
        shuffled = shuffled.astype(dict.fromkeys(names, "category"))
    again = judge(shuffled).set_index("tensor").sort_index()
    assert list(again["verdict"]) == list(plain["verdict"])
    np.testing.assert_allclose(
        again[["old", "new", "noise"]].to_numpy(float),
        plain[["old", "new", "noise"]].to_numpy(float),
        rtol=1e-9,
    )


@settings(max_examples=40)
@given(old=st.lists(errors, min_size=1, max_size=4), new=st.lists(errors, min_size=1, max_size=4))
def test_what_is_worse_one_way_is_not_worse_the_other_way(old, new) -> None:
    worse = {DriftVerdict.REGRESSED, DriftVerdict.NEW_FAILURE}
    forth = verdict({"errors": old}, {"errors": new})
    back = verdict({"errors": new}, {"errors": old})
    assert not (forth in worse and back in worse)

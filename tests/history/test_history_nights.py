"""Tonight against earlier nights: nights are what varies, and a few bad ones hide nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from history_rows import engine_rows, frame, tensor_rows

from harness.history import FailsOn, Floors, RunDrift
from harness.history.judgement.nights import Nights, mean_of_builds
from harness.history.judgement.runs import Pair, compare_pair
from harness.history.judgement.tensors import judge_tensors
from harness.history.nightly.series import NIGHTLY_CONFIDENCE

BUILDS = 3
FLOORS = Floors(confidence=NIGHTLY_CONFIDENCE)
Errors = Callable[[np.random.Generator, int], np.ndarray]
Rows = list[dict[str, Any]]


def night(number: int, errors: list[float], **changes: Any) -> Rows:
    hashes = changes.pop("hashes", [f"{number}.{build}" for build in range(len(errors))])
    return tensor_rows("trt", errors, hashes=hashes, run=f"night {number:03d}", **changes)


def table_of(*nights: Rows) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows, and which are tonight's: those of the last night."""
    table = frame(*nights)
    return table, (table["run"] == table["run"].max()).to_numpy()


def judged(*nights: Rows) -> dict[str, Any]:
    table, new = table_of(*nights)
    (row,) = judge_tensors(table, ~new, new, FLOORS, distances=False, nights=True).to_dict("records")
    return {str(name): value for name, value in row.items()}


def compared(*nights: Rows) -> RunDrift:
    engines = [
        [
            {**row, "run": rows[0]["run"], "verdict": "pass" if built["passed"] else "fail"}
            for row, built in zip(engine_rows("trt", len(rows)), rows, strict=True)
        ]
        for rows in nights
    ]
    table, new = table_of(*nights, *engines)
    pair = Pair("the nights before", "trt", ~new, new, distances=False, nights=True)
    (run,) = compare_pair(table, pair, floors=FLOORS).runs
    return run


def noisy(count: int, level: float = 1e-3) -> list[Rows]:
    stream = np.random.default_rng(7)
    return [
        night(number, list(level * (1 + 0.02 * stream.standard_normal(BUILDS)))) for number in range(count)
    ]


def alarms(errors: Errors, nights: int = 31, tensors: int = 1000) -> float:
    """The share of tensors that are called worse or better in the last night of `errors` (tensors × builds)."""
    stream = np.random.default_rng(11)
    error = np.stack([errors(stream, number) for number in range(nights)])
    tensor = np.broadcast_to(np.arange(tensors)[None, :, None], error.shape).ravel()
    number = np.broadcast_to(np.arange(nights)[:, None, None], error.shape).ravel()
    table = pd.DataFrame(
        {
            "run": number,
            "case": "net",
            "precision": "fp16",
            "kind": "output",
            "tensor": tensor.astype(str),
            "sample": 0,
            "index": 0,
            "node": "",
            "op": "",
            "build": np.broadcast_to(np.arange(error.shape[2]), error.shape).ravel(),
            "error": error.ravel(),
            "passed": True,
            "hash": np.char.mod("%.12e", error.ravel()),
        }
    )
    new = number == nights - 1
    found = judge_tensors(table, ~new, new, FLOORS, distances=False, nights=True)["verdict"]
    return float((~found.isin(["same", "within noise"])).mean())


def shaken(night_noise: float, build_noise: float, tonight: float = 1.0) -> Errors:
    """Errors to which each night adds something of its own."""

    def errors(stream: np.random.Generator, number: int) -> np.ndarray:
        level = 1e-3 * np.exp(night_noise * stream.standard_normal((1000, 1)))
        return (
            level
            * (1 + build_noise * stream.standard_normal((1000, BUILDS)))
            * (tonight if number == 30 else 1)
        )

    return errors


@pytest.mark.parametrize("night_noise", [0.1, 0.15, 0.2])
def test_nights_that_have_an_effect_of_their_own_are_no_drift(night_noise: float) -> None:
    assert alarms(shaken(night_noise, 0.01)) <= 0.002


def test_half_as_much_error_more_is_found_in_noisy_builds() -> None:
    assert alarms(shaken(0.0, 0.1, tonight=1.5)) >= 0.95


def test_one_build_with_other_tactics_does_not_make_the_night_drift() -> None:
    def errors(stream: np.random.Generator, number: int) -> np.ndarray:
        return np.where(stream.random((1000, BUILDS)) < 0.03, 9.1e-4, 4.2e-4)

    assert alarms(errors) <= 0.01


def test_the_band_holds_as_many_normal_nights_as_it_says() -> None:
    stream, tensors = np.random.default_rng(2), 50_000
    for count in (3, 9, 10, 30):
        before = stream.standard_normal((tensors, count)) + 10
        rows = [*(axis.ravel() for axis in np.indices(before.shape)), before.ravel()]
        nights = Nights.of(*rows, size=tensors, width=count)
        beyond = np.abs(stream.standard_normal(tensors) + 10 - nights.level) > nights.half_width(0.99)
        assert beyond.mean() == pytest.approx(0.01, abs=0.002), count


def test_the_level_of_nights_is_their_median_and_infinite_where_most_are() -> None:
    rows = (np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 0, 1, 2]))
    nights = Nights.of(*rows, np.array([1.0, 9.0, 2.0, math.inf, 5.0, math.inf]), size=3, width=3)
    assert nights.level[:2].tolist() == [2.0, math.inf]
    assert nights.count.tolist() == [3, 1, 0]
    assert math.isnan(nights.level[2])
    assert np.isnan(nights.half_width(0.99)[1:]).all()


def test_a_night_counts_by_the_mean_of_its_finite_builds() -> None:
    groups, errors = np.array([0, 0, 0, 1, 1, 1]), np.array([1.0, 3.0, math.inf, math.nan, math.inf, 1.0])
    mean, finite = mean_of_builds(groups, errors, 3)
    assert mean[:2].tolist() == [2.0, math.inf]
    assert (finite.tolist(), math.isnan(mean[2])) == ([2, 1, 0], True)


def test_a_lasting_step_is_an_alarm_on_more_than_its_first_night() -> None:
    calm = [night(number, [1e-3] * BUILDS, hashes="AAA") for number in range(30)]
    risen = [night(number, [5e-3] * BUILDS, hashes="BBB") for number in range(30, 40)]
    for count in (1, 2, 3):
        before = [*calm[count - 1 :], *risen[: count - 1]]
        row = judged(*before, risen[count])
        assert (row["verdict"], row["old"], row["new"]) == ("regressed", 1e-3, pytest.approx(5e-3)), count
    assert judged(*risen[:9], risen[9])["verdict"] == "same", "the level that it has settled at"


def test_one_bad_build_weeks_ago_hides_no_failure() -> None:
    before = noisy(30)
    before[10][1] |= {"error": 0.5, "passed": False}
    failing = night(30, [2e-2, 2.1e-2, 2e-2], passed=[False] * BUILDS)
    assert judged(*before, failing)["verdict"] == "new failure"
    run = compared(*before, failing)
    assert run.builds.fails_on is FailsOn.NEWER, "one of 90 builds does not excuse all of tonight's"
    assert judged(*before, night(30, [0.5e-3] * BUILDS))["verdict"] == "improved", "there was nothing to fix"


def test_a_gate_that_held_in_nearly_all_builds_before_breaks() -> None:
    gate = {"gate": "topk_agreement", "limit": 0.99, "reference_rms": 1.0}
    before = [night(number, [1e-3] * BUILDS, **gate) for number in range(30)]
    before[5][0]["passed"] = False
    broken = night(30, [1e-3] * BUILDS, passed=[False] * BUILDS, **gate)
    assert judged(*before, broken)["verdict"] == "new failure"
    for rows in before[:12]:
        rows[0]["passed"] = False
    assert judged(*before, broken)["verdict"] == "within noise", "it held in 78 of 90 builds"


def test_what_most_earlier_builds_fail_fails_as_before() -> None:
    failing = [night(number, [1e-3] * BUILDS, passed=[False] * BUILDS) for number in range(8)]
    assert compared(*failing).builds.fails_on is FailsOn.BOTH


def test_the_builds_of_a_single_earlier_night_show_the_noise() -> None:
    row = judged(night(0, [1e-3, 1.1e-3, 0.9e-3]), night(1, [1.5e-3] * BUILDS))
    assert (row["verdict"], math.isfinite(row["noise"])) == ("within noise", True)
    assert judged(night(0, [1e-3]), night(1, [1.5e-3]))["verdict"] == "regressed"

"""What comes of a run between two releases: its status and reason, from rows made by hand."""

from __future__ import annotations

import datetime
import math
from typing import Any

import pytest
from history_rows import engine_rows, frame, tensor_rows

from harness.case import Waiver
from harness.history import DriftStatus, DriftVerdict, Floors, RunDrift
from harness.history.judgement.runs import Pair, compare_pair, pairs_of

CALM = [1e-3, 1.01e-3, 0.99e-3]
TODAY = datetime.date(2026, 6, 1)
Rows = list[dict[str, Any]]


def compared(*rows: Rows, waivers: tuple[Waiver, ...] = (), repeats: int | None = None) -> RunDrift:
    table = frame(*rows)
    (pair,) = pairs_of(table, ("old", "new"))
    options: dict[str, Any] = {"floors": Floors(), "waivers": {"net": waivers}, "today": TODAY}
    (run,) = compare_pair(table, pair, repeats=repeats, **options).runs
    return run


def built(release: str, builds: int = 3, **changes: Any) -> Rows:
    return engine_rows(release, builds, **changes) + tensor_rows(release, CALM[:builds])


def layer(release: str, errors: list[float], **changes: Any) -> Rows:
    return tensor_rows(release, errors, tensor="t", kind="layer", **changes)


def test_only_engines_with_fewer_builds_than_requested_are_reported() -> None:
    assert "builds within" not in compared(built("old"), built("new"), repeats=3).reason
    text = compared(built("old"), built("new", 2), repeats=3).reason
    assert text.endswith("; new: 2 of 3 builds within the time limit")


def test_an_expired_waiver_lets_no_engine_pass_that_cannot_be_built() -> None:
    broken = engine_rows("new", verdict="error", reason="no implementation")
    waiver = Waiver.model_validate({"reason": "known", "expires": "2026-05-31"})
    run = compared(built("old"), broken, waivers=(waiver,))
    assert run.status is DriftStatus.ERROR
    assert "the waiver expired on 2026-05-31: known" in run.reason


@pytest.mark.parametrize("verdicts", [("error", "skip", "pass"), ("skip", "error", "pass")])
def test_the_worst_of_what_kept_builds_from_being_judged_decides(verdicts: tuple[str, ...]) -> None:
    engines = engine_rows("new")
    for row, verdict in zip(engines, verdicts, strict=True):
        row |= {"verdict": verdict, "reason": f"{verdict}: why"}
    assert compared(built("old"), engines, tensor_rows("new", CALM)).status is DriftStatus.ERROR


def test_a_layer_beyond_its_gate_is_worse_and_fails_no_run_by_itself() -> None:
    failing = layer("new", [5e-2] * 3, passed=[False] * 3)
    run = compared(built("old"), built("new"), layer("old", CALM), failing)
    assert (run.verdict, run.counts["layer"]) == (DriftVerdict.REGRESSED, {DriftVerdict.NEW_FAILURE: 1})


def test_a_layer_that_no_longer_overflows_is_better_without_a_noise_band() -> None:
    overflowing = layer("old", [math.inf], passed=[False])
    run = compared(built("old"), built("new"), overflowing, layer("new", [1e-3], passed=[False]))
    assert run.verdict is DriftVerdict.IMPROVED
    assert run.worst is not None
    assert (run.worst.tensor, math.isnan(run.worst.noise)) == ("t", True)


def test_a_release_is_faithful_only_if_all_its_builds_are() -> None:
    older, newer = built("old"), built("new", faithful=True)
    newer[1]["faithful"] = False
    assert compared(older, newer).faithful == (None, False)


def test_what_neither_release_can_do_comes_below_a_drift_and_above_what_passes() -> None:
    broken = [engine_rows(release, verdict="error", reason="no kernel") for release in ("old", "new")]
    skipped = [engine_rows(release, verdict="skip", reason="no fp8") for release in ("old", "new")]
    drifted = compared(built("old"), engine_rows("new"), tensor_rows("new", [5e-3] * 3))
    runs = [compared(*skipped), compared(built("old"), built("new")), compared(*broken), drifted]
    assert [run.status for run in runs] == [
        DriftStatus.SKIP,
        DriftStatus.PASS,
        DriftStatus.ERROR,
        DriftStatus.FAIL,
    ]
    assert sorted(runs, key=lambda run: run.severity) == runs


# --- builds of earlier nights that could not be judged ------------------------------------------------------


def nightly(*nights: Rows) -> RunDrift:
    """What comes of the last of `nights` against those before it."""
    table = frame(
        *([{**row, "run": f"night {number:03d}"} for row in rows] for number, rows in enumerate(nights))
    )
    new = (table["run"] == table["run"].max()).to_numpy()
    pair = Pair("the nights before", "new", ~new, new, distances=False, nights=True)
    (run,) = compare_pair(table, pair, floors=Floors()).runs
    return run


@pytest.mark.parametrize("verdict", ["error", "skip"])
def test_a_night_that_could_not_be_judged_is_left_out_of_those_before(verdict: str) -> None:
    broken = engine_rows("new", 1, verdict=verdict, reason="the builder failed")
    run = nightly(*[built("new")] * 9, broken, built("new"))
    assert (run.status, run.verdict, run.errors) == (DriftStatus.PASS, DriftVerdict.SAME, ())
    assert run.reason.endswith("; without 1 of 28 earlier builds, which could not be judged")


def test_what_cannot_be_built_tonight_is_an_error_and_nothing_new_if_it_never_could() -> None:
    broken = engine_rows("new", verdict="error", reason="no kernel")
    tonight = nightly(built("new"), built("new"), broken)
    assert (tonight.status, [str(error) for error in tonight.errors]) == (
        DriftStatus.ERROR,
        ["new: no kernel"],
    )
    ever = nightly(built("new"), broken, broken, broken)
    assert [str(error) for error in ever.errors] == ["the nights before: no kernel", "new: no kernel"]


def test_what_only_the_older_release_cannot_do_is_diagnosed_there() -> None:
    broken = engine_rows("old", verdict="error", reason="no kernel")
    assert compared(broken, built("new")).command.endswith("--env old")
    assert compared(built("old"), engine_rows("new", verdict="error", reason="no kernel")).command.endswith(
        "--env new"
    )

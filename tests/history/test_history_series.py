"""Nightly series: the newest night against those before it, steps, and what is another question."""

from __future__ import annotations

import datetime
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from history_rows import engine_rows, tensor_rows
from rich.console import Console

import harness
from harness.errors import HistoryError
from harness.history import DriftOptions, DriftVerdict, Status
from harness.history.noise import Floors
from harness.history.series import nightly_report, series_of
from harness.history.steps import MIN_NIGHTS
from harness.history.store import RunWriter
from harness.report.drift_console import print_drift
from harness.report.drift_words import answer, tone_of

STREAM = np.random.default_rng(3)


def write_night(
    folder: Path,
    night: int,
    error: float,
    *,
    release: str = "trt",
    case_sha256: str = "a",
    model_sha256: str = "m",
    **engine: Any,
) -> None:
    day = datetime.date(2026, 1, 1) + datetime.timedelta(days=night)
    run = f"{day:%Y%m%d}T020000Z-000000"
    asked = {"case_sha256": case_sha256, "model_sha256": model_sha256, "run": run}
    layers = {"t0": error, "t1": error * 1.1, "y": error * 1.2}
    rows = engine_rows(release, 1, **asked, **engine)
    for place, (name, value) in enumerate(layers.items()):
        behind = [f"t{place - 1}"] if place else []
        digest = [f"{run}{name}"]
        rows += tensor_rows(
            release, [value], tensor=name, kind="layer", index=place, reads=behind, hashes=digest, **asked
        )
    rows += tensor_rows(release, [error * 1.2], tensor="y", index=2, hashes=[f"{run}out"], **asked)
    for row in rows:
        if row["kind"] == "engine":
            row["error"] = None
    with RunWriter(folder, {"releases": [release], "repeats": 1, "cases": ["net"]}) as writer:
        writer.run = run
        writer.parts = folder / f"{run}.parts"
        writer.parts.mkdir()
        writer.write("net", rows)
        writer.finish({})


def nights(folder: Path, errors: list[float], **options: Any) -> None:
    for night, error in enumerate(errors):
        write_night(folder, night, error, **options)


def noisy(count: int, level: float = 1e-3) -> list[float]:
    return list(level * (1 + 0.02 * STREAM.standard_normal(count)))


def test_a_night_like_the_others_does_not_drift(tmp_path: Path) -> None:
    nights(tmp_path, noisy(31))
    report = nightly_report(tmp_path)
    (run,) = report.runs
    assert (run.status, run.verdict, report.exit_code) == (Status.PASS, DriftVerdict.WITHIN_NOISE, 0)
    assert report.old == "the 30 runs before"
    assert report.releases == ("the 30 runs before", "trt")
    assert set(report.tensors["old_builds"]) == {30}
    assert all(one.steps == () for one in report.series)


def test_a_fault_is_told_on_the_night_that_it_comes(tmp_path: Path) -> None:
    nights(tmp_path, [*noisy(30), 2e-3])
    report = nightly_report(tmp_path)
    (run,) = report.runs
    assert (run.status, run.verdict) == (Status.FAIL, DriftVerdict.WORSE)
    assert [origin.node for origin in run.origins] == ["t0"]
    assert run.command.endswith("--precision fp16 --env trt")
    assert all(one.steps == () for one in report.series), "one night is no step"


def test_a_step_is_told_with_its_night(tmp_path: Path) -> None:
    nights(tmp_path, [*noisy(25), *noisy(15, 1.6e-3)])
    report = nightly_report(tmp_path, last=39)
    (one,) = report.series
    assert one.tensor == "y"
    assert one.steps is not None
    (step,) = one.steps
    assert one.night(step).startswith("20260126")
    assert report.to_dict()["steps"][0]["run"] == one.night(step)
    assert report.runs[0].status is Status.PASS, "the newest night is like those before it"
    assert f"; y, sample 0: 1.9e-3 since {one.night(step)}, 1.2e-3 before" in report.runs[0].reason
    assert (report.rises, report.creeping, report.exit_code) == (1, 0, 0)
    assert answer(report) == "Nothing moved beyond noise on trt; 1 output has risen in an earlier night."
    assert tone_of(report) == "calm"


def test_a_level_that_creeps_is_told_though_no_night_moves(tmp_path: Path) -> None:
    nights(tmp_path, [error * 1.8 ** (night / 30) for night, error in enumerate(noisy(31))])
    report = nightly_report(tmp_path)
    assert (report.rises, report.creeping, report.exit_code) == (0, 1, 0)
    assert "; y, sample 0: creeping, ×1." in report.runs[0].reason
    assert answer(report).endswith("; 1 output creeps over the nights.")
    stream = io.StringIO()
    print_drift(Console(file=stream, width=100), report)
    assert "creep net at fp16, y [0]: ×1." in stream.getvalue()
    assert "step net" not in stream.getvalue()
    (document,) = report.to_dict()["creeping"]
    assert (document["case"], document["tensor"], document["nights"]) == ("net", "y", 31)


def test_few_nights_raise_no_alarm(tmp_path: Path) -> None:
    nights(tmp_path, [1e-3, 1e-3])
    report = nightly_report(tmp_path)
    assert report.old == "the run before"
    assert [one.steps for one in report.series] == [None]
    with pytest.raises(HistoryError, match="holds no finished run of 'trt-9'"):
        nightly_report(tmp_path, release="trt-9")
    with pytest.raises(HistoryError, match="no finished run"):
        nightly_report(tmp_path / "nowhere", release="trt")


def test_the_first_night_has_nothing_before_it(tmp_path: Path) -> None:
    nights(tmp_path, [1e-3])
    report = nightly_report(tmp_path)
    (run,) = report.runs
    assert (run.verdict, report.exit_code, report.old) == (None, 0, "no run before")


@pytest.mark.parametrize("asked", ["case_sha256", "model_sha256"])
def test_nights_of_another_question_are_left_out(tmp_path: Path, asked: str) -> None:
    nights(tmp_path, noisy(10, 1.0), **{asked: "before"})
    for night, error in enumerate(noisy(12), start=10):
        write_night(tmp_path, night, error, **{asked: "after"})
    report = nightly_report(tmp_path)
    assert set(report.tensors["old_builds"]) == {11}
    assert report.runs[0].status is Status.PASS


def test_nights_of_other_releases_are_left_out(tmp_path: Path) -> None:
    nights(tmp_path, noisy(5, 1.0), release="other")
    for night, error in enumerate(noisy(5), start=5):
        write_night(tmp_path, night, error)
    assert set(nightly_report(tmp_path).tensors["old_builds"]) == {4}


def test_only_so_many_nights_are_read(tmp_path: Path) -> None:
    nights(tmp_path, noisy(12))
    report = nightly_report(tmp_path, last=5)
    assert set(report.tensors["old_builds"]) == {5}
    assert len(report.series[0].runs) == 6


def test_an_engine_that_could_not_be_built_tonight_is_an_error(tmp_path: Path) -> None:
    nights(tmp_path, noisy(5))
    write_night(tmp_path, 5, 1e-3, verdict="error", reason="segmentation fault")
    report = nightly_report(tmp_path)
    assert report.exit_code == 3
    assert "segmentation fault" in report.runs[0].reason


def test_steps_are_told_from_the_fewest_nights_on_that_can_show_one(tmp_path: Path) -> None:
    nights(tmp_path, [*noisy(10), *noisy(MIN_NIGHTS - 11, 1.6e-3)])
    assert [one.steps for one in nightly_report(tmp_path).series] == [None]
    write_night(tmp_path, MIN_NIGHTS - 1, 1.6e-3)
    (one,) = nightly_report(tmp_path).series
    assert one.steps is not None
    assert [step.place for step in one.steps] == [10]


def test_the_mean_of_a_nights_builds_is_its_point(tmp_path: Path) -> None:
    rows = tensor_rows("trt", [1e-3, 3e-3])
    (one,) = series_of(pd.DataFrame(rows), Floors())
    assert one.errors == pytest.approx((2e-3,))
    assert one.steps is None


@pytest.mark.parametrize(
    ("errors", "expected"), [([1e-3, math.inf, 3e-3], 2e-3), ([1e-3, math.inf, math.nan], math.inf)]
)
def test_one_build_that_overflows_is_no_night_that_does(errors: list[float], expected: float) -> None:
    (one,) = series_of(pd.DataFrame(tensor_rows("trt", errors)), Floors())
    assert one.errors == pytest.approx((expected,))


def test_a_single_release_can_be_held_against_its_earlier_nights(tiny_cases, tmp_path: Path) -> None:
    folder = tiny_cases("clean")

    def night(release: str):
        return harness.drift(
            folder,
            environments=[release],
            precisions=["fp16"],
            against="history",
            history=tmp_path / "h",
            options=DriftOptions(repeats=1),
        )

    assert "nothing to compare" in night("emulator:fp16").runs[0].reason
    assert night("emulator:fp16").runs[0].verdict is DriftVerdict.SAME
    assert night("emulator:fp16").old == "the 2 runs before"

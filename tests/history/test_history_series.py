"""Nightly series: the newest night against those before it, steps, and what is another question."""

from __future__ import annotations

import datetime
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from history_rows import engine_rows, tensor_rows, typed
from rich.console import Console

import harness
from harness.errors import HistoryError
from harness.history import ChangeKind, DriftOptions, DriftStatus, DriftVerdict, Floors, nightly_report
from harness.history.judgement.outcome import Fact, FactChange
from harness.history.judgement.steps import MIN_NIGHTS
from harness.history.nightly.series import series_of
from harness.history.store.files import MatrixPlan, RunWriter, list_newest
from harness.judge import MadeWith
from harness.report import print_drift
from harness.report.drift.lines import changes_line
from harness.report.drift.words import answer, tone_of
from harness.worker.protocol import Fingerprint

STREAM = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def _same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test draws the same numbers, whichever ran before it."""
    monkeypatch.setattr(f"{__name__}.STREAM", np.random.default_rng(3))


def write_night(
    folder: Path,
    night: int,
    error: float,
    *,
    release: str = "trt",
    case_sha256: str = "a",
    model_sha256: str = "m",
    facts: dict[str, str] | None = None,
    footer: bool = True,
    **engine: Any,
) -> None:
    day = datetime.date(2026, 1, 1) + datetime.timedelta(days=night)
    run = f"{day:%Y%m%d}T020000Z-000000"
    facts = facts or {}
    asked = {"case_sha256": case_sha256, "model_sha256": model_sha256, "run": run, **facts}
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
    with RunWriter(folder, MatrixPlan(releases=(release,), repeats=1, cases={"net": ""})) as writer:
        writer.run = run
        writer.parts = folder / f"{run}.parts"
        writer.parts.mkdir()
        writer.write("net", typed(rows))
        environments = {release: Fingerprint(release, **facts)} if facts and footer else {}
        writer.finish(MadeWith(environments=environments))


def nights(folder: Path, errors: list[float], **options: Any) -> None:
    for night, error in enumerate(errors):
        write_night(folder, night, error, **options)


def noisy(count: int, level: float = 1e-3) -> list[float]:
    return list(level * (1 + 0.02 * STREAM.standard_normal(count)))


def test_a_night_like_the_others_does_not_drift(tmp_path: Path) -> None:
    nights(tmp_path, noisy(31))
    report = nightly_report(tmp_path)
    (run,) = report.runs
    assert (run.status, run.verdict, report.exit_code) == (DriftStatus.PASS, DriftVerdict.WITHIN_NOISE, 0)
    assert report.old == "the 30 runs before"
    assert report.releases == ("the 30 runs before", "trt")
    assert set(report.tensors["old_builds"]) == {30}
    assert {one.steps for one in report.series} == {()}


def test_a_fault_is_reported_on_its_first_night(tmp_path: Path) -> None:
    nights(tmp_path, [*noisy(30), 2e-3])
    report = nightly_report(tmp_path)
    (run,) = report.runs
    assert (run.status, run.verdict) == (DriftStatus.FAIL, DriftVerdict.REGRESSED)
    assert [origin.node for origin in run.origins] == ["t0"]
    assert run.command.endswith("--precision fp16 --env trt")
    assert {one.steps for one in report.series} == {()}, "one night is no step"


def test_a_step_is_reported_with_its_night(tmp_path: Path) -> None:
    nights(tmp_path, [*noisy(25), *noisy(15, 1.6e-3)])
    report = nightly_report(tmp_path, last=39)
    (one,) = report.series
    assert one.tensor == "y"
    assert one.steps is not None
    (step,) = one.steps
    assert one.night(step).startswith("20260126")
    assert report.to_dict()["steps"][0]["run"] == one.night(step)
    assert report.runs[0].status is DriftStatus.PASS, "the newest night is like those before it"
    assert f"; y, sample 0: 1.9e-3 since {one.night(step)}, 1.2e-3 before" in report.runs[0].reason
    assert (report.rises, report.creeping, report.exit_code) == (1, 0, 0)
    assert answer(report) == "Nothing moved beyond noise on trt; 1 output rose in an earlier night."
    assert tone_of(report) == "calm"


def test_a_creeping_level_is_reported_although_no_night_moves(tmp_path: Path) -> None:
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


def test_a_run_is_reported_though_another_job_ended_after_it(tiny_cases, tmp_path: Path) -> None:
    folder = tiny_cases("clean", "expected")

    def night(case: str, **options: Any):
        return harness.drift(
            folder / f"{case}.case.yaml",
            environments=["emulator:fp16"],
            precisions=["fp16"],
            against="history",
            history=tmp_path / "h",
            options=DriftOptions(repeats=1),
            **options,
        )

    before = night("clean")

    def meanwhile(event: Any) -> None:
        if event.kind == "done":
            night("expected")

    report = night("clean", progress=meanwhile)
    assert report.run != before.run
    assert [(run.case, run.verdict) for run in report.runs] == [("clean", DriftVerdict.SAME)]
    assert report.old == "the run before"


def test_a_given_night_is_compared_only_with_those_before_it(tmp_path: Path) -> None:
    nights(tmp_path, [*noisy(8), 1.0, 1.0])
    tonight = list_newest(tmp_path, 3)[0]
    report = nightly_report(tmp_path, newest=tonight)
    assert (report.run, report.old) == (tonight.run, "the 7 runs before")
    assert report.runs[0].status is DriftStatus.PASS


def test_runs_without_a_case_of_the_night_do_not_count(tmp_path: Path) -> None:
    nights(tmp_path, noisy(6))
    with RunWriter(tmp_path, MatrixPlan(releases=("trt",), repeats=1, cases={"other": ""})) as writer:
        writer.run = "20260106T230000Z-000000"
        writer.parts = tmp_path / f"{writer.run}.parts"
        writer.parts.mkdir()
        writer.write(
            "other",
            typed([{**row, "error": None} for row in engine_rows("trt", 1, case="other", run=writer.run)]),
        )
        writer.finish(MadeWith())
    write_night(tmp_path, 6, 1e-3)
    report = nightly_report(tmp_path, last=3)
    assert set(report.tensors["old_builds"]) == {3}


H200 = {"gpu": "NVIDIA H200", "compute_capability": "9.0", "driver": "550", "tensorrt": "8.6.0"}
A100 = {**H200, "gpu": "NVIDIA A100", "compute_capability": "8.0"}


@pytest.mark.parametrize("footer", [True, False])
def test_nights_on_another_gpu_are_left_out(tmp_path: Path, footer: bool) -> None:
    for night in range(12):
        slow = night % 2
        write_night(tmp_path, night, 3e-3 if slow else 1e-3, facts=A100 if slow else H200, footer=footer)
    write_night(tmp_path, 12, 3e-3, facts=H200, footer=footer)
    report = nightly_report(tmp_path, last=5)
    assert (report.old, report.runs[0].verdict) == ("the 5 runs before", DriftVerdict.REGRESSED)
    assert set(report.tensors["old_builds"]) == {5}
    assert report.changed == ()
    assert len(report.series[0].runs) == 6


def test_a_night_without_a_known_gpu_is_compared_with_all(tmp_path: Path) -> None:
    nights(tmp_path, noisy(5), facts=H200)
    write_night(tmp_path, 5, 1e-3, verdict="error", reason="segmentation fault")
    assert nightly_report(tmp_path).old == "the 5 runs before"
    write_night(tmp_path, 6, 1e-3, facts=H200)
    assert nightly_report(tmp_path).old == "the 6 runs before"


def test_the_first_night_on_another_gpu_is_a_first_night_and_says_so(tmp_path: Path) -> None:
    nights(tmp_path, noisy(5), facts=A100)
    write_night(tmp_path, 5, 1e-2, facts={**H200, "tensorrt": "8.6.1"})
    report = nightly_report(tmp_path)
    assert (report.exit_code, report.first_night) == (0, True)
    assert answer(report).startswith("The first run on trt on this GPU in this history")
    assert changes_line(report) == (
        "Changed since the night before: GPU NVIDIA A100 → NVIDIA H200, compute capability 8.0 → 9.0, "
        "TensorRT 8.6.0 → 8.6.1"
    )


@pytest.mark.parametrize("footer", [True, False])
def test_changes_since_the_night_before_are_reported(tmp_path: Path, footer: bool) -> None:
    nights(tmp_path, noisy(5), facts=H200, footer=footer)
    write_night(tmp_path, 5, 2e-3, facts={**H200, "driver": "580", "tensorrt": "8.6.1"}, footer=footer)
    report = nightly_report(tmp_path)
    assert report.exit_code == 1
    assert report.changed == (
        FactChange(Fact.DRIVER, "550", "580"),
        FactChange(Fact.TENSORRT, "8.6.0", "8.6.1"),
    )
    assert report.to_dict()["changed"][0] == {"what": "driver", "before": "550", "now": "580"}
    write_night(tmp_path, 6, 2e-3, facts={**H200, "driver": "580", "tensorrt": "8.6.1"}, footer=footer)
    assert nightly_report(tmp_path).changed == (), "it is reported on the night that it came"


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
    assert report.runs[0].status is DriftStatus.PASS


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


def test_steps_are_reported_as_soon_as_there_are_enough_nights(tmp_path: Path) -> None:
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
def test_one_overflowing_build_does_not_make_the_night_overflow(errors: list[float], expected: float) -> None:
    (one,) = series_of(pd.DataFrame(tensor_rows("trt", errors)), Floors())
    assert one.errors == pytest.approx((expected,))


def test_a_single_release_can_be_compared_with_its_earlier_nights(tiny_cases, tmp_path: Path) -> None:
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

    assert "no older result to compare with" in night("emulator:fp16").runs[0].reason
    assert night("emulator:fp16").runs[0].verdict is DriftVerdict.SAME
    assert night("emulator:fp16").old == "the 2 runs before"


def built(*groups: str) -> str:
    """The structure of an engine with a layer for each group of nodes, `t0+t1`."""
    layers = [{"name": group, "onnx_nodes": group.split("+"), "tactic": "7"} for group in groups]
    return json.dumps(layers)


def test_a_vanished_fusion_is_compared_with_the_last_night_that_was_judged(tmp_path: Path) -> None:
    errors = noisy(4)
    write_night(tmp_path, 0, errors[0], structure=built("t0", "t1", "y"))
    write_night(tmp_path, 1, errors[1], structure=built("t0+t1", "y"))
    write_night(tmp_path, 2, errors[2], structure=None, verdict="error", reason="no engine")
    write_night(tmp_path, 3, errors[3], structure=built("t0", "t1", "y"))
    report = nightly_report(tmp_path)
    (run,) = report.runs
    assert run.structured == (True, True)
    (change,) = run.structure
    assert (change.change, change.nodes) == (ChangeKind.FUSION_VANISHED, ("t0", "t1"))
    assert (str(change.old_builds), str(change.new_builds)) == ("1 of 1", "1 of 1")
    engines = report.records[report.records["structure"].notna()]
    assert len(engines) == 2, "the layers of the other nights are not read"


def test_nights_without_layers_of_engines_say_that_these_were_not_compared(tmp_path: Path) -> None:
    errors = noisy(2)
    write_night(tmp_path, 0, errors[0])
    write_night(tmp_path, 1, errors[1], structure=built("t0", "y"))
    report = nightly_report(tmp_path)
    assert (report.runs[0].structured, report.runs[0].structure) == ((False, True), ())


def write_cases(folder: Path, night: int, cases: dict[str, str], skipped: tuple[str, ...] = ()) -> None:
    """A night of several cases, each with the hash of its model."""
    run = f"2026010{night + 1}T020000Z-000000"
    with RunWriter(
        folder, MatrixPlan(releases=("trt",), repeats=1, cases=dict.fromkeys(cases, ""))
    ) as writer:
        writer.run = run
        writer.parts = folder / f"{run}.parts"
        writer.parts.mkdir()
        for case, model in cases.items():
            asked = {"case": case, "model_sha256": model, "case_sha256": "a", "run": run}
            rows = engine_rows("trt", 1, **asked, **({"verdict": "skip"} if case in skipped else {}))
            rows = [{**row, "error": None} for row in rows]
            if case not in skipped:
                rows += tensor_rows("trt", [1e-3], hashes=[f"{run}{case}"], **asked)
            writer.write(case, typed(rows))
        writer.finish(MadeWith())


def test_runs_of_the_last_night_that_are_missing_tonight_are_reported(tmp_path: Path) -> None:
    write_cases(tmp_path, 0, {"calm": "m", "older": "m"})
    write_cases(tmp_path, 1, {"calm": "m", "gone": "m", "idle": "m", "changed": "m", "off": "m"}, ("off",))
    write_cases(tmp_path, 2, {"calm": "m", "idle": "m", "changed": "n", "added": "m"}, ("idle",))
    report = nightly_report(tmp_path)
    assert report.missing == (("gone", "fp16"),), "what was skipped before is no loss"
    assert report.to_dict()["missing"] == [{"case": "gone", "precision": "fp16"}]
    reasons = {run.case: run.reason for run in report.runs if run.verdict is None}
    assert reasons["changed"] == "the model is not that of the run before"
    assert reasons["added"] == "it was not in the run before"
    assert report.exit_code == 0

"""What the reports of drift say of runs that fail on both releases, of gates, and of builds that differ."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from drift_reports import CALM, drift_report, run_rows
from history_rows import engine_rows, tensor_rows
from page_reader import Page
from rich.console import Console

from harness.history import DriftReport
from harness.report import drift_markdown, drift_page, print_drift
from harness.report.drift.words import answer, look_of, tone_of, verdict_text

PAIR = ("old", "new")
GATE = {"gate": "rmse", "limit": 2e-4, "reference_rms": 0.1}


def failing_rows(case: str, *, expected: bool, on: tuple[str, ...] = PAIR) -> list[dict[str, Any]]:
    """A run that fails its gates on some releases, and does not move."""
    where = {"case": case, "precision": "fp16"}
    rows = []
    for release in PAIR:
        verdict = ("xfail" if expected else "fail") if release in on else "pass"
        reason = "fails as expected: y overflows" if expected else "y: rmse 1e-3, limit 2e-4"
        rows += engine_rows(
            release, **where, verdict=verdict, reason=reason, case_path=f"cases/{case}.case.yaml"
        )
        rows += tensor_rows(release, CALM, passed=[release not in on] * 3, **where, **GATE)
    return rows


def console_text(report: DriftReport, width: int = 120) -> str:
    stream = io.StringIO()
    print_drift(Console(file=stream, width=width, highlight=False, markup=False), report)
    return stream.getvalue()


@pytest.fixture(scope="module")
def report() -> DriftReport:
    return drift_report(
        run_rows("calm", "fp16", PAIR),
        failing_rows("planted", expected=True),
        failing_rows("wrong", expected=False),
    )


def test_the_answer_counts_what_fails_on_both(report: DriftReport) -> None:
    calm = "Nothing moved beyond noise on new"
    assert answer(report) == f"{calm}; 2 runs fail on both releases, 1 of them as expected."
    planted = failing_rows("planted", expected=True)
    assert answer(drift_report(planted)) == f"{calm}; 1 run fails on both releases, as expected."
    wrong = failing_rows("wrong", expected=False)
    assert answer(drift_report(wrong)) == f"{calm}; 1 run fails on both releases."
    newer = failing_rows("wrong", expected=False, on=("new",))
    assert answer(drift_report(newer)) == f"{calm}; 1 run fails on the newer release without a regression."


def test_what_fails_is_not_painted_as_healthy(report: DriftReport) -> None:
    found = {run.case: (verdict_text(run), look_of(run).tone) for run in report.runs}
    assert found == {
        "calm": ("≈ within noise", "good"),
        "planted": ("≈ within noise · fails on both, as expected", "calm"),
        "wrong": ("≈ within noise · fails on both", "bad"),
    }
    assert (report.exit_code, tone_of(report)) == (0, "calm")
    assert tone_of(drift_report(failing_rows("planted", expected=True))) == "good"


def test_a_new_failure_is_not_reported_twice() -> None:
    report = drift_report(run_rows("failing", "fp16", PAIR, factor=3.0, failing=True))
    (run,) = report.runs
    assert verdict_text(run) == "✗ NEW FAILURE ×3"
    assert "fail" not in answer(report).replace("a new failure", "")


def test_the_page_says_it_in_tiles_cells_and_cards(report: DriftReport) -> None:
    text = drift_page(report)
    page = Page(text).text
    assert '<h1 class="calm">' in text
    assert "1 fail on both releases 1 fail on both releases, as expected" in page
    assert '<span class="verdict bad">≈ within noise · fails on both</span>' in text
    assert '<span class="verdict calm">≈ within noise · fails on both, as expected</span>' in text
    assert '<b class="verdict quiet">3</b> within noise' in text, "green is for what is healthy"
    assert "What fails without a regression" in page
    assert "What fails on both releases, as expected" in page
    assert "planted at fp16 : fails as expected: y overflows" in page
    assert "fails on old in 3 of 3 builds, on new in 3 of 3 builds: y: rmse 1e-3, limit 2e-4" in page
    assert '<span class="verdict good">≈ within noise</span></td><td>planted' not in text, (
        "nor in the tensors"
    )


def test_the_terminal_and_the_markdown_say_it(report: DriftReport) -> None:
    printed = console_text(report)
    assert "≈ within noise · xfail on both" in printed
    assert "≈ within noise · fails on both wrong at fp16: 1 output" in printed
    assert "harness diagnose cases/wrong.case.yaml --precision fp16 --env new" in printed
    assert "planted at fp16" not in printed, "what fails as expected is counted, and in the table"
    rows = [line for line in drift_markdown(report).splitlines() if line.startswith("| ")][1:4]
    assert [row.split(" | ")[:2] for row in rows] == [
        ["| **≈ within noise · fails on both**", "wrong"],
        ["| ≈ within noise", "calm"],
        ["| ≈ within noise · fails on both, as expected", "planted"],
    ]
    assert printed.rstrip().splitlines()[-2] == answer(report)


def test_the_json_says_it(report: DriftReport) -> None:
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    found = {run["case"]: (run["fails_on"], run["expected"]) for run in document["runs"]}
    assert found == {"calm": ("none", False), "planted": ("both", True), "wrong": ("both", False)}
    wrong = next(run for run in document["runs"] if run["case"] == "wrong")
    assert (wrong["verdict"], wrong["worst"]["gate"], wrong["worst"]["limit"]) == (
        "within noise",
        "rmse",
        2e-4,
    )
    assert [build["failed"] for build in wrong["builds"]["new"]] == [True] * 3


def test_gates_are_named_with_their_limits_where_the_numbers_are(report: DriftReport) -> None:
    printed = "at fp16: rmse ≤ 2e-4 (error ≤ 2e-3); held in 0 of 3 builds, now in 0 of 3"
    page = Page(drift_page(report)).text
    assert printed in page
    assert "error limit gate gates held" in page
    assert "2e-3 rmse ≤ 2e-4 0/3 → 0/3" in page
    assert printed in console_text(report)
    assert f"gate: {printed}" in drift_markdown(report)


def test_builds_that_differ_in_precision_are_shown_build_by_build() -> None:
    def structure(precision: str) -> str:
        return json.dumps([{"name": node, "onnx_nodes": [node], "precision": precision} for node in "abcd"])

    rows = run_rows("mixed", "fp16", PAIR, structure=(structure("fp32"), structure("fp16")))
    first = next(row for row in rows if row["kind"] == "engine" and row["release"] == "old")
    first["structure"] = structure("fp16")
    report = drift_report(rows)
    (run,) = report.runs
    assert (verdict_text(run), look_of(run).tone) == ("≈ within noise · builds differ in precision", "calm")
    for printed in (Page(drift_page(report)).text, " ".join(console_text(report).split())):
        assert "layers of old: build 0: fp16 ×4; build 1: fp32 ×4; build 2: fp32 ×4" in printed
        assert "layers of new: build 0: fp16 ×4" in printed
        assert "old: 1e-3, 1e-3, 9.9e-4" in printed, "the error of each build"


def test_layers_without_a_noise_band_are_no_alarm_in_the_table() -> None:
    rows = [
        row
        for row in run_rows("worse", "fp16", PAIR, factor=3.0)
        if row["kind"] != "layer" or row["build"] == 0
    ]
    quiet = [row for row in rows if row["kind"] != "output"] + [
        row for release in PAIR for row in tensor_rows(release, CALM, case="worse", precision="fp16")
    ]
    text = drift_page(drift_report(quiet))
    assert '<span class="verdict calm">▲ REGRESSED</span>' in text
    assert '<span class="verdict bad">▲ REGRESSED</span>' not in text
    assert "have no noise band" in Page(text).text

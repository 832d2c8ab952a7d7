"""What reports say of runs that were compared with nothing, and of what the older side had besides."""

from __future__ import annotations

from dataclasses import replace

from drift_reports import drift_report, run_rows
from history_rows import engine_rows
from page_reader import Page
from test_report_drift import console_text

from harness.history import DriftReport
from harness.report import drift_markdown, drift_page
from harness.report.drift.lines import coverage_lines
from harness.report.drift.words import answer, tone_of

PAIR = ("old", "new")
SKIPPED = {"verdict": "skip", "reason": "needs tensorrt>=10"}


def lost() -> DriftReport:
    """A calm run, one that the newer release skips, one that the older side has not; and a case is gone."""
    skipped = [row for row in run_rows("idle", "fp16", PAIR) if row["release"] == "old"]
    added = [row for row in run_rows("added", "fp16", PAIR) if row["release"] == "new"]
    skip = engine_rows("new", 1, case="idle", precision="fp16", **SKIPPED)
    report = drift_report(run_rows("calm", "fp16", PAIR), skipped, skip, added)
    return replace(report, missing=(("gone", "fp16"), ("gone", "bf16")))


def test_the_answer_reports_lost_coverage_with_the_reasons_below() -> None:
    report = lost()
    sentence = (
        "Nothing moved beyond noise on new; 2 of 3 runs not compared, 1 case of the older side missing."
    )
    assert (answer(report), tone_of(report), report.exit_code) == (sentence, "calm", 0)
    lines = console_text(report).rstrip().splitlines()[-5:-1]
    assert lines == [
        sentence,
        "not compared idle at fp16: new: needs tensorrt>=10 (judged on old only)",
        "not compared added at fp16: there is no older result to compare with",
        "missing gone at fp16, gone at bf16",
    ]
    markdown = drift_markdown(report)
    assert "- missing: gone at fp16, gone at bf16" in markdown
    page = Page(drift_page(report)).text
    assert "not compared: idle at fp16: new: needs tensorrt>=10 (judged on old only)" in page
    assert "1 skip 1 within noise 1 not compared 1 case of the older side missing" in page


def test_a_precision_that_is_gone_is_a_missing_run() -> None:
    report = replace(drift_report(run_rows("calm", "fp16", PAIR)), missing=(("calm", "bf16"),))
    assert answer(report) == "Nothing moved beyond noise on new; 1 run of the older side missing."


def test_what_both_releases_skip_is_reported_and_is_no_loss() -> None:
    skips = [engine_rows(name, 1, case="idle", precision="fp16", **SKIPPED) for name in PAIR]
    report = drift_report(run_rows("calm", "fp16", PAIR), *skips)
    assert answer(report) == "Nothing moved beyond noise on new; 1 of 2 runs not compared."
    assert tone_of(report) == "good"


def test_a_first_night_has_lost_nothing() -> None:
    report = drift_report([row for row in run_rows("calm", "fp16", PAIR) if row["release"] == "new"])
    report = replace(report, first_night=True)
    assert coverage_lines(report) == []
    assert tone_of(report) == "good"

"""Reports of drift: what they say, in which order, and that nothing breaks out of them."""

from __future__ import annotations

import datetime
import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from drift_reports import drift_report, mixed, run_rows
from history_rows import engine_rows
from page_reader import Page
from rich.console import Console

from harness.history import DriftReport, DriftStatus, DriftVerdict, Fact, baseline_text
from harness.history.judgement.outcome import BaselineNote, BaselineState, FactChange
from harness.judge import RunReason
from harness.report import annotate, drift_markdown, drift_page, print_drift
from harness.report.drift.github import annotation
from harness.report.drift.view import explain
from harness.report.drift.words import answer, summary
from harness.report.words import escape
from harness.tensors import from_json

PAIR = ("old", "new")


@pytest.fixture(scope="module")
def report() -> DriftReport:
    return mixed()


@pytest.fixture(scope="module")
def page(report: DriftReport) -> str:
    return drift_page(report, seconds=18)


def console_text(report: DriftReport, width: int = 110, **options: object) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream, width=width, no_color=True, force_terminal=False, highlight=False, markup=False
    )
    print_drift(console, report, **options)  # type: ignore[arg-type]
    return stream.getvalue()


# --- words --------------------------------------------------------------------------------------------------


def test_the_statuses_of_the_mixed_report(report: DriftReport) -> None:
    statuses = {(run.case, run.precision.value): (run.status, run.verdict) for run in report.runs}
    assert statuses == {
        ("calm", "fp16"): (DriftStatus.PASS, DriftVerdict.WITHIN_NOISE),
        ("calm", "bf16"): (DriftStatus.PASS, DriftVerdict.WITHIN_NOISE),
        ("worse", "fp16"): (DriftStatus.FAIL, DriftVerdict.REGRESSED),
        ("failing", "fp16"): (DriftStatus.FAIL, DriftVerdict.NEW_FAILURE),
        ("better", "fp16"): (DriftStatus.PASS, DriftVerdict.IMPROVED),
        ("waived-drift", "fp16"): (DriftStatus.XFAIL, DriftVerdict.REGRESSED),
        ("broken", "fp16"): (DriftStatus.ERROR, None),
    }
    assert report.exit_code == 3


def test_the_answer_is_one_sentence(report: DriftReport) -> None:
    assert answer(report) == (
        "2 of 7 runs regressed on new, 1 of them a new failure; 1 of 7 runs could not be judged."
    )


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ([1.0], "Nothing moved beyond noise on new."),
        ([0.3, 1.0], "Nothing regressed on new, and 1 run improved."),
        ([3.0, 1.0], "1 of 2 runs regressed on new."),
    ],
)
def test_answers(factors: list[float], expected: str) -> None:
    parts = [run_rows(f"c{place}", "fp16", PAIR, factor=factor) for place, factor in enumerate(factors)]
    assert answer(drift_report(*parts)) == expected


def test_what_could_be_judged_is_reported_beside_what_could_not() -> None:
    broken = run_rows("broken", "fp16", PAIR, error="no engine")
    calm = drift_report(run_rows("calm", "fp16", PAIR), broken)
    assert answer(calm) == "Nothing moved beyond noise on new; 1 of 2 runs could not be judged."
    page = Page(drift_page(calm)).text
    assert "What could not be judged" in page
    assert "What moved" not in page
    both = drift_report(run_rows("worse", "fp16", PAIR, factor=3.0), broken)
    assert answer(both) == "1 of 2 runs regressed on new; 1 of 2 runs could not be judged."
    assert "What moved, and what could not be judged" in Page(drift_page(both)).text


def test_an_error_of_both_releases_is_distinguished_from_one_that_came_with_the_newer() -> None:
    facts = {"case": "broken", "precision": "fp16", "verdict": "error"}
    facts |= {"reason": "no engine for it", "evidence": ["no engine", "segmentation fault"]}
    rows = [engine_rows(name, **facts) for name in PAIR]
    log = "no engine for it"
    everywhere, (newer,) = drift_report(*rows), drift_report(run_rows("b", "fp16", PAIR, error=log)).runs
    (run,) = everywhere.runs
    assert (run.reason, newer.reason) == ("on both releases, new: no engine for it", "new: no engine for it")
    mixed = drift_report(
        *rows, run_rows("worse", "fp16", PAIR, factor=3.0), run_rows("b", "fp16", PAIR, error=log)
    )
    assert [run.case for run in mixed.worst_first()] == ["b", "worse", "broken"]
    shown = [(item.label, item.text) for item in explain(run).statements]
    assert shown == [
        ("error", "old: no engine for it"), ("", "segmentation fault"),
        ("error", "new: no engine for it"), ("", "segmentation fault"),
    ]  # fmt: skip


def test_only_releases_that_drifted_are_named() -> None:
    three = ("old", "mid", "new")
    report = drift_report(
        run_rows("a", "fp16", three, factor=3.0), run_rows("b", "fp16", three), releases=three
    )
    assert answer(report) == "1 of 4 runs regressed on new."


def lost_build(factor: float, **facts: object) -> DriftReport:
    """A run of which build 1 of the newer release failed; the others are `factor` times worse."""
    rows = run_rows("net", "fp16", PAIR, factor=factor, **facts)  # type: ignore[arg-type]
    lost = [row for row in rows if row["release"] == "new" and row["build"] == 1]
    for row in lost:
        if row["kind"] == "engine":
            row |= {"verdict": "error", "reason": "no engine"}
        else:
            rows.remove(row)
    return drift_report(rows)


def test_a_drift_in_the_builds_that_could_be_judged_is_reported_beside_those_that_failed() -> None:
    worse = lost_build(50.0, failing=True)
    assert answer(worse) == "1 of 1 run regressed on new, a new failure; builds of 1 of 1 run failed."
    assert summary(worse).startswith("1 case, 1 run: 1 ERROR (1 NEW FAILURE in other builds); ")
    calm = lost_build(1.0)
    assert answer(calm) == "Nothing moved beyond noise on new; builds of 1 of 1 run failed."
    assert (worse.exit_code, calm.exit_code) == (3, 3)


def test_a_baseline_of_another_model_is_reported_as_such() -> None:
    report = drift_report(run_rows("calm", "fp16", PAIR), engine_rows("new", case="other"))
    state = BaselineState.MODEL_CHANGED
    why = "the model has changed since the baseline was written"
    assert baseline_text(state) == why
    runs = [
        replace(run, status=DriftStatus.FAIL, baseline=BaselineNote(state)) if run.case == "other" else run
        for run in report.runs
    ]
    report = replace(report, runs=tuple(runs))
    assert answer(report) == f"Nothing moved beyond noise on new; 1 of 2 runs not compared: {why}."
    assert summary(report).startswith("2 cases, 2 runs: 1 within noise, 1 STALE BASELINE; ")
    assert "1 STALE BASELINE" in Page(drift_page(report)).text
    assert answer(replace(report, runs=tuple(runs[1:]))) == f"1 of 1 run not compared: {why}."


def test_a_waived_drift_is_reported(report: DriftReport) -> None:
    only = drift_report(run_rows("waived", "fp16", PAIR, factor=3.0))
    assert answer(only) == "Nothing regressed on new, except for 1 waived run."
    assert only.exit_code == 0


def test_the_summary_counts_runs_and_tensors(report: DriftReport) -> None:
    assert summary(report, 18) == (
        "6 cases, 7 runs: 2 within noise, 1 improved, 1 REGRESSED, 1 NEW FAILURE, 1 waived, 1 ERROR; "
        "150 tensors compared with old, 3 builds each, 18 s"
    )


# --- console ------------------------------------------------------------------------------------------------


def test_the_console_says_what_moved_where_it_starts_and_what_to_do(report: DriftReport) -> None:
    text = console_text(report)
    assert "✗ NEW FAILURE failing at fp16: y (MatMul), sample 0: error 1e-3 → inf" in text
    assert "starts at  node b2_t10 (MatMul)" in text
    assert re.search(
        r"\n  next +harness diagnose cases/failing\.case\.yaml --precision fp16 --env new\n", text
    )
    assert "fusion of add, conv vanished: add + conv (3 of 3 builds) → add; conv" in text
    assert "waived until 2999-12-31: known in 10.13" in " ".join(text.split())
    assert "segmentation fault in the builder" in text
    assert text.rstrip().splitlines()[-3].startswith("2 of 7 runs regressed")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_console_keeps_to_its_width_but_for_what_is_pasted(report: DriftReport, width: int) -> None:
    for line in console_text(report, width).splitlines():
        wide = line.startswith(("  next", "2 of 7", "engines:", "6 cases"))
        assert wide or len(line) <= width


def test_console_markdown_and_page_say_which_run_it_is_and_of_when(report: DriftReport) -> None:
    dated = replace(report, time=datetime.datetime(2026, 1, 31, 2, 3, 4, tzinfo=datetime.UTC))
    line = "Run 20260131T020304512Z-1f9a3c of 2026-01-31 02:03 UTC"
    assert line in console_text(dated).splitlines()
    assert line in drift_markdown(dated).splitlines()
    assert f'<p class="faint">{line}</p>' in drift_page(dated)


def test_console_markdown_and_page_say_what_the_night_before_did_not_run_on(report: DriftReport) -> None:
    driver = FactChange(Fact.DRIVER, "550", "580")
    shown = replace(report, changed=(driver, FactChange(Fact.ONNXRUNTIME, "1.20", "1.<21>")))
    line = "Changed since the night before: driver 550 {0} 580, ONNX Runtime 1.20 {0} 1.{1}21{2}"
    assert line.format("→", "<", ">") in console_text(shown).splitlines()
    assert escape(line.format("→", "<", ">")) in drift_markdown(shown).splitlines()
    assert f"<p>{line.format('→', '&lt;', '&gt;')}</p>" in drift_page(shown)
    for text in (console_text(report), drift_markdown(report), drift_page(report)):
        assert "Changed since" not in text


def test_brief_leaves_out_the_table(report: DriftReport) -> None:
    assert "starts at" in console_text(report)
    assert "calm" not in console_text(report, brief=True)


# --- Markdown and annotations -------------------------------------------------------------------------------


def test_markdown_begins_with_the_worst_rows(report: DriftReport) -> None:
    rows = [line for line in drift_markdown(report).splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[1] for row in rows[1:4]] == ["broken", "failing", "worse"]
    assert "b2\\_t10 (MatMul)" in rows[2]


def test_markdown_stays_under_a_mebibyte() -> None:
    many = [run_rows(f"case-{place:04d}", "fp16", PAIR, factor=3.0, fault_at=None) for place in range(60)]
    text = drift_markdown(drift_report(*many))
    assert len(text.encode()) < 1 << 20
    huge = drift_report(
        *(run_rows("x" * 3000 + str(place), "fp16", PAIR, factor=3.0) for place in range(150))
    )
    cut = drift_markdown(huge)
    assert 100_000 < len(cut.encode()) < 1 << 20
    assert cut.startswith("## ")


def test_annotations_name_file_and_line_and_keep_to_one_line(
    report: DriftReport, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "worse.case.yaml").write_text(
        "model: {path: m.onnx}\nruns:\n  - fp32\n  - precision: fp16\n"
    )
    lines = list(annotate(report))
    assert [line.split(" ")[0] for line in lines] == [
        "::error",
        "::error",
        "::error",
        "::warning",
        "::notice",
    ]
    (worse,) = [line for line in lines if "worse.case.yaml" in line]
    assert worse.startswith(
        "::error file=cases/worse.case.yaml,line=4,title=Regressed%3A worse at fp16 on new::"
    )
    assert "%0Acontinue with: harness diagnose" in worse
    assert all("\n" not in line for line in lines)


def test_annotations_escape_what_would_end_them(report: DriftReport) -> None:
    evil = drift_report(run_rows("a,b:c%d", "fp16", PAIR, factor=3.0, name="x::y\n::error::z"))
    line = annotation(evil.runs[0])
    assert "\n" not in line
    assert "file=cases/a%2Cb%3Ac%25d.case.yaml" in line


# --- page ---------------------------------------------------------------------------------------------------


def test_the_page_begins_with_the_answer_in_words(page: str) -> None:
    reader = Page(page)
    assert "2 of 7 runs regressed on new, 1 of them a new failure" in reader.text[:300]
    assert "older old: TensorRT 10.0 on H200" in reader.text


def test_the_worst_run_comes_first_and_open(page: str) -> None:
    cards = re.findall(r'<details class="card run" id="[^"]+"( open)?>\s*<summary>.*?<b>([^<]*)</b>', page)
    assert [title for _, title in cards][:3] == ["broken at fp16", "failing at fp16", "worse at fp16"]
    assert [bool(opened) for opened, _ in cards] == [True, True, True, False, False]


def test_every_picture_is_there_and_ids_are_unique(page: str) -> None:
    assert page.count("<svg") == 4 + 2, "the layers of four runs, outputs, engines"
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    links = re.findall(r'<a href="#([^"]+)"', page)
    assert set(links) <= set(ids)
    assert len(links) == 5, "every run that moved is linked from the matrix"


def test_the_tables_hold_the_numbers(page: str) -> None:
    text = Page(page).text
    assert "fusion vanished worse at fp16 add, conv add + conv (3 of 3) add; conv (3 of 3)" in text
    assert "more latency calm fp16 1 ms 1.2 ms ×1.2" in text
    assert "▲ REGRESSED worse fp16 y [0] MatMul output 1e-3 3e-3 ×3" in text
    assert "3/3 → 0/3" in text


def test_the_page_needs_no_network_and_runs_its_own_script_alone(page: str) -> None:
    reader = Page(page)
    scripts = [attributes for tag, attributes in reader.tags if tag == "script"]
    assert scripts == [{}, {}]
    policy = next(attributes["content"] for tag, attributes in reader.tags if attributes.get("http-equiv"))
    *rest, script = str(policy).split("; ")
    assert rest == ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data:"]
    assert re.fullmatch(r"script-src( 'sha256-[A-Za-z0-9+/=]{44}'){2}", script)
    for _, attributes in reader.tags:
        for name in ("src", "href", "xlink:href", "action"):
            value = attributes.get(name) or ""
            assert value.startswith(("#", "data:")) or not value


def test_text_from_a_case_or_a_model_is_escaped() -> None:
    evil = '</script><img src=x onerror="alert(1)">'
    report = drift_report(
        run_rows(evil, "fp16", PAIR, factor=3.0, name=evil), run_rows("b", "fp16", PAIR, error=evil)
    )
    reader = Page(drift_page(report))
    assert not any(tag == "img" for tag, _ in reader.tags)
    assert evil in reader.text
    outside_code = re.sub(r"```sh\n.*?\n```", "", drift_markdown(report), flags=re.DOTALL)
    assert "<img" not in outside_code.replace("\\<img", "")


def test_three_releases_share_a_page() -> None:
    report = drift_report(
        run_rows("worse", "fp16", ("a", "b", "c"), factor=3.0), run_rows("calm", "fp16", ("a", "b", "c")),
        releases=("a", "b", "c"),
    )  # fmt: skip
    reader = Page(drift_page(report))
    assert "case fp16 · b fp16 · c" in reader.text
    assert "| fp16 | `c` |" in drift_markdown(report)
    assert "1 of 4 runs regressed on c." in reader.text


def test_a_page_of_nothing_but_errors_or_of_a_single_build() -> None:
    broken = drift_report(run_rows("broken", "fp16", PAIR, error="no engine"))
    assert "1 of 1 run could not be judged on new" in Page(drift_page(broken)).text
    assert "no engine" in console_text(broken)
    older = drift_report(run_rows("broken", "fp16", ("new", "old"), error="no engine"))
    assert answer(older) == "1 of 1 run could not be judged on old."
    single = drift_report([row for row in run_rows("one", "fp16", PAIR, factor=3.0) if row["build"] == 0])
    assert "not measured" in Page(drift_page(single)).text


def test_a_page_where_nothing_moved_still_shows_the_largest_change() -> None:
    text = drift_page(drift_report(run_rows("calm", "fp16", PAIR)))
    assert "The largest change" in text
    assert text.count("<svg") == 3


def test_what_was_infinite_has_no_multiples() -> None:
    both = drift_report(run_rows("net", "fp16", ("new", "old"), factor=math.inf), releases=("old", "new"))
    text = Page(drift_page(both)).text
    assert "×0 " not in text
    assert "from inf" in text


def test_large_tables_are_cut_and_say_so() -> None:
    many = drift_report(*(run_rows(f"c{place}", "fp16", PAIR, factor=3.0) for place in range(20)))
    reader = Page(drift_page(many))
    assert "The 400 worst of 500; the CSV and the Parquet hold all of them." in reader.text


def test_json_has_no_numbers_that_json_lacks(report: DriftReport) -> None:
    import json

    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert document["schema"] == "harness.drift/2"
    assert document["exit_code"] == 3
    failing = next(run for run in document["runs"] if run["case"] == "failing")
    assert failing["worst"]["new"] == "inf"
    assert failing["origins"][0]["node"] == "b2_t10"
    assert {"case", "tensor", "verdict", "old", "new", "noise", "floor"} <= set(document["moved"][0])
    assert math.isfinite(document["floors"]["relative"])


def test_json_has_each_error_as_fields_with_the_sentence_made_from_them(report: DriftReport) -> None:
    import json

    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    told = [error for run in document["runs"] for error in run["errors"]]
    known = [error for run in report.runs for error in run.errors]
    assert len(told) == len(known) > 0
    for written, error in zip(told, known, strict=True):
        assert from_json(RunReason, written["why"]) == error.why
        assert written["reason"] == error.why.headline
        assert (written["release"], written["status"]) == (error.release, error.status)
        assert (written["cause"], tuple(written["log"])) == (error.cause, error.log)


@pytest.mark.parametrize("sample", ["sample", "sample_rtx"])
def test_kept_samples_are_of_the_schema_that_is_written(report: DriftReport, sample: str) -> None:
    import json

    kept = json.loads((Path(__file__).parents[2] / "reports" / sample / "drift.json").read_text())
    written = report.to_dict()
    assert kept["schema"] == written["schema"]

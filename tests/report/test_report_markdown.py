"""The report as Markdown."""

from __future__ import annotations

from harness.judge import Verdict
from harness.report import run_markdown as markdown
from harness.report.words import MOST_BYTES
from harness.tensors import Precision


def test_the_answer_comes_first_and_the_fingerprint_last(make_report, make_result) -> None:
    lines = markdown(
        make_report(make_result(), make_result(Verdict.FAIL, case="lstm")), seconds=3
    ).splitlines()
    assert lines[0] == "## 1 of 2 runs failed."
    assert lines[2].endswith("1 pass, 1 FAILED, 3.0 s")
    assert "- onnxruntime: 1.20.0" in lines
    assert lines[-1] == "</details>"


def test_the_worst_row_comes_first(make_report, make_result) -> None:
    runs = [make_result(case=f"c{place}", case_path=f"c{place}") for place in range(3)]
    report = make_report(*runs, make_result(Verdict.FAIL, case="last", case_path="last"))
    rows = [line for line in markdown(report).splitlines() if line.startswith("| ")]
    assert rows[1] == "| last | emulator | **✗ FAIL 0.6** | `b7_sq` (Pow) |"
    assert len(rows) == 5


def test_every_row_of_the_table_has_the_same_number_of_cells(make_report, make_result, make_layer) -> None:
    layer = make_layer(0, 0.5, origin=True, node="a|b`c", op="Conv")
    report = make_report(
        make_result(case="pipe|case", layers=(layer,)),
        make_result(Verdict.FAIL, case="pipe|case", precision=Precision.FP32, layers=(layer,)),
    )
    rows = [line.replace("\\|", "") for line in markdown(report).splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {6}


def test_text_from_a_model_is_escaped(make_report, make_result) -> None:
    text = markdown(make_report(make_result(Verdict.FAIL, case="x", detail="<img src=q> *bold* [link](u)")))
    assert "\\<img src=q\\> \\*bold\\* \\[link\\](u)" in text


def test_a_failure_has_its_origin_and_the_command(make_report, make_result) -> None:
    text = markdown(make_report(make_result(Verdict.FAIL)))
    assert "- origin: node b7\\_sq (Pow): 12 of 1000 elements overflow" in text
    assert "--precision fp16" in text.split("```sh")[1]


def test_a_huge_report_still_is_a_job_summary(make_report, make_result) -> None:
    runs = [
        make_result(Verdict.FAIL, case=f"c{place}", case_path=f"c{place}", detail="ä" * 300, layers=())
        for place in range(2500)
    ]
    data = markdown(make_report(*runs)).encode()
    assert MOST_BYTES * 0.9 < len(data) <= MOST_BYTES
    assert "cut here" in data.decode()
    assert data.decode().startswith("## 2500 of 2500 runs failed.")

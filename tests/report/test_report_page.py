"""The page of a run: its text, its safety, and how a real browser lays it out."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from browser import browse_framed, needs_browser, with_script
from page_reader import Page, age_of

from harness.judge import RunError, Verdict
from harness.report import run_page as html_page
from harness.report.run.documents import MOST_DETAILED
from harness.tensors import Precision


@pytest.fixture
def mixed(make_report, make_result):
    runs = []
    for name in ("attention-encoder", "rmsnorm-overflow", "a-case-with-a-very-long-name-indeed"):
        for precision in (Precision.FP32, Precision.TF32, Precision.FP16, Precision.BF16):
            verdict = (
                Verdict.FAIL if (name, precision) == ("rmsnorm-overflow", Precision.FP16) else Verdict.PASS
            )
            runs.append(
                make_result(verdict, case=name, precision=precision, case_path=f"cases/{name}.case.yaml")
            )
    return make_report(*runs)


def test_the_page_begins_with_the_answer_in_words(mixed) -> None:
    text = html_page(mixed, seconds=18)
    body = Page(text).text.split("harness: 1 of 12 runs failed.", 1)[1]
    start = " 1 of 12 runs failed. 3 cases, 12 runs: 11 pass, 1 FAILED, 18 s Made by harness on 20"
    assert body.startswith(start)
    assert age_of(text) < timedelta(minutes=5)


def test_a_failure_comes_first_and_open_with_its_picture_and_command(mixed) -> None:
    text = html_page(mixed)
    page = Page(text)
    sections = [
        attributes for tag, attributes in page.tags if tag == "details" and attributes.get("class") == "card"
    ]
    assert "open" in sections[0]
    assert not any("open" in section for section in sections[1:])
    first = text.split('class="card" open', 1)[1].split('<details class="card"', 1)[0]
    assert "<svg" in first
    assert "b7_sq (Pow)" in first
    assert "cases/rmsnorm-overflow.case.yaml --precision fp16" in Page(f"<details{first}").text


def test_every_cell_leads_to_its_run(mixed) -> None:
    page = Page(html_page(mixed))
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    links = [str(attributes["href"]) for tag, attributes in page.tags if tag == "a"]
    assert len(links) == 12
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_the_page_needs_no_network_and_runs_its_own_script_alone(mixed) -> None:
    text = html_page(mixed)
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object")
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            value = attributes.get(name) or ""
            assert value.startswith(("#", "data:")) or not value
    assert "url(http" not in text
    assert "@import" not in text
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}]
    assert re.search(r"default-src 'none'; .*; script-src 'sha256-[A-Za-z0-9+/=]{44}'\"", text)


def test_text_from_a_case_or_a_model_is_escaped(make_report, make_result, make_layer, make_output) -> None:
    evil = '<script>alert("1")</script>'
    result = make_result(
        Verdict.FAIL,
        case=evil,
        detail=evil,
        candidate=evil,
        outputs=(make_output(evil, 0.5),),
        layers=(make_layer(0, 0.5, origin=True, node=evil, op=evil),),
        warnings=(evil,),
        evidence=(evil,),
    )
    page = Page(html_page(make_report(result)))
    assert [tag for tag, _ in page.tags].count("script") == 1, "that of the page"
    assert evil in page.text


def test_pages_of_many_runs_keep_the_layers_of_what_failed_only(make_report, make_result) -> None:
    runs = [make_result(case=f"c{place}", case_path=f"c{place}") for place in range(MOST_DETAILED)]
    text = html_page(make_report(*runs, make_result(Verdict.XFAIL)))
    assert text.count("<svg") == 1
    assert html_page(make_report(make_result())).count("<svg") == 1


def test_a_report_without_outputs_or_layers_is_a_page_too(make_report, make_result) -> None:
    report = make_report(
        make_result(Verdict.SKIP, outputs=(), layers=(), detail="onnxscript is not installed", timings={}),
        make_result(Verdict.ERROR, outputs=(), layers=(), evidence=("[TRT] oops",), precision=Precision.FP32),
    )
    page = Page(html_page(report))
    assert "onnxscript is not installed" in page.text
    assert "[TRT] oops" in page.text


def test_an_error_of_many_runs_is_one_panel_below_the_failures(make_report, make_result) -> None:
    error = RunError("UsageError", "axis 0 of 'x' is dynamic", hint="such as --input 'x:[1,8]'")
    missing = [
        make_result(
            Verdict.ERROR, mistake=True, case=f"c{place}", case_path=f"c{place}", error=error, outputs=()
        )
        for place in range(42)
    ]
    text = html_page(make_report(*missing, make_result(Verdict.FAIL)))
    panels = [part.split("</summary>", 1)[0] for part in text.split('<details class="card"')[1:]]
    assert ["FAIL" in panels[0], "42 cases" in panels[1], len(panels)] == [True, True, 2]
    ids = [attributes["id"] for tag, attributes in Page(text).tags if tag == "span" and attributes.get("id")]
    assert len(set(ids)) == 43, "each cell of the matrix leads to the panel"
    assert "c0, c1, c2, c3" in text


def test_long_names_break_at_their_separators_only(make_report, make_result, make_layer) -> None:
    name = "/model/layers.0/self_attn/q_proj/MatMul"
    text = html_page(
        make_report(make_result(Verdict.FAIL, layers=(make_layer(0, 0.5, origin=True, node=name),)))
    )
    assert "/<wbr>model/<wbr>layers.<wbr>0/<wbr>self_<wbr>attn/<wbr>q_<wbr>proj/<wbr>MatMul" in text
    assert name in Page(text).text


@needs_browser
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_lays_the_page_out_without_scrolling_sideways(mixed, width: int, tmp_path: Path) -> None:
    numbers = browse_framed(with_script(html_page(mixed), MEASURE), tmp_path, width).split()
    scroll_width, client_width, picture_height, verdicts, copies = map(int, numbers)
    assert client_width == width
    assert scroll_width <= width, "tables and pictures scroll in their own boxes"
    assert picture_height > 150, "the picture of the failure is visible"
    assert verdicts == 12, "every verdict of the matrix is laid out"
    assert copies == 1, "the command of the failure can be copied"


MEASURE = """
<script>
addEventListener("load", () => {
  const root = document.documentElement;
  const visible = [...document.querySelectorAll(".matrix td .verdict")].filter(cell => cell.offsetWidth > 0);
  const copies = document.querySelectorAll("details[open] .copy").length;
  const picture = Math.round(document.querySelector("svg").getBoundingClientRect().height);
  parent.postMessage([root.scrollWidth, root.clientWidth, picture, visible.length, copies].join(" "), "*");
});
</script>
"""

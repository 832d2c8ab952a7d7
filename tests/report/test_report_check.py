"""The report of `harness check`: on the console, as Markdown, and as a page whose picture stays readable."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from browser import browse, needs_browser, with_script
from rich.console import Console

from harness.compiler import RTX, FindingKind, NodeFacts
from harness.conversion import (
    CheckReport,
    CheckResult,
    CompileOutcome,
    EnvironmentResult,
    Finding,
    FixResult,
    FoundBy,
    NodeFate,
)
from harness.model import TensorInfo
from harness.report import check_markdown, check_page, print_check
from harness.report.conversion.picture import block_of
from harness.report.conversion.view import Row, headline, rows, statements, tone_of
from harness.tensors import host_fingerprint
from harness.worker.protocol import TENSORRT_RTX, CompileReport, Kernel, KernelList, KernelTensor

TOP = NodeFacts(3, "top", "TopK", inputs=(TensorInfo("x", "float32", (1, "n")),))


def finding(kind: FindingKind, node: NodeFacts | None = TOP, code: str = "topk-limit", **fields) -> Finding:
    return Finding(
        code,
        kind,
        FoundBy.BUILDER,
        node,
        explanation="K is limited",
        advice="split it",
        releases=(RTX,),
        **fields,
    )


def engine(
    name: str, *findings: Finding, outcome: CompileOutcome = CompileOutcome.BUILT, blocks: int = 0
) -> EnvironmentResult:
    kernels = tuple(
        Kernel(
            f"k{block}_{number}",
            "gemm",
            (f"/layers.{block}/<op>{number}",),
            (KernelTensor(f"t{block}_{number - 1}", "float16", (2, 3)),),
            (KernelTensor(f"t{block}_{number}", "float16" if number else "float32", (2, -1)),),
        )
        for block in range(blocks)
        for number in range(10)
    )
    listed = KernelList(TENSORRT_RTX, "1.7.1.116", "log", kernels) if kernels else None
    report = CompileReport(TENSORRT_RTX, "1.7.1.116", "strong", kernels=listed)
    fates = tuple(NodeFate(kernel.onnx_nodes[0], "MatMul", (0,), None, ("float16",)) for kernel in kernels)
    return EnvironmentResult(name, TENSORRT_RTX, "1.7.1.116", outcome, findings, report, True, fates)


def report_of(*environments: EnvironmentResult, rules: tuple[Finding, ...] = ()) -> CheckReport:
    return CheckReport(
        host_fingerprint(), (CheckResult("m.onnx", "m", None, "0" * 64, 4, rules, environments),)
    )


STOPPED = engine(
    "old",
    finding(FindingKind.NOT_BUILT, said="it | failed", evidence=("line",)),
    outcome=CompileOutcome.NOT_BUILT,
)


def printed(report: CheckReport, **options) -> str:
    stream = io.StringIO()
    print_check(Console(file=stream, width=100, highlight=False), report, **options)
    return stream.getvalue()


def test_two_releases_stand_side_by_side() -> None:
    text = printed(report_of(STOPPED, engine("new")))
    assert "old (TensorRT for RTX 1.7.1.116): does not build 1 node" in text
    assert "NOT BUILT topk-limit top (TopK): K is limited" in text
    assert "old; not on new, which builds the model" in text
    assert "it | failed" in text
    assert "x float32[1, n]" not in text
    assert "x float32[1, n]" in printed(report_of(STOPPED), details=True)
    assert "\nold builds 0 of 1; new builds 1 of 1\n" in text
    assert "new; no engine on old" in printed(report_of(STOPPED, engine("new", finding(FindingKind.RISKY))))


def test_what_could_not_be_asked_is_not_called_well() -> None:
    unknown = report_of(engine("new", outcome=CompileOutcome.UNKNOWN))
    assert "\nnew builds 0 of 1, 1 could not be asked about\n" in printed(unknown)
    assert [tone_of(report) for report in (unknown, report_of(engine("new")), report_of(STOPPED))] == [
        "calm",
        "good",
        "bad",
    ]


def test_without_an_environment_the_page_says_how_to_ask_a_compiler() -> None:
    text = printed(report_of(rules=(finding(FindingKind.NOT_BUILT),)))
    assert "By the rules, of 1 model 1 will not build" in text
    assert "harness env add rtx --install tensorrt-rtx" in text
    assert "no rule objects to it" in printed(report_of())


def test_several_nodes_with_one_finding_share_its_lines() -> None:
    other, kind = NodeFacts(5, "second", "TopK"), NodeFacts(6, "third", "Sort")
    risky = [finding(FindingKind.RISKY, node) for node in (TOP, other)]
    assert "top, second (TopK): K is limited" in printed(report_of(engine("new", *risky)))
    stopping = [finding(FindingKind.REFUSED, node) for node in (TOP, other, kind)]
    text = printed(report_of(engine("old", *stopping, outcome=CompileOutcome.REFUSED)))
    assert "top, second (TopK): K is limited" in text
    assert "third (Sort)" in text


def test_that_there_are_cures_is_said_of_what_stands_in_the_way_alone() -> None:
    def said(kind: FindingKind, op: str, fix: FixResult | None = None) -> bool:
        node = replace(TOP, op=op)
        report = CheckReport(
            host_fingerprint(),
            (CheckResult("m.onnx", "m", None, "0", 3, environments=(engine("rtx", finding(kind, node)),)),),
            fix,
        )
        texts = [printed(report), check_page(report), check_markdown(report)]
        assert len({"There are cures for" in text for text in texts}) == 1
        return "There are cures for" in texts[0]

    assert said(FindingKind.NOT_BUILT, "TopK")
    assert said(FindingKind.DIFFERENT, "GridSample")
    assert not said(FindingKind.RISKY, "TopK")
    assert not said(FindingKind.REFUSED, "NonMaxSuppression")
    assert not said(FindingKind.NOT_BUILT, "TopK", FixResult("m", None))


def test_different_advice_has_a_line_of_its_own() -> None:
    nodes = [replace(TOP, name=name, index=place) for place, name in enumerate("abc")]
    found = [finding(FindingKind.IMPROVABLE, node, "layernorm-decomposed") for node in nodes]
    found[1] = replace(found[1], advice="leave it")
    first, second = rows(CheckResult("m.onnx", "m", None, "0", 3, tuple(found)))
    assert [first.finding.advice, second.finding.advice] == ["split it", "leave it"]
    assert [each.name for each in first.others] == ["c"]


def test_what_compilers_say_of_a_node_is_the_same_but_for_its_name() -> None:
    nodes = [NodeFacts(index, f"node{index}", "TopK") for index in range(9)]
    stopping = [
        replace(finding(FindingKind.REFUSED, node), said=f"bad: {node.name} of TopK") for node in nodes
    ]
    stopping.append(replace(stopping[0], node=NodeFacts(9, "odd", "TopK"), said="another word"))
    report = report_of(engine("old", *stopping, outcome=CompileOutcome.REFUSED))
    text = printed(report)
    assert "node0, node1, node2, node3, node4, node5 and 3 more (TopK)" in text
    assert "odd (TopK)" in text
    assert "node8" not in text
    assert "node8" in printed(report, details=True)
    assert "node8" in check_page(report)
    assert "node8" in check_markdown(report)


def test_markdown_has_a_table_and_escapes_what_compilers_say() -> None:
    text = check_markdown(report_of(STOPPED, engine("new", finding(FindingKind.DIFFERENT))))
    assert "| m | ✗ NOT BUILT | ‼ DIFFERENT |" in text
    assert r"it \| failed" in text


def test_kernels_and_what_differs_are_listed_if_asked_for() -> None:
    report = report_of(engine("one", blocks=1), engine("two", blocks=2))
    text = printed(report, kernels=True)
    assert "m on one: 10 kernels" in text
    assert re.search(r"0 +gemm +/layers.0/<op>0 +float16 +float32", text)
    assert "m on one → m on two: 10 nodes changed" in text
    assert "gemm" not in printed(report)


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("b7_sq", "b7"),
        ("/model/layers.3/attn/MatMul", "/model/layers.3"),
        ("Conv_12", None),
        ("tokens", None),
        ("l0_ln1_mean", "l0"),
    ],
)
def test_blocks_are_named_after_the_beginning_of_names(name: str, block: str | None) -> None:
    assert block_of(name) == block


PROBE = """<script>addEventListener("load", () => {
  const figure = document.querySelector(".kernels"), svg = figure.querySelector("svg");
  const rows = () => svg.querySelectorAll(".row").length, seen = { folded: rows() };
  const search = figure.querySelector("input");
  search.value = "/layers.70/<op>4"; search.dispatchEvent(new Event("input"));
  seen.found = figure.querySelector(".hits").textContent;
  seen.opened = rows();
  svg.querySelector(".kernel.hit").parentNode.dispatchEvent(new Event("click"));
  seen.about = figure.querySelector(".about").textContent;
  figure.querySelector(".unfold").click();
  seen.unfolded = rows();
  seen.edges = svg.querySelectorAll(".edge").length;
  seen.wide = document.documentElement.scrollWidth <= innerWidth;
  document.body.dataset.seen = JSON.stringify(seen);
});</script>"""


@needs_browser
def test_the_picture_of_a_thousand_kernels_folds_and_is_searched(tmp_path: Path) -> None:
    page = check_page(report_of(engine("new", blocks=100)), kernels=True)
    assert "<op>" not in page
    (tmp_path / "page.html").write_text(with_script(page, PROBE))
    done = browse(tmp_path / "page.html", tmp_path / "home")
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, done.stdout[-500:]
    seen = json.loads(found[1].replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">"))
    assert (seen["folded"], seen["found"], seen["opened"], seen["unfolded"]) == (100, "1 found", 110, 1100)
    assert "/layers.70/<op>4 (MatMul)" in seen["about"]
    assert "t70_4 float16[2, ?]" in seen["about"]
    assert seen["edges"] >= 900
    assert seen["wide"]


def test_what_pytorch_says_of_a_failed_export_is_in_the_headline() -> None:
    said = "nets.py:40: the dynamo exporter has no prims.bessel_j0.default"
    made = Finding(
        "export-failed", FindingKind.REFUSED, FoundBy.EXPORTER, said=said, advice="write it otherwise"
    )
    assert headline(Row(made, (), ())) == f"the model: {said}"
    assert not any(each.label == "export" for each in statements(Row(made, (), ())))

"""A diagnosis on a terminal, as Markdown and as a page."""

from __future__ import annotations

import dataclasses
import datetime
import io
import re
from pathlib import Path

import pytest
from browser import browse_framed, needs_browser, with_script
from page_reader import Page, age_of
from rich.console import Console

from harness.comparison import GateResult
from harness.diagnosis import (
    Cost,
    Diagnosis,
    DiagnosisVerdict,
    Evidence,
    EvidenceKind,
    Origin,
    Price,
    Recipe,
    Repro,
    Separation,
    Stage,
)
from harness.diagnosis.explain import accumulation
from harness.judge import MadeWith
from harness.report import diagnosis_markdown as markdown
from harness.report import diagnosis_page as html_page
from harness.report import print_diagnosis
from harness.report.diagnosis.words import heading, statements
from harness.tensors import Precision
from harness.worker.protocol import Fingerprint

WHY = "squares of values up to 3.1e3 reach 9.6e6, beyond 65504, the largest FP16 value"


@pytest.fixture
def diagnosis(make_result, make_layers) -> Diagnosis:  # type: ignore[no-untyped-def]
    from harness.judge import Verdict

    return Diagnosis(
        case="rmsnorm-overflow",
        precision=Precision.FP16,
        candidate="trt-8.6",
        verdict=DiagnosisVerdict.PRECISION,
        summary=f"At b7_sq (Pow), {WHY}. Keeping 2 nodes in FP32 cures it.",
        origins=(Origin("b7_sq", "Pow", "b7_sq", WHY, float("inf")),),
        culprits=("b7_sq", "b7_mean"),
        islands=(("b7_sq", "b7_mean"),),
        confirmed=True,
        minimal_on="emulator",
        faithful=True,
        cost=Cost(3, 22, 31.4),
        price=Price(1.0, 1.25),
        evidence=(
            Evidence(Stage.GATES, EvidenceKind.BASELINE, "the unobserved candidate fails"),
            Evidence(Stage.CURE, EvidenceKind.ISLAND, "it passes"),
        ),
        advice=("trtexec --onnx=m.onnx --layerPrecisions=b7_sq:fp32",),
        recipes={Recipe.TRTEXEC: "trtexec --onnx=m.onnx --layerPrecisions=b7_sq:fp32"},
        repro=Repro(Path("/tmp/d/repro"), 1, True, note="run in a clean process, it shows the same fault"),
        before=make_result(Verdict.FAIL),
        after=make_result(layers=make_layers(24)),
        fingerprint=MadeWith(environments={"old": Fingerprint("old", "8.6.0")}),
    )


def printed(diagnosis: Diagnosis, **options: bool) -> str:
    stream = io.StringIO()
    print_diagnosis(Console(file=stream, width=100, highlight=False, markup=False), diagnosis, **options)
    return stream.getvalue()


def test_the_report_says_what_where_why_how_it_was_shown_and_what_to_do(diagnosis: Diagnosis) -> None:
    lines = [re.sub(r"\s+", " ", line).strip() for line in printed(diagnosis).splitlines()]
    assert lines == [
        "✗ rmsnorm-overflow at fp16 on trt-8.6: precision",
        "what the precision is too low for a few nodes",
        "y: nrmse 0.6 > 0.01",
        "where it starts at b7_sq (Pow)",
        "back to FP32: b7_sq, b7_mean (2 nodes)",
        f"why {WHY}",
        "proof the unobserved engine passes with these nodes in FP32",
        "without any one of them the emulator fails",
        "price 1 ms before, 1.25 ms after (1.25 times)",
        "repro 1 node; run in a clean process, it shows the same fault",
        "cost 3 builds, 22 emulations, 31 s",
        "do trtexec --onnx=m.onnx --layerPrecisions=b7_sq:fp32",
    ]


def test_details_add_the_evidence(diagnosis: Diagnosis) -> None:
    assert "[gates] the unobserved candidate fails" in printed(diagnosis, details=True)


def test_commands_are_never_wrapped(diagnosis: Diagnosis) -> None:
    long = "trtexec " + " ".join(f"--layer{number}" for number in range(60))
    assert long in printed(dataclasses.replace(diagnosis, advice=(long,)))


@pytest.mark.parametrize("verdict", list(DiagnosisVerdict))
def test_every_verdict_has_its_words(diagnosis: Diagnosis, verdict: DiagnosisVerdict) -> None:
    plain = Diagnosis(verdict, case="case", precision=Precision.FP16, candidate="emulator", summary="said")
    assert heading(plain) == f"case at fp16: {verdict}"
    assert statements(plain)[0].label == "what"
    assert str(verdict) in printed(plain)
    assert "said" in markdown(plain)
    assert "said" in html_page(plain)


def test_an_error_that_many_nodes_share_is_not_blamed_on_a_few(diagnosis: Diagnosis) -> None:
    many = dataclasses.replace(diagnosis, culprits=tuple(f"n{place}" for place in range(40)))
    assert "what   the precision is too low for 40 nodes taken together" in printed(many)
    assert "a few nodes" not in markdown(many) + html_page(many)


def test_a_cure_whose_values_were_not_judged_is_not_called_a_pass(diagnosis: Diagnosis) -> None:
    assert diagnosis.after is not None
    first, *others = diagnosis.after.outputs
    finite = dataclasses.replace(first, gates=(GateResult("nonfinite", 0.0, 0.0, True),))
    only = dataclasses.replace(diagnosis.after, outputs=(finite,))
    text = printed(dataclasses.replace(diagnosis, after=only))
    assert "the unobserved engine gives finite outputs with these nodes in FP32" in text
    partly = dataclasses.replace(diagnosis.after, outputs=(finite, *others))
    text = " ".join(printed(dataclasses.replace(diagnosis, after=partly)).split())
    assert "passes, as far as its outputs could be judged, with these nodes in FP32" in text


def test_a_fusion_names_both_sides(diagnosis: Diagnosis) -> None:
    fusion = dataclasses.replace(
        diagnosis,
        verdict=DiagnosisVerdict.FUSION,
        separations=(Separation("t", "conv", ("relu", "add")),),
        islands=(),
        faithful=False,
    )
    text = printed(fusion)
    assert "between conv and relu, add, at tensor t" in text
    assert "passes when the layers are not fused" in text
    assert "observing changed the engine" in text


def test_every_field_of_the_json_is_documented(diagnosis: Diagnosis) -> None:
    page = (Path(__file__).parents[2] / "docs/json.md").read_text(encoding="utf-8")
    section = page.split("## `harness diagnose`")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", page.split("## `harness diagnose`")[0] + section))
    named |= set(re.findall(r'"(\w+)"', section))
    assert set(diagnosis.to_dict()) <= named


def test_the_page_is_one_file_with_both_pictures(diagnosis: Diagnosis) -> None:
    page = html_page(diagnosis)
    assert page.count("<svg") == 2
    assert age_of(page) < datetime.timedelta(minutes=5)
    assert WHY in page
    assert "python /tmp/d/repro/repro.py" in Page(page).text
    assert not re.search(r'(?:src|href)="https?:', page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_pictures_and_outputs_say_what_is_cured(diagnosis: Diagnosis) -> None:
    page = html_page(diagnosis)
    shown = Page(page).text
    assert "Before: at fp16" in shown
    assert "After, on the emulator: 2 nodes in FP32, the others at fp16" in shown
    assert "× max its largest value in the FP32 reference as a multiple of the largest number" in shown
    assert "Error growth: rmsnorm-overflow at fp16, 2 nodes in FP32" in shown
    cells = r'<td class="number failed">0\.6</td><td class="number">2e-4</td><td class="number">0</td>'
    assert re.search(cells, page), "only what fails is red"


def measured(page: str, numbers: str, folder: Path, width: int) -> list[int]:
    """What a browser makes of the JavaScript expressions `numbers` in a window of `width` pixels that shows `page`."""
    script = f"""<script>addEventListener("load", () => {{
      parent.postMessage([{numbers}].map(Math.round).join(" "), "*");
    }});</script>"""
    return [int(number) for number in browse_framed(with_script(page, script), folder, width).split()]


@needs_browser
def test_lines_of_a_command_break_between_its_words_only(diagnosis: Diagnosis, tmp_path: Path) -> None:
    words = [
        "trtexec",
        *(f"--layer-of-a-network-{number}=b{number}_sq:fp32,b{number}_up:fp32" for number in range(8)),
    ]
    page = html_page(dataclasses.replace(diagnosis, recipes={Recipe.TRTEXEC: " ".join(words)}))
    # What a browser lays out in one line has one rectangle; each word must.
    spans = '[...document.querySelectorAll("pre span")]'
    numbers = f"""{spans}.length, Math.max(...{spans}.map(word => word.getClientRects().length)),
      new Set({spans}.map(word => word.getBoundingClientRect().top)).size"""
    count, pieces, rows = measured(page, numbers, tmp_path, 700)
    assert count == len(words) + 5, "with those of the advice and the repro"
    assert pieces == 1
    assert rows > 4, "the window is too wide to show anything"


@needs_browser
def test_nothing_is_cut_on_a_phone(diagnosis: Diagnosis, tmp_path: Path) -> None:
    layers = ",".join(f"/model/layers.{number}/self_attn/q_proj/MatMul:fp32" for number in range(40))
    long = dataclasses.replace(diagnosis, recipes={Recipe.TRTEXEC: f"trtexec --layerPrecisions={layers}"})
    numbers = """
      [...document.querySelectorAll("pre, .picture")].filter(box => box.scrollWidth > box.clientWidth).length,
      Math.max(...[...document.querySelectorAll("svg")].map(picture => picture.getBoundingClientRect().width)),
      document.querySelectorAll("pre .copy").length - document.querySelectorAll("pre").length"""
    cut, widest, copies = measured(html_page(long), numbers, tmp_path, 390)
    assert cut == 0, "commands wrap, and pictures are as wide as the page"
    assert 200 < widest < 390
    assert copies == 0, "each command has its button"


@needs_browser
@pytest.mark.parametrize("width", [390, 1200])
def test_a_reason_has_room_on_any_screen(diagnosis: Diagnosis, tmp_path: Path, width: int) -> None:
    box = "document.querySelector('td[data-label=\"why\"]').getBoundingClientRect()"
    numbers = f"document.documentElement.scrollWidth, {box}.left, {box}.right, {box}.height"
    wide, left, right, height = measured(html_page(diagnosis), numbers, tmp_path, width)
    assert wide <= width
    assert 0 < left < right < width, "it is seen without scrolling"
    assert height < 120, "it is a few lines, and not a word a line"


def test_the_command_of_the_repro_can_be_pasted(diagnosis: Diagnosis) -> None:
    assert diagnosis.repro is not None
    there = dataclasses.replace(diagnosis.repro, folder=Path("/tmp/my d/repro"))
    text = Page(html_page(dataclasses.replace(diagnosis, repro=there))).text
    assert "python '/tmp/my d/repro/repro.py'" in text


def test_names_from_models_are_text_and_nothing_else(diagnosis: Diagnosis) -> None:
    name = "<script>alert(1)</script> [red]x[/red] | `b`"
    hostile = dataclasses.replace(
        diagnosis,
        case=name,
        summary=name,
        origins=(Origin(name, name, name, name),),
        islands=((name,),),
        evidence=(Evidence(Stage.GATES, EvidenceKind.BASELINE, name),),
        recipes={Recipe.TRTEXEC: name},
        advice=(name,),
    )
    assert "<script>alert" not in html_page(hostile)
    assert "[red]x[/red]" in printed(hostile)
    outside_code = re.sub(r"```sh\n.*?\n```", "", markdown(hostile), flags=re.DOTALL)
    assert "<script>" not in outside_code


def test_the_report_for_a_bug_holds_numbers_and_versions(diagnosis: Diagnosis) -> None:
    text = markdown(diagnosis)
    assert text.startswith("## rmsnorm-overflow at fp16 on trt-8.6: precision\n")
    assert "| y | 0 | 0.6 | 2e-4 | 0 | 0 |" in text
    assert "- old: TensorRT 8.6.0" in text
    assert "```sh\ntrtexec --onnx=m.onnx" in text


def test_json_and_table_hold_what_the_words_say(diagnosis: Diagnosis) -> None:
    document = diagnosis.to_dict()
    assert document["origins"][0]["introduced"] == "inf"
    assert document["price"]["ratio"] == 1.25
    assert document["outputs"][1]["before"]["nrmse"] == 0.6
    frame = diagnosis.to_frame()
    assert list(frame.columns)[:5] == ["index", "node", "op", "tensor", "accumulated"]
    assert frame.set_index("node").loc["b7_sq", "origin"]
    assert frame["culprit"].sum() == 1  # of the layers of this run only b7_sq is a culprit


def test_files_among_the_recipes_are_no_commands(diagnosis: Diagnosis) -> None:
    files = {"layer_list": "/tmp/d e/layers.json", "typed_model": "/tmp/d`e/typed.onnx"}
    shown = dataclasses.replace(diagnosis, recipes={**diagnosis.recipes, **files})
    text = markdown(shown)
    assert text.count("```sh") == 1
    assert "- layer list: `/tmp/d e/layers.json`" in text
    assert "- typed model: `` /tmp/d`e/typed.onnx ``" in text
    page = html_page(shown)
    assert "<pre><code>/tmp" not in page
    assert "<code>/tmp/d e/layers.json</code>" in page


def test_what_belongs_together_is_one_item_of_the_report_for_a_bug(diagnosis: Diagnosis) -> None:
    text = markdown(diagnosis)
    assert "- **what** the precision is too low for a few nodes\n  - " in text


def test_commands_for_different_tools_are_alternatives(diagnosis: Diagnosis) -> None:
    both = dataclasses.replace(diagnosis, advice=("trtexec …", "polygraphy …"))
    assert "  do     trtexec …\n  or     polygraphy …\n" in printed(both)
    steps = dataclasses.replace(
        both, verdict=DiagnosisVerdict.UNRESOLVED, advice=("known so far", "harness …")
    )
    assert "  do     known so far\n         harness …\n" in printed(steps)


def test_an_error_that_accumulates_starts_nowhere(diagnosis: Diagnosis) -> None:
    why = accumulation(9, {"b1_up": 0.5}, Precision.FP16)
    origins = tuple(Origin(node, "MatMul", node, why, accumulates=True) for node in ("b1_up", "b2_up"))
    shown = dataclasses.replace(diagnosis, origins=origins)
    text, page = printed(shown), html_page(shown)
    assert "gates begin to fail at b1_up (MatMul), b2_up (MatMul)" in text
    assert "it starts" not in text
    assert "<h2>Where gates begin to fail</h2>" in page
    assert page.count("as above") == 1

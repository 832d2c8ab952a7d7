"""The report on terminals of all kinds."""

from __future__ import annotations

import io
import os
import re

import pytest
from rich.console import Console

from harness.judge import MadeWith, Verdict
from harness.report import failure_text, print_report
from harness.report.words import made_with
from harness.tensors import Precision
from harness.worker.protocol import Fingerprint

ESCAPE = "\x1b["


class _Encoded(io.StringIO):
    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:
        return self._encoding


def printed(report, *, width: int = 120, terminal: bool = False, encoding: str = "utf-8", **options) -> str:
    stream = _Encoded(encoding)
    console = Console(file=stream, width=width, force_terminal=terminal, highlight=False)
    print_report(console, report, **options)
    return stream.getvalue()


@pytest.fixture
def mixed(make_report, make_result, make_output):
    names = ["attention-encoder-with-a-long-name", "lstm", "rmsnorm-overflow"]
    runs = []
    for name in names:
        for precision in (Precision.FP32, Precision.TF32, Precision.FP16, Precision.BF16):
            verdict = Verdict.PASS
            if name == "rmsnorm-overflow" and precision is Precision.FP16:
                verdict = Verdict.FAIL
            if name == "lstm" and precision is Precision.FP16:
                verdict = Verdict.XFAIL
            runs.append(
                make_result(verdict, case=name, precision=precision, case_path=f"cases/{name}.case.yaml")
            )
    return make_report(*runs)


def test_a_row_shows_verdict_error_worst_output_and_origin(mixed) -> None:
    row = next(line for line in printed(mixed, width=160).splitlines() if line.startswith("rmsnorm-overflow"))
    assert re.split(r"\s{2,}", row.strip()) == [
        "rmsnorm-overflow",
        "✓ pass 2e-4",
        "✓ pass 2e-4",
        "✗ FAIL 0.6",
        "✓ pass 2e-4",
        "y",
        "b7_sq (Pow)",
    ]


def test_the_last_line_is_the_summary(mixed) -> None:
    last = printed(mixed, seconds=18).splitlines()[-1]
    assert last == "3 cases, 12 runs: 10 pass, 1 failed as expected, 1 FAILED, 18 s"


def test_expected_failures_are_shown_calmly(make_report, make_result) -> None:
    text = printed(make_report(make_result(Verdict.XFAIL)), terminal=True)
    assert "xfail" in text
    assert "next " not in text
    assert "31m" not in text, "nothing is red"


def test_a_failure_is_loud_and_followed_by_the_next_command(mixed) -> None:
    text = printed(mixed, terminal=True)
    assert f"{ESCAPE}1;31m✗ FAIL" in text
    assert "--precision fp16" in text


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_no_line_but_a_command_is_wider_than_the_terminal(mixed, width: int) -> None:
    for line in printed(mixed, width=width).splitlines():
        assert len(line) <= width or "harness " in line


def test_a_command_is_never_wrapped_because_it_could_not_be_pasted(mixed) -> None:
    (command,) = [line for line in printed(mixed, width=40).splitlines() if line.lstrip().startswith("next ")]
    assert re.search(r"next +harness \w+ cases/rmsnorm-overflow.case.yaml --precision fp16", command)


def test_eighty_columns_hold_every_verdict(mixed) -> None:
    text = printed(mixed, width=80)
    assert text.count("pass") >= 10
    assert "✗ FAIL" in text
    assert "○ xfail" in text


def test_no_color_prints_no_escape_codes(mixed, monkeypatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = printed(mixed, terminal=True)
    assert re.search(r"\x1b\[[0-9;]*3[0-7]m", text) is None


def test_a_terminal_without_unicode_gets_ascii_verdicts(mixed) -> None:
    text = printed(mixed, encoding="ascii")
    assert "X FAIL" in text
    assert "✗" not in text


def test_candidates_stand_side_by_side_when_there_are_several(make_report, make_result) -> None:
    report = make_report(make_result(candidate="trt-8.5.3.1"), make_result(candidate="trt-8.6.0"))
    lines = printed(report).splitlines()
    assert "candidate" in lines[0]
    assert [line for line in lines if "trt-8.6.0" in line]
    assert sum(line.startswith("rmsnorm-overflow") for line in lines) == 1, "the case is named once"


def test_the_emulator_alone_is_not_named(make_report, make_result) -> None:
    assert "emulator" not in printed(make_report(make_result()))


def test_details_list_every_layer(make_report, make_result) -> None:
    text = printed(make_report(make_result(Verdict.FAIL)), details=True)
    assert re.search(r"16\s+b7_sq\s+Pow\s+inf\s+inf\s+3\.1\s+ORIGIN, overflow, out of range", text)
    assert re.search(r"3\s+b0_layer3\s+MatMul\s+2\.4e-4\s+1\.4e-4\s+6\.1e-5", text)
    assert "reference 0.2 s" in text


def test_brief_leaves_the_table_out_and_keeps_the_failures(mixed) -> None:
    text = printed(mixed, brief=True)
    assert "attention-encoder" not in text
    assert "✗ FAIL rmsnorm-overflow at fp16" in text


def test_a_warning_of_many_runs_is_shown_once(make_report, make_result) -> None:
    runs = [
        make_result(case=f"c{place}", case_path=f"c{place}", precision=precision, warnings=("no golden yet",))
        for place in range(5)
        for precision in (Precision.FP32, Precision.FP16)
    ]
    text = printed(make_report(*runs))
    assert "warning c0, c1, c2 and 2 more: no golden yet" in text
    assert text.count("no golden yet") == 1


def test_warnings_of_runs_that_pass_are_shown(make_report, make_result) -> None:
    report = make_report(make_result(warnings=("the golden reference differs",)))
    assert "warning rmsnorm-overflow: the golden reference differs" in printed(report)
    assert printed(report, details=True).count("the golden reference differs") == 1


def test_text_from_a_model_is_not_taken_for_markup(make_report, make_result, make_layer) -> None:
    layer = make_layer(0, 0.5, origin=True, node="[red]conv[/red]", op="Conv")
    text = printed(
        make_report(make_result(Verdict.FAIL, case="[bold]x[/bold]", layers=(layer,))), details=True
    )
    assert "[bold]x[/bold]" in text
    assert "[red]conv[/red]" in text


def test_a_failure_for_pytest_is_plain_and_short(make_result, make_output) -> None:
    outputs = tuple(make_output(f"y{place}", 0.5 if place == 11 else 1e-4) for place in range(12))
    text = failure_text(make_result(Verdict.FAIL, outputs=outputs), width=100)
    assert ESCAPE not in text
    assert text.index("y11") < text.index("y0"), "what fails comes first"
    assert "and 4 more" in text
    assert "b7_sq" in text
    assert text.splitlines()[-1].startswith("next ")
    assert all(line == line.rstrip() for line in text.splitlines())


def test_an_error_for_pytest_shows_its_evidence(make_result) -> None:
    result = make_result(
        Verdict.ERROR, outputs=(), layers=(), detail="the worker died (signal 11)", evidence=("[TRT] oops",)
    )
    text = failure_text(result, width=os.get_terminal_size().columns if os.isatty(1) else 80)
    assert "the worker died (signal 11)" in text
    assert "[TRT] oops" in text


def test_what_numbers_were_made_with_is_a_line_a_fact() -> None:
    gpu = Fingerprint("trt", "8.6.0", gpu="NVIDIA H200", driver="580.1")
    assert made_with(MadeWith("0.1.0", environments={"trt": gpu})) == {
        "harness": "0.1.0",
        "trt": "TensorRT 8.6.0, NVIDIA H200, driver 580.1",
    }


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_name_of_an_origin_is_shortened_rather_than_folded(
    make_report, make_result, make_layer, width: int
) -> None:
    node = "/model/layers.0/self_attn/q_proj/MatMul_quantized"
    runs = [
        make_result(Verdict.FAIL, precision=precision, layers=(make_layer(0, 0.6, origin=True, node=node),))
        for precision in (Precision.FP32, Precision.TF32, Precision.FP16, Precision.BF16)
    ]
    rows = printed(make_report(*runs), width=width).splitlines()[2:5]
    folded = [line for line in rows if "zed" in line]
    assert len(folded) == 1
    assert "…" in folded[0], "the name stands in one line"
    assert max(map(len, rows)) <= width

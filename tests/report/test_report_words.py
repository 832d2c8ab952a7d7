"""Numbers, verdicts and counts in words."""

from __future__ import annotations

import pytest

from harness.judge import Verdict
from harness.report import LOOKS, title
from harness.report.run.words import answer, next_command, summary


def test_every_verdict_has_a_look_of_its_own() -> None:
    assert set(LOOKS) == set(Verdict)
    assert len({look.severity for look in LOOKS.values()}) == len(Verdict)
    assert all(look.plain_glyph.isascii() for look in LOOKS.values())


def test_the_summary_counts_each_kind_of_verdict(make_report, make_result) -> None:
    runs = [make_result(verdict, case=f"c{place}") for place, verdict in enumerate(Verdict)]
    assert summary(make_report(*runs), 18.2) == (
        "6 cases, 6 runs: 1 pass, 1 failed as expected, 1 skipped, 1 FAILED, "
        "1 passed unexpectedly, 1 could not be judged, 18 s"
    )


def test_a_summary_without_surprises_says_so(make_report, make_result) -> None:
    report = make_report(make_result(), make_result(Verdict.XFAIL))
    assert summary(report) == "1 case, 2 runs: 1 pass, 1 failed as expected, 0 unexpected"


@pytest.mark.parametrize(
    ("verdicts", "text"),
    [
        ([Verdict.PASS], "The run came out as expected."),
        ([Verdict.PASS, Verdict.XFAIL], "All 2 runs came out as expected, 1 of them failures."),
        ([Verdict.PASS, Verdict.FAIL], "1 of 2 runs failed."),
        ([Verdict.XPASS], "1 passed although a failure was expected."),
        ([Verdict.FAIL, Verdict.ERROR], "1 of 2 runs failed; 1 could not be judged."),
        ([Verdict.SKIP], "Nothing was judged: every run was skipped."),
    ],
)
def test_the_answer_is_one_sentence(verdicts, text, make_report, make_result) -> None:
    assert answer(make_report(*[make_result(verdict) for verdict in verdicts])) == text


def test_the_next_command_can_be_pasted_into_a_shell(make_result) -> None:
    result = make_result(Verdict.FAIL, candidate="trt-8.6.0", case_path="my cases/a.case.yaml")
    assert "'my cases/a.case.yaml' --precision fp16 --env trt-8.6.0" in next_command(result)
    assert next_command(result).startswith("harness ")
    bare = make_result(Verdict.FAIL, case_path="my net.onnx", inputs=("x 1:[4,8]",))
    assert next_command(bare) == "harness diagnose 'my net.onnx' --input 'x 1:[4,8]' --precision fp16"


def test_a_title_names_an_environment_but_not_the_emulator(make_result) -> None:
    assert title(make_result()) == "rmsnorm-overflow at fp16"
    assert title(make_result(candidate="trt-8.6.0")) == "rmsnorm-overflow at fp16 on trt-8.6.0"
    assert title(make_result(Verdict.ERROR, mistake=True)) == "rmsnorm-overflow"

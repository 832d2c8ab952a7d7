import sys
import time
from dataclasses import replace

from harness.case import load_case
from harness.cli.progress import RunProgress, StageProgress
from harness.diagnosis import DiagnosisEvent, Stage
from harness.judge import RunEvent, run

SEARCH = "search the island"


def test_a_log_reminds_of_a_stage_that_takes_long_and_says_how_far_it_is(capsys) -> None:
    seen = ""
    with StageProgress(sys.stderr, first_reminder=0.02) as progress:
        progress(DiagnosisEvent(Stage.GATES, "run the reference"))
        progress(DiagnosisEvent(Stage.CURE, SEARCH))
        step = DiagnosisEvent(Stage.CURE, SEARCH, emulations=7, suspects=3, suspected=("b1:sq",))
        progress(replace(step, detail="bisect, fail"))
        until = time.monotonic() + 30
        while seen.count("so far") < 2 and time.monotonic() < until:
            seen += capsys.readouterr().err
    lines = seen.splitlines()
    stages = [line for line in lines if "so far" not in line]
    assert stages == ["[gates] run the reference", "[cure] search the island"]
    late = [line for line in lines if "so far" in line]
    assert len(late) >= 2
    assert late[-1].startswith(f"[cure] {SEARCH}: bisect, fail, ")
    assert late[-1].endswith(" so far, 7 emulations, 3 suspects (b1:sq)")


def test_a_quiet_display_prints_nothing(capsys) -> None:
    with StageProgress(None, first_reminder=0.01) as progress:
        progress(DiagnosisEvent(Stage.CURE, "search the island"))
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_runs_that_ended_keep_their_order_whichever_was_faster(tiny_cases) -> None:
    (result, *_) = run(load_case(tiny_cases("clean") / "clean.case.yaml")).results
    with RunProgress(None) as progress:
        for index in (2, 0, 1):
            ended = replace(result, case=f"case {index}")
            progress(RunEvent("done", index, 3, ended.case, result.precision, result.candidate, "", ended))
    assert [each.case for each in progress.done] == ["case 0", "case 1", "case 2"]

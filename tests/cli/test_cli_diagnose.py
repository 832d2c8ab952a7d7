"""`harness diagnose` on real cases: statuses, files, what a person reads."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from harness.cli.progress import StageProgress, spent
from harness.diagnosis import DiagnosisEvent, Stage

CASES = Path(__file__).parents[2] / "cases"
OVERFLOW = CASES / "residual-growth.case.yaml"


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


def test_a_case_that_passes_gets_the_verdict_none_in_few_evaluations(harness) -> None:
    status, out, _ = harness("diagnose", CASES / "dynamic-batch.case.yaml", "--precision", "fp16")
    assert status == 0
    assert "dynamic-batch at fp16: none" in out
    assert "nothing is wrong" in out
    assert "12 emulations" in out  # two samples, what lies behind them, and the shapes of the profile


def test_a_fault_is_reported_with_what_where_why_and_what_to_do(harness) -> None:
    status, out, err = harness("diagnose", OVERFLOW, "-p", "fp16")
    assert status == 1
    assert "residual-growth at fp16: precision" in out
    assert "it starts at b13_add (Add)" in out or "it starts at b15_add (Add)" in out
    assert "beyond 65504, the largest FP16 value" in out
    assert "for recipes and a repro: harness diagnose " in out
    assert "--onnx=" not in out, "the model has no file"
    assert "[cure]" in err
    assert "[gates]" in err


def test_out_holds_everything_to_act_on_and_the_repro_fails_when_run(harness, tmp_path: Path) -> None:
    (tmp_path / "d" / "older").mkdir(parents=True)
    status, out, _ = harness("diagnose", OVERFLOW, "-p", "fp16", "--out", "d")
    assert status == 1
    names = {path.name for path in (tmp_path / "d").iterdir()}
    assert names - {"older"} == {
        *("diagnosis.json", "diagnosis.html", "diagnosis.md", "journal", "keep_fp32.py", "layers.json"),
        *("model.onnx", "typed.onnx", "repro"),
    }
    assert "files  d: diagnosis.html, diagnosis.json, " in out
    assert "older" not in out
    done = subprocess.run(
        [sys.executable, "-I", tmp_path / "d" / "repro" / "repro.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "THE FAULT SHOWS" in done.stdout
    page = (tmp_path / "d" / "diagnosis.html").read_text()
    assert page.count("<svg") == 2
    document = json.loads((tmp_path / "d" / "diagnosis.json").read_text())
    assert document["repro"] == "d/repro"
    assert document["repro_shows"] is True
    assert not list((tmp_path / "d").glob(".*"))


def test_json_on_stdout_has_nothing_beside_it(harness) -> None:
    status, out, err = harness("diagnose", OVERFLOW, "-p", "fp16", "--json", "-")
    document = json.loads(out)
    assert status == 1
    assert list(document)[:7] == [
        "schema",
        "case",
        "case_path",
        "precision",
        "candidate",
        "verdict",
        "summary",
    ]
    promised = ("schema", "case", "precision", "candidate", "verdict", "origins", "culprits", "confirmed")
    promised += ("minimal", "cost", "evidence", "recipes", "repro")
    assert document["schema"] == "harness.diagnosis/1"
    assert set(promised) <= set(document)
    assert set(document["origins"][0]) >= {"node", "op", "tensor", "why"}
    assert set(document["cost"]) == {"builds", "emulations", "seconds", "stages"}
    assert sum(document["cost"]["stages"].values()) == pytest.approx(document["cost"]["seconds"], rel=0.2)
    assert document["confirmed"] is True
    assert document["minimal"] is True
    assert "residual-growth at fp16" in err


def test_details_show_the_evidence_and_quiet_no_progress(harness) -> None:
    _, out, err = harness("diagnose", OVERFLOW, "-p", "fp16", "-v", "-q")
    assert "[gates] the FP32 reference is stable: FP64" in out
    assert err == ""


def test_an_onnx_file_is_diagnosed_with_the_shapes_given(harness, tmp_path: Path) -> None:
    harness("diagnose", OVERFLOW, "-p", "fp16", "--out", "d")
    status, out, _ = harness("diagnose", "d/model.onnx", "-p", "fp16", "-i", "x:[8,64]")
    assert status == 1
    assert "model at fp16: precision" in out
    assert "trtexec --onnx=d/model.onnx" in out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((CASES,), 2, "a diagnosis needs one"),
        (("missing.case.yaml",), 2, "missing.case.yaml"),
        ((OVERFLOW, "--max-builds", "0"), 2, "is not enough"),
        ((OVERFLOW, "--env", "nowhere"), 2, "nowhere"),
        ((OVERFLOW, "--json", "."), 2, "is a folder"),
        ((OVERFLOW, "--precision", "fp17"), 2, "fp17"),
        ((OVERFLOW, "--input", "x"), 2, "--input"),
    ],
)
def test_mistakes_are_reported_before_anything_runs(harness, arguments, status, message) -> None:
    code, out, err = harness("diagnose", *arguments)
    assert code == status
    assert message in err
    assert out == ""


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_ctrl_c_and_sigterm_leave_a_journal_and_say_how_to_continue(
    tmp_path: Path, number, status, word
) -> None:
    # The first evaluation takes a while: the process is met at work.
    command = [sys.executable, "-c", "import sys; from harness.cli import main; sys.exit(main())", "diagnose"]
    command += [str(CASES / "resnet50.case.yaml"), "-p", "fp16"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("[gates]")
    time.sleep(0.2)
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait() == status, rest
    assert "continue with: harness diagnose" in rest
    assert rest.rstrip().endswith(word)
    assert list((tmp_path / ".harness" / "diagnose").glob("resnet50-fp16-emulator/diagnosis.jsonl"))


def test_too_small_a_limit_ends_with_4(harness) -> None:
    status, out, _ = harness("diagnose", OVERFLOW, "-p", "fp16", "--max-seconds", "0.000001")
    assert status == 4
    assert "UNRESOLVED" in out or "unresolved" in out
    assert "--resume" in out


def test_the_precision_is_fp16_where_the_case_has_several(harness) -> None:
    status, out, _ = harness("diagnose", CASES / "dynamic-batch.case.yaml", "-q")
    assert status == 0
    assert "dynamic-batch at fp16: none" in out


def test_a_terminal_shows_one_line_that_disappears_at_the_end() -> None:
    stream = io.StringIO()
    with StageProgress(terminal=Console(file=stream, force_terminal=True, width=120)) as live:
        live(DiagnosisEvent(Stage.CURE, "search the island", 12, 0, 5, ("b7_sq",), 3))
        live(DiagnosisEvent(Stage.OBSERVE, "build [with] marks", 12, 2))
    shown = stream.getvalue()
    assert "[observe] build [with] marks" in shown
    assert "12 emulations, 2 builds" in shown
    assert shown.endswith("\x1b[2K")  # the line is cleared


def test_what_was_spent_fits_one_line() -> None:
    event = DiagnosisEvent(Stage.CURE, "search", 12, 2, 5, ("a", "b", "c", "d"), 3)
    assert spent(event) == "12 emulations, 2 builds, 5 suspects, about 3 to go (a, b, c …)"
    assert spent(DiagnosisEvent(Stage.GATES, "run")) == "0 emulations"


def test_a_precision_that_rounds_nothing_is_not_reported_as_sound(harness) -> None:
    status, out, err = harness("diagnose", CASES / "dynamic-batch.case.yaml", "--precision", "int8")
    assert (status, out) == (5, "")
    assert "the emulator has nothing to round for int8: the model has no Q/DQ nodes" in err

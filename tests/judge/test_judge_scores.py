"""A user's own metric: its limit, and what goes wrong in it, with file and line."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from graphs import norm_chain

from harness.judge import Cause, Verdict, run

SCORING = """
import numpy as np


def top1(reference, candidate):
    pairs = [(one["y"].argmax(1), other["y"].argmax(1)) for one, other in zip(reference, candidate)]
    return np.mean([np.mean(one == other) for one, other in pairs])


def error(reference, candidate, scale=1.0):
    return scale * max(np.abs(one["y"] - other["y"]).max() for one, other in zip(reference, candidate))


def raises(reference, candidate):
    labels = {}
    return labels["missing"]


def text(reference, candidate):
    return "good"


def spoils(reference, candidate):
    for sample in (*reference, *candidate):
        sample["y"][:] = 0
    return 1.0


def hangs(reference, candidate):
    number = 0
    while True:
        number += 1
"""


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(norm_chain(), "m.onnx")
    Path("scoring.py").write_text(SCORING)


def judge(metric: str, precision: str = "fp16"):
    Path("m.case.yaml").write_text(
        f"model: {{path: m.onnx}}\ninputs: {{x: [5, 16]}}\nsamples: 2\nruns: [{precision}]\nmetric: {metric}\n"
    )
    (result,) = run("m.case.yaml").results
    return result


def test_a_metric_within_its_limit_passes_and_is_said() -> None:
    result = judge("scoring:top1")
    assert result.verdict is Verdict.PASS
    assert result.reason == "all gates hold; scoring:top1 is 1, of the reference 1, limit 0"
    assert result.to_dict()["scores"][0]["passed"] is True


def test_a_metric_that_drops_beyond_its_limit_fails_although_the_gates_hold() -> None:
    result = judge("{function: scoring:error, better: lower, max_drop: 1.0, args: {scale: 1.0e+6}}")
    assert {output.passed for output in result.outputs} == {True}
    assert (result.verdict, result.cause) == (Verdict.FAIL, Cause.SCORE)
    assert result.reason.startswith("scoring:error rises by ")
    assert judge("{function: scoring:error, better: lower, max_drop: 1.0}").verdict is Verdict.PASS


def test_a_metric_cannot_change_what_is_judged() -> None:
    result = judge("[scoring:spoils, scoring:top1]")
    assert [score.candidate for score in result.scores] == [1.0, 1.0]
    assert result.worst.metrics.nrmse > 0


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("raises", 16, "metric scoring:raises raised KeyError: 'missing'"),
        ("text", 19, "metric scoring:text returned 'good' instead of a number"),
        ("nowhere", None, "module 'scoring' has no function 'nowhere'"),
    ],
)
def test_what_goes_wrong_in_a_metric_is_an_error_of_that_run(name: str, line: int, message: str) -> None:
    result = judge(f"scoring:{name}")
    assert result.verdict is Verdict.ERROR
    assert message in result.reason
    assert result.error.where == ("scoring.py" if line is None else f"scoring.py:{line}")


def test_a_metric_that_does_not_return_is_ended_where_it_was(monkeypatch) -> None:
    Path("harness.toml").write_text("[functions]\nseconds = 0.5\n")
    monkeypatch.setenv("HARNESS_CONFIG", str(Path("harness.toml").absolute()))
    result = judge("scoring:hangs")
    assert result.verdict is Verdict.ERROR
    assert "metric scoring:hangs did not return within 0.5 s" in result.reason
    assert result.error.where in ("scoring.py:31", "scoring.py:32")


def test_the_standard_library_is_no_metric() -> None:
    result = judge("os:system")
    assert result.verdict is Verdict.ERROR
    assert result.error.where == "m.case.yaml:5"

"""One case at one precision on one candidate: run it, compare it, say where the error starts."""

from harness.judge.judge import Judge, JudgeOptions
from harness.judge.results import LayerResult, OutputResult, RunReport, RunResult, Verdict
from harness.judge.suite import ProgressEvent, run, select_cases

__all__ = [
    "Judge",
    "JudgeOptions",
    "LayerResult",
    "OutputResult",
    "ProgressEvent",
    "RunReport",
    "RunResult",
    "Verdict",
    "run",
    "select_cases",
]

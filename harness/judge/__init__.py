"""One case at one precision on one candidate: run it, compare it, say where the error starts."""

from harness.judge.goldens import prune_goldens
from harness.judge.judge import Judge, JudgeOptions
from harness.judge.lanes import ProgressEvent
from harness.judge.results import LayerResult, OutputResult, RunReport, RunResult, Verdict
from harness.judge.suite import run, select_cases

__all__ = [
    "Judge",
    "JudgeOptions",
    "LayerResult",
    "OutputResult",
    "ProgressEvent",
    "RunReport",
    "RunResult",
    "Verdict",
    "prune_goldens",
    "run",
    "select_cases",
]

"""Benchmarks on the workers of a scheduler: what one process finds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import false_alarms, fuzz
from benchmarks.faults.generate import sample
from benchmarks.faults.run import each, judge
from benchmarks.isolated import outcomes
from benchmarks.spread import each_answer

distributed = pytest.importorskip("distributed", reason="pip install -c constraints.txt -e '.[cluster]'")

pytestmark = pytest.mark.slow
TREE = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a scheduler with two workers."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    ) as made:
        yield made.scheduler_address


def test_processes_that_may_crash_are_started_by_workers(scheduler: str) -> None:
    names = fuzz.wanted(4, 2, 4, seed=7)
    found = [outcomes(fuzz.judge_files, names, scheduler=address) for address in (None, scheduler)]
    here, there = ([(name, outcome[:1]) for name, outcome in each.items()] for each in found)
    assert here == there


def test_planted_faults_have_the_scores_of_one_process(scheduler: str) -> None:
    specs = sample(3, seed=1)
    here, there = (dict(each(judge, specs, 1, scheduler=address)) for address in (None, scheduler))
    assert {spec: _timeless(score) for spec, score in here.items()} == {
        spec: _timeless(score) for spec, score in there.items()
    }


def _timeless(score: Any) -> Any:
    return replace(score, **{name: 0.0 for name in vars(score) if "seconds" in name})


def test_models_are_found_again_by_their_place(scheduler: str) -> None:
    places = [("bundled cases", 100, 2, number) for number in (0, 1)]
    here, there = (dict(each_answer(false_alarms.judge, places, address)) for address in (None, scheduler))
    assert here == there
    assert all(one.judged == "clean" for found in here.values() for one in found)


def test_a_benchmark_takes_the_option(scheduler: str) -> None:
    line = [sys.executable, "-m", "benchmarks.onnx_suite", "--only", "test_abs", "--scheduler", scheduler]
    done = subprocess.run(line, cwd=TREE, env=os.environ, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ONNX", "Runtime", "runs", "harness", "pass", "1"]

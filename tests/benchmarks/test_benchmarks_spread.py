"""Benchmarks on the workers of a scheduler: what one process finds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import answers, check_rules, cures, false_alarms, fuzz, quantization_fusions
from benchmarks.faults.generate import sample
from benchmarks.faults.run import each, judge
from benchmarks.isolated import outcomes
from benchmarks.quantization_models import measure_accuracy
from benchmarks.scheduler import cluster
from benchmarks.spread import each_answer
from harness.environments import Environment

pytest.importorskip("distributed", reason="pip install -c constraints.txt -e '.[cluster]'")

pytestmark = pytest.mark.slow
TREE = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a scheduler with two workers."""
    with cluster(2) as made:
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


def test_commands_are_asked_on_workers(
    scheduler: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert answers.answers("drift", 1, scheduler) == answers.answers("drift", 1)
    assert not list(tmp_path.iterdir())


def test_models_are_quantised_on_workers(scheduler: str) -> None:
    measure, names = partial(measure_accuracy, None), ["dynamic-batch", "lstm"]
    here, there = (dict(each_answer(measure, names, address)) for address in (None, scheduler))
    assert here == there


def test_what_is_timed_is_not_spread(scheduler: str) -> None:
    line = [sys.executable, "-m", "benchmarks.quantization_models", "--ranking", "--scheduler", scheduler]
    done = subprocess.run(line, cwd=TREE, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert "--ranking times what one machine does" in done.stderr


class TestCompiler:
    @pytest.fixture
    def python(self) -> str:
        """A Python with TensorRT for RTX."""
        found = os.environ.get("HARNESS_RTX_PYTHON")
        if not found:
            missing = "HARNESS_RTX_PYTHON names no Python with tensorrt_rtx"
            (pytest.fail if os.environ.get("HARNESS_RTX_REQUIRED") else pytest.skip)(missing)
        return found

    def test_models_are_asked_about_on_workers(self, scheduler: str, python: str) -> None:
        asked = partial(check_rules.compiled, Environment("compiler", (python,)))
        models = list(check_rules.singles(["det", "clip"]))
        here, there = (
            {single.name: said for single, said in each_answer(asked, models, address)}
            for address in (None, scheduler)
        )
        assert here == there
        assert {said[0] for said in here.values() if said} >= {"built", "refused"}

    def test_misplaced_pairs_are_counted_on_workers(self, scheduler: str, python: str) -> None:
        asked = partial(quantization_fusions.measure, Environment("compiler", (python,)))
        planted = list(quantization_fusions.plants(3))
        here, there = (
            {plant.name: found for plant, found in each_answer(asked, planted, address)}
            for address in (None, scheduler)
        )
        assert here == there

    def test_refusals_are_cured_on_workers(self, scheduler: str, python: str, tmp_path: Path) -> None:
        numbers = [
            cures.measure(python, "cure", "^test_(det|cumprod_1d)", tmp_path / name, address)
            for name, address in (("here", None), ("there", scheduler))
        ]
        assert numbers[0] == numbers[1]
        rows = [cures.read_rows(tmp_path / name) for name in ("here", "there")]
        by_name = [{row["name"]: row for row in each} for each in rows]
        assert by_name[0] == by_name[1]
        assert numbers[0][1]["cured"] == len(by_name[0]) > 1

    def test_models_made_in_a_benchmark_that_is_run_are_known_to_workers(
        self, scheduler: str, python: str
    ) -> None:
        line = [sys.executable, "-m", "benchmarks.cures", "cure", python, "--only", "^test_det_2d$"]
        done = subprocess.run(
            [*line, "--scheduler", scheduler], cwd=TREE, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        assert "'cured': 1" in done.stdout

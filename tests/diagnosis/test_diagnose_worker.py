"""A diagnosis through a real worker process, which is killed at any step."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from models import ISLAND, feeds, rmsnorm

from harness.backends import TensorRTCandidate
from harness.diagnosis import Diagnosis, DiagnosisVerdict, diagnose_model
from harness.environments import Environment, Supervisor
from harness.tensors import Precision

ADAPTER = Path(__file__).parent / "emulated_worker.py"


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path / "s"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield
    assert list((tmp_path / "s" / "harness").glob("*")) == []


def run(counter: Path, **variables: str) -> Diagnosis:
    root = str(Path(__file__).parents[2])
    variables = {"COUNTER": str(counter), "PYTHONPATH": root, "OMP_NUM_THREADS": "1", **variables}
    environment = Environment("cpu", (sys.executable,), variables=tuple(sorted(variables.items())))
    supervisor = Supervisor(environment, adapter=ADAPTER)
    model = rmsnorm(scale=600.0)
    candidate = TensorRTCandidate(environment, model, supervisor=supervisor)
    try:
        return diagnose_model(model, feeds(model), Precision.FP16, candidate=candidate)
    finally:
        candidate.close()
        supervisor.close()


def test_a_worker_killed_at_work_changes_nothing_in_the_answer(tmp_path: Path) -> None:
    counter = tmp_path / "messages"
    expected = run(counter)
    assert expected.verdict is DiagnosisVerdict.PRECISION
    assert expected.culprits == ISLAND
    assert expected.confirmed
    assert expected.faithful is True
    assert expected.cost.builds == 3
    messages = counter.stat().st_size
    assert messages >= 6  # three builds, three inferences, and two that were timed
    for last in range(1, messages + 1, 2):
        other = tmp_path / f"messages-{last}"
        when = "before" if last % 4 == 1 else "after"
        answer = run(other, DIE_AT=str(last), DIE_WHEN=when)
        assert answer.verdict is expected.verdict, last
        assert answer.culprits == expected.culprits, last
        assert answer.origins == expected.origins, last
        assert answer.confirmed, last
        assert other.stat().st_size > last  # it did die, and went on

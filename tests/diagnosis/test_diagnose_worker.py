"""A diagnosis through a real worker process, which is killed at any step."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from models import ISLAND, feeds, rmsnorm

from harness.backends import TensorRTCandidate
from harness.diagnosis import Diagnosis, DiagnosisVerdict, diagnose_model
from harness.environments import Environment, Prebuilt, SecondBuilder, Supervisor, WorkerLimits
from harness.tensors import Precision

ADAPTER = Path(__file__).parent / "emulated_worker.py"


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path / "s"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield
    assert list((tmp_path / "s" / "harness").glob("*")) == []


def run(counter: Path, limits: WorkerLimits | None = None, **variables: str) -> Diagnosis:
    root = str(Path(__file__).parents[2])
    variables = {"COUNTER": str(counter), "PYTHONPATH": root, "OMP_NUM_THREADS": "1", **variables}
    given = tuple(sorted(variables.items()))
    environment = Environment("cpu", (sys.executable,), variables=given, limits=limits or WorkerLimits())
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


def test_a_second_worker_changes_nothing_in_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = SecondBuilder.take

    def wait_and_take(self: SecondBuilder, key: object, seconds: float) -> Prebuilt | None:
        self._built.result(60)
        return take(self, key, seconds)

    monkeypatch.setattr(SecondBuilder, "take", wait_and_take)
    found, events = {}, {}
    for name, workers, crash in (
        ("one", 1, ""),
        ("two", 2, ""),
        ("crashes", 2, "write"),
    ):
        variables = {"RECORD": str(tmp_path / name), "CRASH": crash}
        found[name] = run(tmp_path / "messages", WorkerLimits(workers=workers), **variables)
        events[name] = sorted((tmp_path / name).read_text().splitlines())
    one = found.pop("one")
    assert one.verdict is DiagnosisVerdict.PRECISION
    assert one.culprits == ISLAND
    for name, other in found.items():
        for field in ("verdict", "culprits", "confirmed", "summary", "origins", "advice"):
            assert getattr(other, field) == getattr(one, field), (name, field)
        assert [each.text for each in other.evidence] == [each.text for each in one.evidence]
        assert other.cost.builds == one.cost.builds
    builds = ["build"] * one.cost.builds
    assert events == {
        "one": builds,
        "two": [*builds[1:], "load", "write"],
        "crashes": [*builds, "write"],
    }

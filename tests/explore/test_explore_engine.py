"""Engines of a real worker process, tried by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from models import ISLAND
from rich.console import Console

from harness.backends import TensorRTCandidate
from harness.environments import Environment, Supervisor
from harness.explore import Session, Shell
from harness.model import Model

ADAPTER = Path(__file__).parent.parent / "diagnosis" / "emulated_worker.py"


@pytest.fixture
def with_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_small) -> Iterator[Session]:
    monkeypatch.setenv("HARNESS_SCRATCH", str(tmp_path / "s"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    variables = {
        "COUNTER": str(tmp_path / "counter"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    environment = Environment("trt86", (sys.executable,), variables=tuple(sorted(variables.items())))
    supervisor = Supervisor(environment, adapter=ADAPTER)

    def engine(model: Model) -> TensorRTCandidate:
        return TensorRTCandidate(environment, model, supervisor=supervisor)

    yield open_small(engine=engine)
    supervisor.close()


def test_an_engine_is_built_once_for_a_configuration_and_then_recalled(with_worker: Session, capsys) -> None:
    shell = Shell(with_worker, Console(width=80), lambda: nullcontext(lambda event: None))
    assert with_worker.welcome().environment == "trt86"
    assert shell.run_script(["try --engine", "keep b1_*", "bisect", "try --engine", "try --engine"]) == 0
    printed = capsys.readouterr().out
    assert "FAIL on trt86" in printed
    assert "PASS on trt86" in printed
    assert printed.count("remembered") == 1
    assert with_worker.context.cost.builds == 2
    assert with_worker.kept == set(ISLAND)
    engine = with_worker.by_hand.on_engine
    assert engine is not None
    assert set(engine.evaluations) == {frozenset(), frozenset(ISLAND)}
    past = with_worker.results()
    assert [tried.candidate for tried in past.tried if hasattr(tried, "candidate")] == ["trt86"] * 3

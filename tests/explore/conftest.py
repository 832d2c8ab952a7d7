"""Sessions on a small model, on the emulator and beside an engine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "diagnosis"))  # its models, engines and worker

from models import feeds, rmsnorm

from harness.backends import Candidate
from harness.diagnosis import Context, DiagnosisJournal, Subject
from harness.diagnosis.context import make_bench
from harness.explore import Session
from harness.judge import Workbench
from harness.model import Model
from harness.tensors import Precision

Open = Callable[..., Session]


@pytest.fixture(scope="session")
def benches() -> Iterator[dict[float, Workbench]]:
    """Workbenches by scale: sessions of ONNX Runtime are shared, what is measured with them is not."""
    made: dict[float, Workbench] = {}
    yield made
    for bench in made.values():
        bench.close()


@pytest.fixture
def open_small(tmp_path: Path, benches: dict[float, Workbench]) -> Open:
    """Open a session on three RMSNorm blocks: the squares of the second one overflow FP16, unless `scale` is 1."""

    def open_(
        *,
        scale: float = 600.0,
        engine: Callable[[Model], Candidate] | None = None,
        precision: Precision = Precision.FP16,
        folder: Path = tmp_path / "journal",
    ) -> Session:
        model = rmsnorm(scale=scale)
        bench = benches.setdefault(scale, make_bench(model, feeds(model, samples=2)))
        subject = Subject(bench, precision, bench.emulator if engine is None else engine(model))
        journal = DiagnosisJournal(folder, subject, resume=True)
        return Session(Context(subject, journal=journal), tmp_path / "out")

    return open_


@pytest.fixture
def session(open_small: Open) -> Session:
    return open_small()

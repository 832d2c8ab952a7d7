"""Sessions on a small model, on the emulator and beside an engine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "diagnose"))  # its models, engines and worker

from models import feeds, rmsnorm

from harness.backends import Candidate
from harness.diagnose.lab import Lab
from harness.diagnose.notebook import Notebook
from harness.diagnose.subject import Subject, make_bench
from harness.explore import Session
from harness.model import Model
from harness.tensors.precision import Precision

Open = Callable[..., Session]


@pytest.fixture
def open_small(tmp_path: Path) -> Iterator[Open]:
    """Open a session on three RMSNorm blocks: the squares of the second one overflow FP16, unless `scale` is 1."""
    with ExitStack() as stack:

        def open_(
            *,
            scale: float = 600.0,
            engine: Callable[[Model], Candidate] | None = None,
            precision: Precision = Precision.FP16,
            folder: Path = tmp_path / "journal",
        ) -> Session:
            model = rmsnorm(scale=scale)
            bench = make_bench(model, feeds(model, samples=2))
            stack.callback(bench.close)
            subject = Subject(bench, precision, bench.emulator if engine is None else engine(model))
            Notebook(folder, subject, resume=True)
            notebook = Notebook(folder, subject, resume=True)
            return Session(Lab(subject, notebook=notebook), notebook, tmp_path / "out")

        yield open_


@pytest.fixture
def session(open_small: Open) -> Session:
    return open_small()

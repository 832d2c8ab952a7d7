from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "model"))  # graphs that several rooms are tested with

if TYPE_CHECKING:
    from harness.diagnosis import Diagnosis


@pytest.fixture(scope="session")
def adding_up() -> Diagnosis:
    """Of errors that add up: the gate is at 0.7 of what they come to."""
    from models import feeds, rmsnorm

    from harness.case import Tolerance
    from harness.diagnosis import diagnose_model
    from harness.tensors import Precision

    model = rmsnorm()
    samples = feeds(model)
    whole = diagnose_model(model, samples, Precision.FP16, tolerances=[Tolerance(nrmse=1e-9)])
    assert whole.before is not None
    error = max(output.metrics.nrmse for output in whole.before.outputs)
    return diagnose_model(model, samples, Precision.FP16, tolerances=[Tolerance(nrmse=error * 0.7)])

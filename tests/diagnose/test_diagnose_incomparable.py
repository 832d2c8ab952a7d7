"""Faults that leave no number: outputs of another shape, and outputs that cannot be computed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import halved_until_small, looked_up, looked_up_in_a_loop, picked_elements

from harness.diagnose import Verdict, diagnose_model
from harness.diagnose.records import output_from_record, output_to_record
from harness.model import load_model
from harness.tensors.precision import Precision

RNG = np.random.default_rng(2)


@pytest.mark.parametrize(
    ("proto", "size", "island", "told"),
    [
        (picked_elements(), 200, ("far",), "picked: shape ("),
        (picked_elements(summed=True), 200, ("far",), "number: nrmse "),
        (looked_up(), 8, ("large",), "y: not computed: ONNX Runtime fails at read (Gather)"),
        (halved_until_small(), 8, ("loop",), "y: shape ("),
        (looked_up_in_a_loop(), 8, ("loop",), "y: not computed: ONNX Runtime fails at loop (Loop): indices"),
    ],
)
def test_they_are_cured_explained_and_reproduced(
    proto: onnx.ModelProto, size: int, island: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    feeds = [{"x": RNG.standard_normal(size).astype(np.float32)}]
    found = diagnose_model(load_model(proto), feeds, Precision.FP16, out=tmp_path)
    assert found.verdict is Verdict.PRECISION
    assert set(island) <= set(found.culprits)
    assert [origin.node for origin in found.origins] == list(island)
    assert found.confirmed
    assert found.minimal
    assert found.before is not None
    assert found.before.reason.startswith(told)
    for output in found.before.outputs:
        assert repr(output_from_record(output_to_record(output))) == repr(output)
    assert found.repro is not None
    assert found.repro.shows
    done = subprocess.run(
        [sys.executable, str(tmp_path / "repro" / "repro.py")], capture_output=True, text=True, check=False
    )
    assert "THE FAULT SHOWS" in done.stdout

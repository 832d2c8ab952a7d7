"""Faults that leave no number: outputs of another shape, and outputs that cannot be computed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import halved_until_small, looked_up, looked_up_in_a_loop, masked_logits, picked_elements

from harness.case import Tolerance
from harness.diagnosis import DiagnosisVerdict, Subject, diagnose_model
from harness.diagnosis.context import cut, make_bench
from harness.diagnosis.handover import nrmse_limits
from harness.judge import OutputResult
from harness.model import load_model
from harness.tensors import Precision, from_json, to_json

RNG = np.random.default_rng(2)


@pytest.mark.parametrize(
    ("proto", "size", "island", "beginning"),
    [
        (picked_elements(), 200, ("far",), "picked: shape ("),
        (picked_elements(summed=True), 200, ("far",), "number: nrmse "),
        (looked_up(), 8, ("large",), "y: not computed: ONNX Runtime fails at read (Gather)"),
        (halved_until_small(), 8, ("loop",), "y: shape ("),
        (looked_up_in_a_loop(), 8, ("loop",), "y: not computed: ONNX Runtime fails at loop (Loop): indices"),
    ],
)
def test_they_are_cured_explained_and_reproduced(
    proto: onnx.ModelProto, size: int, island: tuple[str, ...], beginning: str, tmp_path: Path
) -> None:
    feeds = [{"x": RNG.standard_normal(size).astype(np.float32)}]
    found = diagnose_model(load_model(proto), feeds, Precision.FP16, out=tmp_path)
    assert found.verdict is DiagnosisVerdict.PRECISION
    assert set(island) <= set(found.culprits)
    assert [origin.node for origin in found.origins] == list(island)
    assert found.confirmed
    assert found.minimal
    assert found.before is not None
    assert found.before.reason.startswith(beginning)
    for output in found.before.outputs:
        assert to_json(from_json(OutputResult, to_json(output))) == to_json(output)
    assert found.repro is not None
    assert found.repro.shows
    done = subprocess.run(
        [sys.executable, str(tmp_path / "repro" / "repro.py")], capture_output=True, text=True, check=False
    )
    assert "THE FAULT SHOWS" in done.stdout


def test_a_fault_beside_infinities_that_the_model_means_is_found(tmp_path: Path) -> None:
    feeds = [{"x": RNG.standard_normal((4, 8)).astype(np.float32)}]
    found = diagnose_model(load_model(masked_logits(scale=1000.0)), feeds, Precision.FP16, out=tmp_path)
    assert found.verdict is DiagnosisVerdict.PRECISION
    assert [origin.node for origin in found.origins] == ["sq"]
    assert found.before is not None
    assert found.before.outputs[0].metrics.reference_nonfinite == 16
    assert 0 < found.before.outputs[0].metrics.nonfinite <= 16
    assert found.after is not None
    assert found.after.outputs[0].passed
    assert found.repro is not None
    assert found.repro.shows


def test_limits_of_a_part_that_gives_infinities_are_over_its_finite_elements() -> None:
    feeds = [{"x": RNG.standard_normal((4, 8)).astype(np.float32)}]
    bench = make_bench(load_model(masked_logits()), feeds, tolerances=[Tolerance(rmse=0.5)])
    subject = Subject(bench, Precision.FP16, bench.emulator)
    part = cut(subject, ["y"], 0)
    finite = part.expected["y"][:, :4]
    limits = nrmse_limits(subject, part, Precision.FP16)
    assert limits == {"y": pytest.approx(0.5 / np.sqrt(np.mean(finite**2)), rel=1e-5)}

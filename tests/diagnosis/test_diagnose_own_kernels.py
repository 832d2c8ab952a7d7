"""The last word on an emulated island: with the kernels that the compiler makes of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.emulation.probes import PROBES
from harness.backends import Assumed
from harness.case import Case, ModelSource
from harness.diagnosis.context import Subject
from harness.diagnosis.stages import with_own_kernels
from harness.environments import Environment
from harness.judge import Workbench
from harness.tensors import Accumulate, Precision

PYTHON = os.environ.get("HARNESS_RTX_PYTHON")


def subject(tmp_path: Path, compiler: Environment | None) -> Subject:
    """Attention whose raw logits pass 65504, and which fused attention never rounds."""
    proto, _ = PROBES["attention-64-128-100"]()
    onnx.save(proto, tmp_path / "attention.onnx")
    case = Case(name="attention", model=ModelSource(path=str(tmp_path / "attention.onnx")))
    bench = Workbench(case, memory_budget=1 << 30)
    bench.assumed = Assumed(Accumulate.FP16, compiler)
    return Subject(bench, Precision.FP16, bench.emulator)


def test_without_kernels_there_is_nothing_to_ask_for(tmp_path: Path) -> None:
    assert with_own_kernels(subject(tmp_path, None), ("av",)) is None


@pytest.mark.skipif(PYTHON is None, reason="HARNESS_RTX_PYTHON names no TensorRT for RTX")
def test_an_island_that_parts_fused_attention_takes_the_logits_with_it(tmp_path: Path) -> None:
    asked = subject(tmp_path, Environment(name="rtx", command=(str(PYTHON),)))
    assumed = asked.bench.emulator.evaluate(asked.plan(frozenset({"av"})), asked.bench.feeds[0])
    assert np.isfinite(assumed.tensors["av"]).all()
    found = with_own_kernels(asked, ("av",))
    assert found is not None
    assert (found.changed, found.passed) == (True, True)
    assert found.joined == ("qk", "scaled", "softmax")
    assert found.island == ("qk", "scaled", "softmax", "av")


@pytest.mark.skipif(PYTHON is None, reason="HARNESS_RTX_PYTHON names no TensorRT for RTX")
def test_an_island_that_parts_nothing_stays_as_it_is(tmp_path: Path) -> None:
    asked = subject(tmp_path, Environment(name="rtx", command=(str(PYTHON),)))
    found = with_own_kernels(asked, ("q_gain",))
    assert found is not None
    assert (found.island, found.joined, found.changed, found.passed) == (("q_gain",), (), False, True)

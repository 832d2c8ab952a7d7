"""The last word on an emulated island: with the kernels that the compiler makes of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.emulation.probes import PROBES
from benchmarks.race_rtx_models import opposed_sums
from harness.backends import Assumed
from harness.case import Case, ModelSource
from harness.diagnosis import Context, DiagnosisOptions
from harness.diagnosis.api import investigate
from harness.diagnosis.context import Subject
from harness.diagnosis.stages import with_own_kernels
from harness.environments import Environment
from harness.judge import Workbench
from harness.tensors import Accumulate, Precision
from harness.worker.protocol import TENSORRT_RTX, Kernel, KernelList

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


@pytest.mark.parametrize(
    ("release", "kept"), [("1.4.0.76", False), ("1.5.0.114", False), ("1.6.1.120", True)]
)
def test_casts_around_a_product_cure_where_the_assumed_compiler_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str, kept: bool
) -> None:
    # Partial sums of `down` overflow FP16; 1.4 and 1.5 fuse Casts around it away, unless what reads it is in FP32, too.
    kernels = KernelList(TENSORRT_RTX, release, "log", (Kernel("gemm", "gemm", ("b3_down",)),))
    monkeypatch.setattr("harness.compiler.kernels_of", lambda *given, **more: kernels)
    onnx.save(opposed_sums(blocks=4, width=256, rows=32), tmp_path / "opposed.onnx")
    case = Case(name="opposed", model=ModelSource(path=str(tmp_path / "opposed.onnx")))
    bench = Workbench(case, memory_budget=1 << 30)
    bench.assumed = Assumed(Accumulate.FP16, Environment(name="rtx", command=("python",)))
    asked = Subject(bench, Precision.FP16, bench.emulator)
    down = frozenset({"b3_down"})
    tried = [
        asked.plan(down),
        asked.plan(fp32_sums=down),
        asked.plan(down | {"b3_add"}),
        asked.plan(frozenset({"b3_add"}), fp32_sums=down),
    ]
    finite = [
        bool(np.isfinite(*bench.emulator.evaluate(plan, bench.feeds[0]).tensors.values()).all())
        for plan in tried
    ]
    assert finite == [kept, kept, True, True]
    diagnosis = investigate(Context(asked), DiagnosisOptions())
    assert diagnosis.confirmed
    if kept:
        assert (diagnosis.fp32_sums, diagnosis.culprits) == (("b3_down",), ())
    else:
        assert (diagnosis.fp32_sums, set(diagnosis.culprits)) == ((), {"b3_down", "b3_add"})

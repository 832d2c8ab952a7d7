"""The diagnosis under test: what a user gets from `harness.diagnose` on the emulator."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from benchmarks.faults.score import Answer
from harness.backends import Assumed
from harness.diagnosis import DiagnosisOptions, Stage, Subject
from harness.diagnosis.api import investigate
from harness.diagnosis.context import Context, make_bench
from harness.environments import load, select
from harness.model import load_model
from harness.tensors import Accumulate, Precision


def assumed(kernels: str | None) -> Assumed:
    """What `--kernels` lets the emulator assume: the kernels of that environment, and FP16 sums."""
    return Assumed() if kernels is None else Assumed(Accumulate.FP16, select(kernels, load()))


def diagnose(
    model: onnx.ModelProto,
    feeds: Sequence[Mapping[str, np.ndarray]],
    precision: Precision,
    kernels: str | None = None,
) -> Answer:
    """What harness says of `model` at `precision`, and what that cost from the loading of the model on."""
    started = time.perf_counter()
    bench = make_bench(load_model(model, name=model.graph.name), feeds)
    bench.assumed = assumed(kernels)
    try:
        found = investigate(Context(Subject(bench, precision, bench.emulator)), DiagnosisOptions())
    finally:
        bench.close()
    seconds = time.perf_counter() - started
    cures = [each.facts for each in found.evidence if each.stage is Stage.CURE]
    searches = [facts["evaluations"] for facts in cures if "evaluations" in facts]
    return Answer(
        verdict=found.verdict.value,
        culprits=frozenset(found.culprits),
        evaluations=found.cost.emulations,
        search_evaluations=searches[0] if searches else None,
        seconds=seconds,
        fp32_sums=frozenset(found.fp32_sums),
    )

"""The diagnosis under test: the stages of harness on the emulator, without the files that it hands over."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from benchmarks.faults.score import Answer
from harness.diagnose.gates import check_gates
from harness.diagnose.lab import Lab
from harness.diagnose.on_emulator import examine_on_emulator
from harness.diagnose.subject import Subject, make_bench
from harness.model import load_model
from harness.tensors.precision import Precision


def diagnose(
    model: onnx.ModelProto, feeds: Sequence[Mapping[str, np.ndarray]], precision: Precision
) -> Answer:
    """What harness says of `model` at `precision`, and what that cost from the loading of the model on."""
    started = time.perf_counter()
    bench = make_bench(load_model(model, name=model.graph.name), feeds)
    lab = Lab(Subject(bench, precision, bench.emulator))
    gates = check_gates(lab.examiner)
    verdict, culprits, searched = gates.verdict, frozenset[str](), None
    if verdict is None:
        findings = examine_on_emulator(lab, gates)
        verdict, culprits = findings.verdict, frozenset(findings.culprits)
        if findings.cure is not None and findings.cure.result is not None:
            searched = findings.cure.result.evaluations
    return Answer(verdict.value, culprits, lab.cost.emulations, searched, time.perf_counter() - started)

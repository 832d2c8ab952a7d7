"""An engine that computes FP32 in TF32: does it err more than TF32 must?

TensorRT for RTX obeys no flag about it, and 1.4 runs nothing without. What the emulated TF32 explains there is no fault
of the conversion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from harness.comparison import DEFAULT_GATES
from harness.diagnosis.context import JudgedEvaluation, Subject, badness
from harness.judge import OutputResult
from harness.search import Outcome
from harness.tensors import Precision
from harness.worker.protocol import TF32_STAYS

FACTOR = DEFAULT_GATES[Precision.TF32].factor
"""By how much more than the emulated TF32 an engine may err, as at the gates."""


def held_to_tf32(subject: Subject, strict: JudgedEvaluation) -> tuple[JudgedEvaluation, str]:
    """`strict`, judged beside the emulated TF32, and what came of it, in words.

    It passes if each of its outputs passes the gates of TF32, or errs at most by `FACTOR` times as much as the emulated
    TF32, which may not pass them itself.

    Args:
        subject: whose engine it is.
        strict: the engine in FP32, which fails, with its outputs of all samples.
    """
    plan = subject.plan(precision=Precision.TF32)
    outputs: list[OutputResult] = []
    explained = True
    for sample, tensors in enumerate(strict.tensors):
        judged = subject.judge(tensors, sample, plan, failures=_missing(subject, sample, tensors))
        found = subject.bench.emulator.attempt(subject.bench.feeds[sample], Precision.TF32)
        emulated = subject.judge(found.tensors, sample, plan, failures=found.failures)
        for output, beside in zip(judged, emulated, strict=True):
            explained &= output.passed or badness([output]) <= FACTOR * badness([beside])
        outputs += judged
    outcome = Outcome.PASS if explained else Outcome.FAIL
    why = "this release cannot turn it off" if strict.tf32 == TF32_STAYS else "nothing turned it off"
    word = "no more" if explained else "more"
    text = (
        f"in FP32 the engine computes products in TF32, as {why}, and errs {word} than the emulated TF32 does"
    )
    return replace(strict, outcome=outcome, outputs=tuple(outputs), judged_as=Precision.TF32), text


def _missing(subject: Subject, sample: int, tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    return {name: "it was not computed" for name in subject.bench.expected[sample] if name not in tensors}

"""Made-up results: reports are tested on every kind of run without building or running a model."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from harness.comparison import GateResult, Metrics, RelativeError
from harness.judge import (
    Cause,
    LayerResult,
    MadeWith,
    OutputResult,
    RunError,
    RunReason,
    RunReport,
    RunResult,
    Verdict,
)
from harness.tensors import Precision

GATE = 1e-2


def metrics(nrmse: float = 1e-4, **changes: Any) -> Metrics:
    base = Metrics(
        count=1000,
        max_abs=nrmse * 3,
        mean_abs=nrmse * 0.8,
        max_rel=nrmse * 10,
        rmse=nrmse,
        nrmse=nrmse,
        cosine=1 - min(nrmse, 1.0) ** 2,
        sqnr_db=math.inf if nrmse == 0 else -20 * math.log10(nrmse) if math.isfinite(nrmse) else -math.inf,
        max_ulp=4.0,
        p99_ulp=2.0,
        mismatch_fraction=0.0,
        topk_agreement=None,
        nan_count=0,
        inf_count=0,
        overflow_count=0,
        subnormal_count=0,
        nonfinite=0,
        nan_both=0,
        reference_nonfinite=0,
        reference_rms=1.0,
        reference_max=4.0,
        headroom=4.0 / 65504,
        worst_index=(0, 3),
    )
    return dataclasses.replace(base, **changes)


def gates(nrmse: float) -> tuple[GateResult, ...]:
    return (GateResult("nrmse", GATE, nrmse, nrmse <= GATE),)


def output(tensor: str = "y", nrmse: float = 1e-4, sample: int = 0, **changes: Any) -> OutputResult:
    return OutputResult(tensor, sample, metrics(nrmse, **changes), gates(nrmse))


def layer(
    index: int,
    nrmse: float,
    *,
    introduced: float | None = None,
    origin: bool = False,
    node: str | None = None,
    op: str = "MatMul",
    **changes: Any,
) -> LayerResult:
    return LayerResult(
        index=index,
        node=node or f"b{index // 10}_layer{index}",
        op=op,
        tensor=node or f"t{index}",
        metrics=metrics(nrmse, **changes),
        introduced=None if introduced is None else RelativeError(introduced, 0),
        gates=gates(nrmse),
        origin=origin,
    )


def growing(count: int, *, origin_at: int | None = None, overflow: bool = False) -> tuple[LayerResult, ...]:
    """`count` layers whose error grows slowly, and from `origin_at` on is beyond the gate."""
    layers = []
    for index in range(count):
        if origin_at is None or index < origin_at:
            nrmse = 2e-4 * (1 + index / count) * (1 + 0.4 * math.sin(index))
            layers.append(layer(index, nrmse, introduced=2.5e-4 * (1 + 0.5 * math.cos(index * 3))))
        elif index == origin_at and overflow:
            layers.append(
                layer(
                    index,
                    math.inf,
                    introduced=math.inf,
                    origin=True,
                    node="b7_sq",
                    op="Pow",
                    nonfinite=12,
                    overflow_count=12,
                    inf_count=12,
                    headroom=3.1,
                    reference_max=2.03e5,
                )
            )
        else:
            layers.append(layer(index, 0.6, introduced=3e-4, origin=index == origin_at))
    return tuple(layers)


def result(
    verdict: Verdict = Verdict.PASS,
    *,
    cause: Cause | None = None,
    detail: str | None = None,
    error: RunError | None = None,
    **changes: Any,
) -> RunResult:
    bad = verdict in (Verdict.FAIL, Verdict.XFAIL)
    base = RunResult(
        case="rmsnorm-overflow",
        precision=Precision.FP16,
        candidate="emulator",
        verdict=verdict,
        why=RunReason(cause, detail or ("y: nrmse 0.6 > 0.01" if bad else "all gates hold"), error=error),
        outputs=(output("logits", 1e-4), output("y", 0.6 if bad else 2e-4)),
        layers=growing(24, origin_at=16 if bad else None, overflow=True),
        timings={"reference": 0.2, "candidate": 0.4, "compare": 0.1},
        case_path="cases/rmsnorm-overflow.case.yaml",
    )
    return dataclasses.replace(base, **changes)


def report(*results: RunResult) -> RunReport:
    return RunReport(MadeWith(onnxruntime="1.20.0", python="3.11.9"), tuple(results))

"""Made-up drift: reports are tested on every kind of run without building or running a model."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "history"))
from history_rows import engine_rows, frame, tensor_rows

from harness.case import Waiver
from harness.history import DriftReport, Floors
from harness.history.judgement.runs import compare_pairs, pairs_of
from harness.judge import MadeWith
from harness.worker.protocol import Fingerprint

CALM = [1.00e-3, 1.01e-3, 0.99e-3]
WAIVER = Waiver.model_validate({"reason": "known in 10.13", "expires": "2999-12-31"})


def layers(
    release: str, fault_at: int | None, factor: float, count: int = 24, **where: Any
) -> list[dict[str, Any]]:
    """A chain of layers; from `fault_at` on the errors are `factor` times as large."""
    rows = []
    for place in range(count):
        error = 2e-4 * (1 + place / count) * (factor if fault_at is not None and place >= fault_at else 1.0)
        errors = [error * (1 + 0.01 * build) for build in range(3)]
        held = [math.isfinite(error)] * 3
        rows += tensor_rows(
            release, errors, tensor=f"b{place // 4}_t{place}", kind="layer", index=place, passed=held,
            reads=[f"b{(place - 1) // 4}_t{place - 1}"] if place else [], **where,
        )  # fmt: skip
    return rows


def run_rows(
    case: str,
    precision: str,
    releases: tuple[str, ...],
    *,
    factor: float = 1.0,
    fault_at: int | None = 10,
    failing: bool = False,
    error: str | None = None,
    name: str = "y",
    structure: tuple[str, str] | None = None,
    latency: float = 1.0,
) -> list[dict[str, Any]]:
    """All rows of one case at one precision: the last release is `factor` times worse."""
    where = {"case": case, "precision": precision}
    rows: list[dict[str, Any]] = []
    for release in releases:
        newest = release == releases[-1]
        times = factor if newest else 1.0
        facts: dict[str, Any] = {
            "case_path": f"cases/{case}.case.yaml",
            "latency_ms": latency if newest else 1.0,
            "engine_bytes": 1_000_000,
            "build_seconds": 4.0,
        }
        if structure is not None:
            facts["structure"] = structure[newest]
        if error is not None and newest:
            facts |= {"verdict": "error", "reason": error}
        rows += engine_rows(release, **where, **facts)
        if error is not None and newest:
            continue
        held = [not (failing and newest)] * 3
        rows += tensor_rows(release, [value * times for value in CALM], tensor=name, passed=held, **where)
        rows += layers(release, fault_at, times, **where)
    return rows


def drift_report(
    *parts: list[dict[str, Any]], releases: tuple[str, ...] = ("old", "new"), **changes: Any
) -> DriftReport:
    """The report of handmade rows; cases called `waived…` have a waiver."""
    records = frame(*parts)
    waivers = {case: [WAIVER] for case in records["case"].unique() if case.startswith("waived")}
    compared = compare_pairs(records, pairs_of(records, releases), floors=Floors(), waivers=waivers)
    environments = {name: Fingerprint(name, f"10.{place}", gpu="H200") for place, name in enumerate(releases)}
    return DriftReport(
        run="20260131T020304512Z-1f9a3c",
        old=releases[0],
        releases=releases,
        runs=compared.runs,
        tensors=compared.tensors,
        engines=compared.engines,
        records=records.assign(side=records["release"]),
        fingerprint=MadeWith(onnxruntime="1.20.0", environments=environments),
        repeats=3,
        **changes,
    )


def fused(*groups: str) -> str:
    """A structure whose layers fuse the nodes of each group: `conv+add`."""
    return json.dumps(
        [
            {"name": group, "onnx_nodes": group.split("+"), "ops": group.split("+"), "tactic": "t"}
            for group in groups
        ]
    )


def mixed() -> DriftReport:
    """One run of every kind."""
    pair = ("old", "new")
    return drift_report(
        run_rows("calm", "fp16", pair, latency=1.2),
        run_rows("calm", "bf16", pair),
        run_rows("worse", "fp16", pair, factor=3.0, structure=(fused("conv+add"), fused("conv", "add"))),
        run_rows("failing", "fp16", pair, factor=math.inf, failing=True),
        run_rows("better", "fp16", pair, factor=0.3),
        run_rows("waived-drift", "fp16", pair, factor=3.0),
        run_rows("broken", "fp16", pair, error="segmentation fault in the builder"),
    )

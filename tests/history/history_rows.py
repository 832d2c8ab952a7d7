"""Rows of the history made by hand, where a test is about the judgement rather than about builds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from harness.history.store.engines import write_reason
from harness.history.store.schema import Row
from harness.judge import RunReason

Errors = Sequence[float]


def typed(rows: list[dict[str, Any]]) -> list[Row]:
    """Rows as a history is written from."""
    return [Row(**_kept(row)) for row in rows]


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    """A row as the history keeps it; what decided its verdict may stand in `reason` as a sentence."""
    others = {name: value for name, value in row.items() if name != "reason"}
    return (
        {**others, "why": write_reason(RunReason(detail=row["reason"] or ""))} if "reason" in row else others
    )


def tensor_rows(
    release: str,
    errors: Errors,
    *,
    tensor: str = "y",
    kind: str = "output",
    passed: Sequence[bool] | None = None,
    hashes: Sequence[str] | None = None,
    **changes: Any,
) -> list[dict[str, Any]]:
    """One row a build."""
    rows = []
    for build, error in enumerate(errors):
        rows.append(
            {
                "run": "20260101T000000Z-000000",
                "case": "net",
                "precision": "fp16",
                "release": release,
                "build": build,
                "kind": kind,
                "tensor": tensor,
                "sample": 0 if kind == "output" else -1,
                "index": 0,
                "node": tensor,
                "op": "MatMul",
                "error": error,
                "passed": True if passed is None else passed[build],
                "hash": f"{release}{build}{tensor}" if hashes is None else hashes[build],
                "distance": 0.0 if release == "old" and build == 0 else 1e-4,
                "reads": [],
                **changes,
            }
        )
    return rows


def engine_rows(release: str, builds: int = 3, **changes: Any) -> list[dict[str, Any]]:
    """The engine rows of a release."""
    row = {"verdict": "pass", "reason": "all gates hold", "case_path": "cases/net.case.yaml", **changes}
    rows = tensor_rows(release, [float("nan")] * builds, kind="engine", tensor=None, hashes=[None] * builds)  # type: ignore[arg-type,list-item]
    return [{**one, "node": None, "op": None, **row} for one in rows]


def frame(*rows: list[dict[str, Any]]) -> pd.DataFrame:
    """All rows as a table; every column that the judgement may look at is there."""
    listed = [_kept(row) for part in rows for row in part]
    table = pd.DataFrame(listed)
    for name in ("tensorrt", "faithful", "structure", "latency_ms", "engine_bytes", "build_seconds"):
        if name not in table:
            table[name] = None
    return table

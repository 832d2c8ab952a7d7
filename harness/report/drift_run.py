"""Which run a drift report is of and what it ran on for the first time: lines beside the headline."""

from __future__ import annotations

from harness.history import DriftReport


def run_line(report: DriftReport) -> str:
    """`Run 20260131T020304512Z-1f9a3c of 2026-01-31 02:03 UTC`: a report of another night is seen at a glance."""
    day = "" if report.time is None else f" of {report.time:%Y-%m-%d %H:%M} UTC"
    return f"Run {report.run}{day}"


def changes_line(report: DriftReport, *, plain: bool = False) -> str:
    """`Changed since the night before: driver 550 → 580, TensorRT 8.6.0 → 8.6.1`; empty if nothing did."""
    arrow = "->" if plain else "→"
    told = ", ".join(f"{change.what} {change.before} {arrow} {change.now}" for change in report.changed)
    return told and f"Changed since the night before: {told}"

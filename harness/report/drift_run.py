"""Which run a drift report is of: a line under the headline of console, Markdown and page."""

from __future__ import annotations

from harness.history.report import DriftReport


def run_line(report: DriftReport) -> str:
    """`Run 20260131T020304512Z-1f9a3c of 2026-01-31 02:03 UTC`: a report of another night is seen at a glance."""
    day = "" if report.time is None else f" of {report.time:%Y-%m-%d %H:%M} UTC"
    return f"Run {report.run}{day}"

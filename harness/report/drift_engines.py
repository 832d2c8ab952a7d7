"""What changed in the engines, in one line: latency, size, build time, fusions, precisions, tactics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.history import Change, DriftReport, RunDrift, Trend
from harness.text import plural, ratio, shorten

if TYPE_CHECKING:
    import pandas as pd

# By quantity of an engine, what more and less of it is called.
_TRENDS = {
    "latency": ("slower", "faster"),
    "engine size": ("larger", "smaller"),
    "build time": ("slower to build", "faster to build"),
}
_CHANGES = {
    Change.QDQ_UNFUSED: "convolution no longer fused with its add",
    Change.QDQ_LEFT: "Q/DQ left over",
    Change.PRECISION: "node in another precision",
    Change.FUSION_VANISHED: "fusion gone",
    Change.FUSION_APPEARED: "new fusion",
    Change.FUSION_CHANGED: "fusion changed",
    Change.TACTIC: "tactic changed",
}
_PLURALS = {
    Change.QDQ_UNFUSED: "convolutions no longer fused with their adds",
    Change.PRECISION: "nodes in another precision",
    Change.FUSION_VANISHED: "fusions gone",
    Change.FUSION_APPEARED: "new fusions",
    Change.FUSION_CHANGED: "fusions changed",
    Change.TACTIC: "tactics changed",
}


def engines_moved(report: DriftReport) -> bool:
    """Whether anything of an engine changed beyond what rebuilding changes."""
    return any(run.structure for run in report.runs) or not _moved(report).empty


def engines_line(report: DriftReport) -> str:
    """`engines: 2 slower (up to ×3), 1 larger (×3), 1 fusion gone`; empty where nothing is to be said.

    Quantities are counted in runs, a change of precision in nodes, and fusions and tactics by themselves.
    """
    told = [*_quantities(report), *_structures(report)]
    parts = [", ".join(told)] if told else []
    if why := not_compared(report):
        parts.append(why)
    return f"engines: {'; '.join(parts)}" if parts else ""


def not_compared(report: DriftReport) -> str:
    """Which engines' layers are known on one side only, and are thus not compared; empty if there are none."""
    lacking: dict[str, list[RunDrift]] = {}
    for run in report.runs:
        old, new = run.structured
        if old != new and run.verdict is not None:
            lacking.setdefault(run.new if old else run.old, []).append(run)
    compared = any(all(run.structured) for run in report.runs)
    told = []
    for name, runs in lacking.items():
        some = f" of {plural(len(runs), 'run')}" if compared else ""
        told.append(f"layers{some} not compared, {shorten(name, 60)} keeps no structure")
    return "; ".join(told)


def _moved(report: DriftReport) -> pd.DataFrame:
    engines = report.engines
    return engines[engines["trend"].isin([Trend.LESS.value, Trend.MORE.value])]


def _quantities(report: DriftReport) -> Iterator[str]:
    moved = _moved(report)
    for quantity, (more, less) in _TRENDS.items():
        for trend, word in ((Trend.MORE, more), (Trend.LESS, less)):
            ratios = moved.loc[(moved["quantity"] == quantity) & (moved["trend"] == trend.value), "ratio"]
            if ratios.empty:
                continue
            largest = ratio(float(ratios.max() if trend is Trend.MORE else ratios.min()))
            yield f"{len(ratios)} {word} ({'up to ' if len(ratios) > 1 else ''}{largest})"


def _structures(report: DriftReport) -> Iterator[str]:
    for kind, word in _CHANGES.items():
        found = [change for run in report.runs for change in run.structure if change.change is kind]
        amount = sum(len(change.nodes) for change in found) if kind is Change.PRECISION else len(found)
        if amount:
            yield f"{amount} {word if amount == 1 else _PLURALS.get(kind, word)}"

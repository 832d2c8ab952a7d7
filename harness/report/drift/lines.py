"""Lines of a drift report: what changed in the engines, what the comparison does not cover, and which run it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from harness.history import ChangeKind, DriftReport, DriftStatus, RunDrift, Trend
from harness.text import names, plural, ratio, shorten

if TYPE_CHECKING:
    import pandas as pd

# By quantity of an engine, what more and less of it is called.
_TRENDS = {
    "latency": ("slower", "faster"),
    "engine size": ("larger", "smaller"),
    "build time": ("slower to build", "faster to build"),
}


class ChangeWords(NamedTuple):
    """A change of an engine in words: how one and many are counted, and of which nodes it is."""

    one: str
    many: str
    of_nodes: str


CHANGES = {
    ChangeKind.QDQ_UNFUSED: ChangeWords(
        "convolution no longer fused with its add",
        "convolutions no longer fused with their adds",
        "convolution no longer fused with its add: {}",
    ),
    ChangeKind.QDQ_LEFT: ChangeWords("Q/DQ left over", "Q/DQ left over", "Q/DQ left over at {}"),
    ChangeKind.CASTS_FUSED: ChangeWords(
        "node whose Casts are fused away", "nodes whose Casts are fused away", "Casts around {} fused away"
    ),
    ChangeKind.CASTS_KEPT: ChangeWords(
        "node whose Casts are kept now",
        "nodes whose Casts are kept now",
        "Casts around {} no longer fused away",
    ),
    ChangeKind.PRECISION: ChangeWords(
        "node in another precision", "nodes in another precision", "precision of {}"
    ),
    ChangeKind.FUSION_VANISHED: ChangeWords("fusion gone", "fusions gone", "fusion of {} vanished"),
    ChangeKind.FUSION_APPEARED: ChangeWords("new fusion", "new fusions", "fusion of {} appeared"),
    ChangeKind.FUSION_CHANGED: ChangeWords("fusion changed", "fusions changed", "fusion of {} changed"),
    ChangeKind.TACTIC: ChangeWords("tactic changed", "tactics changed", "tactic of {}"),
}
_BY_NODE = frozenset({ChangeKind.CASTS_FUSED, ChangeKind.CASTS_KEPT, ChangeKind.PRECISION})
"""Counted are the nodes, of others the changes."""


def engines_moved(report: DriftReport) -> bool:
    """Whether anything of an engine changed beyond what rebuilding changes."""
    return any(run.structure for run in report.runs) or not _moved(report).empty


def engines_line(report: DriftReport) -> str:
    """`engines: 2 slower (up to ×3), 1 larger (×3), 1 fusion gone`; empty where nothing is to be said.

    Quantities are counted in runs, a change of precision in nodes, and fusions and tactics by themselves.
    """
    texts = [*_quantities(report), *_structures(report)]
    parts = [", ".join(texts)] if texts else []
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
    texts = []
    for name, runs in lacking.items():
        some = f" of {plural(len(runs), 'run')}" if compared else ""
        texts.append(f"layers{some} not compared, {shorten(name, 60)} keeps no structure")
    return "; ".join(texts)


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
    for kind, words in CHANGES.items():
        found = [change for run in report.runs for change in run.structure if change.change is kind]
        amount = sum(len(change.nodes) for change in found) if kind in _BY_NODE else len(found)
        if amount:
            yield f"{amount} {words.one if amount == 1 else words.many}"


MOST_NAMED = 8


def is_idle(run: RunDrift) -> bool:
    """Whether a run was compared with nothing, and neither failed nor had a waiver."""
    return run.verdict is None and run.status in (DriftStatus.PASS, DriftStatus.SKIP)


def coverage_text(report: DriftReport) -> str:
    """`3 of 4 runs not compared, 1 case of the older side missing`; empty where all is covered.

    The first night of a history and a report that compares nothing at all say so by themselves.
    """
    idle, total = sum(map(is_idle, report.runs)), len(report.runs)
    texts = [f"{idle} of {plural(total, 'run')} not compared"] if 0 < idle < total else []
    if report.missing:
        texts.append(f"{plural(*missing_count(report))} of the older side missing")
    return ", ".join(texts)


def missing_count(report: DriftReport) -> tuple[int, str]:
    """How many cases of the older side are gone, or runs, where a case is there at another precision; and which."""
    cases = {case for case, _ in report.missing}
    whole = not cases & {run.case for run in report.runs}
    return (len(cases), "case") if whole else (len(report.missing), "run")


def has_lost(report: DriftReport) -> bool:
    """Whether something is not compared that could be expected to: all but what both sides skip."""
    idle = () if report.first_night else filter(is_idle, report.runs)
    return bool(report.missing) or any(run.builds.old or not run.errors for run in idle)


def only_compiled(report: DriftReport) -> bool:
    """Whether models were compiled and nothing was run: there are no errors, and no places where they start."""
    return any(run.compiled for run in report.runs) and all(run.worst is None for run in report.runs)


def coverage_lines(report: DriftReport) -> list[tuple[str, str]]:
    """Which runs were not compared and why, which are missing, what to try: labels and texts."""
    lines = [("try", _older_side(report))] if _lacks_older_side(report) else []
    by_reason: dict[str, list[str]] = {}
    for run in report.runs:
        if is_idle(run) and not report.first_night:
            by_reason.setdefault(_why(run), []).append(_name(run, several=len(report.newer) > 1))
    if coverage_text(report) or len(by_reason) > 1:
        lines += [("not compared", f"{names(runs, MOST_NAMED)}: {why}") for why, runs in by_reason.items()]
    if report.missing:
        lines.append(
            ("missing", names([f"{case} at {precision}" for case, precision in report.missing], MOST_NAMED))
        )
    return lines


def _lacks_older_side(report: DriftReport) -> bool:
    """Whether a single release was judged, and no run of it has anything older to be compared with."""
    older = bool((report.records["side"] == report.old).any())
    judged = any(run.builds.new for run in report.runs)
    return (
        judged
        and not older
        and not report.written
        and not report.first_night
        and all(map(is_idle, report.runs))
    )


def _older_side(report: DriftReport) -> str:
    """What gives a single release something to be compared with; a bare .onnx file has no place for baselines."""
    place = any(run.baseline is not None for run in report.runs)
    baseline = "--against golden with --baseline-update, which writes baselines; " if place else ""
    return f"a second --env; {baseline}or --against history, which compares with earlier runs"


def _why(run: RunDrift) -> str:
    """The reason, and which side was judged where one was."""
    old, new = run.builds.old, run.builds.new
    only = run.old if old and not new else run.new if new and not old and run.errors else ""
    return f"{run.reason} (judged on {only} only)" if only else run.reason


def _name(run: RunDrift, *, several: bool) -> str:
    return f"{run.case} at {run.precision}" + (f" on {run.new}" if several else "")


def run_line(report: DriftReport) -> str:
    """`Run 20260131T020304512Z-1f9a3c of 2026-01-31 02:03 UTC`: a report of another night is seen at a glance."""
    day = "" if report.time is None else f" of {report.time:%Y-%m-%d %H:%M} UTC"
    return f"Run {report.run}{day}"


def changes_line(report: DriftReport, *, plain: bool = False) -> str:
    """`Changed since the night before: driver 550 → 580, TensorRT 8.6.0 → 8.6.1`; empty if nothing did."""
    arrow = "->" if plain else "→"
    text = ", ".join(f"{change.what} {change.before} {arrow} {change.now}" for change in report.changed)
    return text and f"Changed since the night before: {text}"

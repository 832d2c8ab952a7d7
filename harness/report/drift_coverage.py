"""What a comparison does not cover: runs that were held against nothing, and what the older side had besides."""

from __future__ import annotations

from harness.history import DriftReport, RunDrift, Status
from harness.text import names, plural

MOST_NAMED = 8


def is_idle(run: RunDrift) -> bool:
    """Whether a run was held against nothing, and neither failed nor had a waiver."""
    return run.verdict is None and run.status in (Status.PASS, Status.SKIP)


def coverage_text(report: DriftReport) -> str:
    """`3 of 4 runs not compared, 1 case of the older side missing`; empty where all is covered.

    The first night of a history and a report that compares nothing at all say so by themselves.
    """
    idle, total = sum(map(is_idle, report.runs)), len(report.runs)
    told = [f"{idle} of {plural(total, 'run')} not compared"] if 0 < idle < total else []
    if report.missing:
        told.append(f"{missing_text(report)} missing")
    return ", ".join(told)


def missing_text(report: DriftReport) -> str:
    """`1 case of the older side`: cases that are gone; runs, where a case is there at another precision."""
    cases = {case for case, _ in report.missing}
    whole = not cases & {run.case for run in report.runs}
    return f"{plural(len(cases), 'case') if whole else plural(len(report.missing), 'run')} of the older side"


def has_lost(report: DriftReport) -> bool:
    """Whether something is not compared that could be expected to: all but what both sides skip."""
    idle = () if report.first_night else filter(is_idle, report.runs)
    return bool(report.missing) or any(run.builds.old or not run.errors for run in idle)


def coverage_lines(report: DriftReport) -> list[tuple[str, str]]:
    """Which runs were not compared and why, and which are missing: labels and texts."""
    lines = []
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


def _why(run: RunDrift) -> str:
    """The reason, and which side was judged where one was."""
    old, new = run.builds.old, run.builds.new
    only = run.old if old and not new else run.new if new and not old and run.errors else ""
    return f"{run.reason} (judged on {only} only)" if only else run.reason


def _name(run: RunDrift, *, several: bool) -> str:
    return f"{run.case} at {run.precision}" + (f" on {run.new}" if several else "")

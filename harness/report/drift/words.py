"""How drift is said: headline, summary, and the look of each verdict; shared by page, console and Markdown."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from harness.history import (
    REGRESSIONS,
    DriftReport,
    DriftStatus,
    DriftVerdict,
    Fact,
    FailsOn,
    RunDrift,
    baseline_text,
    statuses,
)
from harness.report.drift.lines import coverage_text, engines_moved, has_lost
from harness.report.words import Look, short
from harness.text import duration, is_multiple, plural, ratio

DRIFT_LOOKS = {
    DriftVerdict.SAME: Look("=", "=", "same", "dim", "quiet", 0),
    DriftVerdict.WITHIN_NOISE: Look("≈", "~", "within noise", "green", "good", 1),
    DriftVerdict.IMPROVED: Look("▽", "v", "improved", "green", "good", 2),
    DriftVerdict.FIXED: Look("✓", "+", "fixed", "bold green", "good", 3),
    DriftVerdict.REGRESSED: Look("▲", "^", "REGRESSED", "bold red", "bad", 4),
    DriftVerdict.NEW_FAILURE: Look("✗", "X", "NEW FAILURE", "bold red", "bad", 5),
}
STATUS_LOOKS = {
    DriftStatus.SKIP: Look("–", "-", "skip", "dim", "quiet", 0),
    DriftStatus.XFAIL: Look("○", "o", "waived", "yellow", "calm", 2),
    DriftStatus.ERROR: Look("‼", "!", "ERROR", "bold red", "bad", 6),
    DriftStatus.MISTAKE: Look("‼", "!", "MISTAKE", "bold red", "bad", 7),
}
STALE = Look("‼", "!", "STALE BASELINE", "bold red", "bad", 5)
_OTHER_KERNELS = Look("≈", "~", "other kernels", "yellow", "calm", 1)
_UNKNOWN = Look("?", "?", "not compared", "yellow", "calm", 1)


def is_stale(run: RunDrift) -> bool:
    """Whether a run fails as its baseline is of another model or case, so that nothing was compared."""
    return run.status is DriftStatus.FAIL and run.verdict is None


def look_of(run: RunDrift) -> Look:
    """How a run is shown: its status where that says more than its verdict; never as healthy if it fails."""
    if run.status in STATUS_LOOKS:
        return STATUS_LOOKS[run.status]
    if is_stale(run):
        return STALE
    look = _UNKNOWN if run.verdict is None else DRIFT_LOOKS[run.verdict]
    if _has_other_kernels(run):
        return _OTHER_KERNELS
    if look.tone == "bad":
        return look
    if fails(run) and run.fails_unexpectedly:
        return replace(look, style="bold red", tone="bad")
    return replace(look, style="yellow", tone="calm") if remarks(run) else look


def _has_other_kernels(run: RunDrift) -> bool:
    """Whether a run that was compiled only has other kernels, and lost nothing by them."""
    return run.compiled and run.verdict is DriftVerdict.SAME and bool(run.structure)


def fails(run: RunDrift) -> bool:
    """Whether a run fails on the newer release and its verdict does not say so: most failures are not regressions."""
    new = run.builds.fails_on in (FailsOn.NEWER, FailsOn.BOTH)
    return new and run.verdict is not DriftVerdict.NEW_FAILURE and _shows_verdict(run)


def remarks(run: RunDrift, *, brief: bool = False) -> tuple[str, ...]:
    """What is to be known beside the verdict: that it fails, that the builds of a release compute differently; `brief`
    in as few words as a terminal has room for: `xfail on both`."""
    texts = []
    if fails(run):
        where = "on both" if run.builds.fails_on is FailsOn.BOTH else "on the newer"
        if run.builds.expected:
            texts.append(f"xfail {where}" if brief else f"fails {where}, as expected")
        else:
            texts.append(f"fails {where}")
    if run.builds.differ and _shows_verdict(run):
        texts.append("builds differ" if brief else "builds differ in precision")
    return tuple(texts)


def verdict_text(run: RunDrift, *, plain: bool = False, brief: bool = False) -> str:
    """`≈ within noise · fails on both`: glyph, verdict, ratio and remarks."""
    look = look_of(run)
    verdict, change = f"{look.mark(plain=plain)} {look.word}", _ratio(run)
    if change is not None:
        verdict += f"{' ' if is_multiple(change) else ', '}{ratio(change)}"
    return (" - " if plain else " · ").join([verdict, *remarks(run, brief=brief)])


def _shows_verdict(run: RunDrift) -> bool:
    return run.status not in STATUS_LOOKS or run.status is DriftStatus.XFAIL


def title(run: RunDrift) -> str:
    """`case at fp16`."""
    return f"{run.case} at {run.precision}"


def run_title(run: RunDrift, newer: Collection[str]) -> str:
    """`case at fp16`, with the newer release where there are several."""
    return f"{title(run)} on {short(run.new)}" if len(newer) > 1 else title(run)


def ratio_text(run: RunDrift) -> str:
    """`×2.1`: how the error of what the verdict rests on changed; empty where that says nothing."""
    change = _ratio(run)
    return "" if change is None else ratio(change)


def _ratio(run: RunDrift) -> float | None:
    worst = run.worst
    if worst is None or run.verdict in (None, DriftVerdict.SAME, DriftVerdict.WITHIN_NOISE):
        return None
    return worst.ratio if math.isfinite(worst.old) and worst.old else None


def answer(report: DriftReport) -> str:
    """The whole report in one sentence, for the top of a page."""
    drifted = [
        run for run in report.runs if run.verdict in REGRESSIONS and run.status is not DriftStatus.XFAIL
    ]
    stale = [run for run in report.runs if is_stale(run)]
    stopped = [run for run in report.runs if run.status in (DriftStatus.ERROR, DriftStatus.MISTAKE)]
    texts = []
    if drifted:
        texts.append(_drifted(report, drifted))
    elif not (stopped or stale) or statuses(report.runs)[DriftStatus.XFAIL] or any(map(_judged, report.runs)):
        texts.append(_calm(report, _where(report, report.runs)))
    if stale:
        texts.append(_stale(report, stale))
    texts += _stopped(report, stopped, texts)
    texts += filter(None, [coverage_text(report)])
    texts += _failing(report)
    if rises := report.rises:
        texts.append(f"{plural(rises, 'output')} rose in an earlier night")
    if creeping := report.creeping:
        texts.append(f"{plural(creeping, 'output')} {'creeps' if creeping == 1 else 'creep'} over the nights")
    return f"{'; '.join(texts)}."


def _stopped_on(report: DriftReport) -> str:
    """`on old`: the releases that kept runs from being judged."""
    failed = {error.release for run in report.runs for error in run.errors}
    return _on(name for name in report.releases if name in failed)


def tone_of(report: DriftReport) -> str:
    """The tone of the answer: `bad` where the exit status is not 0, `calm` where there is more to know."""
    if report.exit_code:
        return "bad"
    standing = any(fails(run) and run.fails_unexpectedly for run in report.runs)
    return "calm" if standing or has_lost(report) or report.rises or report.creeping else "good"


def standing_failures(report: DriftReport) -> tuple[int, int]:
    """How many runs fail on both sides: all, and those that are expected to."""
    found = [run for run in report.runs if fails(run) and run.builds.fails_on is FailsOn.BOTH]
    return len(found), sum(run.builds.expected for run in found)


def both_sides(report: DriftReport) -> str:
    """`on both releases`, or what says the same where the older side are baselines or earlier nights."""
    return "on both releases" if report.old in set(report.records["release"].unique()) else "now as before"


def _failing(report: DriftReport) -> list[str]:
    """Which runs fail without a drift: what a drift report would otherwise pass over."""
    texts = []
    total, expected = standing_failures(report)
    if total:
        some = (
            ", as expected" if expected == total else f", {expected} of them as expected" if expected else ""
        )
        texts.append(f"{_failed(total)} {both_sides(report)}{some}")
    passing = [run for run in report.runs if run.status is DriftStatus.PASS and fails(run)]
    if newer := sum(run.builds.fails_on is FailsOn.NEWER for run in passing):
        texts.append(f"{_failed(newer)} on the newer release without a regression")
    return texts


def _failed(runs: int) -> str:
    return f"{plural(runs, 'run')} {'fails' if runs == 1 else 'fail'}"


def _where(report: DriftReport, runs: Sequence[RunDrift]) -> str:
    """`on new`: the newer releases that `runs` are of."""
    found = {run.new for run in runs} or set(report.newer)
    return _on(name for name in report.newer if name in found)


def _on(releases: Iterable[str]) -> str:
    names = " and ".join(short(name, 28) for name in releases)
    return f"on {names}" if names else ""


def _stale(report: DriftReport, stale: Sequence[RunDrift]) -> str:
    states = {run.baseline.state for run in stale if run.baseline is not None}
    text = baseline_text(states.pop()) if len(states) == 1 else "their baselines are of other models or cases"
    return f"{len(stale)} of {plural(len(report.runs), 'run')} not compared: {text}"


def _stopped(report: DriftReport, stopped: Sequence[RunDrift], texts: Sequence[str]) -> Iterator[str]:
    """How many runs could not be judged, and how many in some of their builds only."""
    lost = [run for run in stopped if not _judged(run)]
    total = plural(len(report.runs), "run")
    if lost:
        yield f"{len(lost)} of {total} could not be judged" + (
            "" if texts else f" {_stopped_on(report) or _where(report, lost)}"
        )
    if partly := len(stopped) - len(lost):
        yield f"builds of {partly} of {total} failed"


def _drifted(report: DriftReport, failed: Sequence[RunDrift]) -> str:
    where = _where(report, failed)
    new = sum(run.verdict is DriftVerdict.NEW_FAILURE for run in failed)
    all_new = ", a new failure" if new == 1 else ", all of them new failures"
    some_new = f", {new} of them {'a new failure' if new == 1 else 'new failures'}"
    fresh = "" if not new else all_new if new == len(failed) else some_new
    return f"{len(failed)} of {plural(len(report.runs), 'run')} regressed {where}{fresh}"


def _judged(run: RunDrift) -> bool:
    return run.verdict is not None and run.status is not DriftStatus.MISTAKE


def _calm(report: DriftReport, where: str) -> str:
    """The answer where nothing that could be judged regressed."""
    compared = [run for run in report.runs if _judged(run)]
    accuracy = engines_moved(report) and not any(run.compiled for run in report.runs)
    nothing = "No error" if accuracy else "Nothing"
    no_regression = f"{'Accuracy did not regress' if accuracy else 'Nothing regressed'} {where}"
    moved = [run for run in compared if run.verdict in (DriftVerdict.IMPROVED, DriftVerdict.FIXED)]
    if waived := statuses(report.runs)[DriftStatus.XFAIL]:
        return f"{no_regression}, except for {plural(waived, 'waived run')}"
    if moved:
        return f"{no_regression}, and {plural(len(moved), 'run')} improved"
    if not compared:
        if report.first_night:
            gpu = " on this GPU" if any(change.what is Fact.GPU for change in report.changed) else ""
            return f"The first run {where}{gpu} in this history: later ones will be compared with it"
        why = next((run.reason for run in report.runs if run.reason), "there are no runs")
        return f"Nothing could be compared: {why}"
    if any(run.compiled for run in compared):
        return f"{no_regression}, {'where kernels changed' if engines_moved(report) else 'and kernels are the same'}"
    if all(run.verdict is DriftVerdict.SAME for run in compared):
        return f"{nothing} moved {where}: all values have the same bits"
    return f"{nothing} moved beyond noise {where}"


def _of_those_worse(report: DriftReport, status: DriftStatus) -> str:
    """` (1 NEW FAILURE in other builds)`: what the builds that could be judged come to."""
    if status is not DriftStatus.ERROR:
        return ""
    found = [run.verdict for run in report.runs if run.status is status]
    worse = [
        f"{found.count(verdict)} {DRIFT_LOOKS[verdict].word}" for verdict in REGRESSIONS if verdict in found
    ]
    return f" ({', '.join(worse)} in other builds)" if worse else ""


def summary(report: DriftReport, seconds: float | None = None) -> str:
    """One line: `18 cases, 36 runs: 30 same, 4 within noise, 2 REGRESSED; 4,312 tensors in 3 builds each, 4 min`."""
    parts = []
    for verdict, look in DRIFT_LOOKS.items():
        runs = [run for run in report.runs if run.verdict is verdict and run.status not in STATUS_LOOKS]
        other = sum(map(_has_other_kernels, runs))
        if len(runs) > other:
            parts.append(f"{len(runs) - other} {look.word}")
        if other:
            parts.append(f"{other} with {_OTHER_KERNELS.word}")
    for status, look in STATUS_LOOKS.items():
        if amount := statuses(report.runs)[status]:
            parts.append(f"{amount} {look.word}{_of_those_worse(report, status)}")
    if stale := sum(map(is_stale, report.runs)):
        parts.append(f"{stale} {STALE.word}")
    if idle := sum(run.verdict is None and run.status is DriftStatus.PASS for run in report.runs):
        parts.append(f"{idle} not compared")
    cases = len({run.case for run in report.runs})
    text = f"{plural(cases, 'case')}, {plural(len(report.runs), 'run')}: {', '.join(parts) or 'nothing'}"
    if len(report.tensors):
        text += f"; {len(report.tensors):,} tensors compared with {short(report.old)}"
    text += f", {plural(report.repeats, 'build')} each"
    return text if seconds is None else f"{text}, {duration(seconds)}"

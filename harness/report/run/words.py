"""How numbers, verdicts and counts are said: shared by the console, the pages and the pytest items."""

from __future__ import annotations

from collections import Counter

from harness.backends import FILE, SAVED
from harness.judge import Cause, HiddenFault, Hiding, Loss, RunReport, RunResult, Verdict
from harness.report.words import Look
from harness.text import command, duration, magnitude, number, plural, sentence, target_words

LOOKS = {
    Verdict.PASS: Look("✓", "+", "pass", "green", "good", 0),
    Verdict.SKIP: Look("–", "-", "skip", "dim", "quiet", 1),
    Verdict.XFAIL: Look("○", "o", "xfail", "yellow", "calm", 2),
    Verdict.XPASS: Look("●", "!", "XPASS", "bold red", "bad", 3),
    Verdict.FAIL: Look("✗", "X", "FAIL", "bold red", "bad", 4),
    Verdict.ERROR: Look("‼", "!", "ERROR", "bold red", "bad", 5),
}

UNEXPECTED = (Verdict.FAIL, Verdict.XPASS, Verdict.ERROR)
_COUNTED = {
    Verdict.XFAIL: "failed as expected",
    Verdict.SKIP: "skipped",
    Verdict.FAIL: "FAILED",
    Verdict.XPASS: "passed unexpectedly",
    Verdict.ERROR: "could not be judged",
}


def summary(report: RunReport, seconds: float | None = None) -> str:
    """One line: `14 cases, 56 runs: 53 pass, 3 failed as expected, 0 unexpected, 18 s`."""
    verdicts = Counter(result.verdict for result in report.results)
    cases = {(result.case_path, result.case) for result in report.results}
    parts = [f"{verdicts[Verdict.PASS]} pass"]
    parts += [f"{verdicts[each]} {words}" for each, words in _COUNTED.items() if verdicts[each]]
    if not any(verdicts[verdict] for verdict in UNEXPECTED):
        parts.append("0 unexpected")
    if seconds is not None:
        parts.append(duration(seconds))
    return f"{plural(len(cases), 'case')}, {plural(len(report.results), 'run')}: {', '.join(parts)}"


def answer(report: RunReport) -> str:
    """The whole report in one sentence, for the top of a page."""
    total = len(report.results)
    verdicts = Counter(result.verdict for result in report.results)
    bad = []
    if verdicts[Verdict.FAIL]:
        bad.append(f"{verdicts[Verdict.FAIL]} of {plural(total, 'run')} failed")
    if verdicts[Verdict.XPASS]:
        bad.append(f"{verdicts[Verdict.XPASS]} passed although a failure was expected")
    if verdicts[Verdict.ERROR]:
        bad.append(f"{verdicts[Verdict.ERROR]} could not be judged")
    if bad:
        return sentence("; ".join(bad))
    judged = total - verdicts[Verdict.SKIP]
    if not judged:
        return "Nothing was judged: every run was skipped."
    expected = f", {verdicts[Verdict.XFAIL]} of them failures" if verdicts[Verdict.XFAIL] else ""
    skipped = f"; {verdicts[Verdict.SKIP]} skipped" if verdicts[Verdict.SKIP] else ""
    return f"{'The run' if judged == 1 else f'All {judged} runs'} came out as expected{expected}{skipped}."


def next_command(result: RunResult) -> str:
    """The command that goes deeper into `result`, ready to paste into a shell; empty where none says more."""
    if result.mistake or result.cause is Cause.SHAPE:
        return ""
    target = [*target_words(result.case_path or result.case, result.inputs), *result.given]
    if result.candidate in (FILE, SAVED):
        return _compare_command(result, target)
    if changed_golden(result):
        return command("harness", "run", *target, "--golden-update")
    target += ["--precision", result.precision.value]
    if result.candidate != "emulator":
        target += ["--env", result.candidate]
    elif result.emulation.kernels != "none":
        target += ["--kernels", result.emulation.kernels]
    if result.verdict is not Verdict.ERROR:
        return command("harness", "diagnose", *target)
    return command("harness", "run", *target, "--details")


def _compare_command(result: RunResult, target: list[str]) -> str:
    """`harness compare` with details; empty for saved outputs, of which there are none."""
    if result.candidate == SAVED or result.compared_with is None:
        return ""
    option = target.index("--reference")
    others = [*target[1:option], *target[option + 2 :]]
    return command("harness", "compare", target[option + 1], target[0], *others, "--details")


def changed_golden(result: RunResult) -> bool:
    """Whether the run fails because the reference is not the golden one any more, not for its candidate."""
    return result.verdict is Verdict.FAIL and result.golden == "changed"


def near_ties(result: RunResult) -> str:
    """Which nodes choose otherwise for near ties; empty if none does."""
    return "; ".join(each.describe(result.gates_of) for each in result.selections)


def hidden_faults(result: RunResult) -> str:
    """What is lost behind outputs that pass, where, and why they do not show it; empty if nothing is."""
    if not result.hidden:
        return ""
    first, *others = result.hidden
    more = f"; and {plural(len(others), 'more place')} behind outputs that pass" if others else ""
    return f"{_lost(first)}; no output shows it, because {_hides(first)}{more}"


def _lost(fault: HiddenFault) -> str:
    where = f"{fault.node} ({fault.op})"
    if fault.loss is Loss.LOST:
        return f"{where} loses all that it says (nrmse {number(fault.nrmse)})"
    verb = "overflow" if fault.overflows else "are not finite"
    reach = f"; the reference reaches {magnitude(fault.reaches)}" if fault.overflows else ""
    return f"at {where}, {fault.elements} of {plural(fault.size, 'element')} {verb}{reach}"


def _hides(fault: HiddenFault) -> str:
    by = f"{fault.by} ({fault.by_op})"
    if fault.how is Hiding.ADDED and fault.times is not None and fault.times >= 2:
        return f"{by} adds it to numbers that are {magnitude(fault.times)} times as large"
    return {
        Hiding.ADDED: f"{by} adds little of it to other numbers",
        Hiding.CHOSEN: f"{by} takes other values in its place",
        Hiding.SATURATED: f"{by} gives nearly the same for it",
        Hiding.SCALED: f"{by} multiplies it by numbers near 0",
        Hiding.TAKEN: f"{by} takes little of it",
        Hiding.UNUSED: "no float output is computed from it",
    }[fault.how]

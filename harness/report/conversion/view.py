"""What a report of `check` shows, and in which words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from harness.compiler import FindingKind, NodeFacts, Releases
from harness.conversion import (
    CURES,
    Change,
    CheckReport,
    CheckResult,
    CompileOutcome,
    EnvironmentResult,
    Finding,
    FoundBy,
    KernelChange,
    KernelTimes,
    changes_between,
    movement,
)
from harness.judge import RunError
from harness.model import TensorInfo
from harness.report.words import Look, Statement
from harness.text import command, duration, names, percent, plural

HOW_TO_ASK = command("harness", "env", "add", "rtx", "--install", "tensorrt-rtx==1.7.1.116")
MOST_EVIDENCE = 6  # lines

LOOKS = {
    FindingKind.REFUSED: Look("✗", "x", "REFUSED", "bold red", "bad", 5),
    FindingKind.NOT_BUILT: Look("✗", "x", "NOT BUILT", "bold red", "bad", 4),
    FindingKind.DIFFERENT: Look("‼", "!", "DIFFERENT", "bold red", "bad", 3),
    FindingKind.RISKY: Look("●", "*", "risky", "yellow", "calm", 2),
    FindingKind.IMPROVABLE: Look("○", "o", "improvable", "cyan", "quiet", 1),
}
OUTCOMES = {
    CompileOutcome.BUILT: Look("✓", "+", "builds", "green", "good", 0),
    CompileOutcome.REFUSED: LOOKS[FindingKind.REFUSED],
    CompileOutcome.NOT_BUILT: LOOKS[FindingKind.NOT_BUILT],
    CompileOutcome.UNKNOWN: Look("●", "*", "not known", "yellow", "calm", 2),
}
ERROR = Look("‼", "!", "ERROR", "bold red", "bad", 6)
"""Of a model that could not be checked."""
_UNEXPLAINED = {
    FindingKind.REFUSED: "the parser refuses it",
    FindingKind.NOT_BUILT: "the builder makes no engine of it",
    FindingKind.DIFFERENT: "it computes something else",
    FindingKind.RISKY: "the compiler could not be asked",
    FindingKind.IMPROVABLE: "it could be better",
}
_FAILED = {
    "crashed": "the compiler crashes on it",
    "timed-out": "the compiler takes longer than its limit",
    "out-of-memory": "the compiler runs out of memory on it",
}
"""What is said by the code of a finding, where its kind says less."""
_SAYS = {
    FoundBy.PARSER: "parser",
    FoundBy.BUILDER: "builder",
    FoundBy.KERNELS: "kernels",
    FoundBy.EXPORTER: "export",
}


@dataclass(frozen=True)
class Row:
    """One finding, wherever it was made.

    Args:
        finding: the first of those that are alike.
        environments: where it was made; empty of a rule alone.
        spared: the environments that were asked and do not have it.
        others: further nodes of which the same is said.
    """

    finding: Finding
    environments: tuple[str, ...]
    spared: tuple[EnvironmentResult, ...]
    others: tuple[NodeFacts, ...] = ()


def rows(result: CheckResult) -> tuple[Row, ...]:
    """The findings of a model, the worst first: the same one of several environments, or of several nodes, once."""
    if not result.environments:
        return _merged(Row(finding, (), ()) for finding in result.findings)
    found: dict[tuple[str, str, FindingKind, bool], list[tuple[str, Finding]]] = {}
    for environment in result.environments:
        for finding in environment.findings:
            node = finding.node.name if finding.node else ""
            key = (finding.code, node, finding.kind, finding.is_not_asked)
            found.setdefault(key, []).append((environment.environment, finding))
    made = [Row(finding, (), ()) for finding in result.exported]
    for alike in found.values():
        where = tuple(dict.fromkeys(name for name, _ in alike))
        spared = tuple(each for each in result.environments if each.environment not in where)
        made.append(Row(alike[0][1], where, spared))
    return _merged(made)


def _merged(found: Iterable[Row]) -> tuple[Row, ...]:
    """Rows that say the same of several nodes as one; of what stands in the way, of nodes with the same operator."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in found:
        finding, node = row.finding, row.finding.node
        said = (finding.code, finding.explanation, finding.advice)
        alike: tuple[object, ...] = (*said, row.environments, finding.is_not_asked)
        if finding.kind.is_failure and node is not None:
            lines = (*finding.evidence, finding.said)
            alike += (node.op, finding.alone, *(each.replace(node.name, "") for each in lines))
        groups.setdefault(alike, []).append(row)
    made = [
        replace(first, others=tuple(row.finding.node for row in rest if row.finding.node is not None))
        for first, *rest in groups.values()
    ]
    return tuple(sorted(made, key=lambda row: -LOOKS[row.finding.kind].severity))


def told_once(results: Iterable[CheckResult]) -> Iterator[CheckResult]:
    """Results without what an earlier one tells as well: why a compiler does not start."""
    told: set[str] = set()
    for result in results:
        environments = [
            replace(each, findings=()) if not each.started and each.environment in told else each
            for each in result.environments
        ]
        told |= {each.environment for each in environments if not each.started and each.findings}
        yield replace(result, environments=tuple(environments))


MOST_NAMES = 6
"""So many nodes of which the same is said stand in its headline; all of them below."""


def headline(row: Row) -> str:
    """`top_scores (TopK): K is limited to 3840`."""
    finding = row.finding
    # Of an export that fails nobody knows more than PyTorch says: the operator, and the line of the user's code.
    known = " ".join(finding.said.split()) if finding.found_by is FoundBy.EXPORTER else ""
    unexplained = _FAILED.get(finding.code, _UNEXPLAINED[finding.kind])
    what = finding.explanation or known or unexplained
    nodes = [node for node in (row.finding.node, *row.others) if node is not None]
    ops = names(dict.fromkeys(node.op for node in nodes))
    who = f"{names((node.name for node in nodes), MOST_NAMES)} ({ops})" if nodes else "the model"
    return f"{who}: {what}"


_NOTHING = ("", "false")
"""What a parser says that says nothing: of an operator that it lacks it prints the condition that failed."""


def statements(row: Row) -> Iterator[Statement]:
    """What is known of a finding, a line each."""
    finding = row.finding
    if len(row.others) >= MOST_NAMES:
        every = [each.name for each in (finding.node, *row.others) if each is not None]
        yield Statement("nodes", names(every, len(every)))
    if row.environments and row.spared:
        yield Statement("where", where(row))
    if finding.node is not None:
        yield from _of_node(finding.node)
    said_above = finding.found_by is FoundBy.EXPORTER and not finding.explanation
    if finding.said not in _NOTHING and finding.found_by in _SAYS and not said_above:
        yield Statement(_SAYS[finding.found_by], " ".join(finding.said.split()))
    if finding.is_not_asked:
        yield Statement("by", "the rules, not asked of the compiler")
    if finding.alone is False:
        yield Statement("alone", "it builds by itself, and fails together with the nodes before it")
    for line in finding.evidence[-MOST_EVIDENCE:]:
        if line not in finding.said:
            yield Statement("log", " ".join(line.split()))
    ranges = names(map(range_text, finding.releases))
    for label, text in (("try", finding.advice), ("applies to", ranges), ("source", finding.source)):
        if text:
            yield Statement(label, text)


def expectation_lines(result: CheckResult) -> Iterator[str]:
    """What the case expects: a line for what is found, and one for what is gone, by environment."""
    for environment in result.environments or (None,):
        place = "" if environment is None else f" on {environment.environment}"
        gone = result.gone(environment)
        found = [each.code for each in result.expected_in(environment) if each not in gone]
        if found:
            yield f"expected{place}: {names(found)}"
        if gone:
            yield f"expected{place}, and not found: {names(each.code for each in gone)}"


def where(row: Row) -> str:
    """`rtx-1.4; not on rtx-1.7, which builds the model`."""
    built = [each.environment for each in row.spared if each.outcome is CompileOutcome.BUILT]
    others = [each.environment for each in row.spared if each.outcome is not CompileOutcome.BUILT]
    text = names(row.environments)
    if built:
        verb = "builds" if len(built) == 1 else "build"
        text += f"; not on {names(built)}, which {verb} the model"
    if others:
        text += f"; no engine on {names(others)}"
    return text


def _of_node(node: NodeFacts) -> Iterator[Statement]:
    attributes = (f"{key}={text}" for key, text in node.attributes.items())
    reads, writes = map(tensor_text, node.inputs), map(tensor_text, node.outputs)
    for label, texts in (("reads", reads), ("writes", writes), ("attributes", attributes)):
        if text := names(texts):
            yield Statement(label, text)


def tensor_text(tensor: TensorInfo) -> str:
    """`x float32[1, 6400]`."""
    if tensor.shape is None:
        return f"{tensor.name} {tensor.dtype}".strip()
    sizes = ", ".join("?" if size is None else str(size) for size in tensor.shape)
    return f"{tensor.name} {tensor.dtype}[{sizes}]"


def range_text(releases: Releases) -> str:
    """`TensorRT 8.6 to 10.1`."""
    first = "" if releases.first is None else f" {'from ' if releases.last is None else ''}{releases.first}"
    return f"{releases.product}{first}{'' if releases.last is None else f' to {releases.last}'}"


def environment_text(result: EnvironmentResult) -> str:
    """`rtx (TensorRT for RTX 1.7.1.116)`; the name alone of one that does not start."""
    release = f" ({result.product} {result.release})" if result.started else ""
    return f"{result.environment}{release}"


def outcome_text(result: EnvironmentResult) -> str:
    """`builds: 12 kernels in 0.8 s`, or how many nodes stand in the way."""
    report = result.report
    if result.outcome is CompileOutcome.BUILT:
        kernels = "" if report.kernels is None else f": {plural(len(report.kernels.kernels), 'kernel')}"
        different = sum(finding.kind is FindingKind.DIFFERENT for finding in result.findings)
        text = f"builds{kernels}, compiled in {duration(report.parse_seconds + report.build_seconds)}"
        return f"{text}; {plural(different, 'node')} computed differently" if different else text
    not_asked = sum(finding.is_not_asked for finding in result.findings)
    stops = (FindingKind.REFUSED, FindingKind.NOT_BUILT)
    stopped = sum(finding.kind in stops for finding in result.findings) - not_asked
    rules = f", by the rules {not_asked} more" if not_asked else ""
    rest = "" if result.complete else ", and what is left was not seen to build"
    if result.outcome is CompileOutcome.UNKNOWN:
        return "could not be asked" if result.started else "does not start"
    verb = "refuses" if result.outcome is CompileOutcome.REFUSED else "does not build"
    return f"{verb} {plural(stopped, 'node')}{rules}{rest}"


def look_of(result: CheckResult, environment: EnvironmentResult | None = None) -> Look:
    """How the outcome of a model is shown: in an environment, or as far as rules know, or that it has none."""
    if environment is not None:
        if environment.outcome is CompileOutcome.BUILT and _has(environment.findings, FindingKind.DIFFERENT):
            return LOOKS[FindingKind.DIFFERENT]
        return OUTCOMES[environment.outcome]
    if result.error is not None:
        return ERROR
    nothing = Look("✓", "+", "no known problem", "green", "good", 0)
    looks = (LOOKS[finding.kind] for finding in result.findings)
    return max(looks, key=lambda look: look.severity, default=nothing)


def cells(result: CheckResult, environments: Iterable[str]) -> Iterator[Look]:
    """How a model is shown in the column of each environment; without any, in that of the rules."""
    asked = {each.environment: each for each in result.environments}
    for name in environments:
        yield look_of(result, asked.get(name))


def check_errors(report: CheckReport) -> Iterator[str]:
    """Why models could not be checked, each reason once, with the end of the traceback of a fault of harness."""
    told: set[RunError] = set()
    for result in report.results:
        if result.error is not None and result.error not in told:
            told.add(result.error)
            yield "\n".join([f"error: {result.error}", *map("  {}".format, result.evidence[-MOST_EVIDENCE:])])


def _has(findings: Iterable[Finding], *kinds: FindingKind) -> bool:
    return any(finding.kind in kinds for finding in findings)


def answer(report: CheckReport) -> str:
    """The answer in one line."""
    failed = sum(result.error is not None for result in report.results)
    if failed == len(report.results) == 1:
        return "The model could not be checked"
    if failed == len(report.results):
        return f"None of {failed} models could be checked"
    missing = sum(not result.has_model for result in report.results)
    parts = (
        _answer(report) if failed + missing < len(report.results) else "",
        f"{plural(missing, 'export')} from PyTorch failed" if missing else "",
        f"{failed} could not be checked" if failed else "",
    )
    return "; ".join(filter(None, parts))


def tone_of(report: CheckReport) -> str:
    """The tone of the answer: `bad` where something fails, `calm` where a compiler could not be asked."""
    outcomes = {each.outcome for result in report.results for each in result.environments}
    calm = "calm" if CompileOutcome.UNKNOWN in outcomes else "good"
    return "bad" if any(result.fails for result in report.results) else calm


def _answer(report: CheckReport) -> str:
    models = [each for each in report.results if each.has_model]
    results = [each for each in models if each.error is None or each.environments]
    count = plural(len(results), "model")
    if not any(result.environments for result in results):
        stopped = sum(_has(result.findings, FindingKind.REFUSED, FindingKind.NOT_BUILT) for result in results)
        different = sum(_has(result.findings, FindingKind.DIFFERENT) for result in results)
        if not stopped + different:
            minor = [finding.kind for result in results for finding in result.findings]
            if not minor:
                return f"By the rules, there is no known problem in {count}"
            each = {
                "risk": minor.count(FindingKind.RISKY),
                "improvement": minor.count(FindingKind.IMPROVABLE),
            }
            known = " and ".join(plural(number, word) for word, number in each.items() if number)
            return f"By the rules, nothing fails in {count}: {known}"
        text = (
            f"By the rules, of {count} {stopped} will not build, and {different} will compute something else"
        )
        return text + as_expected(report)
    texts = []
    every = [each for result in results for each in result.environments]
    for name in dict.fromkeys(each.environment for each in every):
        here = [each for each in every if each.environment == name]
        built = [each for each in here if each.outcome is CompileOutcome.BUILT]
        wrong = sum(_has(each.findings, FindingKind.DIFFERENT) for each in built)
        started = any(each.started for each in here)
        text = f"{name} builds {len(built)} of {len(here)}" if started else f"{name} does not start"
        unknown = sum(each.outcome is CompileOutcome.UNKNOWN for each in here) if started else 0
        more = [f"{wrong} of them silently different"] if wrong else []
        more += [f"{unknown} could not be asked about"] if unknown else []
        texts.append(", ".join([text, *more]))
    return "; ".join(texts) + as_expected(report)


def as_expected(report: CheckReport) -> str:
    """That all that stands in the way was expected to; empty where nothing does, not all was, or one does not start."""
    if not all(each.started for result in report.results for each in result.environments):
        return ""
    stopping = any(
        finding.kind.is_failure
        for result in report.results
        for each in result.environments or (result,)
        for finding in each.findings
    )
    return ", as expected" if stopping and not any(result.fails for result in report.results) else ""


def advice(report: CheckReport) -> str:
    """Which operators may be cured, and how to ask the compiler where none was asked; empty if neither helps."""
    if not any(each.has_model and not each.error for each in report.results):
        return ""
    texts = []
    if curable := names(_curable(report)):
        texts.append(f"There are cures for {curable}: `--fix OUT.onnx` writes those that it can prove.")
    if not any(each.environments for each in report.results):
        texts.append(
            f"Only the rules were asked. The compiler itself needs no GPU: `{HOW_TO_ASK}`, then add `--env rtx`."
        )
    return " ".join(texts)


def _curable(report: CheckReport) -> Iterator[str]:
    """Operators that stand in the way, or differ, and that a cure replaces; none where cures were asked for."""
    if report.fix is not None:
        return
    replaced = {operator for cure in CURES for operator in cure.operators}
    ops = (
        finding.node.op
        for result in report.results
        for each in result.environments or (None,)
        for finding in result.unexpected(each)
        if finding.node is not None
    )
    yield from dict.fromkeys(op for op in ops if op in replaced)


def subject(result: CheckResult) -> str:
    """`unet, 40 nodes, at fp16`; the name alone of one that could not be read."""
    if not result.sha256:
        return result.case
    precision = "as written" if result.precision is None else f"at {result.precision}"
    return f"{result.case}, {plural(result.nodes, 'node')}, {precision}"


MOST_CHANGES = 40


def kernel_lines(result: EnvironmentResult) -> Iterator[tuple[str, ...]]:
    """A row for each kernel: number, time if it was measured, kind, nodes, what it reads and writes."""
    listed = result.report.kernels
    for number, kernel in enumerate(() if listed is None else listed.kernels):
        yield (
            str(number),
            *([] if result.times is None else [time_text(result.times, number)]),
            kernel.kind,
            names(kernel.onnx_nodes, 4) or "–",
            names(dict.fromkeys(tensor.dtype or "?" for tensor in kernel.inputs)) or "–",
            names(dict.fromkeys(tensor.dtype or "?" for tensor in kernel.outputs)) or "–",
        )


def time_text(times: KernelTimes, number: int) -> str:
    """`0.012 ms (31 %)`: a kernel, and its share of all that were measured."""
    ms = times.kernel_ms[number]
    if ms is None:
        return "–"
    whole = times.all_kernels_ms
    return f"{ms:.4f} ms ({percent(ms / whole)})" if whole else f"{ms:.4f} ms"


def times_text(result: EnvironmentResult) -> str:
    """`An inference takes 0.31 ms on a GPU; its kernels, timed one by one, 0.38 ms`; or why nothing was timed."""
    times = result.times
    if times is None:
        return f"Not timed: {result.not_timed}" if result.not_timed else ""
    inference = times.inference_ms
    whole = "" if inference is None else f"An inference takes {inference:.3f} ms on {times.gpu}; "
    other = f", and {times.other_ms:.3f} ms of what is not in the list" if times.other_ms else ""
    text = f"{whole}its kernels, timed one by one, {times.all_kernels_ms:.3f} ms{other}"
    return text[0].upper() + text[1:]


def movement_text(result: EnvironmentResult) -> str:
    """`12 kernels; 2 only move or cast, 1 only quantizes`."""
    listed = result.report.kernels
    if listed is None:
        return ""
    found = movement(listed, result.fates)
    parts = [plural(len(listed.kernels), "kernel")]
    for count, what in (
        (found.casts, "that only move or cast"),
        (found.quantizers, "that only quantize or dequantize"),
        (found.regions, "taken as a whole"),
    ):
        if count:
            parts.append(f"{count} {what}")
    folded = sum(not fate.kernels for fate in result.fates)
    if folded:
        parts.append(f"{plural(folded, 'node')} in none (folded, or without a trace)")
    return ", ".join(parts)


@dataclass(frozen=True)
class Comparison:
    """Two engines, and the nodes that changed."""

    before: str
    after: str
    changes: tuple[KernelChange, ...]

    @property
    def title(self) -> str:
        """`m on one → m on two: 10 nodes changed`."""
        return f"{self.before} → {self.after}: {plural(len(self.changes), 'node')} changed"

    def lines(self, most: int | None = None) -> Iterator[str]:
        """What became of each, of `most` at most; what only one of the engines has stands in one line."""
        missing = [each.node for each in self.changes if each.change is Change.MISSING]
        changed = [each for each in self.changes if each.change is not Change.MISSING]
        yield from map(_change, changed[:most])
        if most is not None and len(changed) > most:
            yield f"and {len(changed) - most} more: --details shows them"
        if missing:
            yield f"in a kernel of only one engine: {names(missing, len(missing) if most is None else MOST_NAMES)}"


def comparisons(report: CheckReport) -> Iterator[Comparison]:
    """The engines of one model in several environments, the first beside each other; or those of two models in one."""
    listed = [
        [
            (f"{result.case} on {each.environment}", kernels)
            for each in result.environments
            if (kernels := each.report.kernels)
        ]
        for result in report.results
    ]
    pairs = [(engines[0], other) for engines in listed for other in engines[1:]]
    if len(listed) == 2 and all(len(result.environments) == 1 for result in report.results) and all(listed):
        pairs.append((listed[0][0], listed[1][0]))
    for (before, first), (after, second) in pairs:
        yield Comparison(before, after, changes_between(first, second))


def _change(change: KernelChange) -> str:
    """`relu1: float32 → float16`."""
    most = 12 if change.change is Change.CODE else 4
    before, after = (names(each, most) or "–" for each in (change.before, change.after))
    how = {Change.FUSION: "fused with ", Change.CODE: "its kernel does "}.get(change.change, "")
    return f"{change.node}: {how}{before} → {after}"

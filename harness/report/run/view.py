"""A report arranged for reading: the matrix of runs, and what to say of each. Console and pages share it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.comparison import COMPUTED, EQUAL, LOWER_BOUNDED, NONFINITE, SHAPE
from harness.judge import (
    EMULATOR,
    Cause,
    LayerResult,
    OutputResult,
    Region,
    RunReport,
    RunResult,
    Verdict,
    different,
    shape_lines,
)
from harness.report.run.words import LOOKS, UNEXPECTED, changed_golden, hidden_faults, near_ties, next_command
from harness.report.words import Explanation, Statement, first_of, listed, title
from harness.tensors import Precision
from harness.text import gate as in_words
from harness.text import multiple, names, number, plural

if TYPE_CHECKING:
    from harness.comparison import GateResult, Metrics

MOST_ORIGINS = 4  # named in a text; the layer table and the JSON hold all of them
MOST_NODES = 8  # of a region, likewise
WITHOUT_NUMBER = {SHAPE: "another shape", COMPUTED: "not computed"}
"""Gates without a number: that they fail says everything."""
MOST_CASES = 3  # that share a text
MOST_ALIKE = 60  # runs named that share an error
MOST_EVIDENCE = 12  # last lines of an error's evidence


@dataclass(frozen=True)
class Row:
    """One case on one candidate: its runs by precision."""

    case: str
    candidate: str
    runs: dict[Precision, RunResult]

    @property
    def worst_run(self) -> RunResult:
        """The run to look at first: the most severe verdict, then the largest error."""
        return max(self.runs.values(), key=_severity_and_error)

    def _worst(self, runs: Iterable[RunResult]) -> RunResult:
        return max(runs, key=_severity_and_error, default=self.worst_run)

    @property
    def worst_output(self) -> str:
        """The output to look at first in that run; empty where no output decided."""
        run = self.worst_run
        if deciding_error(run) is None:
            return ""
        if run.cause is Cause.FILE and run.own_roundings is not None:
            return run.own_roundings.output or ""
        return "" if run.worst is None else run.worst.tensor

    @property
    def severity(self) -> float:
        """The severity of the worst verdict."""
        return severity(self.worst_run)

    @property
    def origins(self) -> tuple[LayerResult, ...]:
        """Where the error starts in the worst run that knows it."""
        return self._worst(run for run in self.runs.values() if run.origins).origins

    @property
    def region(self) -> str:
        """`6 nodes to b7_gain`, or the node: the first region of the worst run that has one; empty without."""
        found = self._worst(run for run in self.runs.values() if run.regions)
        region = next(iter(found.regions), None)
        if region is None:
            return ""
        return region.nodes[0] if len(region.nodes) == 1 else f"{len(region.nodes)} nodes to {region.tensor}"


@dataclass(frozen=True)
class Matrix:
    """All runs: a row for each case and candidate, a column for each precision."""

    precisions: tuple[Precision, ...]
    rows: tuple[Row, ...]

    @property
    def candidates(self) -> tuple[str, ...]:
        """The candidates, in the order in which they first appear."""
        return tuple(dict.fromkeys(row.candidate for row in self.rows))

    @property
    def named(self) -> bool:
        """Whether the candidates must be named: the emulator alone goes without saying."""
        return self.candidates != ("emulator",)


def matrix(report: RunReport) -> Matrix:
    """Arrange the runs of `report`; rows stay in the order of the runs, precisions go from wide to narrow."""
    rows: dict[tuple[str | None, str, str], dict[Precision, RunResult]] = {}
    for result in report.results:
        rows.setdefault((result.case_path, result.case, _called(result)), {})[result.precision] = result
    present = {result.precision for result in report.results}
    return Matrix(
        tuple(precision for precision in Precision if precision in present),
        tuple(Row(case, _beside(candidate, runs), runs) for (_, case, candidate), runs in rows.items()),
    )


def _called(result: RunResult) -> str:
    """The candidate; the emulator with what it assumes, an engine with the release that is emulated for it."""
    stands_in = f"emulated {result.emulation.as_measured}" if result.emulation.rules else ""
    assumed = str(result.emulation) if result.candidate == EMULATOR else stands_in
    return f"{result.candidate} ({assumed})" if assumed else result.candidate


def _beside(called: str, runs: Mapping[Precision, RunResult]) -> str:
    """`trt-8.6 (FP16 sums assumed, tactics add up in FP32)`, where the names of an engine's tactics tell."""
    run = runs.get(Precision.FP16)
    if run is None or run.accumulators is None:
        return called
    return f"{called} ({run.emulation.accumulate.upper()} sums assumed, {run.accumulators})"


def attention(report: RunReport) -> tuple[RunResult, ...]:
    """The runs that need words: what came out unexpectedly, worst first.

    A mistake in a case or its model stops all runs of the case alike; it is shown once.
    """
    unexpected = [result for result in report.results if result.verdict in UNEXPECTED]
    texts: dict[object, RunResult] = {}
    for result in worst_first(unexpected):
        texts.setdefault((result.case_path, result.error) if result.mistake else id(result), result)
    return tuple(texts.values())


def worst_first(results: Iterable[RunResult]) -> list[RunResult]:
    """The most severe verdicts first, as `severity` has them."""
    return sorted(results, key=severity, reverse=True)


def severity(result: RunResult) -> float:
    """That of the verdict; but a mistake says nothing of a candidate, and comes after all that does."""
    return 2.5 if result.mistake else LOOKS[result.verdict].severity


def alike(results: Iterable[RunResult], *, numbers: bool = False) -> tuple[tuple[RunResult, ...], ...]:
    """The runs in groups of which one explanation holds, else each alone.

    These are runs that ended with the same error, and those of a case that fail at any precision, as its file itself is
    at fault, or another shape. With `numbers` outputs and layers are shown, too, which only those that ended with an
    error do not have.
    """
    groups: dict[object, list[RunResult]] = {}
    for result in results:
        error = result.error
        same: object = error and (replace(error, where=None), result.evidence)
        if result.cause in (Cause.FILE, Cause.SHAPE) and not numbers:
            wrong = tuple(map(str, (each for each in result.shapes if each.fault)))
            same = (result.case_path, result.case, result.reason, wrong, result.warnings, result.candidate)
        groups.setdefault(same or id(result), []).append(result)
    return tuple(map(tuple, groups.values()))


def remarks(report: RunReport, told: Sequence[RunResult], *, ties: bool = True) -> list[tuple[str, str, str]]:
    """What the other runs than those of `told`, which are explained, have to say all the same: label, cases and text,
    each text once. Near ties are left out where they are part of a reason that is shown, without `ties`."""
    others = [result for result in report.results if not any(result is other for other in told)]
    found = [
        ("warning", [(warning, result.case) for result in others for warning in result.warnings]),
        ("hidden fault in", [(text, result.case) for result in others if (text := hidden_faults(result))]),
        ("near ties in", [(text, each.case) for each in others if ties and (text := near_ties(each))]),
    ]
    return [(label, cases, text) for label, texts in found for text, cases in shared(texts).items()]


def skips(report: RunReport) -> dict[str, str]:
    """Why runs were skipped: each reason with the cases that have it, the first few by name."""
    return shared((result.reason, result.case) for result in report.results if result.verdict is Verdict.SKIP)


def shared(texts: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Each text once, with its cases: `texts` holds pairs of text and case."""
    named: dict[str, dict[str, None]] = {}
    for text, case in texts:
        named.setdefault(text, {})[case] = None
    return {text: names(cases, MOST_CASES) for text, cases in named.items()}


def deciding_error(result: RunResult) -> float | None:
    """The nrmse that decided, the largest of the outputs; infinite where an element is not finite.

    That of a file that is ruined is its own. None without outputs, and where no nrmse decided: they pass, and another
    shape fails, a metric of the user's, or the golden reference.
    """
    if result.why.cause is Cause.FILE:
        gate = None if result.own_roundings is None else result.own_roundings.gate
        if gate is None or gate.metric == NONFINITE.metric:
            return None if gate is None else math.inf
        return gate.value if "nrmse" in gate.metric else None
    if result.verdict is Verdict.FAIL and all(output.passed for output in result.outputs):
        return None
    return max((output.error for output in result.outputs), default=None)


def explain(result: RunResult, *others: RunResult) -> Explanation:
    """What is wrong with a run, and with `others` alike, where it starts, and which command goes deeper."""
    statements = []
    if others and result.error is not None:
        titles = dict.fromkeys(title(each) for each in (result, *others))
        statements.append(Statement("cases" if result.mistake else "runs", names(titles, MOST_ALIKE)))
    if changed_golden(result):
        text = "if the new answer is right, rewrite the golden reference and review its changes"
        statements.append(Statement("then", text))
    elif result.cause is Cause.SCORE:
        statements += [Statement("metric", str(score)) for score in result.scores if not score.passed][1:]
    elif result.cause is Cause.SHAPE:
        wrong = [each for each in result.shapes if each.fault]
        statements += [Statement("shape", text) for text in shape_lines(wrong[1:], wrong[0].cause)]
    elif result.cause is not Cause.FILE and result.verdict is not Verdict.ERROR and result.worst is not None:
        statements.append(Statement("output", _output(result.worst)))
    if result.verdict is Verdict.XPASS:
        gone = (
            "if the fault is gone for good, take `expect: fail` out of the case; if it is gone here alone, "
        )
        statements.append(Statement("then", f"{gone}list in `where` what it is still expected on"))
    origins = result.origins
    for layer in origins[:MOST_ORIGINS]:
        statements.append(Statement("origin", _origin(layer, result.precision)))
    if len(origins) > MOST_ORIGINS:
        rest = ", ".join(layer.node for layer in origins[MOST_ORIGINS : 3 * MOST_ORIGINS])
        more = " …" if len(origins) > 3 * MOST_ORIGINS else ""
        count = plural(len(origins) - MOST_ORIGINS, "more origin")
        statements.append(Statement("", f"and {count}: {rest}{more}"))
    regions = first_of([_region(region) for region in result.regions], MOST_ORIGINS, "more region")
    statements += listed("region", regions)
    if result.compared_with is not None:
        statements.append(Statement("reference", str(result.compared_with)))
    perturbed = "observation changed this engine's outputs: do not rely on its layers"
    statements += [
        Statement(label, text)
        for label, text in (
            ("ties", near_ties(result)),
            ("hidden", hidden_faults(result)),
            ("perturbed", perturbed if result.faithful is False else ""),
        )
        if text
    ]
    statements += [Statement("warning", warning) for warning in result.warnings]
    if result.error is not None and result.error.request is not None:
        statements.append(Statement("request", result.error.request))
    statements += listed("evidence", result.evidence[-MOST_EVIDENCE:])
    if others and result.error is not None:
        subject = plural(1 + len(others), "case" if result.mistake else "run")
    else:
        subject = title(result, *(each.precision for each in others))
    # What runs that share an error are about is listed below: it is another file in each.
    reason = result.reason
    if others and (error := result.error) is not None:
        reason = error.message if error.hint is None else f"{error.message} ({error.hint})"
    return Explanation(subject, reason, tuple(statements), next_command(result))


def _region(region: Region) -> str:
    """`the error starts between b6_add and b7_gain, among b7_sq, b7_mean, b7_gain; kernel __myl_…`."""
    behind = names(region.between)
    if len(region.nodes) == 1:
        rights = f"; {behind} {'passes' if len(region.between) == 1 else 'pass'}" if behind else ""
        return f"{region.tensor} goes wrong at node {region.nodes[0]}{rights}"
    where = f"between {behind} and {region.tensor}" if behind else f"before {region.tensor}"
    among = names(region.nodes, MOST_NODES)
    label = "kernel" if len(region.kernels) == 1 else "kernels"
    kernels = f"; {label} {names(region.kernels, MOST_ORIGINS)}" if region.kernels else ""
    return f"the error starts {where}, among {among}{kernels}"


def flags(layer: LayerResult) -> str:
    """What is remarkable about a layer, in words."""
    found = []
    if layer.origin:
        found.append("ORIGIN")
    elif layer.diverged:
        found.append("diverged")
    if layer.metrics.failure is not None:
        found.append(WITHOUT_NUMBER[COMPUTED])
    elif layer.metrics.incomparable:
        found.append(layer.metrics.incomparable)
    elif layer.metrics.overflow_count:
        found.append("overflow" if layer.metrics.headroom > 1 else "infinite")
    elif layer.metrics.nonfinite:
        found.append("not finite")
    if layer.metrics.headroom > 1:
        found.append("out of range")
    return ", ".join(found)


def gate_text(gate: GateResult) -> str:
    """`nrmse 0.6 > 0.01`, or with the sign that holds when the gate does; `12 not finite`."""
    if gate.metric == NONFINITE.metric:
        return f"{number(gate.value)} not finite"
    if gate.metric in WITHOUT_NUMBER:
        return WITHOUT_NUMBER[gate.metric]
    return in_words(gate.subject, gate.limit, gate.value, at_least=gate.metric in LOWER_BOUNDED)


def gates_text(gates: Sequence[GateResult]) -> str:
    """The gates that fail, slices only of what does not fail as a whole; of gates that all hold, the first one."""
    chosen = [gate for gate in gates if not gate.passed]
    whole = {gate.part for gate in chosen if gate.slice is None}
    chosen = [gate for gate in chosen if gate.slice is None or gate.part not in whole]
    chosen = chosen or [gate for gate in gates if gate.metric != NONFINITE.metric][:1]
    return ", ".join(gate_text(gate) for gate in chosen)


def _failing(metrics: Metrics, gates: Sequence[GateResult]) -> list[str]:
    """What fails: elements that are not finite, beside which no metric means much, or gates."""
    if metrics.incomparable:
        return [metrics.incomparable]
    if metrics.nonfinite:
        return [f"{metrics.nonfinite} of {plural(metrics.count, 'element')} not finite"]
    if any(gate.metric == EQUAL.metric and not gate.passed and not gate.limit for gate in gates):
        return [different(metrics)]
    return [gates_text(gates) or f"nrmse {number(metrics.nrmse)}"]


def _output(output: OutputResult) -> str:
    metrics = output.metrics
    parts = _failing(metrics, output.gates)
    unequal = any(gate.metric == EQUAL.metric for gate in output.gates)  # distances of indices mean nothing
    if not metrics.nonfinite and metrics.worst_index is not None and not unequal:
        place = ", ".join(str(index) for index in metrics.worst_index)
        parts.append(f"largest error {number(metrics.max_abs)} at [{place}]")
    return f"{output.place}: {'; '.join(parts)}"


def _origin(layer: LayerResult, precision: Precision) -> str:
    metrics = layer.metrics
    parts = _failing(metrics, layer.gates)
    if metrics.overflow_count and metrics.overflow_count == metrics.nonfinite:
        # What would fit did not overflow: a divisor became 0, or an infinity was read.
        verb = "overflow" if metrics.headroom > 1 else "become infinite"
        parts = [f"{metrics.overflow_count} of {plural(metrics.count, 'element')} {verb}"]
    if metrics.headroom > 1:
        parts.append(
            f"the reference reaches {number(metrics.reference_max)}, "
            f"{multiple(metrics.headroom)} the largest {precision.storage_dtype}"
        )
    if layer.introduced is not None and math.isfinite(layer.introduced.error):
        parts.append(f"alone it introduces nrmse {number(layer.introduced.error)}")
    tensor = "" if layer.tensor == layer.node else f", tensor {layer.tensor}"
    tensor += f", {layer.counterpart} in the reference" if layer.counterpart else ""
    return f"node {layer.node} ({layer.op}){tensor}: {'; '.join(parts)}"


def _severity_and_error(result: RunResult) -> tuple[float, float]:
    return severity(result), deciding_error(result) or 0.0

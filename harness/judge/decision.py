"""From what was found in a run to its verdict, and what a person should know beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.case import EMULATOR_WITH_KERNELS, RunSpec, Waived, find_waiver
from harness.compiler import conversion_warning
from harness.golden import GoldenState
from harness.judge.candidates import EMULATOR
from harness.judge.checks import idle_inputs, slow_nodes
from harness.judge.layers import beyond_own_limits
from harness.judge.measurement import MeasuredRun
from harness.judge.reference import empty_outputs
from harness.judge.results import Cause, Region, RunReason, RunResult, Verdict
from harness.judge.workbench import Workbench, profiles_of
from harness.tensors import Precision
from harness.worker.protocol import PACKAGE_OF, TENSORRT, TENSORRT_RTX


class Decision(NamedTuple):
    """A verdict, and what decided it."""

    verdict: Verdict
    why: RunReason


@dataclass(frozen=True)
class Question:
    """A run whose verdict is to be decided.

    Args:
        bench: the case.
        spec: what the case expects of this precision.
        found: what was found.
        golden_update: whether a golden reference that differs was rewritten, and so decides nothing.
    """

    bench: Workbench
    spec: RunSpec
    found: MeasuredRun
    golden_update: bool = False

    @property
    def run(self) -> RunResult:
        """The run, as far as it is known."""
        return self.found.run

    @property
    def own_fault(self) -> str | None:
        """What the model's own roundings ruin; None where another reference judges the file."""
        return self.found.own.fault if self.bench.case.reference is None else None

    @property
    def expects_failure(self) -> bool:
        """Whether the case expects this candidate to fail; releases that are emulated count as the emulator."""
        engine = self.run.engine
        if self.run.candidate == EMULATOR and self.bench.assumed.compiler is not None:
            return self.spec.expects_failure(EMULATOR_WITH_KERNELS)
        fingerprint = None if engine is None else engine.fingerprint
        if fingerprint is None or fingerprint.tensorrt is None:
            return self.spec.expects_failure()
        return self.spec.expects_failure(PACKAGE_OF[fingerprint.product or TENSORRT], fingerprint.tensorrt)

    @property
    def waived(self) -> Waived | None:
        """The waiver of the case that speaks of this run."""
        engine = self.run.engine
        fingerprint = None if engine is None else engine.fingerprint
        of_rtx = fingerprint is None or fingerprint.product == TENSORRT_RTX
        release = None if fingerprint is None or of_rtx else fingerprint.tensorrt
        return find_waiver(
            self.bench.case.waivers,
            precision=self.spec.precision,
            tensorrt=release,
            release=self.run.candidate,
        )


def decide(question: Question) -> Decision:
    """The verdict of a run: that of its gates, unless one of OVERRULING says otherwise."""
    decision = by_gates(question)
    for overrule in OVERRULING:
        decision = overrule(question, decision)
    return decision


def by_gates(question: Question) -> Decision:
    """What the gates of the outputs say, of how many builds, and whether the case expects it."""
    decision, repeats = _by_outputs(question), question.run.repeats
    if repeats is None or repeats.passes is None:
        return decision
    why = replace(decision.why, builds=repeats.builds, failing=repeats.builds - repeats.passes)
    return Decision(decision.verdict, why)


def _by_outputs(question: Question) -> Decision:
    run, spec = question.run, question.spec
    why = RunReason.of_outputs(run.outputs)
    if run.gates_hold and not question.expects_failure:
        told = replace(why, selections=run.selections, precision=run.gates_of, scores=run.scores)
        return Decision(Verdict.PASS, told)
    if not question.expects_failure:
        return Decision(Verdict.FAIL, why)
    expected = spec.reason or ""
    if run.gates_hold:
        return Decision(Verdict.XPASS, RunReason(Cause.UNEXPECTED_PASS, expected=expected))
    starts = tuple(dict.fromkeys(layer.node for layer in run.origins))
    if run.layers and spec.origin and not _starts_as_expected(set(starts), run.regions, set(spec.origin)):
        elsewhere = RunReason(
            Cause.OTHER_ORIGIN, starts=starts, regions=run.regions, origin=tuple(spec.origin)
        )
        return Decision(Verdict.FAIL, elsewhere)
    return Decision(Verdict.XFAIL, RunReason(Cause.EXPECTED, expected=expected))


def _starts_as_expected(origins: set[str], regions: tuple[Region, ...], expected: set[str]) -> bool:
    """Whether every origin is expected, and every region holds one that is, and none is elsewhere."""
    inside = {node for region in regions for node in region.nodes}
    return (
        origins <= expected
        and expected <= origins | inside
        and all(not expected.isdisjoint(region.nodes) for region in regions)
    )


def by_scores(question: Question, decision: Decision) -> Decision:
    """A metric of the user's own that drops fails a run that passes."""
    dropped = tuple(each for each in question.run.scores if not each.passed)
    if decision.verdict is Verdict.PASS and dropped:
        return Decision(Verdict.FAIL, RunReason(Cause.SCORE, scores=dropped[:1]))
    return decision


def by_golden(question: Question, decision: Decision) -> Decision:
    """A reference that differs from its golden copy fails the run, whatever the candidate computes."""
    golden = question.found.golden
    if golden is None or golden.state is not GoldenState.CHANGED or question.golden_update:
        return decision
    if golden.message is None:
        return decision
    return Decision(Verdict.FAIL, RunReason(Cause.GOLDEN_CHANGED, golden.message))


def by_export(question: Question, decision: Decision) -> Decision:
    """An exported file that is not its PyTorch module fails."""
    if decision.verdict is Verdict.PASS and (fault := question.bench.export_fault):
        return Decision(Verdict.FAIL, RunReason(Cause.EXPORT, fault))
    return decision


def by_shapes(question: Question, decision: Decision) -> Decision:
    """Another shape of a declared profile that is wrong fails a run that passes."""
    wrong = next((each for each in question.run.shapes if each.fault), None)
    if decision.verdict is Verdict.PASS and wrong is not None and profiles_of(question.bench.case):
        return Decision(Verdict.FAIL, RunReason(Cause.SHAPE, shape=wrong))
    return decision


def by_file(question: Question, decision: Decision) -> Decision:
    """A file whose own roundings ruin it does not pass."""
    if not question.own_fault or decision.verdict not in (Verdict.PASS, Verdict.XPASS):
        return decision
    verdict = Verdict.XFAIL if decision.verdict is Verdict.XPASS else Verdict.FAIL
    return Decision(verdict, RunReason(Cause.FILE, own=question.found.own.gist))


def by_waiver(question: Question, decision: Decision) -> Decision:
    """A waiver lets a failure be, until it expires."""
    if decision.verdict is not Verdict.FAIL or (waived := question.waived) is None:
        return decision
    verdict = Verdict.FAIL if waived.expired else Verdict.XFAIL
    return Decision(verdict, replace(decision.why, waiver=waived))


OVERRULING: tuple[Callable[[Question, Decision], Decision], ...] = (
    by_scores,
    by_golden,
    by_export,
    by_shapes,
    by_file,
    by_waiver,
)
"""What may overrule the gates, in this order: each sees what those before it decided."""


def warnings_of(question: Question) -> tuple[str, ...]:
    """What the person should know although it changes no verdict, each once."""
    bench, found, run = question.bench, question.found, question.run
    engine = run.engine
    warnings = [*(engine.warnings if engine else ()), *empty_outputs(bench.expected)]
    warnings += found.own.without({layer.node for layer in run.origins}).warnings
    warnings += idle_inputs(bench)
    warnings += slow_nodes(bench)
    beyond = beyond_own_limits(run.layers, bench.case.tolerances, run.gates_of) if run.gates_hold else None
    converted = conversion_warning(bench.model, None if engine is None else engine.fingerprint)
    warnings += [each for each in (beyond, found.other_inputs, converted) if each]
    declared = bool(profiles_of(bench.case))
    warnings += [str(each) for each in run.shapes if each.skipped or not declared]
    if run.judged_as is not None:
        warnings.append(_why_judged_otherwise(run, run.judged_as))
    golden = found.golden
    if golden is not None and golden.message is not None and not question.golden_update:
        missing = golden.state is GoldenState.MISSING  # another processor rounds differently: no news
        warnings += [golden.message] if missing else []
    warnings += [] if found.cost_of_sums is None else [found.cost_of_sums]
    return tuple(dict.fromkeys(warnings))


def _why_judged_otherwise(run: RunResult, judged_as: Precision) -> str:
    """Why the gates are not those of the precision that was asked for."""
    why = f"{run.candidate} runs no engine with TF32 turned off"
    if run.engine is not None and run.engine.realised.own is not None:
        why = f"{run.case} is in {judged_as} throughout, and {run.precision} changes nothing of it"
    return f"{why}: judged by the gates of {judged_as}"

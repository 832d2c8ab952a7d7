"""Steps that ask an engine what it does: in FP32, again, with other tactics, observed."""

from __future__ import annotations

from dataclasses import replace

from harness.diagnosis.context import (
    Context,
    EngineObservation,
    JudgedEvaluation,
    Seen,
)
from harness.diagnosis.results import (
    DiagnosisVerdict,
    Evidence,
    EvidenceKind,
    Stage,
)
from harness.diagnosis.stages import (
    SearchSetup,
    accumulation_evidence,
    estimate_accumulation,
    find_divergence,
    held_to_tf32,
    observation_evidence,
    observe,
    repeat,
    search_tactics,
    separate,
)
from harness.errors import BudgetExhaustedError
from harness.search import Outcome
from harness.tensors import Precision


def build_fp32(seen: Seen, context: Context) -> Seen:
    """FP32 without TF32 on the unobserved engine: one build, unless that is what failed."""
    context.report(Stage.GATES, "build in FP32")
    build = context.subject.bench.case.build
    if seen.precision is Precision.FP32 and not build.tf32:
        strict = seen.baseline
    else:
        plan = context.subject.plan(precision=Precision.FP32, build=build.model_copy(update={"tf32": False}))
        strict = context.evaluator.evaluate(plan, phase="gates", key="strict", thorough=True)
    word = {Outcome.PASS: "passes", Outcome.FAIL: "fails"}.get(strict.outcome, "cannot be built")
    text = f"in FP32 without TF32 the unobserved engine {word}"
    if strict.in_tf32 and strict.outcome is Outcome.FAIL:
        strict, text = held_to_tf32(context.subject, strict)
    known = dict(seen.known)
    if strict.passed:
        known[frozenset(context.subject.units)] = strict.trial
    return replace(seen, strict=strict, known=known).adding(
        Evidence(Stage.GATES, EvidenceKind.FP32, text, {"outcome": strict.outcome})
    )


def estimate_sums(seen: Seen, context: Context) -> Seen:
    """The emulator adds up in FP32: does the engine err because it adds up in FP16?"""
    context.report(Stage.ATTRIBUTE, "estimate what FP16 accumulation adds")
    found = estimate_accumulation(context.subject, seen.predicted, seen.baseline)
    if found is None:
        return seen
    return replace(seen, accumulation=found).adding(accumulation_evidence(found))


def repeat_engine(seen: Seen, context: Context) -> Seen:
    """The emulator does not explain the fault: does the engine repeat itself?"""
    context.report(Stage.ATTRIBUTE, "build it again")
    found = repeat(context.evaluator, seen.baseline)
    return replace(seen, repetition=found, unstable=found.verdict).adding(*found.evidence)


def vary_tactics(seen: Seen, context: Context) -> Seen:
    """Does the outcome follow the tactics, and which?"""
    assert seen.repetition is not None
    found = search_tactics(context, repeats=seen.repetition.verdict)
    unstable = seen.unstable
    if found.found:
        unstable = DiagnosisVerdict.TACTIC
    elif found.unproved and seen.repetition.verdict is DiagnosisVerdict.TACTIC:
        # The fault followed the tactics, but forcing them did not bring it back: that proves nothing.
        unstable = DiagnosisVerdict.NONDETERMINISTIC
    return replace(seen, tactics=found, unstable=unstable).adding(*found.evidence)


def trace_fp32(seen: Seen, context: Context) -> Seen:
    """Find the first tensor that differs in FP32."""
    assert seen.strict is not None
    context.report(Stage.ATTRIBUTE, "find the first tensor that differs in FP32")
    found = find_divergence(context.evaluator, seen.strict)
    return replace(seen, divergence=found, observed=found.observed).adding(*found.evidence)


def observe_engine(seen: Seen, context: Context) -> Seen:
    """Observe the engine: one build, more where the marks must be split, or something inside of kernels is to be found.

    Where the emulator's island was not enough, the engine is observed with that island: otherwise the known fault
    would hide the other one.
    """
    suspected = seen.cure.island if seen.cure is not None and seen.cure.found else ()
    context.report(Stage.OBSERVE, "observe the tensors of the engine", suspected=suspected)
    engine, islands = seen.baseline, frozenset[str]()
    if seen.behind and seen.prior is not None and seen.tried is not None:
        engine, islands = seen.tried, frozenset(seen.prior.island)
    try:
        found = observed(context, engine, islands, inside=not seen.cured)
    except BudgetExhaustedError as error:
        if not seen.cured:
            raise
        text = f"the engine was not observed: {error.message}"
        return seen.adding(Evidence(Stage.OBSERVE, EvidenceKind.NOT_OBSERVED, text))
    return replace(seen, observed=found).adding(*observation_evidence(found, seen.precision))


def observed(
    context: Context, engine: JudgedEvaluation, islands: frozenset[str], *, inside: bool
) -> EngineObservation:
    """What is observed of `engine`, now or before: see `observe`."""
    return context.observations.of(
        (islands, inside), lambda: observe(context.evaluator, engine, islands=islands, inside=inside)
    )


def search_marks(seen: Seen, context: Context) -> Seen:
    """The fault is gone when every tensor is observed: which marks cure?"""
    assert seen.observed is not None
    context.report(Stage.ATTRIBUTE, "search the tensors that must not be fused away")
    setup = SearchSetup(context.journal, "marks", context.follow("search the marks"))
    fails, precision = seen.baseline, None
    if seen.strict_fails and seen.strict is not None:
        fails, precision = seen.strict, seen.strict_as
    found = separate(context.evaluator, fails, seen.observed, setup, precision=precision)
    return replace(seen, separated=found).adding(*found.evidence)

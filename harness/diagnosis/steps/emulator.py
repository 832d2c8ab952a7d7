"""Steps on the emulator: gates, what arithmetic alone does, what cures it, and what it hides."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import replace

from harness.diagnosis.context import (
    LARGE,
    Context,
    Cure,
    Effects,
    FP32Sums,
    GateCheck,
    Prediction,
    Seen,
    Subject,
    outliers,
)
from harness.diagnosis.explain import loses_values
from harness.diagnosis.results import (
    EMULATOR,
    Evidence,
    EvidenceKind,
    Fact,
    Stage,
)
from harness.diagnosis.stages import (
    FARTHEST,
    FEW_WIDENINGS,
    MANY_WIDENINGS,
    RESERVED,
    SearchSetup,
    check_gates,
    cure_on_emulator,
    find_fp32_sums,
    foreseen,
    island_key,
    look_ahead,
    look_behind,
    predict,
    try_unseen,
    with_own_kernels,
)
from harness.errors import BudgetExhaustedError
from harness.tensors import Precision
from harness.text import names, plural


def check(seen: Seen, context: Context) -> Seen:
    """Judge the reference and the unobserved candidate."""
    text = "run the reference and the unobserved candidate"
    context.report(Stage.GATES, text)

    foreseen_to_fail: list[int] = []

    def foresee(sample: int, building: bool) -> None:
        foreseen_to_fail.append(sample)
        prediction = foreseen(context.subject, sample)
        if not building:
            return
        with suppress(BudgetExhaustedError):  # it is spent as soon as it is asked for
            sums = None
            if seen.precision is Precision.FP16:
                context.report(Stage.CURE, "add up in FP32")
                sums = _sums(context, prediction)
            if sums is None or not sums.products:
                _prior(context, prediction, seen.precision)
        context.report(Stage.GATES, text)

    gates = check_gates(context.evaluator, foresee)
    if gates.verdict is None and foreseen_to_fail:
        look_ahead(context.evaluator)
    known = {} if gates.baseline is None else {frozenset[str](): gates.baseline.trial}
    return replace(seen, gates=gates, known=known).adding(*gates.evidence)


def ask_emulator(seen: Seen, context: Context) -> Seen:
    """Measure what arithmetic alone does."""
    assert seen.gates is not None
    text = "measure what each node introduces" if seen.emulated else "evaluate the emulator"
    context.report(Stage.PREDICT, text)
    prediction = predict(context.subject, seen.gates)
    return replace(seen, prediction=prediction).adding(*prediction.evidence)


def find_sums(seen: Seen, context: Context) -> Seen:
    """Does the emulator pass that adds up in FP32? Then Casts around products cure, which cost nothing."""
    context.report(Stage.CURE, "add up in FP32")
    found = _sums(context, seen.predicted)
    seen = replace(seen, sums=found).adding(*found.evidence)
    if seen.emulated and found.products:
        return replace(seen, cure=Cure(confirmed_on=EMULATOR, fp32_sums=found.products))
    return seen


def _sums(context: Context, prediction: Prediction) -> FP32Sums:
    return context.sums.of(_key(prediction), lambda: find_fp32_sums(context.emulator, prediction))


def _key(prediction: Prediction) -> Hashable:
    return prediction.failing_sample, *prediction.introduced.items()


def cure_emulator(seen: Seen, context: Context) -> Seen:
    """Search the island on the emulator, which is the candidate."""
    prediction = seen.predicted
    context.report(Stage.CURE, "try the suspects", suspected=outliers(prediction.introduced))
    setup = SearchSetup(context.journal, on_progress=context.follow("search the island"))
    effects = context.effects(prediction.failing_sample)
    cure = cure_on_emulator(context.evaluator, prediction, effects, setup)
    return replace(seen, cure=cure).adding(*cure.evidence)


def ask_for_kernels(seen: Seen, context: Context) -> Seen:
    """Judge the island with the kernels that the compiler makes of the model with it."""
    assert seen.cure is not None
    context.report(Stage.CURE, "ask for the kernels with the island", suspected=seen.cure.island)
    found = with_own_kernels(context.subject, seen.cure.island)
    if found is None or not found.changed:
        return seen
    compiler = context.subject.bench.assumed.kernels
    if found.passed is None:
        text = f"{compiler} lists no kernels with the island: {found.reason}"
    else:
        outcome = "passes" if found.passed else "fails"
        text = f"with the kernels that {compiler} makes of the island the emulator {outcome}"
    if found.joined:
        text += f" once what they are not fused with any more is in FP32, too: {names(found.joined)}"
    cure = seen.cure
    if found.passed is False:
        cure = replace(cure, island=(), confirmed_on=None, minimal_on=None)
    elif found.joined:
        cure = replace(cure, island=found.island, minimal_on=None)
    facts: dict[str, Fact] = {"joined": list(found.joined), "passed": found.passed}
    return replace(seen, cure=cure).adding(Evidence(Stage.CURE, EvidenceKind.ISLAND, text, facts))


def try_fresh(seen: Seen, context: Context) -> Seen:
    """Try the island on inputs that the search has not seen; widen it where it fails there."""
    assert seen.cure is not None
    context.report(Stage.CURE, "try the island on fresh inputs", suspected=seen.cure.island)
    what = "the cure by FP32 sums" if seen.cured_by_sums else "the island"

    def widen(subject: Subject, island: tuple[str, ...]) -> tuple[str, ...]:
        # What a node does to the outputs is much the same on all inputs, and dear to measure in a large model.
        large = len(subject.units) > LARGE
        effects = context.effects(seen.predicted.failing_sample) if large else None
        return _search_again(subject, effects)

    loses = loses_values(context.subject, seen.predicted, seen.cure.island)
    most = MANY_WIDENINGS if loses and len(context.subject.units) <= LARGE else FEW_WIDENINGS
    found = try_unseen(context.subject, seen.cure.island, widen, frozenset(seen.cure.fp32_sums), most=most)
    if found is None:
        text = f"{what} was not tried on other inputs: those of the case come from files"
        return seen.adding(Evidence(Stage.CURE, EvidenceKind.UNSEEN, text))
    adds_up = found.worst <= FARTHEST  # what misses its limit by more than that is another fault
    if adds_up and loses:  # what it is widened for errs beside what is lost, and is no origin
        adds_up, found = False, replace(found, faults=seen.cure.island)
    text = f"on {found.passed} of {plural(found.samples, 'fresh sample')} the emulator passes with {what}"
    more = plural(found.widened, "more node")
    if found.widened and adds_up:
        # Where many small errors add up, each sample needs others of them: what all need is offered beside it.
        text = f"on {found.before} of {plural(found.first, 'fresh sample')} the emulator passes with the island, "
        text += (
            f"which is fitted to its sample; with {more} on {found.passed} of {found.samples} further ones"
        )
    elif found.widened:
        text += f" and {more}, which some of {found.first} earlier ones needed"
    facts: dict[str, Fact] = {"samples": found.samples, "passed": found.passed, "widened": found.widened}
    cure = seen.cure
    if found.widened and not adds_up:
        cure = replace(cure, island=found.island, minimal_on=None)
    return replace(seen, cure=cure, unseen=replace(found, fitted=adds_up and found.widened > 0)).adding(
        Evidence(Stage.CURE, EvidenceKind.UNSEEN, text, facts)
    )


def _search_again(subject: Subject, effects: Effects | None) -> tuple[str, ...]:
    """An island that cures on other inputs, by what nodes do to the outputs there, unless that is given."""
    context = Context(subject)
    baseline = context.evaluator.evaluate(subject.plan(), phase="gates", key="baseline", thorough=True)
    if baseline.passed:
        return ()
    prediction = predict(subject, GateCheck(None, baseline, outputs=baseline.outputs))
    effects = effects or context.effects(0)
    return cure_on_emulator(context.evaluator, prediction, effects, SearchSetup()).island


def look_for_hidden(seen: Seen, context: Context) -> Seen:
    """What is lost behind outputs that pass, with the island that cures, or without any."""
    context.report(Stage.ATTRIBUTE, "look behind outputs that pass")
    island = seen.cure.island if seen.cure is not None else ()
    found = look_behind(context.subject, island)
    evidence = [
        Evidence(
            Stage.ATTRIBUTE,
            EvidenceKind.HIDDEN,
            f"{fault.node} ({fault.op}) {'overflows' if fault.overflows else 'is lost'} behind outputs that pass",
            {"node": fault.node, "hidden by": fault.by},
        )
        for fault in found.faults
    ]
    return replace(seen, hidden=found).adding(*evidence)


def find_prior(seen: Seen, context: Context) -> Seen:
    """Search the minimal island on the emulator, which stands for the engine."""

    def begin(hint: frozenset[str]) -> None:
        """Build the engine that is probably wanted next, while nothing less is shown to cure."""
        if not (seen.sums is not None and seen.sums.fused_away):
            context.evaluator.begin(context.subject.plan(hint), island_key(sorted(hint)))

    prior = _prior(context, seen.predicted, seen.precision, begin)
    return replace(seen, prior=prior).adding(*prior.evidence)


def _prior(
    context: Context,
    prediction: Prediction,
    precision: Precision,
    on_hint: Callable[[frozenset[str]], None] = lambda hint: None,
) -> Cure:
    context.report(Stage.CURE, "search the island on the emulator", suspected=outliers(prediction.introduced))
    setup = SearchSetup(context.journal, "emulator", context.follow("search the island on the emulator"))
    effects = context.effects(prediction.failing_sample)
    if precision is Precision.TF32:  # of which no island is built
        share, on_hint = 1.0, lambda hint: None
    else:
        share = RESERVED

    def search() -> Cure:
        return cure_on_emulator(context.emulator, prediction, effects, setup, share=share, on_hint=on_hint)

    return context.priors.of(_key(prediction), search)

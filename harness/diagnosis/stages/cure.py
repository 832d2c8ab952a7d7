"""Stage 4, cure: the few nodes that must go back to FP32.

On the emulator an evaluation costs milliseconds. If the nodes that introduce far more error than the others cure
together, only pruning is left; else those are tried that fail when they are lowered alone near where the error
starts; else every node is lowered alone, and the ranking is searched. On an engine the emulator's island comes
first, and is mostly enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from harness.backends import Observation, Plan, Timing
from harness.diagnosis.context import (
    BASELINE,
    LARGE,
    Cure,
    Effects,
    Evaluator,
    JudgedEvaluation,
    Prediction,
    Subject,
    inherited,
    nearby,
    outliers,
    relaxed_note,
)
from harness.diagnosis.results import CANDIDATE, EMULATOR, Evidence, EvidenceKind, Fact, Price, Stage
from harness.diagnosis.stages.search import (
    CURE_PHASE,
    Known,
    SearchSetup,
    SearchWatch,
    island_key,
    island_problem,
    search_islands,
)
from harness.errors import CandidateError, UsageError
from harness.judge import measure_layers
from harness.search import Evaluation, Options, Outcome, Result, SearchVerdict
from harness.text import names, plural

MOST_SUSPECTS = 64
PRICE_PHASE = "price"
REPEATS, WARMUP = 100, 100  # clocks rise while it warms up
MOST_FOLLOWED = 4
"""So often an error is followed to where it starts next, before every node is lowered alone."""


def cure_on_emulator(
    evaluator: Evaluator,
    prediction: Prediction,
    effects: Effects,
    setup: SearchSetup,
    *,
    share: float = 1.0,
    on_hint: Callable[[frozenset[str]], None] = lambda hint: None,
) -> Cure:
    """The minimal island on the emulator.

    Where errors of many nodes add up and the emulator only stands for an engine, nothing is proved: another sample, or
    the engine, needs others of them.

    Args:
        evaluator: of a subject whose candidate is the emulator.
        prediction: that of a failing emulator.
        effects: measures and remembers the effect of each node alone.
        setup: what to run with.
        share: what an island of errors that add up leaves at most of the limit of the worst gate; 1: it is proved.
        on_hint: gets a set that cures and of which most likely nothing can be left out, as all of it overflows.
    """
    subject = evaluator.subject
    if not subject.emulated or not prediction.fails:
        raise UsageError("cure_on_emulator requires the emulator, and that it fails")
    evaluator.failing_sample = prediction.failing_sample
    known: dict[frozenset[str], Evaluation] = {frozenset(): prediction.trial}
    suspicion = inherited(subject.model, prediction.introduced, subject.units)
    # What outliers read from is rarely at fault: without it each search starts with that many nodes less.
    own, theirs = frozenset(outliers(prediction.introduced)), frozenset(outliers(suspicion))
    hints = [own & frozenset(subject.units), theirs]
    hint = _passing(
        evaluator, known, [each for hint in hints for each in (hint, _with_readers(subject, hint))]
    )
    if hint is None and any(math.isinf(prediction.introduced[node]) for node in own):
        hint = _followed(evaluator, known, own & frozenset(subject.units), prediction.failing_sample)
    large = len(subject.units) > LARGE
    suspects = () if hint is not None else _suspects(subject, prediction, suspicion)
    if suspects and (not large or _passing(evaluator, known, [frozenset(suspects)])):
        alone = effects.each(suspects)
        hint = _passing(evaluator, known, _hints(suspicion, alone))
    proved = hint is not None or not large
    if hint is not None and large and len(hint) > MOST_SUSPECTS:  # of so many none is left out alone
        hint, proved = None, False
    if hint is not None:
        # Where nothing overflows, the error that a node introduces says little of its effect on the outputs.
        finite = all(math.isfinite(suspicion[node]) for node in hint) and len(hint) <= MOST_SUSPECTS
        if all(math.isinf(prediction.introduced.get(node, 0.0)) for node in hint):
            on_hint(hint)
        scores = effects.each(sorted(hint)) if finite else {node: suspicion[node] for node in hint}
        problem = island_problem(subject, scores=scores, hints=[hint])
        share = 1.0
    else:
        problem = island_problem(subject, scores=effects.scores(subject.units, suspicion))
    at_hand = {} if hint is None else {hint: known.pop(hint)}
    options = Options(prove=share == 1.0 and proved)
    result = search_islands(evaluator, problem, options, known, setup, at_hand=at_hand, share=share)
    return _cure_of(result, EMULATOR)


def _with_readers(subject: Subject, hint: frozenset[str]) -> frozenset[str]:
    """`hint` with what reads products whose Casts are fused away otherwise."""
    fused = subject.bench.emulator.arithmetic(subject.precision, subject.bench.feeds[0]).fused
    alone = [fused[node] for node in hint if node in fused and fused[node].isdisjoint(hint)]
    return hint.union(*alone) & frozenset(subject.units)


def _passing(
    evaluator: Evaluator, known: dict[frozenset[str], Evaluation], hints: Sequence[frozenset[str]]
) -> frozenset[str] | None:
    """The first of `hints` that cures; what they came to is added to `known`."""
    for hint in hints:
        if not hint or hint in known:
            continue
        known[hint] = evaluator.evaluate(evaluator.subject.plan(hint), phase=CURE_PHASE).trial
        if known[hint].outcome is Outcome.PASS:
            return hint
    return None


def _followed(
    evaluator: Evaluator, known: dict[frozenset[str], Evaluation], hint: frozenset[str], sample: int
) -> frozenset[str] | None:
    """`hint` with what is near where the error starts once that is in FP32, and so on; None if none of it cures.

    What is only cancelled later, as a massive activation of the residual stream is, introduces little by itself.
    """
    subject = evaluator.subject
    bench = subject.bench
    for _ in range(MOST_FOLLOWED):
        plan = subject.plan(hint, observation=Observation.TYPED)
        layers, _ = measure_layers(
            bench, bench.emulator, plan, bench.case.tolerances, samples=[sample], introduced={}
        )
        starts = {layer.node for layer in layers if layer.origin}
        before = nearby(subject.model, sorted(starts), subject.units)
        if hint.issuperset(before):  # it comes from further back
            before = nearby(subject.model, before, subject.units)
        wider = hint | frozenset(before)
        if wider == hint:
            return None
        hint = wider
        if _passing(evaluator, known, [hint]) is not None:
            return hint
    return None


def confirm(evaluator: Evaluator, island: Sequence[str]) -> JudgedEvaluation:
    """Evaluate the unobserved candidate once with `island` in FP32, on all samples.

    Raises:
        BudgetExhaustedError: the limits are reached.
    """
    plan = evaluator.subject.plan(frozenset(island))
    return evaluator.evaluate(plan, phase="confirm", key=island_key(island), thorough=True)


def cure_on_engine(
    evaluator: Evaluator,
    scores: Mapping[str, float],
    hints: Sequence[frozenset[str]],
    known: Known,
    setup: SearchSetup,
    *,
    prove: bool,
    repeats: int = 1,
    phase: str = CURE_PHASE,
    most: int | None = None,
    kernels: Sequence[Sequence[str]] = (),
) -> Cure:
    """The island on an engine that the emulator does not explain.

    Args:
        evaluator: of a subject whose candidate is an engine.
        scores: by node, how much it is suspected.
        hints: islands to try first.
        known: what was evaluated already.
        setup: what to run with.
        prove: confirm each culprit with a build of its own.
        repeats: builds of each configuration that the answer rests on.
        phase: what the engines are charged to.
        most: how many evaluations to spend at most, besides the budget.
        kernels: the nodes of each kernel of the engine that fails; empty where they are not known.
    """
    if evaluator.subject.emulated:
        raise UsageError("cure_on_engine requires an engine, the candidate is the emulator")
    problem = island_problem(evaluator.subject, scores=scores, hints=hints, kernels=kernels)
    watch = SearchWatch()
    result = search_islands(
        evaluator,
        problem,
        Options(prove=prove, repeats=repeats),
        known,
        setup,
        phase=phase,
        most=most,
        watch=watch,
    )
    cure = _cure_of(result, CANDIDATE)
    relaxed = evaluator.relaxed(evaluator.subject.plan(frozenset(cure.island))) if cure.found else None
    (found,) = cure.evidence
    text = f"{found.text}{relaxed_note(relaxed)}"
    if watch.given_up:
        text = f"the search on the engine was given up: {watch.reason}"
    return replace(cure, given_up=watch.reason, relaxed=relaxed, evidence=(replace(found, text=text),))


def _suspects(subject: Subject, prediction: Prediction, suspicion: Mapping[str, float]) -> tuple[str, ...]:
    """Nodes that are worth lowering alone: the most outlying ones, and those just before the error's start."""
    outlying = sorted(outliers(dict(suspicion)), key=lambda node: -suspicion[node])[:MOST_SUSPECTS]
    near = nearby(subject.model, [layer.node for layer in prediction.origins], subject.units)
    positions = {unit: place for place, unit in enumerate(subject.units)}
    return tuple(sorted(dict.fromkeys([*outlying, *near]), key=positions.__getitem__))


def _hints(suspicion: Mapping[str, float], alone: Mapping[str, float]) -> list[frozenset[str]]:
    """Sets that may cure, the smallest first: what fails alone, what stands out, both."""
    failing = frozenset(node for node, effect in alone.items() if effect > 1.0)
    outlying = frozenset(outliers(dict(suspicion)))
    return list(dict.fromkeys(hint for hint in (failing, outlying, failing | outlying) if hint))


def _cure_of(result: Result, where: str) -> Cure:
    island = result.culprits if result.answered else ()
    facts: dict[str, Fact] = {
        "verdict": result.verdict.value,
        "evaluations": result.evaluations,
        "strategies": [strategy.value for strategy in result.strategies],
        "assumptions": {each.name: each.held for each in result.assumptions},
        "log": [str(step) for step in result.log],
    }
    count = plural(result.evaluations, "evaluation")
    if result.answered:
        proof = (
            "each of them was left out once, and it failed" if result.minimal else "not shown to be minimal"
        )
        text = f"with {names(island)} in FP32 the {where} passes ({proof}; {count})"
    elif result.tally is not None:
        again = result.tally
        facts |= {"passes": again.passes, "fails": again.fails}
        text = f"the same configuration passed {again.passes} and failed {again.fails} of {again.evaluations} times"
    else:
        reason = result.log[-1].text if result.verdict is SearchVerdict.BUDGET else result.verdict
        text = f"the search on the {where} ended without an answer: {reason}"
    return Cure(
        island=island,
        confirmed_on=where if result.answered else None,
        minimal_on=where if result.minimal else None,
        best=result.best,
        verdict=result.verdict,
        evidence=(Evidence(Stage.CURE, EvidenceKind.SEARCH, text, facts),),
        result=result,
    )


def measure_price(evaluator: Evaluator, cured: Plan, key: str) -> Price | None:
    """Time the engine that fails and the one that passes; None where the candidate cannot be timed.

    The engines are those of the stages before: nothing is built for this. Where an earlier process built them,
    there is no price.

    Args:
        evaluator: has evaluated both.
        cured: the plan that passes.
        key: the key of its evaluation.
    """
    subject, price_key = evaluator.subject, f"price {key}"
    if (kept := evaluator.journal.recall(price_key, Price)) is not None:
        return kept
    if not evaluator.at_hand.issuperset({BASELINE, key}):
        return None
    try:
        before = _median_ms(evaluator, subject.plan())
        after = _median_ms(evaluator, cured)
    except CandidateError:
        return None
    if before is None or after is None:
        return None
    price = Price(before, after)
    evaluator.journal.keep(price_key, price)
    return price


def _median_ms(evaluator: Evaluator, plan: Plan) -> float | None:
    timing = Timing(repeats=REPEATS, warmup=WARMUP)
    feeds = evaluator.subject.bench.feeds[0]
    engine = evaluator.run(plan, feeds, phase=PRICE_PHASE, timing=timing).engine
    return None if engine is None or engine.latency is None else engine.latency.median_ms

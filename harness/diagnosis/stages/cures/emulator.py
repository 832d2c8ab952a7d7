"""Stage 4, cure, on the emulator: the few nodes that must go back to FP32.

An evaluation costs milliseconds. If the nodes that introduce far more error than the others cure together, only pruning
is left; else those are tried that fail when they are lowered alone near where the error starts; else every node is
lowered alone, and the ranking is searched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from harness.backends import Observation
from harness.diagnosis.context import (
    LARGE,
    Context,
    CureSearch,
    Effects,
    Evaluator,
    Prediction,
    Seen,
    Subject,
    inherited,
    nearby,
    outliers,
)
from harness.diagnosis.results import EMULATOR, Stage
from harness.diagnosis.stages.cures.margin import RESERVED
from harness.diagnosis.stages.search import CURE_PHASE, cure_of, island_problem, key_of, search_candidate
from harness.errors import UsageError
from harness.judge import measure_layers
from harness.search import Outcome, SearchOptions, Trial
from harness.tensors import Precision

MOST_SUSPECTS = 64
MOST_FOLLOWED = 4
"""So often an error is followed to where it starts next, before every node is lowered alone."""


def cure_emulator(seen: Seen, context: Context) -> Seen:
    """Search the island on the emulator, which is the candidate."""
    prediction = seen.predicted
    context.report(Stage.CURE, "try the suspects", suspected=outliers(prediction.introduced))
    cure = cure_on_emulator(context, prediction)
    return replace(seen, cure=cure).adding(*cure.evidence)


def find_prior(seen: Seen, context: Context) -> Seen:
    """Search the minimal island on the emulator, which stands for the engine."""

    def begin(hint: frozenset[str]) -> None:
        """Build the engine that is probably wanted next, while nothing less is shown to cure."""
        if not (seen.sums is not None and seen.sums.fused_away):
            plan = context.subject.plan(hint)
            context.evaluator.begin(plan, key_of(plan))

    prior = prior_of(context, seen.predicted, begin)
    return replace(seen, prior=prior).adding(*prior.evidence)


def prior_of(
    context: Context,
    prediction: Prediction,
    on_hint: Callable[[frozenset[str]], None] = lambda hint: None,
) -> CureSearch:
    """The island of the emulator that stands for an engine, found now or before; `on_hint` as in `cure_on_emulator`."""
    text = "search the island on the emulator"
    context.report(Stage.CURE, text, suspected=outliers(prediction.introduced))

    def searched() -> CureSearch:
        if context.subject.precision is Precision.TF32:  # of which no island is built
            return cure_on_emulator(context, prediction, name="emulator", text=text)
        return cure_on_emulator(
            context, prediction, name="emulator", text=text, share=RESERVED, on_hint=on_hint
        )

    return context.priors.of(prediction.key, searched)


def cure_on_emulator(
    context: Context,
    prediction: Prediction,
    *,
    name: str = "islands",
    text: str = "search the island",
    effects: Effects | None = None,
    share: float = 1.0,
    on_hint: Callable[[frozenset[str]], None] = lambda hint: None,
) -> CureSearch:
    """The minimal island on the emulator.

    Where errors of many nodes add up and the emulator only stands for an engine, nothing is proved: another sample, or
    the engine, needs others of them.

    Args:
        context: the diagnosis under way.
        prediction: that of a failing emulator.
        name: of the journal of the search.
        text: what it does, for whoever follows progress.
        effects: of nodes lowered alone; by default in the sample that fails.
        share: what an island of errors that add up leaves at most of the limit of the worst gate; 1: it is proved.
        on_hint: gets a set that cures and of which most likely nothing can be left out, as all of it overflows.
    """
    if not prediction.fails:
        raise UsageError("cure_on_emulator requires an emulator that fails")
    evaluator, subject = context.emulator, context.emulated
    effects = effects or context.effects(prediction.failing_sample)
    evaluator.failing_sample = prediction.failing_sample
    known: dict[frozenset[str], Trial] = {frozenset(): prediction.trial}
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
    options = SearchOptions(prove=share == 1.0 and proved)
    result = search_candidate(
        context, evaluator, problem, options, known, name=name, text=text, at_hand=at_hand, share=share
    )
    return cure_of(result, EMULATOR)


def _with_readers(subject: Subject, hint: frozenset[str]) -> frozenset[str]:
    """`hint` with what reads products whose Casts are fused away otherwise."""
    fused = subject.bench.emulator.arithmetic(subject.precision, subject.bench.feeds[0]).fused
    alone = [fused[node] for node in hint if node in fused and fused[node].isdisjoint(hint)]
    return hint.union(*alone) & frozenset(subject.units)


def _passing(
    evaluator: Evaluator, known: dict[frozenset[str], Trial], hints: Sequence[frozenset[str]]
) -> frozenset[str] | None:
    """The first of `hints` that cures; what they came to is added to `known`."""
    left = [hint for hint in dict.fromkeys(hints) if hint and hint not in known]
    evaluator.emulate_ahead([evaluator.subject.plan(hint) for hint in left])
    for hint in left:
        known[hint] = evaluator.evaluate(evaluator.subject.plan(hint), phase=CURE_PHASE).trial
        if known[hint].outcome is Outcome.PASS:
            return hint
    return None


def _followed(
    evaluator: Evaluator, known: dict[frozenset[str], Trial], hint: frozenset[str], sample: int
) -> frozenset[str] | None:
    """`hint` with what is next to where the error starts once that is in FP32, or near it, and so on; None if none of
    it cures.

    What is only cancelled later, as a massive activation of the residual stream is, introduces little by itself.
    """
    subject = evaluator.subject
    bench = subject.bench
    for _ in range(MOST_FOLLOWED):
        plan = subject.plan(hint, observation=Observation.TYPED)
        layers, _ = measure_layers(
            bench, bench.emulator, plan, bench.case.tolerances, samples=[sample], introduced={}, brief=True
        )
        starts: Sequence[str] = sorted(layer.node for layer in layers if layer.origin)
        near = nearby(subject.model, starts, subject.units)
        if hint.issuperset(near):  # it comes from further back
            starts, near = near, nearby(subject.model, near, subject.units)
        wider = [hint.union(nearby(subject.model, starts, subject.units, 1)), hint.union(near)]
        if wider[-1] == hint:
            return None
        found = _passing(evaluator, known, wider)
        if found is not None:
            return found
        hint = wider[-1]
    return None


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

"""Steps that cure an engine.

The emulator's island is tried at once: one build that passes shows that the precision is at fault, that FP32 is enough,
and what cures. Only where it does not pass are other islands, marks and a search on the engine paid for.
"""

from __future__ import annotations

from dataclasses import replace

from harness.diagnosis.context import (
    Context,
    Cure,
    JudgedEvaluation,
    Obedience,
    Seen,
    region_evidence,
    relaxed_note,
)
from harness.diagnosis.results import (
    CANDIDATE,
    DiagnosisVerdict,
    Evidence,
    EvidenceKind,
    Fact,
    Stage,
)
from harness.diagnosis.stages import (
    CURE_PHASE,
    MOST_CASTS,
    MOST_TRIES,
    SearchSetup,
    accumulates,
    block_hints,
    casts_key,
    confirm,
    confirm_fp32_sums,
    cure_on_engine,
    cure_with_casts,
    island_hints,
    island_key,
    island_with_margin,
    kernel_hints,
    left_on,
    measure_price,
    next_share,
    node_scores,
    readers_of,
    span_of,
    sums_key,
    whole_kernels,
)
from harness.diagnosis.steps.waiting import meanwhile
from harness.errors import BudgetExhaustedError
from harness.model import PRODUCTS
from harness.search import Evaluation, Outcome, SearchVerdict
from harness.text import percent, plural

REPEATS = 2
"""How often each configuration is built that an answer rests on which the emulator does not support."""

MOST_UNPROVED = 8
"""An island of an engine that has more nodes, and was not shown to be minimal, is pruned with further builds."""

MOST_PRUNING = 24
"""How many builds pruning may cost: an error that accumulates needs most of its island anyway."""

FASTER = 0.9
"""A cure of more nodes must take at most so much of the time of another; two timings of one engine differ by less."""

_PASSES = {Outcome.PASS: "passes", Outcome.FAIL: "does not pass"}


def try_sums(seen: Seen, context: Context) -> Seen:
    """Build the unobserved engine with these products added up in FP32: one build."""
    assert seen.sums is not None
    return _try_fp32_sums(seen, context, seen.sums.products)


def _try_fp32_sums(seen: Seen, context: Context, products: tuple[str, ...]) -> Seen:
    count = plural(len(products), "product")
    context.report(Stage.CURE, f"build with {count} between Casts to FP32", suspected=products)
    plan = context.subject.plan(fp32_sums=frozenset(products))
    if context.evaluator.begin(plan, sums_key(products)):
        meanwhile(seen, context, Cure(confirmed_on=CANDIDATE, fp32_sums=products))
    tried = confirm_fp32_sums(context.evaluator, products)
    text = f"with Casts to FP32 around {count} the unobserved engine {_became(tried)}"
    facts: dict[str, Fact] = {"products": list(products), "outcome": tried.outcome, "note": tried.note}
    seen = seen.adding(Evidence(Stage.CURE, EvidenceKind.FP32_SUMS, text, facts), *_obedience(tried))
    if not tried.passed:
        if tried.obeyed is not Obedience.FUSED_AWAY or seen.sums is None:
            return seen
        return replace(seen, sums=replace(seen.sums, fused_away=frozenset(products)))
    price = measure_price(context.evaluator, plan, sums_key(products)) if seen.options.timed else None
    return replace(seen, cure=Cure(confirmed_on=CANDIDATE, fp32_sums=products), price=price)


def _became(tried: JudgedEvaluation) -> str:
    """What came of an engine: `passes`, `does not pass`, `cannot be judged: …`, with why."""
    if tried.obeyed is Obedience.FUSED_AWAY and not tried.passed:
        return f"tells nothing: {tried.note}"
    word = _PASSES.get(tried.outcome, "cannot be built")
    return word + (relaxed_note(tried.relaxed) or (f": {tried.note}" if tried.note else ""))


def _obedience(tried: JudgedEvaluation) -> tuple[Evidence, ...]:
    """Whether a strongly typed engine kept the Casts around what is in FP32."""
    if tried.obeyed is None:
        return ()
    text = f"the Casts around what is in FP32 were {tried.obeyed}"
    if tried.obeyed is Obedience.OPEN:
        text = "whether the engine kept the Casts around what is in FP32 was not shown"
    return (Evidence(Stage.CURE, EvidenceKind.OBEYED, text, {"casts": tried.obeyed.value}),)


def try_prior(seen: Seen, context: Context) -> Seen:
    """Build the unobserved engine with the emulator's island: one build, or two where its Casts are fused away.

    Measured on an H200 with TensorRT for RTX 1.4: it fuses the Casts around a product away, and keeps them where what
    reads the product is in FP32, too.
    """
    assert seen.prior is not None
    subject, island = context.subject, seen.prior.island
    products = [node for node in island if subject.model.node(node).op in PRODUCTS]
    alone = [node for node in products if readers_of(subject.model, [node]).isdisjoint(island)]
    known_to_be_fused = seen.sums is not None and bool(seen.sums.fused_away) and bool(alone)
    if not known_to_be_fused:
        seen = _try_island(seen, context, island, "the emulator's island")
        assert seen.tried is not None
        if seen.tried.passed or seen.tried.obeyed is not Obedience.FUSED_AWAY:
            return seen
    readers = readers_of(subject.model, alone or island).intersection(subject.units)
    wider = tuple(unit for unit in subject.units if unit in readers or unit in island)
    if known_to_be_fused or wider != island:
        seen = _try_island(seen, context, wider, "the emulator's island and what reads it")
    return seen


def _try_island(seen: Seen, context: Context, island: tuple[str, ...], what: str) -> Seen:
    prior = seen.prior
    assert prior is not None
    context.report(Stage.CURE, f"build with {plural(len(island), 'node')} in FP32", suspected=island)
    if context.evaluator.begin(context.subject.plan(frozenset(island)), island_key(island)):
        meanwhile(seen, context, replace(prior, island=island, confirmed_on=CANDIDATE))
    tried = confirm(context.evaluator, island)
    trial = tried.trial
    text = f"with {what} in FP32 the unobserved engine {_became(tried)}"
    facts: dict[str, Fact] = {"island": list(island), "outcome": trial.outcome, "note": trial.note}
    seen = replace(seen, tried=tried, known={**seen.known, frozenset(island): trial}).adding(
        Evidence(Stage.CURE, EvidenceKind.ISLAND, text, facts), *_obedience(tried)
    )
    if tried.passed:
        proved = prior.minimal_on if island == prior.island else None
        cure = replace(prior, island=island, confirmed_on=CANDIDATE, minimal_on=proved, relaxed=tried.relaxed)
        return replace(seen, cure=cure)
    if tried.regions:
        return seen.adding(region_evidence(tried.regions, context.subject.release))
    return seen


def try_margins(seen: Seen, context: Context) -> Seen:
    """Where the error accumulates: build islands that leave the emulator some margin, one build each."""
    prior = seen.prior
    assert prior is not None
    assert seen.tried is not None
    emulator, effects = context.emulator, context.effects(seen.predicted.failing_sample)
    if not accumulates(prior.island, effects):
        return seen
    trial, share = seen.tried.trial, left_on(emulator, prior.island)
    for _ in range(MOST_TRIES):
        wanted = next_share(share, trial)
        if wanted is None:
            return seen
        context.report(Stage.CURE, "search an island with some margin on the emulator")
        found = island_with_margin(emulator, seen.predicted, effects, wanted)
        if found is None or frozenset(found[0]) in seen.known:
            return seen
        island, share = found
        context.report(Stage.CURE, f"build with {plural(len(island), 'node')} in FP32", suspected=island)
        try:
            tried = confirm(context.evaluator, island)
        except BudgetExhaustedError as error:
            return seen.stop(Stage.CURE, error.message)
        trial = tried.trial
        text = (
            f"with {len(island)} nodes in FP32, which leave the emulator {percent(share)} of its limit, the unobserved "
            f"engine {'passes' if tried.passed else 'does not pass'}{relaxed_note(tried.relaxed)}"
        )
        facts: dict[str, Fact] = {"island": list(island), "outcome": trial.outcome, "share": share}
        seen = replace(seen, known={**seen.known, frozenset(island): trial}).adding(
            Evidence(Stage.CURE, EvidenceKind.ISLAND, text, facts)
        )
        if tried.passed:
            # Fewer may do: each of them is needed for the margin, which is more than the gate asks for.
            cure = replace(
                prior, island=island, confirmed_on=CANDIDATE, minimal_on=None, relaxed=tried.relaxed
            )
            return replace(seen, cure=cure)
    return seen


def try_products(seen: Seen, context: Context) -> Seen:
    """Build the engine with these products added up in FP32, or else in FP32 with all they read: one build each."""
    assert seen.accumulation is not None
    island = seen.accumulation.nodes
    if seen.baseline.typing == "strong":
        seen = _try_fp32_sums(seen, context, island)
        if seen.cured:
            return seen
    context.report(Stage.CURE, f"build with {plural(len(island), 'product')} in FP32", suspected=island)
    tried = confirm(context.evaluator, island)
    text = f"with {plural(len(island), 'product')} in FP32 the unobserved engine {_became(tried)}"
    facts: dict[str, Fact] = {"island": list(island), "outcome": tried.outcome, "note": tried.note}
    seen = replace(seen, tried=tried, known={**seen.known, frozenset(island): tried.trial}).adding(
        Evidence(Stage.CURE, EvidenceKind.ISLAND, text, facts), *_obedience(tried)
    )
    price = None
    if tried.passed and seen.options.timed:
        price = measure_price(context.evaluator, context.subject.plan(frozenset(island)), island_key(island))
    cure = Cure(island, CANDIDATE if tried.passed else None, relaxed=tried.relaxed)
    return replace(seen, cure=cure, price=price)


def time_island(seen: Seen, context: Context) -> Seen:
    """Measure what the island costs in latency."""
    assert seen.cure is not None
    island = seen.cure.island
    plan = context.subject.plan(frozenset(island), casts=seen.cure.casts)
    key = casts_key(island) if seen.cure.casts else island_key(island)
    return replace(seen, price=measure_price(context.evaluator, plan, key))


def try_whole_kernels(seen: Seen, context: Context) -> Seen:
    """The island parts kernels: with all of their nodes in FP32 fewer may be left. One build; the faster one stays."""
    assert seen.cure is not None
    assert seen.tried is not None
    subject, cure = context.subject, seen.cure
    chosen = whole_kernels(subject, cure.island, seen.baseline.kernels)
    island = tuple(unit for unit in subject.units if unit in chosen)
    plan = subject.plan(frozenset(island))
    if len(island) == len(cure.island) or not context.emulator.evaluate(plan, phase=CURE_PHASE).passed:
        return seen
    context.report(Stage.CURE, f"build with {plural(len(island), 'node')} in FP32", suspected=island)
    try:
        tried = confirm(context.evaluator, island)
    except BudgetExhaustedError:
        return seen  # what cures is known
    price = None
    if tried.passed and seen.options.timed:
        price = measure_price(context.evaluator, plan, island_key(island))
    fewer = len(tried.kernels) < len(seen.tried.kernels)
    faster = fewer if price is None or seen.price is None else price.after_ms < FASTER * seen.price.after_ms
    taken = tried.passed and faster
    before, after = len(seen.tried.kernels), len(tried.kernels)
    text = (
        f"the island parts kernels: {before} in place of {len(seen.baseline.kernels)}; with all their nodes in FP32 "
        f"the engine has {after} and {_became(tried)}: {'taken' if taken else 'not taken'}"
    )
    facts: dict[str, Fact] = {"island": list(island), "kernels": [before, after], "taken": taken}
    seen = seen.adding(Evidence(Stage.CURE, EvidenceKind.ISLAND, text, facts))
    if not taken:
        return seen
    return replace(seen, cure=replace(cure, island=island, minimal_on=None), tried=tried, price=price)


def try_casts(seen: Seen, context: Context) -> Seen:
    """The island lies where precisions are not obeyed: write it into the graph, with more and more around it."""
    assert seen.prior is not None
    prior = seen.prior.island
    if seen.tried is None:  # known from the engine that fails, and so not built in vain
        seen = seen.adding(region_evidence(seen.compiled, context.subject.release))
    starts = () if seen.observed is None else seen.starts
    around = island_hints(context.subject, starts, prior, ())[-1:]
    span = [span_of(context.subject, each) for each in around]
    parts = list(dict.fromkeys([*span, *around, *block_hints(context.subject, prior, around)]))

    def on_build(count: int) -> None:
        text = f"build with {plural(count, 'node')} in FP32, between Casts in the graph"
        context.report(Stage.CURE, text)

    found = cure_with_casts(context.evaluator, prior, parts, on_build, MOST_CASTS)
    return replace(seen, cure=found if found.found else seen.cure).adding(*found.evidence)


def search_engine(seen: Seen, context: Context) -> Seen:
    """Search the island on the engine itself, with all that is known as a prior."""
    context.report(Stage.CURE, "search the island on the engine", suspected=seen.starts)
    subject, prediction = context.subject, seen.predicted
    if seen.cure is not None and seen.cure.found:
        hints = [frozenset(seen.cure.island)]
    else:
        prior = seen.prior.island if seen.prior is not None else ()
        hints = kernel_hints(subject, [*seen.starts, *prior], seen.baseline.kernels, seen.known)
        hints += island_hints(subject, seen.starts, prior, {*seen.known, *hints})
        origins = [layer.node for layer in prediction.origins] or seen.starts
        hints += block_hints(subject, origins, {*seen.known, *hints})
    found = cure_on_engine(
        context.evaluator,
        node_scores(subject, prediction, seen.layers),
        hints,
        seen.known,
        SearchSetup(context.journal, "islands", context.follow("search the island on the engine")),
        prove=seen.options.prove or not prediction.fails,
        repeats=1 if prediction.fails else REPEATS,
        kernels=seen.baseline.kernels,
    )
    cure = found if found.found or not seen.cured else seen.cure
    unstable = DiagnosisVerdict.NONDETERMINISTIC if found.verdict is SearchVerdict.FLAKY else seen.unstable
    after = replace(seen, cure=cure, unstable=unstable).adding(*found.evidence)
    # Only FP32 throughout cures, and the island that should cure lies where nothing is obeyed: no part of it will.
    in_region = seen.compiled or (seen.tried is not None and seen.tried.regions)
    hopeless = bool(in_region) and len(found.island) == len(subject.units)
    if found.found and found.minimal_on is None and len(found.island) > MOST_UNPROVED and not hopeless:
        return _prune(after, context, found)
    return after


def _prune(seen: Seen, context: Context, found: Cure) -> Seen:
    """A large island that was not shown to be needed as a whole: leave out what is not needed."""
    text = "leave out what the island does not need"
    context.report(Stage.CURE, text, suspected=found.island)
    pruned = cure_on_engine(
        context.evaluator,
        node_scores(context.subject, seen.predicted, seen.layers),
        [frozenset(found.island)],
        {**seen.known, frozenset(found.island): Evaluation(Outcome.PASS)},
        SearchSetup(context.journal, "minimal", context.follow(text)),
        prove=True,
        phase="minimal",
        most=MOST_PRUNING,
        kernels=seen.baseline.kernels,
    )
    smaller = pruned.island or pruned.best
    cure = seen.cure
    if smaller is not None and len(smaller) <= len(found.island):
        cure = replace(pruned, island=tuple(smaller), confirmed_on=CANDIDATE)
    return replace(seen, cure=cure).adding(*pruned.evidence)

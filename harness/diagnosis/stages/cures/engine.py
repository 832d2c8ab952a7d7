"""Stage 4 on an engine.

The emulator's island is tried at once: one build that passes shows that the precision is at fault, that FP32 is enough,
and what cures. Only where it does not pass are other islands, marks and a search on the engine paid for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from harness.backends import Plan, Timing
from harness.diagnosis.context import (
    BASELINE,
    Context,
    CureSearch,
    Evaluator,
    JudgedEvaluation,
    Obedience,
    Seen,
    region_evidence,
    relaxed_note,
)
from harness.diagnosis.results import CANDIDATE, DiagnosisVerdict, Evidence, EvidenceKind, Fact, Price, Stage
from harness.diagnosis.stages.cures.casts import MOST_CASTS, cure_with_casts
from harness.diagnosis.stages.cures.margin import (
    MOST_TRIES,
    accumulates,
    island_with_margin,
    left_on,
    next_share,
)
from harness.diagnosis.stages.cures.waiting import meanwhile
from harness.diagnosis.stages.priors import (
    block_hints,
    island_hints,
    kernel_hints,
    node_scores,
    readers_of,
    span_of,
    whole_kernels,
)
from harness.diagnosis.stages.search import (
    CURE_PHASE,
    Known,
    cure_of,
    island_problem,
    key_of,
    search_candidate,
    why_given_up,
)
from harness.errors import BudgetExhaustedError, CandidateError, UsageError
from harness.model import PRODUCTS
from harness.search import Outcome, SearchOptions, SearchVerdict, Trial
from harness.text import percent, plural

PRICE_PHASE = "price"
TIMED = Timing(repeats=100, warmup=100)  # clocks rise while it warms up
REPEATS = 2
"""How often each configuration is built that an answer rests on which the emulator does not support."""

MOST_UNPROVED = 8
"""An island of an engine that has more nodes, and was not shown to be minimal, is pruned with further builds."""

MOST_PRUNING = 24
"""How many builds pruning may cost: an error that accumulates needs most of its island anyway."""

FASTER = 0.9
"""A cure of more nodes must take at most so much of the time of another; two timings of one engine differ by less."""

_PASSES = {Outcome.PASS: "passes", Outcome.FAIL: "does not pass"}


def confirm(evaluator: Evaluator, plan: Plan) -> JudgedEvaluation:
    """Evaluate the unobserved candidate once under a plan that should cure, on all samples.

    Raises:
        BudgetExhaustedError: the limits are reached.
    """
    return evaluator.evaluate(plan, phase="confirm", key=key_of(plan), thorough=True)


def prebuild(context: Context, island: Iterable[str] = (), fp32_sums: Iterable[str] = ()) -> None:
    """Begin in a second process the engine that `try_prior` or `try_sums` will ask for."""
    plan = context.subject.plan(island, fp32_sums=fp32_sums)
    context.evaluator.prebuild(plan, key_of(plan))


def try_sums(seen: Seen, context: Context) -> Seen:
    """Build the unobserved engine with these products added up in FP32: one build."""
    assert seen.sums is not None
    return _build_with_sums(seen, context, seen.sums.products)


def _build_with_sums(seen: Seen, context: Context, products: tuple[str, ...]) -> Seen:
    count, cure = plural(len(products), "product"), CureSearch(confirmed_on=CANDIDATE, fp32_sums=products)
    context.report(Stage.CURE, f"build with {count} between Casts to FP32", suspected=products)
    plan = context.subject.plan(fp32_sums=products)
    if context.evaluator.begin(plan, key_of(plan)):
        meanwhile(seen, context, cure)
    tried = confirm(context.evaluator, plan)
    text = f"with Casts to FP32 around {count} the unobserved engine {_became(tried)}"
    facts: dict[str, Fact] = {"products": list(products), "outcome": tried.outcome, "note": tried.note}
    seen = seen.adding(Evidence.of(EvidenceKind.FP32_SUMS, text, **facts), *_obedience(tried))
    if tried.passed:
        return replace(seen, cure=cure, price=_price(seen, context, plan))
    if tried.obeyed is not Obedience.FUSED_AWAY or seen.sums is None:
        return seen
    return replace(seen, sums=replace(seen.sums, fused_away=frozenset(products)))


def _build(
    seen: Seen,
    context: Context,
    island: tuple[str, ...],
    what: str,
    cure: CureSearch | None = None,
    **facts: Fact,
) -> tuple[Seen, JudgedEvaluation]:
    """Build the unobserved engine with `island` in FP32: what is known then, and what came of it.

    `what` says for the evidence what is in FP32. With `cure`, which should pass, what follows is prepared meanwhile.
    """
    context.report(Stage.CURE, f"build with {plural(len(island), 'node')} in FP32", suspected=island)
    plan = context.subject.plan(island)
    if cure is not None and context.evaluator.begin(plan, key_of(plan)):
        meanwhile(seen, context, cure)
    tried = confirm(context.evaluator, plan)
    facts = {"island": list(island), "outcome": tried.outcome, "note": tried.note, **facts}
    text = f"with {what} the unobserved engine {_became(tried)}"
    seen = replace(seen, known={**seen.known, frozenset(island): tried.trial})
    return seen.adding(Evidence.of(EvidenceKind.ISLAND, text, **facts), *_obedience(tried)), tried


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
    return (Evidence.of(EvidenceKind.OBEYED, text, casts=tried.obeyed.value),)


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
        assert seen.with_island is not None
        if seen.with_island.passed or seen.with_island.obeyed is not Obedience.FUSED_AWAY:
            return seen
    readers = readers_of(subject.model, alone or island).intersection(subject.units)
    wider = subject.ordered(readers.union(island))
    if known_to_be_fused or wider != island:
        seen = _try_island(seen, context, wider, "the emulator's island and what reads it")
    return seen


def _try_island(seen: Seen, context: Context, island: tuple[str, ...], what: str) -> Seen:
    prior = seen.prior
    assert prior is not None
    minimal_on = prior.minimal_on if island == prior.island else None
    cure = replace(prior, island=island, confirmed_on=CANDIDATE, minimal_on=minimal_on)
    seen, tried = _build(seen, context, island, f"{what} in FP32", cure)
    seen = replace(seen, with_island=tried)
    if tried.passed:
        return replace(seen, cure=replace(cure, relaxed=tried.relaxed))
    if tried.regions:
        return seen.adding(region_evidence(tried.regions, context.subject.release))
    return seen


def try_margins(seen: Seen, context: Context) -> Seen:
    """Where the error accumulates: build islands that leave the emulator some margin, one build each."""
    prior = seen.prior
    assert prior is not None
    assert seen.with_island is not None
    emulator, effects = context.emulator, context.effects(seen.predicted.failing_sample)
    if not accumulates(prior.island, effects):
        return seen
    trial, share = seen.with_island.trial, left_on(emulator, prior.island)
    for _ in range(MOST_TRIES):
        wanted = next_share(share, trial)
        if wanted is None:
            return seen
        context.report(Stage.CURE, "search an island with some margin on the emulator")
        found = island_with_margin(emulator, seen.predicted, effects, wanted)
        if found is None or frozenset(found[0]) in seen.known:
            return seen
        island, share = found
        what = f"{len(island)} nodes in FP32, which leave the emulator {percent(share)} of its limit,"
        try:
            seen, tried = _build(seen, context, island, what, share=share)
        except BudgetExhaustedError as error:
            return seen.stop(Stage.CURE, error.message)
        trial = tried.trial
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
        seen = _build_with_sums(seen, context, island)
        if seen.cured:
            return seen
    seen, tried = _build(seen, context, island, f"{plural(len(island), 'product')} in FP32")
    cure = CureSearch(island, CANDIDATE if tried.passed else None, relaxed=tried.relaxed)
    price = _price(seen, context, context.subject.plan(island)) if tried.passed else None
    return replace(seen, with_island=tried, cure=cure, price=price)


def time_island(seen: Seen, context: Context) -> Seen:
    """Measure what the island costs in latency."""
    assert seen.cure is not None
    plan = context.subject.plan(seen.cure.island, casts=seen.cure.casts)
    return replace(seen, price=_price(seen, context, plan))


def _price(seen: Seen, context: Context, cured: Plan) -> Price | None:
    """Time the engine that fails and the one that passes; None where that is not wanted, or they cannot be timed.

    The engines are those of the stages before: nothing is built for this. Where an earlier process built them,
    there is no price.
    """
    evaluator, subject, key = context.evaluator, context.subject, f"price {key_of(cured)}"
    if not seen.options.timed:
        return None
    if (kept := evaluator.journal.recall(key, Price)) is not None:
        return kept
    if not evaluator.at_hand.issuperset({BASELINE, key_of(cured)}):
        return None
    latencies = []
    for plan in (subject.plan(), cured):
        try:
            engine = evaluator.run(plan, subject.bench.feeds[0], phase=PRICE_PHASE, timing=TIMED).engine
        except CandidateError:
            return None
        if engine is None or engine.latency is None:
            return None
        latencies.append(engine.latency.median_ms)
    price = Price(*latencies)
    evaluator.journal.keep(key, price)
    return price


def try_whole_kernels(seen: Seen, context: Context) -> Seen:
    """The island parts kernels: with all of their nodes in FP32 fewer may be left. One build; the faster one stays."""
    assert seen.cure is not None
    assert seen.with_island is not None
    subject, cure = context.subject, seen.cure
    chosen = whole_kernels(subject, cure.island, seen.baseline.kernels)
    island = subject.ordered(chosen)
    plan = subject.plan(island)
    if len(island) == len(cure.island) or not context.emulator.evaluate(plan, phase=CURE_PHASE).passed:
        return seen
    context.report(Stage.CURE, f"build with {plural(len(island), 'node')} in FP32", suspected=island)
    try:
        tried = confirm(context.evaluator, plan)
    except BudgetExhaustedError:
        return seen  # what cures is known
    price = _price(seen, context, plan) if tried.passed else None
    before, after = len(seen.with_island.kernels), len(tried.kernels)
    faster = (
        after < before
        if price is None or seen.price is None
        else price.after_ms < FASTER * seen.price.after_ms
    )
    taken = tried.passed and faster
    text = (
        f"the island parts kernels: {before} in place of {len(seen.baseline.kernels)}; with all their nodes in FP32 "
        f"the engine has {after} and {_became(tried)}: {'taken' if taken else 'not taken'}"
    )
    shown = Evidence.of(EvidenceKind.ISLAND, text, island=list(island), kernels=[before, after], taken=taken)
    seen = seen.adding(shown)
    if not taken:
        return seen
    return replace(seen, cure=replace(cure, island=island, minimal_on=None), with_island=tried, price=price)


def try_casts(seen: Seen, context: Context) -> Seen:
    """The island lies where precisions are not obeyed: write it into the graph, with more and more around it."""
    assert seen.prior is not None
    prior = seen.prior.island
    if seen.with_island is None:  # known from the engine that fails, and so not built in vain
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
    text = "search the island on the engine"
    context.report(Stage.CURE, text, suspected=seen.starts)
    subject, prediction = context.subject, seen.predicted
    if seen.cure is not None and seen.cure.found:
        hints = [frozenset(seen.cure.island)]
    else:
        prior = seen.prior.island if seen.prior is not None else ()
        hints = kernel_hints(subject, [*seen.starts, *prior], seen.baseline.kernels, seen.known)
        hints += island_hints(subject, seen.starts, prior, {*seen.known, *hints})
        origins = [layer.node for layer in prediction.origins] or seen.starts
        hints += block_hints(subject, origins, {*seen.known, *hints})
    options = SearchOptions(
        prove=seen.options.prove or not prediction.fails, repeats=1 if prediction.fails else REPEATS
    )
    found = cure_on_engine(seen, context, hints, seen.known, options, name="islands", text=text)
    cure = found if found.found or not seen.cured else seen.cure
    unstable = DiagnosisVerdict.NONDETERMINISTIC if found.verdict is SearchVerdict.FLAKY else seen.unstable
    after = replace(seen, cure=cure, unstable=unstable).adding(*found.evidence)
    # Only FP32 throughout cures, and the island that should cure lies where nothing is obeyed: no part of it will.
    in_region = seen.compiled or (seen.with_island is not None and seen.with_island.regions)
    hopeless = bool(in_region) and len(found.island) == len(subject.units)
    if found.found and found.minimal_on is None and len(found.island) > MOST_UNPROVED and not hopeless:
        return _prune(after, context, found)
    return after


def _prune(seen: Seen, context: Context, found: CureSearch) -> Seen:
    """A large island that was not shown to be needed as a whole: leave out what is not needed."""
    text = "leave out what the island does not need"
    context.report(Stage.CURE, text, suspected=found.island)
    island = frozenset(found.island)
    known = {**seen.known, island: Trial(Outcome.PASS)}
    pruned = cure_on_engine(
        seen,
        context,
        [island],
        known,
        SearchOptions(prove=True),
        name="minimal",
        text=text,
        phase="minimal",
        most=MOST_PRUNING,
    )
    smaller = pruned.island or pruned.best
    cure = seen.cure
    if smaller is not None and len(smaller) <= len(found.island):
        cure = replace(pruned, island=tuple(smaller), confirmed_on=CANDIDATE)
    return replace(seen, cure=cure).adding(*pruned.evidence)


def cure_on_engine(
    seen: Seen,
    context: Context,
    hints: Sequence[frozenset[str]],
    known: Known,
    options: SearchOptions,
    *,
    name: str,
    text: str,
    phase: str = CURE_PHASE,
    most: int | None = None,
) -> CureSearch:
    """The island on an engine that the emulator does not explain, in a search called `name`, whose builds are charged
    to `phase`; `text` is for whoever follows progress."""
    evaluator, subject = context.evaluator, context.subject
    if subject.emulated:
        raise UsageError("cure_on_engine requires an engine, the candidate is the emulator")
    scores = node_scores(subject, seen.predicted, seen.layers)
    problem = island_problem(subject, scores=scores, hints=hints, kernels=seen.baseline.kernels)
    result = search_candidate(
        context, evaluator, problem, options, known, name=name, text=text, phase=phase, most=most
    )
    cure = cure_of(result, CANDIDATE)
    relaxed = evaluator.relaxed(subject.plan(cure.island)) if cure.found else None
    (found,) = cure.evidence
    why = why_given_up(result)
    said = f"the search on the engine was given up: {why}" if why else f"{found.text}{relaxed_note(relaxed)}"
    return replace(cure, given_up=why, relaxed=relaxed, evidence=(replace(found, text=said),))

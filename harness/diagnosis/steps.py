"""Each stage as a step: from what was seen so far to what is seen with it. `harness.diagnosis.pipeline` orders them.

On an engine the emulator's island is tried at once: one build that passes shows that the precision is at fault, that
FP32 is enough, and what cures. Only where it does not pass are FP32, repetitions, marks and a search on the engine
paid for.
"""

from __future__ import annotations

from dataclasses import replace

from harness.diagnosis.context import (
    Context,
    Cure,
    Findings,
    GateCheck,
    JudgedEvaluation,
    Obedience,
    Seen,
    Subject,
    outliers,
    region_evidence,
    relaxed_note,
)
from harness.diagnosis.explain import explain_nodes, find_origins_of
from harness.diagnosis.results import (
    CANDIDATE,
    EMULATOR,
    DiagnosisVerdict,
    Evidence,
    EvidenceKind,
    Fact,
    Stage,
)
from harness.diagnosis.stages import (
    CURE_PHASE,
    FARTHEST,
    MOST_CUTS,
    MOST_TRIES,
    SearchSetup,
    Symptoms,
    accumulates,
    accumulation_evidence,
    block_hints,
    casts_key,
    check_gates,
    conclude,
    confirm,
    confirm_fp32_sums,
    cure_on_emulator,
    cure_on_engine,
    cure_with_casts,
    decide,
    estimate_accumulation,
    explain_reference,
    find_divergence,
    find_fp32_sums,
    held_to_tf32,
    island_hints,
    island_key,
    island_with_margin,
    kernel_hints,
    left_on,
    look_behind,
    measure_price,
    next_share,
    node_scores,
    observation_evidence,
    observe,
    predict,
    readers_of,
    repeat,
    search_tactics,
    separate,
    span_of,
    sums_key,
    try_unseen,
    whole_kernels,
    with_own_kernels,
)
from harness.errors import BudgetExhaustedError
from harness.model import PRODUCTS
from harness.search import Evaluation, Outcome, SearchVerdict
from harness.tensors import Precision
from harness.text import names, percent, plural

REPEATS = 2
"""How often each configuration is built that an answer rests on which the emulator does not support."""

MOST_UNPROVED = 8
"""An island of an engine that has more nodes, and was not shown to be minimal, is pruned with further builds."""

MOST_PRUNING = 24
"""How many builds pruning may cost: an error that accumulates needs most of its island anyway."""

FASTER = 0.9
"""A cure of more nodes must take at most so much of the time of another; two timings of one engine differ by less."""

_PASSES = {Outcome.PASS: "passes", Outcome.FAIL: "does not pass"}


def check(seen: Seen, context: Context) -> Seen:
    """Judge the reference and the unobserved candidate."""
    context.report(Stage.GATES, "run the reference and the unobserved candidate")
    gates = check_gates(context.evaluator)
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
    found = find_fp32_sums(context.emulator, seen.predicted)
    seen = replace(seen, sums=found).adding(*found.evidence)
    if seen.emulated and found.products:
        return replace(seen, cure=Cure(confirmed_on=EMULATOR, fp32_sums=found.products))
    return seen


def try_sums(seen: Seen, context: Context) -> Seen:
    """Build the unobserved engine with these products added up in FP32: one build."""
    assert seen.sums is not None
    return _try_fp32_sums(seen, context, seen.sums.products)


def _try_fp32_sums(seen: Seen, context: Context, products: tuple[str, ...]) -> Seen:
    count = plural(len(products), "product")
    context.report(Stage.CURE, f"build with {count} between Casts to FP32", suspected=products)
    tried = confirm_fp32_sums(context.evaluator, products)
    text = f"with Casts to FP32 around {count} the unobserved engine {_became(tried)}"
    facts: dict[str, Fact] = {"products": list(products), "outcome": tried.outcome, "note": tried.note}
    seen = seen.adding(Evidence(Stage.CURE, EvidenceKind.FP32_SUMS, text, facts), *_obedience(tried))
    if not tried.passed:
        if tried.obeyed is not Obedience.FUSED_AWAY or seen.sums is None:
            return seen
        return replace(seen, sums=replace(seen.sums, fused_away=frozenset(products)))
    plan = context.subject.plan(fp32_sums=frozenset(products))
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
    found = try_unseen(context.subject, seen.cure.island, _search_again, frozenset(seen.cure.fp32_sums))
    if found is None:
        text = f"{what} was not tried on other inputs: those of the case come from files"
        return seen.adding(Evidence(Stage.CURE, EvidenceKind.UNSEEN, text))
    adds_up = found.worst <= FARTHEST  # what misses its limit by more than that is another fault
    text = f"on {found.passed} of {plural(found.samples, 'fresh sample')} the emulator passes with {what}"
    if found.widened and adds_up:
        # Where many small errors add up, each sample needs others of them: what all need is offered beside it.
        text = f"on {found.before} of {plural(found.samples, 'fresh sample')} the emulator passes with the island"
        more = plural(found.widened, "more node")
        text += f", which is fitted to its sample; with {more} it passes on {found.passed}"
    elif found.widened:
        text += f", widened by {plural(found.widened, 'node')}"
    facts: dict[str, Fact] = {"samples": found.samples, "passed": found.passed, "widened": found.widened}
    cure = seen.cure
    if found.widened and not adds_up:
        cure = replace(cure, island=found.island, minimal_on=None)
    return replace(seen, cure=cure, unseen=replace(found, fitted=adds_up and found.widened > 0)).adding(
        Evidence(Stage.CURE, EvidenceKind.UNSEEN, text, facts)
    )


def _search_again(subject: Subject, island: tuple[str, ...]) -> tuple[str, ...]:
    """An island that cures on other inputs; nothing if none is found."""
    context = Context(subject)
    baseline = context.evaluator.evaluate(subject.plan(), phase="gates", key="baseline", thorough=True)
    if baseline.passed:
        return ()
    prediction = predict(subject, GateCheck(None, baseline, outputs=baseline.outputs))
    return cure_on_emulator(context.evaluator, prediction, context.effects(0), SearchSetup()).island


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
    context.report(Stage.CURE, "search the island on the emulator", suspected=seen.starts)
    setup = _setup(context, "emulator", "search the island on the emulator")
    effects = context.effects(seen.predicted.failing_sample)
    prior = cure_on_emulator(context.emulator, seen.predicted, effects, setup)
    return replace(seen, prior=prior).adding(*prior.evidence)


def try_prior(seen: Seen, context: Context) -> Seen:
    """Build the unobserved engine with the emulator's island: one build, or two where its Casts are fused away.

    Measured on an H200 with TensorRT for RTX 1.4: it fuses the Casts around a product away, and keeps them where what
    reads the product is in FP32, too.
    """
    assert seen.prior is not None
    subject, island = context.subject, seen.prior.island
    known_to_be_fused = (
        seen.sums is not None
        and bool(seen.sums.fused_away)
        and all(subject.model.node(node).op in PRODUCTS for node in island)
    )
    if not known_to_be_fused:
        seen = _try_island(seen, context, island, "the emulator's island")
        assert seen.tried is not None
        if seen.tried.passed or seen.tried.obeyed is not Obedience.FUSED_AWAY:
            return seen
    readers = readers_of(subject.model, island).intersection(subject.units)
    wider = tuple(unit for unit in subject.units if unit in readers or unit in island)
    if known_to_be_fused or wider != island:
        seen = _try_island(seen, context, wider, "the emulator's island and what reads it")
    return seen


def _try_island(seen: Seen, context: Context, island: tuple[str, ...], what: str) -> Seen:
    prior = seen.prior
    assert prior is not None
    context.report(Stage.CURE, f"build with {plural(len(island), 'node')} in FP32", suspected=island)
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
    context.report(Stage.OBSERVE, "observe the tensors of the engine", suspected=seen.starts)
    engine, islands = seen.baseline, frozenset[str]()
    if seen.behind and seen.prior is not None and seen.tried is not None:
        engine, islands = seen.tried, frozenset(seen.prior.island)
    try:
        observed = observe(context.evaluator, engine, islands=islands, inside=not seen.cured)
    except BudgetExhaustedError as error:
        if not seen.cured:
            raise
        text = f"the engine was not observed: {error.message}"
        return seen.adding(Evidence(Stage.OBSERVE, EvidenceKind.NOT_OBSERVED, text))
    return replace(seen, observed=observed).adding(*observation_evidence(observed, seen.precision))


def search_marks(seen: Seen, context: Context) -> Seen:
    """The fault is gone when every tensor is observed: which marks cure?"""
    assert seen.observed is not None
    context.report(Stage.ATTRIBUTE, "search the tensors that must not be fused away")
    setup = _setup(context, "marks", "search the marks")
    fails, precision = seen.baseline, None
    if seen.strict_fails and seen.strict is not None:
        fails, precision = seen.strict, seen.strict_as
    found = separate(context.evaluator, fails, seen.observed, setup, precision=precision)
    return replace(seen, separated=found).adding(*found.evidence)


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

    found = cure_with_casts(context.evaluator, prior, parts, on_build, MOST_CUTS)
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
        _setup(context, "islands", "search the island on the engine"),
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
        _setup(context, "minimal", text),
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


def attribute(seen: Seen, context: Context) -> Seen:
    """From what was shown to the kind of fault, its culprits and its origins."""
    gates = seen.gates
    if gates is None:
        found, evidence = Findings(DiagnosisVerdict.UNRESOLVED), tuple[Evidence, ...]()
    elif gates.verdict in (DiagnosisVerdict.REFERENCE, DiagnosisVerdict.FILE):
        found, evidence = explain_reference(context.subject, gates)
    elif gates.verdict is not None or seen.prediction is None:
        found, evidence = Findings(gates.verdict or DiagnosisVerdict.UNRESOLVED), ()
    elif seen.emulated:
        found, evidence = _conclude_on_emulator(seen, context)
    else:
        context.report(Stage.ATTRIBUTE, "put together what was shown")
        effects = context.effects(seen.prediction.failing_sample)
        found, evidence = conclude(seen, context.subject, effects)
    return replace(seen, findings=found).adding(*evidence)


def _conclude_on_emulator(seen: Seen, context: Context) -> tuple[Findings, tuple[Evidence, ...]]:
    subject, prediction, cure = context.subject, seen.predicted, seen.cure or Cure()
    if seen.cured_by_sums:
        return conclude(seen, subject, context.effects(prediction.failing_sample))
    if not cure.found:
        starts = [layer.node for layer in prediction.origins]
        flaky = cure.verdict is SearchVerdict.FLAKY
        verdict = SearchVerdict.BUDGET if seen.stopped else cure.verdict
        found = Findings(
            DiagnosisVerdict.NONDETERMINISTIC if flaky else DiagnosisVerdict.UNRESOLVED,
            origins=explain_nodes(subject, prediction, starts),
            suspects=cure.best or tuple(starts),
            cure=cure,
        )
        text = _UNANSWERED.get(verdict, _UNJUDGED) if verdict is not None else _UNJUDGED
        return found, (Evidence(Stage.ATTRIBUTE, EvidenceKind.DECISION, text),)
    context.report(Stage.ATTRIBUTE, "explain where it starts", suspected=cure.island)
    verdict_of, reason = decide(Symptoms(subject.precision, emulator_fails=True, island_cures=True))
    effects = context.effects(prediction.failing_sample)
    found = Findings(
        verdict_of,
        culprits=cure.island,
        island=cure.island,
        confirmed=True,
        minimal_on=None if cure.minimal_on is None else CANDIDATE,  # the emulator is the candidate here
        origins=find_origins_of(subject, prediction, cure.island, effects),
        cure=cure,
    )
    return found, (reason,)


_UNJUDGED = "the search could not judge what it had to"
_UNANSWERED = {
    SearchVerdict.BUDGET: "the budget was spent before the search ended",
    SearchVerdict.LOST: "the fault stays with every node in FP32: the gates ask for more than FP32 gives",
    SearchVerdict.FLAKY: "the same evaluation does not give the same outcome twice",
}


def _setup(context: Context, name: str, text: str) -> SearchSetup:
    return SearchSetup(context.journal, name, context.follow(text))

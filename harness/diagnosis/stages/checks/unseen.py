"""Stage 4 goes on: does the island cure on inputs that the search has not seen?

An island that is found on one sample may be fitted to it: where rounding errors add up, the next one may need another
node. The emulator tries it on fresh inputs; where it fails, the search is made anew on the sample that fails, and what
cures that joins the island. A sample that an island was widened for proves it no more: further ones are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from harness.case import make_feeds
from harness.diagnosis.context import LARGE, Context, Effects, GateCheck, Seen, Subject, Unseen, emulate
from harness.diagnosis.explain import loses_values
from harness.diagnosis.results import Evidence, EvidenceKind, Stage
from harness.diagnosis.stages.cures import FARTHEST, cure_on_emulator
from harness.diagnosis.stages.prediction import predict
from harness.errors import HarnessError
from harness.judge import Workbench
from harness.model import guess_fills
from harness.text import plural

SEEDS = 5
"""Fresh samples, and so many more after a widening."""

FEW_WIDENINGS, MANY_WIDENINGS = 3, 8
"""So often the island is widened by what one of them needs: where errors add up, and where values are lost, since that
ends with all that the lost ones are computed from."""

FAR = 7919
"""Between the seeds of a case and fresh ones."""

Widen = Callable[[Subject, tuple[str, ...]], tuple[str, ...]]
"""A subject of fresh inputs on which an island fails, and the island: one that cures there, or nothing."""


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
        return seen.adding(Evidence.of(EvidenceKind.UNSEEN, text))
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
    shown = Evidence.of(
        EvidenceKind.UNSEEN, text, samples=found.samples, passed=found.passed, widened=found.widened
    )
    cure = seen.cure
    if found.widened and not adds_up:
        cure = replace(cure, island=found.island, minimal_on=None)
    fitted = adds_up and found.widened > 0
    return replace(seen, cure=cure, unseen=replace(found, fitted=fitted)).adding(shown)


def _search_again(subject: Subject, effects: Effects | None) -> tuple[str, ...]:
    """An island that cures on other inputs, by what nodes do to the outputs there, unless that is given."""
    context = Context(subject)
    baseline = context.evaluator.evaluate(subject.plan(), phase="gates", key="baseline", thorough=True)
    if baseline.passed:
        return ()
    prediction = predict(subject, GateCheck(None, baseline, outputs=baseline.outputs))
    return cure_on_emulator(context, prediction, effects=effects).island


def try_unseen(
    subject: Subject,
    island: tuple[str, ...],
    widen: Widen,
    fp32_sums: frozenset[str] = frozenset(),
    *,
    most: int = FEW_WIDENINGS,
) -> Unseen | None:
    """Whether `island` cures on fresh inputs, on the emulator, and a wider one that does if it does not.

    It is widened `most` times at most; beside `fp32_sums`, the products that are added up in FP32, it is not.

    Returns:
        What became of it on samples that nothing was searched on; None where there are no other inputs: those of the
        case come from files.
    """
    first = last = _drawn(subject, 0)
    if not first:
        return None
    found = [_badness(each, island, fp32_sums) for each in first]
    before, worst = sum(each <= 1.0 for each in found), max(found)
    if fp32_sums or before == len(first):
        return Unseen(len(first), before, island, before=before, first=len(first), worst=worst)
    wider, used = island, list(first)
    for number in range(1, most + 1):
        failing = _failing(used, wider)
        more = widen(failing[0], wider) if failing and len(wider) < len(subject.units) else ()
        if set(more) <= set(wider):
            break
        wider = subject.ordered({*more, *wider})
        if not _failing(used, wider):
            last = _drawn(subject, number)
            used += last
    if wider != island and _failing([subject], wider):  # it must still cure what it was found for
        wider, last = island, first
    holds = len(last) - len(_failing(last, wider))
    return Unseen(len(last), holds, wider, len(wider) - len(island), before, len(first), worst)


def _drawn(subject: Subject, number: int) -> list[Subject]:
    """Fresh samples, other ones for each number."""
    seeds = range(SEEDS * number + 1, SEEDS * (number + 1) + 1)
    return [each for each in (_fresh(subject, seed) for seed in seeds) if each is not None]


def _failing(samples: Sequence[Subject], island: tuple[str, ...]) -> list[Subject]:
    return [each for each in samples if _badness(each, island) > 1.0]


def _badness(subject: Subject, island: tuple[str, ...], fp32_sums: frozenset[str] = frozenset()) -> float:
    """The worst gate with `island` in FP32 as a multiple of its limit."""
    return emulate(subject, subject.plan(island, fp32_sums=fp32_sums)).badness


def _fresh(subject: Subject, number: int) -> Subject | None:
    """The same subject on other inputs, with the sessions of this one; None where there are none that are sound."""
    bench = subject.bench
    feeds = _other_feeds(bench, number) if bench.case.reference is None else None
    if feeds is None:
        return None
    other = bench.with_feeds([feeds])
    try:
        _ = other.expected
    except HarnessError:  # a reference that is not finite there judges nothing
        return None
    return Subject(other, subject.precision, other.emulator, undecided=subject.undecided)


def _other_feeds(bench: Workbench, number: int) -> dict[str, np.ndarray] | None:
    """One sample of other inputs: drawn with another seed, or, where arrays were given, from their own elements."""
    own = bench.feeds[0]
    if bench.given:
        rng = np.random.default_rng([FAR, number])
        drawn = {
            name: rng.choice(value.reshape(-1), value.shape).astype(value.dtype)
            if value.dtype.kind == "f" and value.size > 1
            else value
            for name, value in own.items()
        }
    else:
        case = bench.case.model_copy(update={"seed": bench.case.seed + FAR * number, "samples": 1})
        try:
            drawn = make_feeds(case, bench.model.inputs, guess_fills(bench.model))[0]
        except HarnessError:
            return None
    same = all(np.array_equal(value, own[name]) for name, value in drawn.items())
    return None if same else drawn

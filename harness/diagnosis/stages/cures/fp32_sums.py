"""Stage 4, the cure that is tried first: products that are added up in FP32, between Casts in the graph.

Their weights, what they read and what they write stay as the precision has them, so that it is no island. Measured on
an H200 with TensorRT for RTX 1.6: it makes one kernel of product and Casts, which adds up in FP32 and takes as long as
the one that adds up in FP16 (0.42 and 0.41 ms for 4096 × 8192 × 4096). 1.4 leaves such Casts out, without a word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from harness.diagnosis.context import (
    Context,
    CureSearch,
    Evaluator,
    FP32Sums,
    Prediction,
    Seen,
    Subject,
    outliers,
)
from harness.diagnosis.results import EMULATOR, Evidence, EvidenceKind, Stage
from harness.diagnosis.stages.arithmetic import MATTERS
from harness.diagnosis.stages.search import CURE_PHASE
from harness.judge import OutputResult
from harness.text import magnitude, names, plural


def find_sums(seen: Seen, context: Context) -> Seen:
    """Does the emulator pass that adds up in FP32? Then Casts around products cure, which cost nothing."""
    context.report(Stage.CURE, "add up in FP32")
    found = sums_of(context, seen.predicted)
    seen = replace(seen, sums=found).adding(*found.evidence)
    if seen.emulated and found.products:
        return replace(seen, cure=CureSearch(confirmed_on=EMULATOR, fp32_sums=found.products))
    return seen


def sums_of(context: Context, prediction: Prediction) -> FP32Sums:
    """What adding up in FP32 does to the emulator, found now or before."""
    return context.sums.of(prediction.key, lambda: find_fp32_sums(context.emulator, prediction))


def find_fp32_sums(evaluator: Evaluator, prediction: Prediction) -> FP32Sums:
    """The products with which an emulator that fails, and adds up in FP16, passes when they are added up in FP32: the
    fewest that were tried."""
    subject = evaluator.subject
    summed = _added_up_in_fp16(subject, prediction.failing_sample)
    before = worst_error(prediction.outputs)
    if not summed or not set(outliers(prediction.introduced)) <= set(summed):
        return FP32Sums(before=before, after=before)  # another fault stands out
    errors = {node: prediction.introduced.get(node, 0.0) for node in summed}
    least = MATTERS * max(errors.values())
    worst = tuple(node for node in summed if errors[node] >= least)
    after = before
    for products in dict.fromkeys([worst, summed]):
        tried = evaluator.evaluate(subject.plan(fp32_sums=products), phase=CURE_PHASE)
        after = worst_error(tried.outputs)
        if tried.passed:
            return FP32Sums(products, before, after, (_evidence(products, before, after, passes=True),))
    return FP32Sums((), before, after, (_evidence(summed, before, after, passes=False),))


def worst_error(outputs: Sequence[OutputResult]) -> float:
    """The nrmse of the worst output; infinite where one is not finite."""
    found = [math.inf if output.metrics.nonfinite else output.metrics.nrmse for output in outputs]
    return max((math.inf if math.isnan(error) else error for error in found), default=0.0)


def _added_up_in_fp16(subject: Subject, sample: int) -> tuple[str, ...]:
    bench = subject.bench
    arithmetic = bench.emulator.arithmetic(subject.precision, bench.feeds[sample])
    return tuple(node for node in subject.units if node in arithmetic.sums)


def _evidence(products: Sequence[str], before: float, after: float, *, passes: bool) -> Evidence:
    word = "passes" if passes else "does not pass"
    text = (
        f"with {plural(len(products), 'product')} added up in FP32 ({names(products)}), and all else as it is, "
        f"the emulator {word}: nrmse {magnitude(after)} for {magnitude(before)}"
    )
    return Evidence.of(
        EvidenceKind.FP32_SUMS, text, products=list(products), before=before, after=after, passes=passes
    )

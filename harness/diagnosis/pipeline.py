"""The stages of a diagnosis, in their order: when each one runs, what it requires, and what it ensures.

The table is the whole plan. A stage reads a frozen `Seen` and returns another; what it requires is checked before it
runs, what it ensures after, and a breach names the stage. A spent budget ends the stages that spend: those that put
together and hand over run all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.diagnosis import stages
from harness.diagnosis.context import Conclusion, Context, DiagnosisOptions, Seen
from harness.diagnosis.handover import hand_over
from harness.diagnosis.results import DiagnosisVerdict, Stage
from harness.errors import BudgetExhaustedError, StageError
from harness.tensors import Precision

Conditions = Iterable[tuple[bool, str]]
"""What must hold, in words, and whether it does."""


@dataclass(frozen=True)
class PipelineStage:
    """One row of the table.

    Args:
        name: what a breach names.
        stage: under which heading progress and evidence show it.
        run: from what was seen to what is seen with it.
        applies: whether there is something to do.
        requires: of what was seen before.
        ensures: of what was seen before and after.
        leaves: the field of `Seen` that is there afterwards.
        spends: whether it evaluates anything, and so ends with the budget.
    """

    name: str
    stage: Stage
    run: Callable[[Seen, Context], Seen]
    applies: Callable[[Seen], bool]
    requires: Callable[[Seen], Conditions] = lambda seen: ()
    ensures: Callable[[Seen, Seen], Conditions] = lambda before, after: ()
    leaves: str = "evidence"
    spends: bool = True


def run_stages(seen: Seen, context: Context, table: Sequence[PipelineStage] | None = None) -> Seen:
    """Run the stages of `table`, by default `PIPELINE`, that apply, one after the other.

    Raises:
        StageError: a stage was run without what it requires, or broke what it ensures.
    """
    for stage in PIPELINE if table is None else table:
        if (stage.spends and seen.stopped) or not stage.applies(seen):
            continue
        _check(stage, "requires", stage.requires(seen))
        try:
            after = stage.run(seen, context)
        except BudgetExhaustedError as error:
            seen = seen.stop(stage.stage, error.message)
            continue
        kept = after.evidence[: len(seen.evidence)] == seen.evidence
        _check(stage, "ensures", [(kept, "the evidence of the stages before")])
        if not after.stopped:
            _check(stage, "ensures", [(getattr(after, stage.leaves) is not None, stage.leaves)])
            _check(stage, "ensures", stage.ensures(seen, after))
        seen = after
    return seen


def _check(stage: PipelineStage, which: str, conditions: Conditions) -> None:
    broken = [text for holds, text in conditions if not holds]
    if broken:
        raise StageError(stage.name, which, broken)


def start(context: Context, options: DiagnosisOptions) -> Seen:
    """What is known before the first stage."""
    return Seen(context.subject.precision, context.subject.emulated, options)


def _fails(seen: Seen) -> bool:
    return seen.gates is not None and seen.gates.verdict is None


def _nothing_is_wrong(seen: Seen) -> bool:
    return seen.gates is not None and seen.gates.verdict is DiagnosisVerdict.NONE


def _on_engine(seen: Seen) -> bool:
    return _fails(seen) and not seen.emulated


def _lowered(seen: Seen) -> bool:
    """Whether an engine is under test at a precision of which FP32 islands are a cure."""
    return _on_engine(seen) and seen.precision not in (Precision.FP32, Precision.TF32)


def _has_prior(seen: Seen) -> bool:
    """Whether an island cures the emulator, which stands for a lowered engine."""
    return _lowered(seen) and seen.prior is not None and seen.prior.found and not seen.cured


COSTLY = 1.1
"""An island that takes more than so many times as long is worth a look at what it parts."""


MORE_KERNELS = 1.05
"""One kernel more among dozens costs no latency that is worth a build: two timings of one engine differ by more."""


def _parts_kernels(seen: Seen) -> bool:
    """Whether the island that cures makes more kernels of the engine, and costs latency as far as that was measured."""
    if not seen.cured or seen.with_island is None or not seen.with_island.passed or not seen.baseline.kernels:
        return False
    if seen.price is not None and seen.price.ratio <= COSTLY:
        return False
    return len(seen.with_island.kernels) > MORE_KERNELS * len(seen.baseline.kernels)


def _unexplained(seen: Seen) -> bool:
    """Whether a lowered engine fails that repeats itself and is not wrong in FP32, and no island is known to cure."""
    return (
        _lowered(seen)
        and seen.fp32_engine is not None
        and not (seen.cured or seen.fails_in_fp32 or seen.accumulates or seen.unstable is not None)
    )


def _wrong_in_fp32(seen: Seen) -> bool:
    return _on_engine(seen) and seen.fails_in_fp32 and seen.unstable is None


def _needs_repetition(seen: Seen) -> bool:
    if not _on_engine(seen) or seen.cured or seen.fp32_engine is None:
        return False
    if seen.fails_in_fp32:
        return seen.fp32_is_baseline
    # A few more builds like the first one; with all tensors marked, one may take minutes.
    return _lowered(seen) and not seen.predicted.fails and not seen.accumulates


def _added_up_in_fp16(seen: Seen) -> bool:
    """Whether Casts around products would make FP32 sums of FP16 ones: where the graph says the precision."""
    typed = seen.emulated or (seen.baseline.typing == "strong" and _lowered(seen))
    return typed and seen.precision is Precision.FP16 and seen.predicted.fails


def _may_accumulate(seen: Seen) -> bool:
    """Whether an engine at FP16 is right in FP32, and fails where an emulator passes that adds up in FP32."""
    fp16 = _lowered(seen) and seen.precision is Precision.FP16
    return fp16 and not seen.predicted.fails and _right_in_fp32(seen)


def _to_observe(seen: Seen) -> bool:
    if not _on_engine(seen) or seen.observed is not None:
        return False
    if _lowered(seen):
        return seen.cured or _unexplained(seen)
    return _right_in_fp32(seen)


def _cured_by_observing(seen: Seen) -> bool:
    if seen.observed is None or not seen.observed.passes:
        return False
    return _wrong_in_fp32(seen) or (_unexplained(seen) and not seen.has_other_fault)


def _separated(seen: Seen) -> bool:
    return seen.separated is not None and bool(seen.separated.separations)


def _right_in_fp32(seen: Seen) -> bool:
    return _on_engine(seen) and seen.fp32_engine is not None and seen.fp32_engine.passed


def _has_verdict(seen: Seen) -> bool:
    return seen.gates is not None and seen.gates.verdict is not None


def _island_is_whole(before: Seen, after: Seen) -> Conditions:
    cure = after.cure
    yield not after.cured or bool(cure and (cure.island or cure.fp32_sums)), "a cure that names nodes"
    yield before.cured <= after.cured, "that an island which cures is not lost"


def _what_is_confirmed_cures(_: Seen, after: Seen) -> Conditions:
    found = after.conclusion or Conclusion(DiagnosisVerdict.UNRESOLVED)
    # FP32 throughout cures TF32 without naming a node.
    named = bool(found.culprits or found.fp32_sums) or _right_in_fp32(after)
    yield named or not found.confirmed, "that what is confirmed names a cure"


def _written(seen: Seen) -> bool:
    recipes = {} if seen.handover is None else seen.handover.recipes
    return all(Path(path).exists() for recipe, path in recipes.items() if recipe.is_file)


PIPELINE: tuple[PipelineStage, ...] = (
    PipelineStage(
        "gates",
        Stage.GATES,
        stages.judge_candidate,
        applies=lambda seen: True,
        requires=lambda seen: [(seen.gates is None, "to be the first stage")],
        ensures=lambda _, after: [
            (_has_verdict(after) or not after.baseline.passed, "a verdict, or a failure")
        ],
        leaves="gates",
    ),
    PipelineStage(
        "predict",
        Stage.PREDICT,
        stages.ask_emulator,
        applies=_fails,
        requires=lambda seen: [(not seen.baseline.passed, "a candidate that fails")],
        ensures=lambda _, after: [
            (after.predicted.fails or not after.emulated, "that the emulator fails again")
        ],
        leaves="prediction",
    ),
    PipelineStage(
        "sums on the emulator",
        Stage.CURE,
        stages.find_sums,
        applies=lambda seen: _fails(seen) and _added_up_in_fp16(seen),
        ensures=_island_is_whole,
        leaves="sums",
    ),
    PipelineStage(
        "Casts around products",
        Stage.CURE,
        stages.try_sums,
        applies=lambda seen: _on_engine(seen) and seen.sums is not None and bool(seen.sums.products),
        ensures=_island_is_whole,
    ),
    PipelineStage(
        "island of the emulator",
        Stage.CURE,
        stages.cure_emulator,
        applies=lambda seen: _fails(seen) and seen.emulated and not seen.cured,
        requires=lambda seen: [(seen.predicted.fails, "an emulator that fails")],
        ensures=_island_is_whole,
        leaves="cure",
    ),
    PipelineStage(
        "kernels of the island",
        Stage.CURE,
        stages.ask_for_kernels,
        applies=lambda seen: _fails(seen) and seen.emulated and seen.cured and not seen.cured_by_sums,
        requires=lambda seen: [(bool(seen.cure and seen.cure.island), "an island that has nodes")],
        ensures=lambda _, after: [
            (not after.cured or bool(after.cure and after.cure.island), "an island that has nodes")
        ],
        leaves="cure",
    ),
    PipelineStage(
        "fresh inputs",
        Stage.CURE,
        stages.try_fresh,
        applies=lambda seen: _fails(seen) and seen.emulated and seen.cured,
        ensures=_island_is_whole,
    ),
    PipelineStage(
        "hidden",
        Stage.ATTRIBUTE,
        stages.look_for_hidden,
        applies=lambda seen: (
            seen.emulated and (seen.cured or _nothing_is_wrong(seen)) and not seen.cured_by_sums
        ),
        leaves="hidden",
    ),
    PipelineStage(
        "prior",
        Stage.CURE,
        stages.find_prior,
        applies=lambda seen: _lowered(seen) and seen.predicted.fails and not seen.cured,
        leaves="prior",
    ),
    PipelineStage(
        "Casts in a compiled region",
        Stage.CURE,
        stages.try_casts,
        applies=lambda seen: _has_prior(seen) and bool(seen.compiled),
        ensures=_island_is_whole,
    ),
    PipelineStage(
        "confirm the prior",
        Stage.CURE,
        stages.try_prior,
        applies=lambda seen: _has_prior(seen) and not seen.compiled,
        ensures=lambda before, after: [
            (
                after.with_island is not None and after.with_island.passed == after.cured,
                "a cure if and only if it passes",
            ),
            (len(after.known) > len(before.known), "that the island is not built again"),
        ],
        leaves="with_island",
    ),
    PipelineStage(
        "margins",
        Stage.CURE,
        stages.try_margins,
        applies=lambda seen: _lowered(seen) and seen.has_other_fault and not seen.cured,
        requires=lambda seen: [(seen.prior is not None, "the emulator's island")],
        ensures=_island_is_whole,
    ),
    PipelineStage(
        "price",
        Stage.CURE,
        stages.time_island,
        applies=lambda seen: _lowered(seen) and seen.cured and not seen.cured_by_sums and seen.options.timed,
    ),
    PipelineStage(
        "whole kernels",
        Stage.CURE,
        stages.try_whole_kernels,
        applies=lambda seen: _lowered(seen) and _parts_kernels(seen),
        ensures=_island_is_whole,
    ),
    PipelineStage(
        "proof",
        Stage.CURE,
        stages.search_engine,
        applies=lambda seen: _lowered(seen) and seen.cured and not seen.cured_by_sums and seen.options.prove,
        ensures=_island_is_whole,
    ),
    PipelineStage(
        "fp32",
        Stage.GATES,
        stages.build_fp32,
        applies=lambda seen: _on_engine(seen) and not seen.cured,
        leaves="fp32_engine",
    ),
    PipelineStage(
        "accumulation",
        Stage.ATTRIBUTE,
        stages.estimate_sums,
        applies=_may_accumulate,
        requires=lambda seen: [(not seen.predicted.fails, "an emulator that passes")],
    ),
    PipelineStage(
        "sums in fp32",
        Stage.CURE,
        stages.try_products,
        applies=lambda seen: seen.accumulates,
        leaves="cure",
    ),
    PipelineStage(
        "repetition", Stage.ATTRIBUTE, stages.repeat_engine, applies=_needs_repetition, leaves="rebuilt"
    ),
    PipelineStage(
        "tactics",
        Stage.ATTRIBUTE,
        stages.vary_tactics,
        applies=lambda seen: bool(seen.rebuilt),
    ),
    PipelineStage(
        "divergence",
        Stage.ATTRIBUTE,
        stages.trace_fp32,
        applies=_wrong_in_fp32,
        requires=lambda seen: [
            (seen.fp32_engine is not None and bool(seen.fp32_engine.tensors), "its outputs in FP32")
        ],
        leaves="divergence",
    ),
    PipelineStage(
        "observe",
        Stage.OBSERVE,
        stages.observe_engine,
        applies=_to_observe,
        requires=lambda seen: [(bool(seen.baseline.tensors), "the outputs of the unobserved engine")],
        ensures=lambda _, after: [
            (after.observed is not None or after.cured, "what the engine computes inside")
        ],
    ),
    PipelineStage(
        "marks", Stage.ATTRIBUTE, stages.search_marks, applies=_cured_by_observing, leaves="separated"
    ),
    PipelineStage(
        "casts",
        Stage.CURE,
        stages.try_casts,
        applies=lambda seen: (
            _unexplained(seen)
            and seen.has_other_fault
            and bool(seen.with_island and seen.with_island.regions)
        ),
        requires=lambda seen: [(seen.prior is not None, "the emulator's island")],
        ensures=_island_is_whole,
    ),
    PipelineStage(
        "island of the engine",
        Stage.CURE,
        stages.search_engine,
        applies=lambda seen: _unexplained(seen) and not _separated(seen),
        ensures=_island_is_whole,
        leaves="cure",
    ),
    PipelineStage(
        "tf32 on the emulator",
        Stage.CURE,
        stages.find_prior,
        applies=lambda seen: (
            seen.precision is Precision.TF32 and _right_in_fp32(seen) and seen.predicted.fails
        ),
        leaves="prior",
    ),
    PipelineStage(
        "attribute",
        Stage.ATTRIBUTE,
        stages.attribute,
        applies=lambda seen: True,
        ensures=_what_is_confirmed_cures,
        leaves="conclusion",
        spends=False,
    ),
    PipelineStage(
        "hand over",
        Stage.HAND_OVER,
        hand_over,
        applies=lambda seen: True,
        requires=lambda seen: [(seen.conclusion is not None, "conclusion")],
        ensures=lambda _, after: [(_written(after), "that every file which is handed over is there")],
        leaves="handover",
        spends=False,
    ),
)
"""In the order that builds the fewest engines."""

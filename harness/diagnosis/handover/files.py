"""Stage 6, hand over: files to act on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from harness.backends import TensorRTCandidate, shape_ranges
from harness.comparison import RelativeErrorSum
from harness.compiler import probe_of
from harness.diagnosis.context import (
    Conclusion,
    Context,
    GraphPart,
    Handover,
    Relaxation,
    ReleaseInUse,
    Seen,
    Subject,
    islands_of,
)
from harness.diagnosis.explain import summarise
from harness.diagnosis.handover.autocast import autocast_obstacle
from harness.diagnosis.handover.recipes import (
    Files,
    keep_fp32,
    layer_list,
    layers_of,
    own_file,
    polygraphy_script,
    typed_commands,
    without_tf32,
)
from harness.diagnosis.handover.repro import ReproInfo, ReproRun, repro_under_way
from harness.diagnosis.handover.shrinking import (
    Fails,
    fails_emulated,
    holds,
    nrmse_limits,
    part_emulator,
    shrink,
)
from harness.diagnosis.results import (
    DiagnosisVerdict,
    Evidence,
    EvidenceKind,
    Recipe,
    Repro,
    ReproOutput,
    Stage,
)
from harness.environments import shared_supervisor
from harness.errors import BudgetExhaustedError, CandidateError, HarnessError
from harness.judge import profiles_of
from harness.model import LOW_DTYPE, Model, repeated_names, save_model, with_islands
from harness.tactics import TacticRecord, export_pins, pinned_cache
from harness.tensors import Precision, to_json, write_text
from harness.text import command, magnitude, plural
from harness.worker.protocol import Profile

PHASE = REPRO = "repro"
TYPED = "typed.onnx"
MOST_ENGINE_PARTS = 3
WITH_REPRO = frozenset(
    {DiagnosisVerdict.PRECISION, DiagnosisVerdict.TF32, DiagnosisVerdict.CONVERSION, DiagnosisVerdict.FUSION}
)


def hand_over(seen: Seen, context: Context) -> Seen:
    """Say the answer, and write what there is to act on to the folder of the context."""
    assert seen.conclusion is not None
    summary = summarise(context, seen.conclusion, () if seen.hidden is None else seen.hidden.faults)
    layers = (
        {}
        if seen.emulated or seen.gates is None or seen.gates.baseline is None
        else seen.baseline.engine_layers
    )
    typing = None if seen.gates is None or seen.gates.baseline is None else seen.baseline.typing
    handover = write_handover(context, seen.conclusion, summary, context.out, layers, typing=typing)
    return replace(seen, summary=summary, handover=handover).adding(*handover.evidence)


def write_handover(
    context: Context,
    found: Conclusion,
    summary: str,
    out: Path | None,
    engine_layers: Mapping[str, tuple[str, ...]] | None = None,
    *,
    typing: str | None = None,
) -> Handover:
    """Write what there is to act on to `out`; without a folder, only make the commands.

    `engine_layers` are, by ONNX node, the layers of the engine that fails, and `typing` is how that was built, `weak`
    or `strong`, where it is known.
    """
    subject = context.subject
    model, island = subject.model, found.island
    wanted = bool(island or found.fp32_sums) or found.verdict is DiagnosisVerdict.TF32
    release = _release(subject, typing)
    if out is None:  # commands that name files which are there
        context.idle()
        path = own_file(model, island)
        files = Files(None if path is None else str(path), shapes=_shapes(subject))
        recipes = _commands(subject, found, files, release) if wanted else {}
        return Handover(recipes, evidence=_autocast_evidence(subject, found), written=False)
    evidence: list[Evidence] = []
    recipes = {}
    subject.bench.emulator.forget_weights()  # those of the files that are written come on top of the model's own
    with (
        ExitStack() as stack
    ):  # the typed model runs while the repro is cut out, and that while recipes are written
        typed = _begin_typed(subject, found, out) if wanted else None
        finish = _begin_repro(context, found, summary, out / REPRO, stack)
        context.report(Stage.HAND_OVER, "write the recipes", suspected=found.culprits)
        if found.pins is None:
            context.idle()
        if wanted:
            recipes = _write_recipes(subject, found, out, engine_layers or {}, evidence, release, typed)
        if found.pins is not None:
            recipes = _write_pins(context, found.pins, out / "pins", evidence)
            context.idle()
        repro, shown = finish()
    return Handover(recipes, repro, (*evidence, *shown))


def _release(subject: Subject, typing: str | None) -> ReleaseInUse:
    """What the engine was built with, or what compiler the emulator assumed the kernels of."""
    assumed = subject.bench.assumed.compiler
    if subject.emulated and assumed is not None:
        with suppress(CandidateError):
            probe = probe_of(assumed, shared_supervisor(assumed))
            return ReleaseInUse(probe.product, probe.tensorrt, "strong")
    return ReleaseInUse(subject.product, subject.release, typing)


def _write_pins(
    context: Context, record: TacticRecord, folder: Path, evidence: list[Evidence]
) -> dict[Recipe, str]:
    """The choices of a build that passes; where timing caches can be edited, one build makes the cache for them."""
    subject, candidate = context.subject, context.subject.candidate
    cache = None
    try:
        if isinstance(candidate, TensorRTCandidate):
            context.spending.check()
            made = pinned_cache(candidate, subject.plan(), subject.bench.feeds[0], record)
            context.evaluator.charge("pins", int(made is not None))
            cache = None if made is None else made[0]
    except (CandidateError, BudgetExhaustedError) as error:
        evidence.append(Evidence.of(EvidenceKind.PINS, f"there is no timing cache beside the pins: {error}"))
    path = export_pins(record, folder, model=subject.model, cache=cache)
    model = folder / "model.onnx"
    onnx_file = model if model.exists() else subject.model.path or "MODEL.onnx"
    build = command("python", folder / "build_pinned.py", onnx_file, "ENGINE")
    return {Recipe.PINS: str(path), Recipe.BUILD_PINNED: build}


def _commands(subject: Subject, found: Conclusion, files: Files, release: ReleaseInUse) -> dict[Recipe, str]:
    if found.verdict is DiagnosisVerdict.TF32:
        return without_tf32(files, release)
    if found.fp32_sums:
        return typed_commands(files, release)
    if found.casts:
        files = replace(files, model=files.typed)
    relaxed = None if found.cure is None else found.cure.relaxed
    constraints = "prefer" if relaxed is not None and relaxed.what is Relaxation.PREFERRED else "obey"
    return keep_fp32(
        subject.model, subject.precision, found.island, files, release=release, constraints=constraints
    )


def _autocast_evidence(subject: Subject, found: Conclusion) -> tuple[Evidence, ...]:
    """Why there is no recipe for AutoCast, where there would be one."""
    if not _can_be_typed(subject, found) or found.fp32_sums:
        return ()
    obstacle = autocast_obstacle(subject.model, subject.precision, found.island)
    return (Evidence.of(EvidenceKind.AUTOCAST, f"AutoCast does not apply: {obstacle}"),) if obstacle else ()


def _shapes(subject: Subject) -> dict[str, Profile]:
    return shape_ranges(subject.model, subject.bench.feeds[0], profiles_of(subject.bench.case))


def _can_be_typed(subject: Subject, found: Conclusion) -> bool:
    return subject.precision in LOW_DTYPE and bool(found.island or found.fp32_sums)


def _write_recipes(
    subject: Subject,
    found: Conclusion,
    out: Path,
    engine_layers: Mapping[str, tuple[str, ...]],
    evidence: list[Evidence],
    release: ReleaseInUse,
    tried: Future[Evidence] | None,
) -> dict[Recipe, str]:
    model, island = subject.model, found.island
    out.mkdir(parents=True, exist_ok=True)
    path = own_file(model, island)
    if path is None:
        path = out / "model.onnx"
        save_model(model, path)
    typed = None if tried is None else out / TYPED
    if tried is not None:
        evidence.append(tried.result())
    script, listed = out / "keep_fp32.py", out / "layers.json"
    files = Files(str(path), None if typed is None else str(typed), str(script), _shapes(subject))
    recipes = _commands(subject, found, files, release)
    evidence += _autocast_evidence(subject, found)
    if Recipe.POLYGRAPHY in recipes and island:
        write_text(script, polygraphy_script(layers_of(model, island)))
    repeated = repeated_names(model, layers_of(model, island))
    if repeated and recipes.keys() & {Recipe.TRTEXEC, Recipe.POLYGRAPHY}:
        evidence.append(_repeated_evidence(repeated))
    if island or found.fp32_sums:
        document = layer_list(model, subject.precision, island, engine_layers, found.fp32_sums)
        write_text(listed, json.dumps(document, indent=1) + "\n")
        recipes[Recipe.LAYER_LIST] = str(listed)
    if typed is not None:
        recipes[Recipe.TYPED_MODEL] = str(typed)
    return recipes


def _begin_typed(subject: Subject, found: Conclusion, out: Path) -> Future[Evidence] | None:
    """Write the typed model, and begin to run it in the background; None where there is none."""
    if not _can_be_typed(subject, found):
        return None
    out.mkdir(parents=True, exist_ok=True)
    graph = with_islands(subject.model, subject.precision, found.island, found.fp32_sums)
    save_model(graph, out / TYPED)
    return ThreadPoolExecutor(1, "typed model").submit(_try_typed, subject, graph)


def _repeated_evidence(repeated: Sequence[str]) -> Evidence:
    text = (
        f"more than one node of the model is named {' or '.join(repeated)}: TensorRT gives that name to one layer, and "
        "trtexec and polygraphy may miss the others; give each of them a name of its own"
    )
    return Evidence.of(EvidenceKind.REPEATED_NAMES, text, repeated_names=list(repeated))


def _try_typed(subject: Subject, graph: Model) -> Evidence:
    """Run the typed model in ONNX Runtime as it will be handed on."""
    from harness.backends import Reference

    runner = Reference(graph)
    try:
        worst = 0.0
        for sample, feeds in enumerate(subject.bench.feeds):
            values = runner.run(feeds)
            for name, reference in subject.bench.expected[sample].items():
                total = RelativeErrorSum()
                total.update(values[name], reference)
                error, decided = total.result(), name not in subject.undecided
                worst = max(worst, error.nrmse if error.nonfinite or decided else 0.0)
    except HarnessError as error:
        return Evidence.of(
            EvidenceKind.TYPED_MODEL, f"ONNX Runtime does not run the typed model: {error}", runs=False
        )
    finally:
        runner.close()
    text = f"the typed model runs in ONNX Runtime, with an error of {magnitude(worst)} (nrmse)"
    return Evidence.of(EvidenceKind.TYPED_MODEL, text, runs=True, nrmse=worst)


Finish = Callable[[], tuple[Repro | None, tuple[Evidence, ...]]]
"""Waits for the process that runs a repro."""


def _begin_repro(context: Context, found: Conclusion, summary: str, folder: Path, stack: ExitStack) -> Finish:
    """Cut out the repro, where there can be one, and run it; the diagnosis stands without, whatever goes wrong."""
    if found.verdict not in WITH_REPRO or not (found.culprits or found.origins):
        return lambda: (None, ())
    context.report(Stage.HAND_OVER, "cut out and run the repro", suspected=found.culprits)
    try:
        finish = _cut_out(context, found, summary, folder, stack)
    except Exception as error:
        return partial(_without_repro, error)

    def finished() -> tuple[Repro | None, tuple[Evidence, ...]]:
        try:
            return finish()
        except Exception as error:
            return _without_repro(error)

    return finished


def _without_repro(error: Exception) -> tuple[None, tuple[Evidence, ...]]:
    reason = str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
    return None, (Evidence.of(EvidenceKind.REPRO, f"there is no repro: {reason}"),)


def _cut_out(context: Context, found: Conclusion, summary: str, folder: Path, stack: ExitStack) -> Finish:
    subject = context.subject
    sample = context.evaluator.failing_sample
    emulated = found.verdict in (DiagnosisVerdict.PRECISION, DiagnosisVerdict.TF32)
    precision = found.fp32_as if found.verdict is DiagnosisVerdict.CONVERSION else subject.precision
    core = core_of(subject, found)
    shrunk = None
    if emulated:
        shrunk = shrink_emulated(context, core, sample)
    if shrunk is None and not subject.emulated:
        emulated = False
        fails = _fails_on_engine(context, precision)
        shrunk = None if fails is None else shrink(subject, core, sample, fails, most=MOST_ENGINE_PARTS)
    if shrunk is None:
        text = "no part of the model was seen to fail by itself: there is no repro"
        return lambda: (None, (Evidence.of(EvidenceKind.REPRO, text, core=list(core)),))
    info, signature = _described(subject, shrunk, precision, summary, emulated=emulated)
    begun, context.begun_repro = context.begun_repro, None
    checked = stack.enter_context(repro_under_way(folder, shrunk, info, signature, begun))

    def finish() -> tuple[Repro, tuple[Evidence, ...]]:
        repro = checked()
        text = f"the repro has {plural(repro.nodes, 'node')}; {repro.note}"
        signed = to_json(repro.signature)
        return repro, (
            Evidence.of(
                EvidenceKind.REPRO,
                text,
                nodes=list(shrunk.nodes),
                shows=repro.shows,
                signature=signed,
                emulated=emulated,
            ),
        )

    return finish


def _described(
    subject: Subject, part: GraphPart, precision: Precision, what: str, *, emulated: bool
) -> tuple[ReproInfo, dict[str, ReproOutput]]:
    """What the repro of a part says of itself, and what was measured of it."""
    signature = _signature(subject, part, precision) if emulated else {}
    sums = part_emulator(subject, part).arithmetic(precision, part.feeds)
    limits = nrmse_limits(subject, part, precision)
    return ReproInfo(subject.bench.case.name, precision, what, emulated, limits, sums), signature


def begin_repro(context: Context, core: tuple[str, ...], out: Path) -> None:
    """Cut out the part around `core` that fails on the emulator, and begin to run it; its words come later."""
    subject = context.subject
    shrunk = shrink_emulated(context, core, context.evaluator.failing_sample)
    if shrunk is not None and context.begun_repro is None:
        info, signature = _described(subject, shrunk, subject.precision, "", emulated=True)
        context.begun_repro = ReproRun(out / REPRO, shrunk, info, signature)


def shrink_emulated(context: Context, core: tuple[str, ...], sample: int) -> GraphPart | None:
    """The smallest part around `core` that fails on the emulator; None if none does."""
    subject = context.subject
    fails = fails_emulated(subject)
    return context.shrunk.of((core, sample), lambda: shrink(subject, core, sample, fails))


def core_of(subject: Subject, found: Conclusion) -> tuple[str, ...]:
    """The nodes around which the repro is cut: the first island that holds an origin, or the origins."""
    starts = [origin.node for origin in found.origins]
    islands = islands_of(subject.model, found.culprits) if found.culprits else ()
    for island in islands:
        if set(starts).intersection(island):
            return island
    return islands[0] if islands else tuple(starts)


def _fails_on_engine(context: Context, precision: Precision) -> Fails | None:
    """Whether a part fails on an engine of its own; None where there are no engines for parts."""
    subject = context.subject
    engine_for = subject.engine_for
    if engine_for is None:
        return None

    def fails(part: GraphPart) -> bool:
        try:
            context.spending.check()
        except BudgetExhaustedError:
            return False
        candidate = engine_for(part.model)
        try:
            evaluation = candidate.evaluate(subject.plan(precision=precision), part.feeds)
        finally:
            candidate.close()
        context.evaluator.charge(PHASE, evaluation.builds)
        values = {name: np.array(evaluation.tensors[name]) for name in part.expected}
        return not holds(subject, values, part, precision)

    return fails


def _signature(subject: Subject, part: GraphPart, precision: Precision) -> dict[str, ReproOutput]:
    """What the part shows here: by output, the elements that are not finite, and the error of the others."""
    emulator = part_emulator(subject, part)
    try:
        values = emulator.attempt(part.feeds, precision, tensors=list(part.expected))
    finally:
        emulator.close()
    found = {}
    for name, expected in part.expected.items():
        if name in values.failures or values.tensors[name].shape != expected.shape:
            found[name] = ReproOutput(0, math.inf)
            continue
        total = RelativeErrorSum()
        total.update(values.tensors[name], expected)
        error = total.result()
        found[name] = ReproOutput(error.nonfinite, error.nrmse)
    return found

"""Stage 6, hand over: files to act on.

Requires: findings; a folder to write to.
Ensures: every file is whole or not there; a typed model was loaded and run in ONNX Runtime; a repro was run in a
clean process, and says whether it showed the same fault.
Evidence: what the typed model and the repro came to when they were run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.backends import Emulator, Profile, TensorRTCandidate, shape_ranges
from harness.comparison import compare, not_computed
from harness.diagnosis.context import RELAXED, Lab, Part, Subject
from harness.diagnosis.handover.recipes import (
    Files,
    keep_fp32,
    layer_list,
    layers_of,
    own_file,
    polygraphy_script,
    without_tf32,
)
from harness.diagnosis.handover.repro import Ticket, write_repro
from harness.diagnosis.handover.shrinking import Fails, Shrunk, fails_emulated, holds, nrmse_limits, shrink
from harness.diagnosis.results import Evidence, Repro, Stage, Verdict
from harness.diagnosis.stages import Findings
from harness.errors import BudgetExhaustedError, CandidateError, HarnessError
from harness.judge import jsonable, profiles_of
from harness.model import LOW_DTYPE, Model, repeated_names, save_model, with_islands
from harness.tactics import TacticRecord, export_pins, pinned_cache
from harness.tensors import Precision, write_text
from harness.text import command, magnitude, plural

PHASE = "repro"
MOST_ENGINE_PARTS = 3
WITH_REPRO = frozenset({Verdict.PRECISION, Verdict.TF32, Verdict.CONVERSION, Verdict.FUSION})


@dataclass(frozen=True)
class HandedOver:
    """What was written.

    Args:
        recipes: commands by tool, and the paths of files under `layer_list` and `typed_model`.
        repro: the repro folder; None if there is none.
        evidence: what the files came to when they were run.
        written: whether there was a folder to write to.
    """

    recipes: Mapping[str, str]
    repro: Repro | None = None
    evidence: tuple[Evidence, ...] = ()
    written: bool = True


def hand_over(
    lab: Lab,
    found: Findings,
    summary: str,
    out: Path | None,
) -> HandedOver:
    """Write what there is to act on to `out`; without a folder, only say the commands."""
    subject = lab.subject
    model, island = subject.model, found.island
    wanted = bool(island) or found.verdict is Verdict.TF32
    if out is None:  # commands that name files which are there
        path = own_file(model, island)
        files = Files(None if path is None else str(path), shapes=_shapes(subject))
        return HandedOver(_commands(subject, found, files) if wanted else {}, written=False)
    lab.tell(Stage.HAND_OVER, "write the recipes", suspected=found.culprits)
    evidence: list[Evidence] = []
    recipes: dict[str, str] = {}
    if wanted:
        recipes = _write_recipes(subject, found, out, evidence)
    if found.pins is not None:
        recipes = _write_pins(lab, found.pins, out / "pins", evidence)
    repro = None
    if found.verdict in WITH_REPRO and (found.culprits or found.origins):
        lab.tell(Stage.HAND_OVER, "cut out and run the repro", suspected=found.culprits)
        try:
            repro = _write_repro(lab, found, summary, out / "repro", evidence)
        except Exception as error:  # the diagnosis stands without it
            reason = str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
            evidence.append(Evidence(Stage.HAND_OVER, f"there is no repro: {reason}"))
    return HandedOver(recipes, repro, tuple(evidence))


def _write_pins(lab: Lab, record: TacticRecord, folder: Path, evidence: list[Evidence]) -> dict[str, str]:
    """The choices of a build that passes; where timing caches can be edited, one build makes the cache for them."""
    subject, candidate = lab.subject, lab.subject.candidate
    cache = None
    try:
        if isinstance(candidate, TensorRTCandidate):
            lab.spending.check()
            told = pinned_cache(candidate, subject.plan(), subject.bench.feeds[0], record)
            lab.examiner.charge("pins", int(told is not None))
            cache = None if told is None else told[0]
    except (CandidateError, BudgetExhaustedError) as error:
        evidence.append(Evidence(Stage.HAND_OVER, f"there is no timing cache beside the pins: {error}"))
    path = export_pins(record, folder, model=subject.model, cache=cache)
    model = folder / "model.onnx"
    onnx_file = model if model.exists() else subject.model.path or "MODEL.onnx"
    build = command("python", folder / "build_pinned.py", onnx_file, "ENGINE")
    return {"pins": str(path), "build_pinned": build}


def _commands(subject: Subject, found: Findings, files: Files) -> dict[str, str]:
    if found.verdict is Verdict.TF32:
        return without_tf32(files)
    if found.casts:
        files = replace(files, model=files.typed)
    preferred = found.cure is not None and RELAXED["preferred"] in found.cure.relaxed
    constraints = "prefer" if preferred else "obey"
    return keep_fp32(subject.model, subject.precision, found.island, files, constraints=constraints)


def _shapes(subject: Subject) -> dict[str, Profile]:
    return shape_ranges(subject.model, subject.bench.feeds[0], profiles_of(subject.bench.case))


def _can_be_typed(subject: Subject, found: Findings) -> bool:
    return subject.precision in LOW_DTYPE and bool(found.island)


def _write_recipes(
    subject: Subject,
    found: Findings,
    out: Path,
    evidence: list[Evidence],
) -> dict[str, str]:
    model, island = subject.model, found.island
    out.mkdir(parents=True, exist_ok=True)
    path = own_file(model, island)
    if path is None:
        path = out / "model.onnx"
        save_model(model, path)
    typed = out / "typed.onnx" if _can_be_typed(subject, found) else None
    if typed is not None:
        graph = with_islands(model, subject.precision, island)
        save_model(graph, typed)
        evidence.append(_try_typed(subject, graph))
    script, listed = out / "keep_fp32.py", out / "layers.json"
    files = Files(str(path), None if typed is None else str(typed), str(script), _shapes(subject))
    recipes = _commands(subject, found, files)
    if "polygraphy" in recipes and island:
        write_text(script, polygraphy_script(layers_of(model, island)))
    repeated = repeated_names(model, layers_of(model, island))
    if repeated and recipes.keys() & {"trtexec", "polygraphy"}:
        evidence.append(_told_apart(repeated))
    if island:
        document = layer_list(model, subject.precision, island, found.engine_layers)
        write_text(listed, json.dumps(document, indent=1) + "\n")
        recipes["layer_list"] = str(listed)
    if typed is not None:
        recipes["typed_model"] = str(typed)
    return recipes


def _told_apart(names: Sequence[str]) -> Evidence:
    text = (
        f"more than one node of the model is named {' or '.join(names)}: TensorRT gives that name to one layer, and "
        f"trtexec and polygraphy may miss the others; give each of them a name of its own"
    )
    return Evidence(Stage.HAND_OVER, text, {"repeated_names": list(names)})


def _try_typed(subject: Subject, graph: Model) -> Evidence:
    """Run the typed model in ONNX Runtime as it will be handed on."""
    from harness.backends import Reference

    runner = Reference(graph)
    try:
        worst = 0.0
        for sample, feeds in enumerate(subject.bench.feeds):
            values = runner.run(feeds)
            for name, reference in subject.bench.expected[sample].items():
                metrics = compare(values[name], reference, dtype=None)
                decided = name not in subject.undecided
                worst = max(worst, math.inf if metrics.nonfinite else metrics.nrmse if decided else 0.0)
    except HarnessError as error:
        return Evidence(
            Stage.HAND_OVER, f"ONNX Runtime does not run the typed model: {error}", {"runs": False}
        )
    finally:
        runner.close()
    text = f"the typed model runs in ONNX Runtime, with an error of {magnitude(worst)} (nrmse)"
    return Evidence(Stage.HAND_OVER, text, {"runs": True, "nrmse": jsonable(worst)})


def _write_repro(
    lab: Lab, found: Findings, summary: str, folder: Path, evidence: list[Evidence]
) -> Repro | None:
    subject = lab.subject
    sample = lab.examiner.failing_sample
    emulated = found.verdict in (Verdict.PRECISION, Verdict.TF32)
    precision = Precision.FP32 if found.verdict is Verdict.CONVERSION else subject.precision
    core = _core(subject, found)
    shrunk = None
    if emulated:
        shrunk = shrink(subject, core, sample, fails_emulated(subject))
    if shrunk is None and not subject.emulated:
        emulated = False
        fails = _fails_on_engine(lab, precision)
        shrunk = None if fails is None else shrink(subject, core, sample, fails, most=MOST_ENGINE_PARTS)
    if shrunk is None:
        text = "no part of the model was seen to fail by itself: there is no repro"
        evidence.append(Evidence(Stage.HAND_OVER, text, {"core": list(core)}))
        return None
    signature = _signature(subject, shrunk.part, precision) if emulated else {}
    limits = nrmse_limits(subject, shrunk.part, precision)
    ticket = Ticket(subject.bench.case.name, precision, summary, emulated, limits)
    repro = write_repro(folder, shrunk.part, ticket, signature)
    evidence.append(_told(repro, shrunk, emulated))
    return repro


def _core(subject: Subject, found: Findings) -> tuple[str, ...]:
    """The nodes around which the repro is cut: the first island that holds an origin, or the origins."""
    from harness.diagnosis.context import islands_of

    starts = [origin.node for origin in found.origins]
    islands = islands_of(subject.model, found.culprits) if found.culprits else ()
    for island in islands:
        if set(starts).intersection(island):
            return island
    return islands[0] if islands else tuple(starts)


def _fails_on_engine(lab: Lab, precision: Precision) -> Fails | None:
    """Whether a part fails on an engine of its own; None where there are no engines for parts."""
    subject = lab.subject
    engine_for = subject.engine_for
    if engine_for is None:
        return None

    def fails(part: Part) -> bool:
        try:
            lab.spending.check()
        except BudgetExhaustedError:
            return False
        candidate = engine_for(part.model)
        try:
            evaluation = candidate.evaluate(subject.plan(precision=precision), part.feeds)
        finally:
            candidate.close()
        lab.examiner.charge(PHASE, evaluation.builds)
        values = {name: np.array(evaluation.tensors[name]) for name in part.expected}
        return not holds(subject, values, part, precision)

    return fails


def _signature(subject: Subject, part: Part, precision: Precision) -> dict[str, Any]:
    """What the part shows here: by output, the elements that are not finite, and the error of the others."""
    emulator = Emulator(part.model)
    try:
        values = emulator.attempt(part.feeds, precision, tensors=list(part.expected))
    finally:
        emulator.close()
    found = {}
    for name, expected in part.expected.items():
        if name in values.failures:
            metrics = not_computed(expected, values.failures[name])
        else:
            metrics = compare(values.tensors[name], expected, dtype=None)
        found[name] = {"nonfinite": metrics.nonfinite, "nrmse": jsonable(metrics.nrmse)}
    return found


def _told(repro: Repro, shrunk: Shrunk, emulated: bool) -> Evidence:
    facts = {"nodes": list(shrunk.nodes), "shows": repro.shows, "signature": dict(repro.signature)}
    return Evidence(
        Stage.HAND_OVER,
        f"the repro has {plural(len(shrunk.nodes), 'node')}; {repro.note}",
        {**facts, "emulated": emulated},
    )

"""What is said of one run that moved: its numbers, where it starts, what changed in the engine, what to do next."""

from __future__ import annotations

import math
from collections.abc import Mapping

from harness.comparison import NONFINITE
from harness.history import (
    MOST_BUILDS,
    REGRESSIONS,
    ChangeKind,
    DriftStatus,
    DriftVerdict,
    JudgedTensor,
    RunDrift,
    StructureChange,
    UnjudgedBuild,
    builds_text,
    change_text,
    failing_text,
    gate_text,
    layers_text,
    noise_text,
    passes_text,
    place_text,
    tensor_text,
)
from harness.report.drift.lines import CHANGES
from harness.report.drift.words import DRIFT_LOOKS, fails, title
from harness.report.words import Explanation, Statement, first_of, listed
from harness.text import number, plural, shorten

MOST_ORIGINS = 4
MOST_CHANGES = 5
MOST_ERRORS = 4
MOST_EVIDENCE = 3
DIFFERING = "the noise band spans these precisions: a release that only chooses another one more often stays within it"
MOST_NODES = 4
MOST_LETTERS = 90  # of how a change was and is; the table of the page holds all of them


def has_moved(run: RunDrift) -> bool:
    """Whether a run moved beyond noise."""
    return run.verdict not in (None, DriftVerdict.SAME, DriftVerdict.WITHIN_NOISE)


def has_stopped(run: RunDrift) -> bool:
    """Whether a run could not be judged."""
    return run.status in (DriftStatus.ERROR, DriftStatus.MISTAKE)


def is_remarkable(run: RunDrift) -> bool:
    """Whether a run needs words: it moved beyond noise, could not be judged, or there is more to know of it.

    What fails on both releases as it is expected to needs none: it is counted.
    """
    moved = run.status in (DriftStatus.FAIL, DriftStatus.XFAIL) or has_stopped(run) or has_moved(run)
    moved = moved or (run.compiled and bool(run.structure))
    return moved or run.builds.differ or (fails(run) and run.fails_unexpectedly)


def explain(run: RunDrift) -> Explanation:
    """Say what moved in a run, where it starts, and which command goes on."""
    statements = [Statement(kind + "s", _counts(found)) for kind, found in run.counts.items()]
    if run.worst is not None:
        statements.append(Statement("numbers", _numbers(run.worst)))
        statements.append(Statement("gate", _gate(run)))
    statements += _builds(run)
    statements += _origins(run)
    if False in run.faithful:
        sides = [name for name, known in zip((run.old, run.new), run.faithful, strict=True) if known is False]
        statements.append(
            Statement("perturbed", f"observation changed {' and '.join(sides)}: do not rely on those layers")
        )
    changes = [_change(change, compiled=run.compiled) for change in run.structure]
    statements += listed("engine", first_of(changes, MOST_CHANGES, "more change"))
    for error in run.errors[:MOST_ERRORS]:
        statements += _error(error)
    regressed = run.verdict in REGRESSIONS or run.status is DriftStatus.ERROR
    command = run.command if regressed or (fails(run) and run.fails_unexpectedly) else ""
    return Explanation(title(run), run.reason, tuple(statements), command)


def _error(error: UnjudgedBuild) -> list[Statement]:
    """An error, and below it the lines of its evidence that say more than it does."""
    more = [line for line in error.evidence if line.strip() not in error.headline]
    return listed("error", [error.headline, *more[:MOST_EVIDENCE]])


def first_origin(run: RunDrift) -> str:
    """`b7_sq (Pow)`, with how many more there are; empty if none is known."""
    if not run.origins:
        return ""
    first = run.origins[0]
    more = f" +{len(run.origins) - 1}" if len(run.origins) > 1 else ""
    return f"{first.node or first.tensor} ({first.op}){more}"


def _numbers(worst: JudgedTensor) -> str:
    """What the verdict of a tensor rests on."""
    text = f"{place_text(worst)}: {change_text(worst)}"
    if math.isinf(worst.old) and math.isinf(worst.new):
        finite = worst.zero_reference and worst.gate != NONFINITE.metric
        return text if finite else f"{text}, not finite on either side"
    floor = "" if math.isinf(worst.floor) else f"; floor {number(worst.floor)}"
    return f"{text}; {noise_text(worst.noise)}{floor}"


def _gate(run: RunDrift) -> str:
    """The gate of the tensor with the numbers, and where it held."""
    assert run.worst is not None
    gate = gate_text(run.worst) or "limits unknown"
    return f"at {run.precision}: {gate}; {passes_text(run.worst)}"


def _builds(run: RunDrift) -> list[Statement]:
    """Each build's error, why builds fail, and the precisions that they compute in where these differ."""
    sides = ((run.old, run.builds.old), (run.new, run.builds.new))
    texts = [f"{name}: {errors}" for name, builds in sides if (errors := builds_text(builds))]
    of_output = "" if run.worst is None or run.worst.sample >= 0 else "the worst output: "
    statements = [Statement("builds", f"{of_output}{'; '.join(texts)}")] if texts else []
    if fails(run):
        counted = [f"{name} in {failing_text(builds)}" for name, builds in sides if builds]
        expected = ", as expected" if run.builds.expected and not run.builds.reason else ""
        why = f": {run.builds.reason}" if run.builds.reason else ""
        statements.append(Statement("fails", f"on {', on '.join(counted)}{expected}{why}"))
    return [*statements, *_precisions(run)] if run.builds.differ else statements


def _precisions(run: RunDrift) -> list[Statement]:
    """How many layers each build computes in which precision."""
    texts = []
    for name, builds in ((run.old, run.builds.old), (run.new, run.builds.new)):
        known = [f"build {build.number}: {layers_text(build)}" for build in builds if build.layers]
        if known:
            texts.append(f"layers of {name}: {'; '.join(known[:MOST_BUILDS])}")
    return listed("precision", [*texts, DIFFERING])


def _change(change: StructureChange, *, compiled: bool) -> str:
    nodes = ", ".join(change.nodes[:MOST_NODES])
    if len(change.nodes) > MOST_NODES:
        nodes = f"{plural(len(change.nodes), 'node')} ({nodes}, …)"
    old, new = shorten(change.old, MOST_LETTERS), shorten(change.new, MOST_LETTERS)
    what = CHANGES[change.change].of_nodes
    if compiled:  # once; and a compiler names what it generates after what that does
        what = "generated code of {}" if change.change is ChangeKind.TACTIC else what
        return f"{what.format(nodes)}: {old} → {new}"
    return f"{what.format(nodes)}: {old} ({change.old_builds} builds) → {new}"


def _counts(found: Mapping[DriftVerdict, int]) -> str:
    ordered = [(look, found[verdict]) for verdict, look in DRIFT_LOOKS.items() if verdict in found]
    return ", ".join(f"{amount} {look.word}" for look, amount in reversed(ordered))


def _origins(run: RunDrift) -> list[Statement]:
    if run.verdict not in REGRESSIONS or run.compiled:
        return []
    if not run.origins:
        why = "no observed layer regressed" if "layer" in run.counts else "no layer was observed"
        return [Statement("starts at", f"not known: {why}")]
    texts = [f"{'node ' if each.node == each.tensor else ''}{tensor_text(each)}" for each in run.origins]
    return listed("starts at", first_of(texts, MOST_ORIGINS, "further layer"))

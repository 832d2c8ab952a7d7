"""What is said of one run that moved: its numbers, where it starts, what changed in the engine, what to do next."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from harness.history.judgement import WORSENED, DriftVerdict
from harness.history.outcome import RunDrift, Status, TensorDrift
from harness.history.structure import StructureChange
from harness.history.telling import tell_tensor
from harness.report.drift_words import DRIFT_LOOKS
from harness.report.view import Statement
from harness.report.words import count, number

MOST_ORIGINS = 4
MOST_CHANGES = 5
MOST_ERRORS = 4
MOST_EVIDENCE = 3
_KNOWN = ("request:", "kind:")  # evidence that the title of a run says already
MOST_NODES = 4


@dataclass(frozen=True)
class DriftExplanation:
    """What a person needs to know of one run, in the order in which they ask, and the command that goes on."""

    statements: tuple[Statement, ...]
    command: str


def has_moved(run: RunDrift) -> bool:
    """Whether a run moved beyond noise."""
    return run.verdict not in (None, DriftVerdict.SAME, DriftVerdict.WITHIN_NOISE)


def is_remarkable(run: RunDrift) -> bool:
    """Whether a run needs words: it moved beyond noise, or could not be judged."""
    return run.status in (Status.FAIL, Status.XFAIL, Status.ERROR, Status.MISTAKE) or has_moved(run)


def explain(run: RunDrift) -> DriftExplanation:
    """Say what moved in a run, where it starts, and which command goes on."""
    statements = [Statement(kind + "s", _counts(found)) for kind, found in run.counts.items()]
    if run.worst is not None:
        statements.append(Statement("numbers", _numbers(run.worst)))
    statements += _origins(run)
    if False in run.faithful:
        sides = [name for name, known in zip((run.old, run.new), run.faithful, strict=True) if known is False]
        statements.append(
            Statement("perturbed", f"observing changed {' and '.join(sides)}; those layers are no proof")
        )
    statements += [
        Statement("" if place else "engine", _change(change))
        for place, change in enumerate(run.structure[:MOST_CHANGES])
    ]
    if len(run.structure) > MOST_CHANGES:
        statements.append(Statement("", f"and {len(run.structure) - MOST_CHANGES} more changes"))
    for error in run.errors[:MOST_ERRORS]:
        statements += _error(error)
    command = run.command if run.verdict in WORSENED or run.status is Status.ERROR else ""
    return DriftExplanation(tuple(statements), command)


def _error(error: str) -> list[Statement]:
    """An error, and below it the lines of its evidence that say more than it does."""
    first, *evidence = error.splitlines()
    more = [line for line in evidence if line.strip() not in first and not line.startswith(_KNOWN)]
    return [Statement("error", first), *(Statement("", line) for line in more[:MOST_EVIDENCE])]


def first_origin(run: RunDrift) -> str:
    """`b7_sq (Pow)`, with how many more there are; empty if none is known."""
    if not run.origins:
        return ""
    first = run.origins[0]
    more = f" +{len(run.origins) - 1}" if len(run.origins) > 1 else ""
    return f"{first.node or first.tensor} ({first.op}){more}"


def _numbers(worst: TensorDrift) -> str:
    """What the verdict of a tensor rests on."""
    noise = "noise not measured" if math.isnan(worst.noise) else f"noise band ±{number(worst.noise)}"
    held = f"its gates held in {worst.old_passed} builds, now in {worst.new_passed}"
    change = f"error {number(worst.old)} → {number(worst.new)}"
    return f"{worst.tensor}: {change}; {noise}, floor {number(worst.floor)}; {held}"


def _change(change: StructureChange) -> str:
    nodes = ", ".join(change.nodes[:MOST_NODES])
    if len(change.nodes) > MOST_NODES:
        nodes = f"{count(len(change.nodes), 'node')} ({nodes}, …)"
    return f"{change.change.value} of {nodes}: {change.old} ({change.old_builds} builds) → {change.new}"


def _counts(found: Mapping[DriftVerdict, int]) -> str:
    ordered = [(look, found[verdict]) for verdict, look in DRIFT_LOOKS.items() if verdict in found]
    return ", ".join(f"{amount} {look.word}" for look, amount in reversed(ordered))


def _origins(run: RunDrift) -> list[Statement]:
    if run.verdict not in WORSENED:
        return []
    if not run.origins:
        why = "no observed layer drifted to the worse" if "layer" in run.counts else "no layer was observed"
        return [Statement("starts at", f"not known: {why}")]
    shown = [_origin(origin) for origin in run.origins[:MOST_ORIGINS]]
    statements = [Statement("" if place else "starts at", text) for place, text in enumerate(shown)]
    if len(run.origins) > MOST_ORIGINS:
        rest = count(len(run.origins) - MOST_ORIGINS, "further layer")
        statements.append(Statement("", f"and {rest}"))
    return statements


def _origin(origin: TensorDrift) -> str:
    return f"node {tell_tensor(origin)}" if origin.node == origin.tensor else tell_tensor(origin)

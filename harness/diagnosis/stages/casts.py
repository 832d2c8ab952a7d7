"""Islands held by Casts in the graph, for engines that compile a whole region and obey nothing inside of it.

Requires: an engine that fails with the emulator's island, which lies in an opaque layer.
Ensures: an island that is handed on was seen to pass, built from the graph in which Casts hold it.
Evidence: what was built, in its order.

Measured on an H200 with TensorRT 8.6.0, where a whole attention model is one such layer: two nodes in FP32 change
nothing, with Casts around them or without; precisions that are asked for inside a pinned region cannot be built; the
whole attention block in FP32, between Casts, builds and cures, and the rest still computes in FP16. So contiguous
parts are tried, from the smallest to the largest, and what cures is cut from both ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from harness.diagnosis.context import Examiner
from harness.diagnosis.results import Evidence, Stage
from harness.diagnosis.stages.cure import CANDIDATE, Cure
from harness.search import Outcome, Trial

PHASE = "casts"
Nodes = tuple[str, ...]


def cure_with_casts(
    examiner: Examiner,
    core: Collection[str],
    parts: Sequence[frozenset[str]],
    told: Callable[[int], None] = lambda count: None,
) -> Cure:
    """The smallest contiguous island around `core`, held by Casts, that cures; not `found` where none does.

    Args:
        examiner: of a subject whose candidate is an engine.
        core: what every island keeps: where the error starts. Without it an engine may pass by luck, for what the
            graph rounds to the lower precision TensorRT may leave as it is.
        parts: sets of nodes to try; the first that passes is cut down.
        told: gets the number of nodes that are built with next.

    Raises:
        BudgetExhaustedError: the limits are reached.
    """
    subject = examiner.subject
    trail: list[str] = []

    def ask(island: Nodes) -> bool:
        told(len(island))
        plan = subject.plan(frozenset(island), casts=True)
        key = f"casts {' '.join(sorted(island))}"
        trial = examiner.examine(plan, phase=PHASE, key=key).trial
        trail.append(f"{_described(island)}: {_said(trial)}")
        return trial.outcome is Outcome.PASS

    for part in parts:
        island = tuple(unit for unit in subject.units if unit in part or unit in core)
        if ask(island):
            places = [place for place, unit in enumerate(island) if unit in core] or [len(island) - 1]
            behind = len(island) - 1 - max(places)
            island = _cut(island, min(places), ask, lambda kept, cut: kept[cut:])
            island = _cut(island, behind, ask, lambda kept, cut: kept[: len(kept) - cut])
            count = len(island)
            text = f"with {count} nodes in FP32, between Casts in the graph, the unobserved engine passes"
            return Cure(island, CANDIDATE, evidence=(_evidence(text, trail),))
    text = "Casts around the island in the graph do not cure the engine"
    return Cure(evidence=(_evidence(text, trail),))


def _cut(
    island: Nodes, most: int, ask: Callable[[Nodes], bool], without: Callable[[Nodes, int], Nodes]
) -> Nodes:
    """`island` without as many nodes at one end as can be left out, and at most `most`, by bisection.

    It believes that an island which is too small stays so when it gets smaller; what it returns was seen to pass.
    """
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if ask(without(island, middle)) else (low, middle)
    return without(island, low)


def _evidence(text: str, trail: Sequence[str]) -> Evidence:
    return Evidence(Stage.CURE, text, {"trail": list(trail), "casts": True})


def _described(island: Sequence[str]) -> str:
    return ", ".join(island) if len(island) <= 4 else f"{len(island)} nodes ({island[0]} … {island[-1]})"


def _said(trial: Trial) -> str:
    return f"{trial.outcome} ({trial.note})" if trial.note else str(trial.outcome)
